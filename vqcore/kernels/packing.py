"""Bits of numpy arrays, by numba: codes to words and back.

Codes come flat in any integer dtype, words as uint64, both already checked. `packing_tensors` has the same
functions for tensors.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from vqcore.kernels.compiling import frozen, njit, prange, threads_for
from vqcore.kernels.hashing import checksum

__all__ = ["to_words", "bits_of", "fits", "pack", "unpack", "spare_bits", "checksum"]

BLOCK = 64 * 64  # codes that one thread packs at a time: a multiple of 64, so that a block starts a word
WORDS = 256  # words that one thread packs at a time where no code crosses a word
WHOLE_BYTES = {8: "<u1", 16: "<u2", 32: "<u4", 64: "<u8"}  # widths at which packing is only copying
ONE, ALL = np.uint64(1), np.uint64(2**64 - 1)


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
    with threads_for(len(codes)):
        return room == width or int(_all_ones(_unsigned(codes))) >> room == 0


def pack(codes, n_bits, layout, n_words):
    """The words (n_words,) of flat codes (n,)."""
    if 64 // n_bits == 1 and layout != "dense":
        return codes.astype("<u8")
    words = np.zeros(n_words, "<u8")
    with threads_for(4 * len(codes)):
        if n_bits in WHOLE_BYTES and layout != "sections":
            words.view(WHOLE_BYTES[n_bits])[: len(codes)] = codes
        elif layout == "sections":
            _pack_sections(_unsigned(codes), n_bits, words)
        elif layout == "dense" or 64 % n_bits == 0:
            _pack_dense(_unsigned(codes), n_bits, *_stages(n_bits), words)
        else:
            _pack_aligned(_unsigned(codes), n_bits, *_stages(n_bits), words)
    return words


def unpack(words, n_bits, n_codes, layout):
    """The codes (n_codes,) in words of exactly the right number: int64, or uint64 where the width is 64."""
    if 64 // n_bits == 1 and layout != "dense":
        return words.astype(np.uint64 if n_bits == 64 else np.int64)
    if n_bits in WHOLE_BYTES and layout != "sections":
        return words.view(WHOLE_BYTES[n_bits])[:n_codes].astype(np.uint64 if n_bits == 64 else np.int64)
    codes = np.empty(n_codes, np.uint64)
    with threads_for(4 * n_codes):
        if layout == "sections":
            _unpack_sections(frozen(words), n_bits, codes)
        elif layout == "dense" or 64 % n_bits == 0:
            _unpack_dense(frozen(words), n_bits, *_stages(n_bits), codes)
        else:
            _unpack_aligned(frozen(words), n_bits, *_stages(n_bits), codes)
    return codes if n_bits == 64 else codes.view(np.int64)


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
        spare |= (int(_all_ones(frozen(run))) if len(run) else 0) & ~(((1 << held * n_bits) - 1) << low)
    return spare


def _unsigned(codes):
    """A read-only view as unsigned integers: four dtypes to compile for rather than sixteen."""
    return frozen(np.ascontiguousarray(codes).view(f"u{codes.dtype.itemsize}"))


def _stages(n_bits):
    """How codes side by side in lanes of a 64-bit item move together, and lanes of the right width (an empty array).

    Three stages, each of which joins the two fields of every pair of lanes: masks of the lower and of the upper field
    after the move, and the distance that the upper one moves. A stage that is not needed moves nothing. Many items go
    through a stage at once in the processor's vectors, and only the last step, over items, is one after the other.
    """
    lane = next(width for width in WHOLE_BYTES if width >= n_bits)
    lower, upper, shift = np.full(3, ALL), np.zeros(3, np.uint64), np.zeros(3, np.uint64)
    for stage, width in enumerate(w for w in (8, 16, 32) if w >= lane):
        field = n_bits * width // lane
        pairs = sum(1 << at for at in range(0, 64, 2 * width))
        lower[stage] = pairs * ((1 << field) - 1)
        upper[stage] = pairs * ((1 << field) - 1) << field
        shift[stage] = width - field
    return np.empty(0, WHOLE_BYTES[lane]), tuple(lower), tuple(upper), tuple(shift)


@njit(parallel=True, cache=True, nogil=True)
def _all_ones(codes):
    n_blocks = -(-len(codes) // BLOCK)
    found = np.zeros(n_blocks, codes.dtype)
    for block in prange(n_blocks):
        part = codes[block * BLOCK : min(block * BLOCK + BLOCK, len(codes))]
        ones = part[0]
        for i in range(len(part)):
            ones |= part[i]
        found[block] = ones
    ones = np.uint64(0)
    for block in range(n_blocks):
        ones |= np.uint64(found[block])
    return ones


@njit(inline="always")
def _join(items, lower, upper, shift):
    """The fields of every item moved together to its low end."""
    l0, l1, l2, u0, u1, u2, s0, s1, s2 = lower + upper + shift
    for i in range(len(items)):
        x = items[i]
        x = (x & l0) | ((x >> s0) & u0)
        x = (x & l1) | ((x >> s1) & u1)
        items[i] = (x & l2) | ((x >> s2) & u2)


@njit(inline="always")
def _part(items, lower, upper, shift):
    """The fields at the low end of every item moved apart to their lanes."""
    l0, l1, l2, u0, u1, u2, s0, s1, s2 = lower + upper + shift
    for i in range(len(items)):
        x = items[i]
        x = (x & l2) | ((x & u2) << s2)
        x = (x & l1) | ((x & u1) << s1)
        items[i] = (x & l0) | ((x & u0) << s0)


@intrinsic
def _load(typing, held, at):
    """The uint64 that begins at any byte of an array of bytes."""

    def generate(context, builder, signature, args):
        pointer = builder.gep(context.make_array(held)(context, builder, args[0]).data, [args[1]])
        word = builder.load(builder.bitcast(pointer, ir.IntType(64).as_pointer()))
        word.align = 1
        return word

    return types.uint64(held, types.int64), generate


@intrinsic
def _store(typing, out, at, word):
    """Write a uint64 from any byte of an array of bytes on."""

    def generate(context, builder, signature, args):
        pointer = builder.gep(context.make_array(out)(context, builder, args[0]).data, [args[1]])
        builder.store(args[2], builder.bitcast(pointer, ir.IntType(64).as_pointer())).align = 1
        return context.get_dummy_value()

    return types.void(out, types.int64, types.uint64), generate


@njit(cache=True, nogil=True)
def _write(items, width, words):
    """The low `width` bits (1 to 63) of every item, one after the other."""
    first = 0
    if width % 8 == 0:
        # Whole bytes: each store writes zeros beyond its item, over which the next one goes; so not the last few.
        out, n_bytes, first = words.view(np.uint8), width >> 3, max(0, len(items) - 8)
        for i in range(first):
            _store(out, i * n_bytes, items[i])
    at, filled = (first * width) >> 6, (first * width) & 63
    word = words[at] & ((ONE << np.uint64(filled)) - ONE) if filled > 0 else np.uint64(0)
    for item in items[first:]:
        word |= item << np.uint64(filled)
        words[at] = word
        filled += width
        if filled >= 64:
            at, filled = at + 1, filled - 64
            # What crosses into the next word.
            word = item >> np.uint64(width - filled)
    if filled > 0 and at < len(words):
        words[at] = word


@njit(parallel=True, cache=True, nogil=True)
def _pack_dense(codes, n_bits, lane, lower, upper, shift, words):
    n, per_item = len(codes), 8 // lane.itemsize
    for block in prange(-(-n // BLOCK)):
        part = codes[block * BLOCK : min(block * BLOCK + BLOCK, n)]
        lanes = np.zeros(BLOCK, lane.dtype)
        for i in range(len(part)):
            lanes[i] = part[i]
        items = lanes.view(np.uint64)[: -(-len(part) // per_item)]
        _join(items, lower, upper, shift)
        _write(items, n_bits * per_item, words[block * (BLOCK // 64) * n_bits :])


@njit(parallel=True, cache=True, nogil=True)
def _pack_aligned(codes, n_bits, lane, lower, upper, shift, words):
    n, per_word, per_item = len(codes), 64 // n_bits, 8 // lane.itemsize
    width, n_items = n_bits * per_item, -(-per_word // per_item)
    # The last item of a word begins the next word's codes too.
    own = ALL >> np.uint64(64 - n_bits * (per_word - (n_items - 1) * per_item))
    for block in prange(-(-len(words) // WORDS)):
        out = words[block * WORDS : min(block * WORDS + WORDS, len(words))]
        part = codes[block * WORDS * per_word : min((block + 1) * WORDS * per_word, n)]
        lanes = np.zeros(WORDS * per_word + per_item, lane.dtype)
        for i in range(len(part)):
            lanes[i] = part[i]
        held, items = lanes.view(np.uint8), np.empty(len(out) * n_items, np.uint64)
        for j in range(n_items):
            for w in range(len(out)):
                items[j * len(out) + w] = _load(held, (w * per_word + j * per_item) * lane.itemsize)
        _join(items, lower, upper, shift)
        for j in range(n_items):
            column, kept = items[j * len(out) : (j + 1) * len(out)], own if j == n_items - 1 else ALL
            for w in range(len(out)):
                out[w] |= (column[w] & kept) << np.uint64(j * width)


@njit(parallel=True, cache=True, nogil=True)
def _pack_sections(codes, n_bits, words):
    n, per_word, n_words = len(codes), 64 // n_bits, len(words)
    for block in prange(-(-n_words // 1024)):
        out = words[block * 1024 : min(block * 1024 + 1024, n_words)]
        for f in range(per_word):
            shift, first = np.uint64((per_word - 1 - f) * n_bits), f * n_words + block * 1024
            part = codes[min(first, n) : min(first + len(out), n)]
            for w in range(len(part)):
                out[w] |= np.uint64(part[w]) << shift


@njit(parallel=True, cache=True, nogil=True)
def _unpack_dense(words, n_bits, lane, lower, upper, shift, codes):
    n, per_item = len(codes), 8 // lane.itemsize
    width, last = n_bits * per_item, len(words) - 1
    mask = ALL >> np.uint64(64 - width)
    for block in prange(-(-n // BLOCK)):
        part = codes[block * BLOCK : min(block * BLOCK + BLOCK, n)]
        items = np.empty(-(-len(part) // per_item), np.uint64)
        first = block * (BLOCK // 64) * n_bits
        n_near = 0
        if width % 8 == 0:
            # Items of whole bytes are read where they lie, but for the last: eight bytes from there end beyond the words.
            held = words.view(np.uint8)
            n_near = min(len(items), max(0, (len(held) - 8 - 8 * first) // (width >> 3) + 1))
            for i in range(n_near):
                items[i] = _load(held, 8 * first + i * (width >> 3)) & mask
        for i in range(n_near, len(items)):
            at, skip = first + ((i * width) >> 6), np.uint64((i * width) & 63)
            # The last item has no next word, and what would come from it falls to the mask or beyond the codes.
            items[i] = ((words[at] >> skip) | ((words[min(at + 1, last)] << ONE) << (np.uint64(63) - skip))) & mask
        _part(items, lower, upper, shift)
        lanes = items.view(lane.dtype)
        for i in range(len(part)):
            part[i] = lanes[i]


@njit(parallel=True, cache=True, nogil=True)
def _unpack_aligned(words, n_bits, lane, lower, upper, shift, codes):
    n, per_word, per_item = len(codes), 64 // n_bits, 8 // lane.itemsize
    width, n_items = n_bits * per_item, -(-per_word // per_item)
    mask = ALL >> np.uint64(64 - width)
    for block in prange(-(-len(words) // WORDS)):
        held = words[block * WORDS : min(block * WORDS + WORDS, len(words))]
        items = np.empty(len(held) * n_items, np.uint64)
        for j in range(n_items):
            column = items[j * len(held) : (j + 1) * len(held)]
            for w in range(len(held)):
                column[w] = (held[w] >> np.uint64(j * width)) & mask
        _part(items, lower, upper, shift)
        lanes = np.empty(WORDS * per_word + per_item, lane.dtype)
        out = lanes.view(np.uint8)
        # The last items first: what they write beyond their word is written over.
        for j in range(n_items - 1, -1, -1):
            for w in range(len(held)):
                _store(out, (w * per_word + j * per_item) * lane.itemsize, items[j * len(held) + w])
        part = codes[block * WORDS * per_word : min((block + 1) * WORDS * per_word, n)]
        for i in range(len(part)):
            part[i] = lanes[i]


@njit(parallel=True, cache=True, nogil=True)
def _unpack_sections(words, n_bits, codes):
    n, per_word, n_words = len(codes), 64 // n_bits, len(words)
    mask = ALL >> np.uint64(64 - n_bits)
    for block in prange(-(-n_words // 1024)):
        held = words[block * 1024 : min(block * 1024 + 1024, n_words)]
        for f in range(per_word):
            shift, first = np.uint64((per_word - 1 - f) * n_bits), f * n_words + block * 1024
            part = codes[min(first, n) : min(first + len(held), n)]
            for w in range(len(part)):
                part[w] = (held[w] >> shift) & mask
