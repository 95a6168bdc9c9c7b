"""Bits of numpy arrays, by numba: codes to words and back.

Codes come flat in any integer dtype, words as uint64, both already checked. `packing_tensors` has the same
functions for tensors.
"""

from functools import reduce
from operator import or_

import numpy as np

from vqcore.kernels.compiling import frozen, njit
from vqcore.kernels.hashing import checksum
from vqcore.kernels.lanes import (
    SECTIONS, block_size, groups_of, in_one_lane, in_registers, pack_block, plan, unpack_block,
)  # fmt: skip
from vqcore.kernels.sections import pack_sections, unpack_sections
from vqcore.kernels.shuffles import pack_groups, unpack_groups
from vqcore.kernels.threads import share

__all__ = ["to_words", "bits_of", "codes_dtype", "pack", "unpack", "spare_bits", "checksum"]

WHOLE_BYTES = {8: "<u1", 16: "<u2", 32: "<u4", 64: "<u8"}  # widths at which codes of that many bits are only copied


def to_words(words):
    """The words as they can be read here, or None where they are not uint64 (n,)."""
    if not isinstance(words, np.ndarray) or words.dtype.newbyteorder("=") != np.uint64 or words.ndim != 1:
        return None
    return np.ascontiguousarray(words, np.uint64)


def bits_of(norms):
    """The words of the same bits as these float64."""
    return np.ascontiguousarray(norms, np.float64).view(np.uint64)


def codes_dtype(dtype, n_bits):
    """The dtype of unpacked codes: int64, or uint64 where the width is 64, if it is None; None where it cannot be."""
    if dtype is None:
        return np.dtype(np.uint64 if n_bits == 64 else np.int64)
    try:
        dtype = np.dtype(dtype)
    except (TypeError, ValueError):
        return None
    return dtype if dtype.kind in "iu" and n_bits <= 8 * dtype.itemsize - (dtype.kind == "i") else None


def pack(codes, n_bits, layout, n_words):
    """The words (n_words,) of flat codes (n,), or None where one of them does not fit."""
    width = 8 * codes.dtype.itemsize
    room = min(n_bits, width - (codes.dtype.kind == "i"))
    words = np.empty(n_words, "<u8")
    if room == width and n_bits in WHOLE_BYTES and layout != "sections":
        words[-1:] = 0
        words.view(WHOLE_BYTES[n_bits])[: len(codes)] = codes
        return words
    n_blocks, *how = plan(n_bits, layout, n_words, len(codes))
    ones = reduce(or_, share(_pack, n_blocks, codes.nbytes, _unsigned(codes), *how, words), 0)
    return words if room == width or ones >> room == 0 else None


def unpack(words, n_bits, n_codes, layout, dtype):
    """The codes (n_codes,) in words of exactly the right number, in a dtype that can hold them."""
    if n_bits in WHOLE_BYTES and layout != "sections":
        return words.view(WHOLE_BYTES[n_bits])[:n_codes].astype(dtype)
    codes = np.empty(n_codes, dtype.newbyteorder("="))
    n_blocks, *how = plan(n_bits, layout, len(words), n_codes)
    share(_unpack, n_blocks, codes.nbytes, frozen(words), *how, codes.view(f"u{dtype.itemsize}"))
    return codes.astype(dtype, copy=False)


def spare_bits(words, n_bits, n_codes, layout):
    """The bits of the words (as one Python int) that belong to no code; 0 in every word that `pack` made."""
    if layout == "dense":
        return int(words[-1]) >> (n_codes * n_bits - 64 * (len(words) - 1)) if len(words) else 0
    if len(words) == 0:
        return 0
    # Two runs of words: those that hold `held` codes, and those that hold another number.
    per_word, n_words = 64 // n_bits, len(words)
    held, first = (per_word, n_words - 1) if layout == "aligned" else (-(-n_codes // n_words), (n_codes - 1) % n_words + 1)
    rest = n_codes - first * per_word if layout == "aligned" else held - 1
    spare = 0
    for run, held in ((words[:first], held), (words[first:], rest)):
        low = (per_word - held) * n_bits if layout == "sections" else 0
        if len(run) and held * n_bits < 64:
            ones = reduce(or_, share(_either, len(run), 4 * len(run), frozen(run)))
            spare |= ones & ~(((1 << held * n_bits) - 1) << low)
    return spare


def _unsigned(codes):
    """A read-only view as unsigned integers: four dtypes to compile for rather than sixteen."""
    return frozen(np.ascontiguousarray(codes).view(f"u{codes.dtype.itemsize}"))


@njit(cache=True, nogil=True)
def _either(first, last, words):
    ones = np.uint64(0)
    for word in words[first:last]:
        ones |= word
    return ones


@njit(cache=True, nogil=True)
def _pack(first, last, codes, layout, n_bits, lane, moves, shuffles, words):
    """Blocks from first to last; returns the codes by a bitwise or."""
    if layout == SECTIONS:
        return pack_sections(first, last, codes, n_bits, words)
    size, n_words = block_size(layout, n_bits)
    moves, ones = in_registers(moves), np.uint64(0)
    if len(shuffles) and codes.itemsize == lane.itemsize:
        begin, end = groups_of(first, last, n_words, words, shuffles)
        return in_one_lane(pack_groups(codes, begin, end, shuffles[0], moves, words), lane.itemsize)
    lanes = np.zeros(size + 8, lane.dtype)
    for block in range(first, last):
        part = codes[block * size : min(block * size + size, len(codes))]
        found = part[0]
        for i in range(len(part)):
            found |= part[i]
            lanes[i] = part[i]
        lanes[len(part) : size] = 0
        ones |= np.uint64(found)
        out = words[block * n_words : block * n_words + n_words]
        pack_block(lanes, len(part), layout, n_bits, moves, shuffles, out)
    return ones


@njit(cache=True, nogil=True)
def _unpack(first, last, words, layout, n_bits, lane, moves, shuffles, codes):
    if layout == SECTIONS:
        unpack_sections(first, last, words, n_bits, codes)
        return
    size, n_words = block_size(layout, n_bits)
    moves = in_registers(moves)
    if len(shuffles) and codes.itemsize == lane.itemsize:
        begin, end = groups_of(first, last, n_words, words, shuffles)
        unpack_groups(words, begin, end, shuffles[1], moves, codes)
        return
    lanes = np.empty(size + 8, lane.dtype)
    for block in range(first, last):
        part = codes[block * size : min(block * size + size, len(codes))]
        unpack_block(words, block, len(part), layout, n_bits, moves, shuffles, lanes)
        for i in range(len(part)):
            part[i] = lanes[i]
