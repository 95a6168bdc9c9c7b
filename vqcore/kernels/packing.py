"""Bits of numpy arrays, by numba: codes to words and back, and a checksum of words.

Codes come flat in any integer dtype, words as uint64, both already checked. `packing_tensors` has the same
functions for tensors.
"""

import numpy as np
from numba import njit, prange

from vqcore.kernels.compiled import _frozen  # numba and its threads are set up there

BLOCK = 64 * 64  # codes that one thread packs at a time: a multiple of 64, so that a block starts a word
WHOLE_BYTES = {8: "<u1", 16: "<u2", 32: "<u4", 64: "<u8"}  # widths at which packing is only copying
ONE, ALL = np.uint64(1), np.uint64(2**64 - 1)
GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio: Weyl's step between counters


def to_words(words):
    """The words as they can be read here, or None where they are not uint64 (n,)."""
    if not isinstance(words, np.ndarray) or words.dtype.newbyteorder("=") != np.uint64 or words.ndim != 1:
        return None
    return np.ascontiguousarray(words, np.uint64)


def bits_of(norms):
    """The words of the same bits as these float64."""
    return np.ascontiguousarray(norms, np.float64).view(np.uint64)


def fits(codes, n_bits):
    """Whether every code lies in [0, 2**n_bits)."""
    width = 8 * codes.dtype.itemsize
    room = min(n_bits, width - (codes.dtype.kind == "i"))
    return room == width or int(_all_ones(_unsigned(codes))) >> room == 0


def pack(codes, n_bits, layout, n_words):
    """The words (n_words,) of flat codes (n,)."""
    if 64 // n_bits == 1 and layout != "dense":
        return codes.astype("<u8")
    words = np.zeros(n_words, "<u8")
    if n_bits in WHOLE_BYTES and layout != "sections":
        words.view(WHOLE_BYTES[n_bits])[: len(codes)] = codes
        return words
    _PACK[layout](_unsigned(codes), n_bits, words)
    return words


def unpack(words, n_bits, n_codes, layout):
    """The codes (n_codes,) in words of exactly the right number: int64, or uint64 where the width is 64."""
    if n_bits in WHOLE_BYTES and layout != "sections":
        return words.view(WHOLE_BYTES[n_bits])[:n_codes].astype(np.uint64 if n_bits == 64 else np.int64)
    codes = np.empty(n_codes, np.uint64)
    _UNPACK[layout](_frozen(words), n_bits, codes)
    return codes if n_bits == 64 else codes.view(np.int64)


def spare_bits(words, n_bits, n_codes, layout):
    """The bits of the words (as one Python int) that belong to no code; 0 in every word that `pack` made."""
    if layout == "dense":
        return int(words[-1]) >> (n_codes * n_bits - 64 * (len(words) - 1)) if len(words) else 0
    return int(_spare(_frozen(words), n_bits, n_codes, layout == "sections"))


def checksum(words, start):
    """A 64-bit sum over hashed words and their positions: no thread order changes it, any changed bit does."""
    return int(_checksum(_frozen(words), np.uint64(start)))


