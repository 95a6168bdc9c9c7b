"""Stochastic rounding of torch tensors: on the CPU the loops of `rounding` over shared memory, elsewhere torch.

The operations and their order are those of `rounding`, so the bits are the same.
"""

import torch

from vqcore.kernels import rounding
from vqcore.kernels.packing_tensors import GOLDEN, mix, pack_on_device, shift_right, signed, unpack_on_device
from vqcore.kernels.norms import TREE, norms_of
from vqcore.kernels.rounding import wrong_signs
from vqcore.kernels.tensors import from_host, to_host

__all__ = ["bucket_scales", "write", "read", "wrong_signs"]


def bucket_scales(values, bucket_size, norm):
    """For every bucket largest magnitude, a power of two that brings that near 1, norm times that power, and norm."""
    if values.device.type == "cpu":
        return tuple(map(torch.from_numpy, rounding.bucket_scales(values.contiguous().numpy(), bucket_size, norm)))
    return bucket_scales_on_device(values, bucket_size, norm)


def write(values, bucket_size, scaling, key, fields):
    """The words (n_words,) of values, each a level with a sign above it."""
    if values.device.type == "cpu":
        scaling = [table.numpy() for table in scaling]
        words = rounding.write(values.contiguous().numpy(), bucket_size, scaling, key, fields)
        return torch.from_numpy(words.view("int64"))
    codes = draw_codes_on_device(values, bucket_size, scaling, key, fields)
    return pack_on_device(codes, fields.width, fields.layout, fields.n_words)


def read(words, bucket_size, norms, fields, dtype):
    """The values (n_values,) that words stand for, in dtype, or None where a sign is one that no value has."""
    if words.device.type == "cpu":
        near, host = "float64" if dtype == "float64" else "float32", words.numpy().view("uint64")
        values = rounding.read(host, bucket_size, norms.numpy(), fields, near)
        return None if values is None else torch.from_numpy(values).to(getattr(torch, dtype))
    codes = unpack_on_device(words, fields.width, fields.n_codes, fields.layout)
    if wrong_signs(codes, fields):
        return None
    return values_of_on_device(codes[: fields.n_values], bucket_size, norms, fields).to(getattr(torch, dtype))


def bucket_scales_on_device(values, bucket_size, norm):
    """As `bucket_scales`, in operations that every device has."""
    rows = _buckets(values.double(), bucket_size)
    largest = rows.abs().amax(1)
    exponents = largest.view(torch.int64) >> 52
    scales = ((2046 - exponents).clamp(1, 2046) << 52).view(torch.float64)
    if norm == "max":
        return largest, scales, largest * scales, largest
    scaled = rows * scales[:, None]
    squares = _buckets((scaled * scaled).reshape(-1), bucket_size)
    width = min(TREE, _power_of_two(bucket_size))
    squares = torch.nn.functional.pad(squares, (0, -bucket_size % width)).reshape(len(squares), -1, width)
    # torch's own square root is off by a bit for some numbers; numpy's is rounded correctly, and there are few.
    sums = to_host(_halving(_halving(squares)))
    return largest, scales, *(from_host(t, values) for t in norms_of(sums, to_host(scales)))


def draw_codes_on_device(values, bucket_size, scaling, key, fields):
    """The levels and signs that `write` packs, in operations that every device has; int64, zeros behind the values."""
    _, scales, scaled_norms, _ = scaling
    divisors = torch.where(scaled_norms > 0, scaled_norms, 1.0)
    top = float(2**fields.n_bits - 1)
    rows = _buckets(values.double(), bucket_size)
    shares = (rows.abs() * scales[:, None] / divisors[:, None] * top).reshape(-1)[: len(values)]
    below = shares.floor()
    counters = torch.arange(1, len(values) + 1, device=values.device) * GOLDEN + signed(key)
    uniforms = shift_right(mix(counters), 11).double() * 2.0**-53
    levels = (below + (uniforms < shares - below)).clamp(max=top).long()
    signs = values.sign().long() + 1 if fields.ternary else (values < 0) & (levels > 0)
    codes = levels | (signs.long() << fields.n_bits)
    zero = 1 << fields.n_bits if fields.ternary else 0
    return torch.nn.functional.pad(codes, (0, fields.n_codes - len(values)), value=zero)


def values_of_on_device(codes, bucket_size, norms, fields):
    """The values of levels and signs, in operations that every device has; float64."""
    signs = codes >> fields.n_bits
    signs = (signs - 1 if fields.ternary else 1 - 2 * signs).double()
    levels = (codes & (2**fields.n_bits - 1)).double()
    shares = _buckets(levels / float(2**fields.n_bits - 1), bucket_size)
    return (shares * norms[:, None]).reshape(-1)[: len(codes)] * signs


def _buckets(values, bucket_size):
    """Rows (n_buckets, bucket_size), the last filled up with zeros, which change no norm."""
    return torch.nn.functional.pad(values, (0, -len(values) % bucket_size)).reshape(-1, bucket_size)


def _halving(terms):
    """Sums over the last axis: the row is folded in half until one term is left."""
    terms = torch.nn.functional.pad(terms, (0, _power_of_two(terms.shape[-1]) - terms.shape[-1]))
    while terms.shape[-1] > 1:
        half = terms.shape[-1] // 2
        terms = terms[..., :half] + terms[..., half:]
    return terms[..., 0]


def _power_of_two(n):
    """The smallest power of two that is at least n."""
    return 2 ** (n - 1).bit_length()
