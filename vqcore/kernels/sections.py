"""Sections of codes laid over one another in words, and taken off again: fields meet in 32 bits, then in 64.

Word w holds code w of every section, the first section on top. As many sections as 32 bits hold pass from vectors of
narrow lanes to words, or from words, at a time; words that lack a code of some section go one by one.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from vqcore.kernels.compiling import njit
from vqcore.kernels.vectors import INT32, INT64, any_of, load, pointer_to, resized, splat, store

ROW = 2048  # words of a block, of which each is a row of codes
N = 32  # words side by side
HALF = 32  # bits in which fields of sections meet
ALL = np.uint64(2**64 - 1)


@njit
def pack_sections(first, last, codes, n_bits, words):
    """Blocks from first to last; returns the codes by a bitwise or."""
    n, n_words, per_word, ones = len(codes), len(words), 64 // n_bits, np.uint64(0)
    for block in range(first, last):
        start, out = block * ROW, words[block * ROW : min(block * ROW + ROW, n_words)]
        out[:] = 0
        n_whole, together = _in_vectors(start, len(out), n, n_words, n_bits)
        for f in range(0, per_word if n_whole else 0, together):
            some = min(together, per_word - f)
            shift = (per_word - some - f) * n_bits
            ones |= _fold(codes, f * n_words + start, n_words, some, n_bits, out, n_whole, shift)
        rest = out[n_whole:]
        for f in range(per_word):
            part, shift = _rest(codes, f * n_words + start, n_whole, len(out)), np.uint64((per_word - 1 - f) * n_bits)
            for w in range(len(part)):
                ones |= np.uint64(part[w])
                rest[w] |= np.uint64(part[w]) << shift
    return ones


@njit
def unpack_sections(first, last, words, n_bits, codes):
    """What `pack_sections` made of these blocks."""
    n, n_words, per_word, mask = len(codes), len(words), 64 // n_bits, ALL >> np.uint64(64 - n_bits)
    for block in range(first, last):
        start, held = block * ROW, words[block * ROW : min(block * ROW + ROW, n_words)]
        n_whole, together = _in_vectors(start, len(held), n, n_words, n_bits)
        for f in range(0, per_word if n_whole else 0, together):
            some = min(together, per_word - f)
            shift = (per_word - some - f) * n_bits
            _split(codes, f * n_words + start, n_words, some, n_bits, held, n_whole, shift)
        rest = held[n_whole:]
        for f in range(per_word):
            part, shift = _rest(codes, f * n_words + start, n_whole, len(held)), np.uint64((per_word - 1 - f) * n_bits)
            for w in range(len(part)):
                part[w] = (rest[w] >> shift) & mask


@njit
def _in_vectors(start, n_block, n, n_words, n_bits):
    """How many words of a block pass in vectors, those that hold a code of every section; how many sections at a time."""
    whole = min(n - (64 // n_bits - 1) * n_words - start, n_block)
    return max(whole, 0) // N * N if n_bits <= HALF // 2 else 0, max(HALF // n_bits, 1)


@njit
def _rest(codes, start, n_whole, n_block):
    """The codes of a section in a block behind those that pass in vectors."""
    return codes[min(start + n_whole, len(codes)) : min(start + n_block, len(codes))]


def _passing(make):
    """An intrinsic that passes sections, `step` codes apart, between codes and the bits of words from `shift` on.

    The last section is lowest. It returns the codes by a bitwise or, if make(...) does.
    """

    @intrinsic
    def passing(typing, codes, start, step, n_sections, n_bits, words, n, shift):
        given = (codes, start, step, n_sections, n_bits, words, n, shift)

        def generate(context, builder, signature, args):
            start, step, n_sections, n_bits, n, shift = (
                context.cast(builder, args[i], given[i], types.int64) for i in (1, 2, 3, 4, 6, 7)
            )
            narrow = ir.VectorType(ir.IntType(codes.dtype.bitwidth), N)

            def codes_at(section, w):
                at = builder.add(start, builder.mul(section, step))
                return pointer_to(context, builder, codes, args[0], at, w)

            def words_at(w):
                return pointer_to(context, builder, words, args[5], w)

            return make(builder, narrow, codes_at, n_sections, n_bits, shift, n, words_at)

        return types.uint64(*given), generate

    return passing


_HALVES, _WORDS = ir.VectorType(INT32, N), ir.VectorType(INT64, N)


def _folding(builder, narrow, codes_at, n_sections, n_bits, shift, n, words_at):
    by, up = splat(builder, builder.trunc(n_bits, INT32), N), splat(builder, shift, N)
    ones = cgutils.alloca_once_value(builder, ir.Constant(narrow, [0] * N))
    folded = cgutils.alloca_once(builder, _HALVES)
    with cgutils.for_range_slice(builder, INT64(0), n, INT64(N)) as (w, _):
        builder.store(ir.Constant(_HALVES, [0] * N), folded)
        with cgutils.for_range(builder, n_sections) as section:
            held = load(builder, codes_at(section.index, w), narrow)
            builder.store(builder.or_(builder.load(ones), held), ones)
            field = builder.or_(builder.shl(builder.load(folded), by), resized(builder, held, _HALVES))
            builder.store(field, folded)
        fields = builder.shl(builder.zext(builder.load(folded), _WORDS), up)
        store(builder, builder.or_(load(builder, words_at(w), _WORDS), fields), words_at(w))
    return any_of(builder, builder.zext(builder.load(ones), _WORDS))


def _splitting(builder, narrow, codes_at, n_sections, n_bits, shift, n, words_at):
    by, down = splat(builder, builder.trunc(n_bits, INT32), N), splat(builder, shift, N)
    mask = splat(builder, builder.sub(builder.shl(INT32(1), builder.trunc(n_bits, INT32)), INT32(1)), N)
    fields = cgutils.alloca_once(builder, _HALVES)
    with cgutils.for_range_slice(builder, INT64(0), n, INT64(N)) as (w, _):
        builder.store(builder.trunc(builder.lshr(load(builder, words_at(w), _WORDS), down), _HALVES), fields)
        with cgutils.for_range(builder, n_sections) as section:
            held = builder.load(fields)
            last_first = builder.sub(builder.sub(n_sections, section.index), INT64(1))
            store(builder, resized(builder, builder.and_(held, mask), narrow), codes_at(last_first, w))
            builder.store(builder.lshr(held, by), fields)
    return INT64(0)


_fold, _split = _passing(_folding), _passing(_splitting)