@njit(inline="always")
def mix(counter):
    """The finalizer of splitmix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators")."""
    counter = (counter ^ (counter >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    counter = (counter ^ (counter >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return counter ^ (counter >> np.uint64(31))


def _unsigned(codes):
    """A read-only view as unsigned integers: four dtypes to compile for rather than sixteen."""
    return _frozen(np.ascontiguousarray(codes).view(f"u{codes.dtype.itemsize}"))


@njit(parallel=True, cache=True, nogil=True)
def _all_ones(codes):
    n_blocks = -(-len(codes) // BLOCK)
    found = np.zeros(n_blocks, codes.dtype)
    for block in prange(n_blocks):
        ones = codes[0] & codes.dtype.type(0)
        for i in range(block * BLOCK, min(block * BLOCK + BLOCK, len(codes))):
            ones |= codes[i]
        found[block] = ones
    ones = np.uint64(0)
    for block in range(n_blocks):
        ones |= np.uint64(found[block])
    return ones


@njit(parallel=True, cache=True, nogil=True)
def _pack_dense(codes, n_bits, words):
    n = len(codes)
    for block in prange(-(-n // BLOCK)):
        at, word, filled = block * (BLOCK // 64) * n_bits, np.uint64(0), 0
        for i in range(block * BLOCK, min(block * BLOCK + BLOCK, n)):
            code = np.uint64(codes[i])
            word |= code << np.uint64(filled)
            filled += n_bits
            if filled >= 64:
                words[at] = word
                at += 1
                filled -= 64
                # What crosses into the next word; two shifts, because one by 64 is undefined.
                word = (code >> ONE) >> np.uint64(n_bits - filled - 1)
        if filled > 0:
            words[at] = word


@njit(parallel=True, cache=True, nogil=True)
def _pack_aligned(codes, n_bits, words):
    n, per_word = len(codes), 64 // n_bits
    for block in prange(-(-len(words) // 64)):
        for w in range(block * 64, min(block * 64 + 64, len(words))):
            word = np.uint64(0)
            for f in range(min(per_word, n - w * per_word)):
                word |= np.uint64(codes[w * per_word + f]) << np.uint64(f * n_bits)
            words[w] = word


@njit(parallel=True, cache=True, nogil=True)
def _pack_sections(codes, n_bits, words):
    n, per_word, n_words = len(codes), 64 // n_bits, len(words)
    for block in prange(-(-n_words // BLOCK)):
        for f in range(per_word):
            shift = np.uint64((per_word - 1 - f) * n_bits)
            for w in range(block * BLOCK, min(block * BLOCK + BLOCK, n_words, n - f * n_words)):
                words[w] |= np.uint64(codes[f * n_words + w]) << shift


@njit(parallel=True, cache=True, nogil=True)
def _unpack_dense(words, n_bits, codes):
    n, mask = len(codes), ALL >> np.uint64(64 - n_bits)
    for block in prange(-(-n // BLOCK)):
        for i in range(block * BLOCK, min(block * BLOCK + BLOCK, n)):
            w, skip = (i * n_bits) >> 6, (i * n_bits) & 63
            # The last code has no next word, and what would come from it falls to the mask.
            above = words[min(w + 1, len(words) - 1)]
            codes[i] = ((words[w] >> np.uint64(skip)) | ((above << ONE) << np.uint64(63 - skip))) & mask


@njit(parallel=True, cache=True, nogil=True)
def _unpack_aligned(words, n_bits, codes):
    n, per_word, mask = len(codes), 64 // n_bits, ALL >> np.uint64(64 - n_bits)
    for block in prange(-(-len(words) // 64)):
        for w in range(block * 64, min(block * 64 + 64, len(words))):
            for f in range(min(per_word, n - w * per_word)):
                codes[w * per_word + f] = (words[w] >> np.uint64(f * n_bits)) & mask


@njit(parallel=True, cache=True, nogil=True)
def _unpack_sections(words, n_bits, codes):
    n, per_word, n_words = len(codes), 64 // n_bits, len(words)
    mask = ALL >> np.uint64(64 - n_bits)
    for block in prange(-(-n_words // BLOCK)):
        for f in range(per_word):
            shift = np.uint64((per_word - 1 - f) * n_bits)
            for w in range(block * BLOCK, min(block * BLOCK + BLOCK, n_words, n - f * n_words)):
                codes[f * n_words + w] = (words[w] >> shift) & mask


@njit(cache=True, nogil=True)
def _spare(words, n_bits, n_codes, in_sections):
    per_word, n_words, spare = 64 // n_bits, len(words), np.uint64(0)
    for w in range(n_words):
        held, low = min(per_word, n_codes - w * per_word), 0
        if in_sections:
            held = -(-(n_codes - w) // n_words)
            low = (per_word - held) * n_bits
        spare |= words[w] & ~((ALL >> np.uint64(64 - held * n_bits)) << np.uint64(low))
    return spare


@njit(parallel=True, cache=True, nogil=True)
def _checksum(words, start):
    total = np.uint64(0)
    for w in prange(len(words)):
        total += mix(words[w] ^ mix(start + np.uint64(w) * GOLDEN))
    return total


_PACK = {"dense": _pack_dense, "aligned": _pack_aligned, "sections": _pack_sections}
_UNPACK = {"dense": _unpack_dense, "aligned": _unpack_aligned, "sections": _unpack_sections}
