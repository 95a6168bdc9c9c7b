"""Stochastic rounding of numpy arrays, by numba: values to packed levels and signs, and back.

Every number is made by one fixed sequence of IEEE operations in float64, so that `rounding_tensors` finds the same
bits. A block is drawn and packed, or unpacked and scaled, while it is in the cache.
"""

import numpy as np

from vqcore.kernels.compiling import frozen, njit
from vqcore.kernels.hashing import GOLDEN, mix
from vqcore.kernels.lanes import ONE, SECTIONS, block_size, in_registers, pack_block, plan, unpack_block
from vqcore.kernels.norms import bucket_scales
from vqcore.kernels.sections import ALL, ROW
from vqcore.kernels.threads import share

__all__ = ["bucket_scales", "write", "read", "wrong_signs"]


def write(values, bucket_size, scaling, key, fields):
    """The words (n_words,) of values, each a level with a sign above it, as `fields` of `vqcore.messages` say.

    The level of a value is its share |value| / norm * (2**n_bits - 1) rounded up with probability equal to
    its fraction: where a uniform number, the hash of its position, is less than that. A sign that is not ternary is
    1 for a negative value whose level is not 0.
    """
    _, scales, scaled_norms, _ = scaling
    words = np.empty(fields.n_words, "<u8")
    n_blocks, *how = plan(fields.width, fields.layout, fields.n_words, len(values))
    drawing = fields.n_bits, np.uint64(key), fields.ternary
    buckets = bucket_size, frozen(scales), frozen(scaled_norms)
    share(_write, n_blocks, 4 * len(values), frozen(values), buckets, drawing, tuple(how), words)
    return words


def read(words, bucket_size, norms, fields, dtype):
    """The values (n_values,) that words stand for, sign * (level / (2**n_bits - 1) * norm of the bucket), in dtype.

    None where a sign is one that no value has.
    """
    norms = np.ascontiguousarray(norms, np.float64)  # numba takes bytes in another order for its own
    # To float16 by way of float32, as torch goes.
    values = np.empty(fields.n_values, np.float64 if dtype == "float64" else np.float32)
    n_blocks, *how = plan(fields.width, fields.layout, fields.n_words, len(values))
    given = frozen(words), (bucket_size, frozen(norms)), fields.n_bits, fields.ternary, tuple(how), values
    if any(share(_read, n_blocks, 4 * len(values), *given)):
        return None
    if dtype == values.dtype:
        return values
    with np.errstate(over="ignore"):
        return values.astype(dtype)


def wrong_signs(codes, fields):
    """Whether a field is one that no value has, or one behind the values is not that of zero; any array library."""
    zero = 2**fields.n_bits
    if fields.ternary:
        wrong = bool((codes >= 3 * zero).any()) or bool(((codes > zero) & (codes < 2 * zero)).any())
        return wrong or bool((codes[fields.n_values :] != zero).any())
    return bool((codes == zero).any())


@njit
def _draw(values, start, stop, buckets, drawing, shift, out):
    """The codes of values from start to stop, in whatever buckets, set in zeros of `out` from bit `shift` on."""
    (bucket_size, scales, scaled_norms), (n_bits, key, ternary) = buckets, drawing
    at, top, shift = start, np.float64((1 << n_bits) - 1), np.uint64(shift)
    while at < stop:
        bucket = at // bucket_size
        part = values[at : min(stop, (bucket + 1) * bucket_size)]
        into, first = out[at - start : at - start + len(part)], key + np.uint64(at + 1) * GOLDEN
        scale, divisor = scales[bucket], scaled_norms[bucket] if scaled_norms[bucket] > 0 else 1.0
        for k in range(len(part)):
            value = np.float64(part[k])
            share = abs(value) * scale / divisor * top
            below = np.floor(share)
            uniform = np.float64(np.int64(mix(first + np.uint64(k) * GOLDEN) >> np.uint64(11))) * 2.0**-53
            level = below + (1.0 if uniform < share - below else 0.0)
            # No share passes the top: a rounded square has its own number as square root. Clamped all the same.
            level = level if level < top else top
            if ternary:
                sign = np.int64(value > 0) - np.int64(value < 0) + 1
            else:
                sign = np.int64(value < 0) & np.int64(level > 0)
            into[k] |= np.uint64(np.int64(level) | (sign << n_bits)) << shift
        at += len(part)


