"""Codes side by side in the lanes of 64-bit items, moved together and apart: loops of one thread over a block of codes.

A lane has 8, 16, 32 or 64 bits, the fewest that hold a code; an item is eight bytes of lanes.
"""

from functools import lru_cache

import numba
import numpy as np
from llvmlite import ir
from llvmlite.binding import get_host_cpu_name
from numba import types
from numba.extending import intrinsic

from vqcore.kernels.compiling import frozen, njit
from vqcore.kernels.sections import ALL, ROW
from vqcore.kernels.shuffles import MOVED, NO_SHUFFLES, pack_groups, shuffles_for, unpack_groups
from vqcore.kernels.vectors import FEATURES

DENSE, ALIGNED, SECTIONS = range(3)
BLOCK = 64 * 64  # codes of a dense block: a multiple of 64, so that a block starts a word
WORDS = 1024  # words of an aligned block
ONE = np.uint64(1)


def plan(n_bits, layout, n_words, n_codes):
    """The number of blocks, and what loops are told: the layout as a number, n_bits, lanes, their moves and shuffles."""
    lane, moves = lanes_for(n_bits)
    if layout == "sections" or layout == "aligned" and n_bits > 32:
        return -(-n_words // ROW), SECTIONS, n_bits, lane, moves, NO_SHUFFLES
    aligned = layout == "aligned" and 64 % n_bits > 0
    n_blocks = -(-n_words // WORDS) if aligned else -(-n_codes // BLOCK)
    shuffles = shuffles_for(n_bits, lane.itemsize, aligned)
    return n_blocks, ALIGNED if aligned else DENSE, n_bits, lane, moves, shuffles


@lru_cache(maxsize=64)
def lanes_for(n_bits):
    """An empty array of lanes, and how their codes move: all fields of an item, then three steps.

    A step joins the fields of every pair of lanes: masks of the lower and of the upper field after the move, and the
    distance that the upper one moves. A step that is not needed moves nothing.
    """
    size = next(size for size in (8, 16, 32, 64) if size >= n_bits)
    moves = [sum((1 << n_bits) - 1 << at for at in range(0, 64, size))]
    for width in (8, 16, 32):
        field, pairs = n_bits * width // size, sum(1 << at for at in range(0, 64, 2 * width))
        lower = pairs * ((1 << field) - 1)
        moves += [lower, lower << field, width - field] if width >= size else [2**64 - 1, 0, 0]
    return frozen(np.empty(0, f"u{size // 8}")), frozen(np.array(moves, np.uint64))


@njit
def in_registers(moves):
    """The moves as a tuple: a loop that stores anything would read an array again and again."""
    m = moves
    return m[0], m[1], m[2], m[3], m[4], m[5], m[6], m[7], m[8], m[9]


@njit
def together_by_steps(item, moves):
    """The fields of all lanes joined at the low end of the item."""
    fields, l0, u0, s0, l1, u1, s1, l2, u2, s2 = moves
    item &= fields
    item = (item & l0) | ((item >> s0) & u0)
    item = (item & l1) | ((item >> s1) & u1)
    return (item & l2) | ((item >> s2) & u2)


@njit
def apart_by_steps(item, moves):
    """The fields at the low end of an item moved to their lanes, whatever lies above them."""
    fields, l0, u0, s0, l1, u1, s1, l2, u2, s2 = moves
    item = (item & l2) | ((item & u2) << s2)
    item = (item & l1) | ((item & u1) << s1)
    return ((item & l0) | ((item & u0) << s0)) & fields


def _instruction(name):
    """The x86 instruction of that name on an item and the mask of its fields."""

    @intrinsic
    def on_fields(typing, item, fields):
        def generate(context, builder, signature, args):
            kind = ir.FunctionType(ir.IntType(64), [ir.IntType(64)] * 2)
            return builder.call(builder.module.declare_intrinsic(f"llvm.x86.bmi.{name}.64", fnty=kind), args)

        return types.uint64(types.uint64, types.uint64), generate

    return on_fields


_extract, _deposit = _instruction("pext"), _instruction("pdep")


@njit
def _together_at_once(item, moves):
    return _extract(item, moves[0])


@njit
def _apart_at_once(item, moves):
    return _deposit(item, moves[0])


# One instruction does what the steps do, but takes a hundred cycles on AMD's processors of before 2020.
_CPU = numba.config.CPU_NAME or get_host_cpu_name()
AT_ONCE = "+bmi2" in FEATURES and _CPU not in ("bdver4", "znver1", "znver2")
together = _together_at_once if AT_ONCE else together_by_steps
apart = _apart_at_once if AT_ONCE else apart_by_steps


@intrinsic
def load(typing, held, at):
    """The uint64 that begins at any byte of an array of bytes."""

    def generate(context, builder, signature, args):
        pointer = builder.gep(context.make_array(held)(context, builder, args[0]).data, [args[1]])
        word = builder.load(builder.bitcast(pointer, ir.IntType(64).as_pointer()))
        word.align = 1
        return word

    return types.uint64(held, types.int64), generate


@intrinsic
def store(typing, out, at, word):
    """Write a uint64 from any byte of an array of bytes on."""

    def generate(context, builder, signature, args):
        pointer = builder.gep(context.make_array(out)(context, builder, args[0]).data, [args[1]])
        builder.store(args[2], builder.bitcast(pointer, ir.IntType(64).as_pointer())).align = 1
        return context.get_dummy_value()

    return types.void(out, types.int64, types.uint64), generate


@njit
def pack_dense(held, n_items, width, moves, words):
    """The fields of the items that lie in `held`, `width` bits an item, one after the other in words."""
    if width == 64:
        for i in range(n_items):
            words[i] = load(held, 8 * i)
        return
    first = 0
    if width <= MOVED:
        # Each store writes zeros beyond its item, over which the next one goes; so not the last few.
        out, first, before = words.view(np.uint8), max(0, n_items - 8), np.uint64(0)
        for i in range(first if width % 8 == 0 else 0):
            store(out, i * (width >> 3), together(load(held, 8 * i), moves))
        for i in range(0 if width % 8 == 0 else first):
            # From the byte on where it begins, with the end of the one before.
            item, filled = together(load(held, 8 * i), moves), (i * width) & 7
            store(out, (i * width) >> 3, item << np.uint64(filled) | before >> np.uint64(width - filled))
            before = item
    at, filled = (first * width) >> 6, (first * width) & 63
    word = words[at] & ((ONE << np.uint64(filled)) - ONE) if filled > 0 else np.uint64(0)
    for i in range(first, n_items):
        item = together(load(held, 8 * i), moves)
        word |= item << np.uint64(filled)
        words[at] = word
        filled += width
        if filled >= 64:
            at, filled = at + 1, filled - 64
            # What crosses into the next word.
            word = item >> np.uint64(width - filled)
    if filled > 0 and at < len(words):
        words[at] = word


@njit
def unpack_dense(words, n_items, width, moves, out):
    """What `pack_dense` wrote, as items in the bytes `out`."""
    held, last, n_near = words.view(np.uint8), len(words) - 1, 0
    if width <= MOVED:
        # From the byte on where it begins, but for the last few: eight bytes from there may end beyond the words.
        n_near = min(n_items, max(0, 8 * (len(held) - 8) // width + 1))
        for i in range(n_near if width % 8 == 0 else 0):
            store(out, 8 * i, apart(load(held, i * (width >> 3)), moves))
        for i in range(0 if width % 8 == 0 else n_near):
            skip = np.uint64((i * width) & 7)
            store(out, 8 * i, apart(load(held, (i * width) >> 3) >> skip, moves))
    for i in range(n_near, n_items):
        at, skip = (i * width) >> 6, np.uint64((i * width) & 63)
        # The last item has no next word, and what would come from it is not asked for or beyond the codes.
        item = (words[at] >> skip) | ((words[min(at + 1, last)] << ONE) << (np.uint64(63) - skip))
        store(out, 8 * i, apart(item, moves))


@njit
def pack_aligned(held, n_bytes, n_bits, width, moves, words):
    """Words, each with as many fields as it holds whole, of codes that lie in `held`, those of a word in n_bytes."""
    own, shift, n_items = ALL >> np.uint64(64 - 64 // n_bits * n_bits), np.uint64(width), -(-n_bytes // 8)
    for w in range(len(words)):
        # The last item of a word begins the next word's codes too. Mostly it is the second.
        word = together(load(held, w * n_bytes), moves)
        if n_items > 1:
            word |= together(load(held, w * n_bytes + 8), moves) << shift
        for j in range(2, n_items):
            word |= together(load(held, w * n_bytes + 8 * j), moves) << np.uint64(j * width)
        words[w] = word & own


@njit
def unpack_aligned(words, n_bytes, width, moves, out):
    """What `pack_aligned` wrote, in the bytes `out`, where up to eight more are written over."""
    n_items = -(-n_bytes // 8)
    for w in range(len(words)):
        # Upwards: what the last item of a word writes beyond it, the next word writes over.
        store(out, w * n_bytes, apart(words[w], moves))
        if n_items > 1:
            store(out, w * n_bytes + 8, apart(words[w] >> np.uint64(width), moves))
        for j in range(2, n_items):
            store(out, w * n_bytes + 8 * j, apart(words[w] >> np.uint64(j * width), moves))


@njit
def block_size(layout, n_bits):
    """Codes and words of a block."""
    return (BLOCK, BLOCK // 64 * n_bits) if layout == DENSE else (64 // n_bits * WORDS, WORDS)


@njit
def groups_of(first, last, n_words, words, shuffles):
    """The first and the last of the groups that make up blocks of n_words from first to last."""
    packed = np.int64(shuffles[0, -1, 3])
    return first * n_words * 8 // packed, -(-8 * min(last * n_words, len(words)) // packed)


@njit
def in_one_lane(item, size):
    """The lanes of an item, of that many bytes, by a bitwise or."""
    for n in (4, 2, 1):
        if n >= size:
            item |= item >> np.uint64(8 * n)
    return item & (ALL >> np.uint64(64 - 8 * size))


@njit
def pack_block(lanes, n_codes, layout, n_bits, moves, shuffles, words):
    """The words of a block of n_codes in lanes, zeros and eight more lanes behind them; not for sections."""
    width, size = n_bits * (8 // lanes.itemsize), lanes.itemsize
    if len(shuffles):
        pack_groups(lanes[:n_codes], 0, groups_of(0, 1, len(words), words, shuffles)[1], shuffles[0], moves, words)
    elif layout == DENSE:
        pack_dense(lanes.view(np.uint8), -(-n_codes * size // 8), width, moves, words)
    else:
        pack_aligned(lanes.view(np.uint8), 64 // n_bits * size, n_bits, width, moves, words)


@njit
def unpack_block(words, block, n_codes, layout, n_bits, moves, shuffles, lanes):
    """What `pack_block` made of that block, in lanes."""
    width, size, (_, n_words) = n_bits * (8 // lanes.itemsize), lanes.itemsize, block_size(layout, n_bits)
    held = words[block * n_words : min(block * n_words + n_words, len(words))]
    if len(shuffles):
        unpack_groups(held, 0, groups_of(0, 1, len(held), held, shuffles)[1], shuffles[1], moves, lanes[:n_codes])
    elif layout == DENSE:
        unpack_dense(held, -(-n_codes * size // 8), width, moves, lanes.view(np.uint8))
    else:
        unpack_aligned(held, 64 // n_bits * size, width, moves, lanes.view(np.uint8))
