"""Bits of torch tensors: on the CPU the loops of `packing` over shared memory, elsewhere torch on the tensor's device.

torch shifts no uint64, so words are int64 of the same bits; its >> copies the sign, so a mask follows every one.
"""

import math

import numpy as np
import torch

from vqcore.kernels import packing

GOLDEN, FIRST, SECOND = (n - 2**64 for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def to_words(words):
    """The words as they can be read here, or None where they are not int64 (n,)."""
    is_tensor = isinstance(words, torch.Tensor) and words.layout == torch.strided
    return words.detach().contiguous() if is_tensor and words.dtype == torch.int64 and words.ndim == 1 else None


def bits_of(norms):
    """The words of the same bits as these float64."""
    return norms.contiguous().view(torch.int64)


def codes_dtype(dtype, n_bits):
    """The dtype of unpacked codes, int64 if it is None (64 bits stand for a uint64 there); None where it cannot be."""
    if dtype is None:
        return torch.int64
    known = packing.codes_dtype(_name(dtype) if isinstance(dtype, torch.dtype) else dtype, n_bits)
    return None if known is None else getattr(torch, known.name)


def pack(codes, n_bits, layout, n_words):
    """The words (n_words,) of flat codes (n,), or None where one of them does not fit."""
    if codes.device.type == "cpu":
        host = codes.numpy() if n_bits < 64 else codes.numpy().view(np.uint64)
        words = packing.pack(host, n_bits, layout, n_words)
        return None if words is None else torch.from_numpy(words.view(np.int64))
    return pack_on_device(codes.long(), n_bits, layout, n_words) if _fits(codes, n_bits) else None


def unpack(words, n_bits, n_codes, layout, dtype):
    """The codes (n_codes,) in words of exactly the right number, in a dtype that can hold them."""
    if words.device.type == "cpu":
        host, near = words.numpy().view(np.uint64), np.dtype(_name(dtype))
        return torch.from_numpy(packing.unpack(host, n_bits, n_codes, layout, near))
    return unpack_on_device(words, n_bits, n_codes, layout).to(dtype)


def spare_bits(words, n_bits, n_codes, layout):
    """Whether a bit of the words belongs to no code but is 1."""
    if words.device.type == "cpu":
        return packing.spare_bits(words.numpy().view(np.uint64), n_bits, n_codes, layout)
    return spare_bits_on_device(words, n_bits, n_codes, layout)


def checksum(words, start):
    """The same 64-bit sum over hashed words and their positions as in numpy."""
    counters = torch.arange(len(words), device=words.device) * GOLDEN + signed(start)
    return int(mix(words ^ mix(counters)).sum()) % 2**64


def signed(word):
    """The int64 of the same bits as a Python int below 2**64."""
    return word - 2**64 * (word >> 63)


def shift_right(words, n_bits):
    """Every word moved down by n_bits, zeros from above."""
    return (words >> n_bits) & (2 ** (64 - n_bits) - 1) if n_bits else words


def mix(counter):
    """The finalizer of splitmix64, in int64 that wraps around."""
    counter = (counter ^ shift_right(counter, 30)) * FIRST
    counter = (counter ^ shift_right(counter, 27)) * SECOND
    return counter ^ shift_right(counter, 31)


def pack_on_device(codes, n_bits, layout, n_words):
    """As `pack`, in operations that every device has."""
    if layout == "dense":
        # After `period` codes the pattern starts a word again.
        period = 64 // math.gcd(n_bits, 64)
        columns = _padded(codes, period)
        per_row = period * n_bits // 64
        words = codes.new_zeros((len(columns), per_row))
        for c in range(period):
            word, skip = divmod(c * n_bits, 64)
            words[:, word] |= columns[:, c] << skip
            if skip + n_bits > 64:
                words[:, word + 1] |= shift_right(columns[:, c], 64 - skip)
        return words.reshape(-1)[:n_words].clone()
    fields = _fields(codes, n_bits, layout, n_words)
    words = codes.new_zeros(n_words)
    for position, field in _positions(fields, n_bits, layout):
        words |= field << position
    return words


def unpack_on_device(words, n_bits, n_codes, layout):
    """As `unpack`, in operations that every device has."""
    mask = -1 if n_bits == 64 else 2**n_bits - 1
    if layout == "dense":
        period = 64 // math.gcd(n_bits, 64)
        columns = _padded(words, period * n_bits // 64)
        codes = words.new_empty((len(columns), period))
        for c in range(period):
            word, skip = divmod(c * n_bits, 64)
            code = shift_right(columns[:, word], skip)
            if skip + n_bits > 64:
                code = code | (columns[:, word + 1] << (64 - skip))
            codes[:, c] = code & mask
        return codes.reshape(-1)[:n_codes].clone()
    per_word = 64 // n_bits
    codes = words.new_empty((per_word, len(words)))
    for f, (position, field) in enumerate(_positions(codes, n_bits, layout)):
        field[:] = shift_right(words, position) & mask
    return (codes if layout == "sections" else codes.T).reshape(-1)[:n_codes].clone()


def spare_bits_on_device(words, n_bits, n_codes, layout):
    """As `spare_bits`, by packing codes of nothing but ones: what they leave 0 is spare."""
    ones = words.new_full((n_codes,), -1 if n_bits == 64 else 2**n_bits - 1)
    return bool((words & ~pack_on_device(ones, n_bits, layout, len(words))).any())


def _fits(codes, n_bits):
    """Whether every code lies in [0, 2**n_bits); at 64 bits an int64 stands for the uint64 of its bits."""
    if n_bits == 64 or not len(codes):
        return True
    low, high = torch.aminmax(codes)
    return low.item() >= 0 and high.item() >> n_bits == 0


def _name(dtype):
    """uint8 for torch.uint8."""
    return str(dtype).rpartition(".")[2]


def _padded(flat, n_columns):
    """Rows (-1, n_columns) of the flat tensor, with zeros at the end."""
    return torch.nn.functional.pad(flat, (0, -len(flat) % n_columns)).reshape(-1, n_columns)


def _fields(codes, n_bits, layout, n_words):
    """The codes as (per_word, n_words): field f of word j, zeros where there is none."""
    per_word = 64 // n_bits
    if layout == "aligned":
        return _padded(codes, per_word).T
    return torch.nn.functional.pad(codes, (0, per_word * n_words - len(codes))).reshape(per_word, n_words)


def _positions(fields, n_bits, layout):
    """Pairs of the lowest bit of a field within its word, and the field's codes."""
    order = range(len(fields)) if layout == "aligned" else range(len(fields) - 1, -1, -1)
    return [(n_bits * position, field) for position, field in zip(order, fields)]