@njit(cache=True, nogil=True)
def _write(first, last, values, buckets, drawing, how, words):
    """Blocks from first to last of the words, drawn and packed while they are in the cache."""
    layout, width, lane, moves, shuffles = how
    if layout == SECTIONS:
        _write_sections(first, last, values, buckets, drawing, width, words)
        return
    size, n_words = block_size(layout, width)
    lanes, moves = np.empty(size + 8, lane.dtype), in_registers(moves)
    for block in range(first, last):
        start, stop = block * size, min(block * size + size, len(values))
        lanes[:] = 0
        _draw(values, start, stop, buckets, drawing, 0, lanes)
        out = words[block * n_words : block * n_words + n_words]
        pack_block(lanes, stop - start, layout, width, moves, shuffles, out)


@njit
def _write_sections(first, last, values, buckets, drawing, width, words):
    n, n_words, zero = len(values), len(words), ONE << np.uint64(drawing[0])
    for block in range(first, last):
        out = words[block * ROW : min(block * ROW + ROW, n_words)]
        out[:] = 0
        for f in range(64 // width):
            start, shift = f * n_words + block * ROW, (64 // width - 1 - f) * width
            begin, stop = min(start, n), min(start + len(out), n)
            _draw(values, begin, stop, buckets, drawing, shift, out)
            for w in range(stop - begin, len(out)):
                out[w] |= zero << np.uint64(shift)


@njit
def _scale(held, shift, start, stop, buckets, n_bits, ternary, values):
    """Values from start to stop of their codes, which lie in `held` from bit `shift` on; whether a sign is wrong."""
    (bucket_size, norms), zero, top = buckets, np.int64(1) << n_bits, np.float64((1 << n_bits) - 1)
    at, wrong, shift, mask = start, np.int64(0), np.uint64(shift), (np.uint64(4) << np.uint64(n_bits)) - ONE
    while at < stop:
        bucket = at // bucket_size
        out = values[at : min(stop, (bucket + 1) * bucket_size)]
        part, norm = held[at - start : at - start + len(out)], norms[bucket]
        for k in range(len(out)):
            code = np.int64((np.uint64(part[k]) >> shift) & mask)
            level = code & (zero - 1)
            value = np.float64(level) / top * norm
            negative = code < zero if ternary else code >= zero
            out[k] = -value if negative else value
            # Wrong where the sign's low bit is set and, if ternary, its high bit or a level too, else no level.
            one = level + (zero - 1)  # has that bit if the level has any
            wrong |= code & (code >> 1 | one) if ternary else code & ~one
        at += len(out)
    return wrong & zero != 0


@njit(cache=True, nogil=True)
def _read(first, last, words, buckets, n_bits, ternary, how, values):
    """Values of blocks from first to last of the words, unpacked in the cache; whether a sign is wrong."""
    layout, width, lane, moves, shuffles = how
    if layout == SECTIONS:
        return _read_sections(first, last, words, buckets, n_bits, ternary, width, values)
    size, _ = block_size(layout, width)
    lanes, moves, wrong = np.empty(size + 8, lane.dtype), in_registers(moves), False
    for block in range(first, last):
        start, stop = block * size, min(block * size + size, len(values))
        unpack_block(words, block, stop - start, layout, width, moves, shuffles, lanes)
        wrong |= _scale(lanes, 0, start, stop, buckets, n_bits, ternary, values)
    return wrong


@njit
def _read_sections(first, last, words, buckets, n_bits, ternary, width, values):
    n, n_words, wrong = len(values), len(words), False
    for block in range(first, last):
        held = words[block * ROW : min(block * ROW + ROW, n_words)]
        for f in range(64 // width):
            start, shift = f * n_words + block * ROW, (64 // width - 1 - f) * width
            begin, stop = min(start, n), min(start + len(held), n)
            wrong |= _scale(held, shift, begin, stop, buckets, n_bits, ternary, values)
            for word in held[stop - begin :]:
                wrong |= (word >> np.uint64(shift)) & (ALL >> np.uint64(64 - width)) != ONE << np.uint64(n_bits)
    return wrong
