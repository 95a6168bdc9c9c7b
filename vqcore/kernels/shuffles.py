"""Fields of bits brought together and apart in vectors of eight items, whose bytes one instruction permutes at will.

What `lanes` does item by item is done here for a group at a time, where a processor has AVX512_VBMI. A group is eight
items, or as many words with the fields that they hold whole; it fills whole bytes on either side. Loads and stores are
masked, so a last group may be cut short.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from vqcore.kernels.compiling import frozen, njit
from vqcore.kernels.vectors import BYTES, INT32, INT64, PERMUTES, any_of, load, splat, store

MOVED = 56  # bits of an item at most that lie in eight bytes wherever among the bits of the first one they begin
N = 8  # items
ITEMS, BITS = ir.VectorType(INT64, N), ir.VectorType(ir.IntType(1), 8 * N)
NO_BYTE = 8 * N
NO_SHUFFLES = frozen(np.empty((0, 6, N), np.uint64))


class Table(NamedTuple):
    """How the bytes of a group move: vectors of 64 bytes, as LLVM values within a loop.

    Attributes:
        index: which byte of the source goes where.
        fields: the bits of the items that belong to fields while they lie in lanes.
        shifts: how far every item is moved within eight bytes, where it does not begin with a byte.
        then, after: which bytes of the items go where in the target, in two turns, for an item may begin within the byte
            in which the one before it ends.
        steps: of `lanes`, the masks and distances by which fields of neighbouring lanes meet.
        once, twice: masks of the bytes that the two turns set.
    """

    index: Any
    fields: Any
    shifts: Any
    then: Any
    after: Any
    steps: Any
    once: Any
    twice: Any


@lru_cache(maxsize=64)
def shuffles_for(n_bits, size, aligned):
    """How groups are packed and how unpacked, (2, 6, 8) uint64, or (0, 6, 8) where they cannot be.

    Rows: index, fields, shifts, then and after of a Table; its masks once and twice, and the bytes of a group in the
    source and in the target.

    Args:
        size: bytes of a lane.
        aligned: whether words hold whole fields, or the fields follow each other.
    """
    width, n_bytes = n_bits * (8 // size), 64 // n_bits * size  # bits of an item, bytes of the lanes of a word
    slots = next(slots for slots in (1, 2, 4) if 8 * slots >= n_bytes) if aligned else N  # items of a word
    if not PERMUTES or width > (64 if aligned and slots == 1 else MOVED):
        return NO_SHUFFLES
    word, slot = np.arange(N) // slots, np.arange(N) % slots
    shifts = np.minimum(slot * width, 63) if aligned else slot * width & 7
    n_lanes, n_packed = (N // slots * n_bytes, 8 * (N // slots)) if aligned else (8 * N, width)
    fields, together, apart = np.zeros(N, np.uint64), np.zeros((N, 8), np.uint8), np.zeros((N, 8), np.uint8)
    turns, home = np.full((2, 8 * N), NO_BYTE), np.full((2, 8 * N), NO_BYTE)
    for i in range(N):
        # Where the item begins, among lanes and among packed bytes, and how many bytes it has in lanes.
        in_lanes, packed = (word[i] * n_bytes + 8 * slot[i], 8 * word[i]) if aligned else (8 * i, i * width >> 3)
        held = min(max(n_bytes - 8 * slot[i], 0), 8) if aligned else 8
        fields[i] = sum((1 << n_bits) - 1 << 8 * at for at in range(0, held, size))
        apart[i] = packed + np.arange(8)
        for byte in range(held):
            together[i, byte], home[0, in_lanes + byte] = in_lanes + byte, 8 * i + byte
        begin, end = shifts[i], shifts[i] + held // size * n_bits
        for byte in range(begin // 8, -(-end // 8) if held else 0):
            turns[0 if turns[0, packed + byte] == NO_BYTE else 1, packed + byte] = 8 * i + byte
    packing = _rows(together, fields, shifts, turns, n_lanes, n_packed)
    return frozen([packing, _rows(apart, fields, shifts, home, n_packed, n_lanes)])


def _rows(index, fields, shifts, turns, n_from, n_to):
    # Bytes that mean nothing are the first one, in name: what is stored of them is masked, or zero, or gone over.
    masks = [sum(1 << at for at in range(8 * N) if turn[at] != NO_BYTE) for turn in turns]
    index, *turns = (row.astype(np.uint8).reshape(-1).view(np.uint64) for row in (index, *(turns % NO_BYTE)))
    return np.array([index, fields, shifts, *turns, [*masks, n_from, n_to, 0, 0, 0, 0]], np.uint64)


def _together(builder, held, table):
    """What lies in lanes, packed."""
    items = builder.and_(builder.bitcast(_permuted(builder, held, table.index), ITEMS), table.fields)
    for lower, upper, by in table.steps:
        items = builder.or_(builder.and_(items, lower), builder.and_(builder.lshr(items, by), upper))
    items, nothing = builder.bitcast(builder.shl(items, table.shifts), BYTES), ir.Constant(BYTES, [0] * (8 * N))
    turns = ((table.once, table.then), (table.twice, table.after))
    return builder.or_(*(builder.select(mask, _permuted(builder, items, index), nothing) for mask, index in turns))


def _apart(builder, held, table):
    """What is packed, in lanes; what lies behind them the next group goes over, or a mask leaves out."""
    items = builder.lshr(builder.bitcast(_permuted(builder, held, table.index), ITEMS), table.shifts)
    for lower, upper, by in reversed(table.steps):
        items = builder.or_(builder.and_(items, lower), builder.shl(builder.and_(items, upper), by))
    return _permuted(builder, builder.bitcast(builder.and_(items, table.fields), BYTES), table.then)


def _shuffler(moved):
    """An intrinsic that moves the bytes of groups from first to last from source to target.

    It returns the bytes that it has read by a bitwise or.
    """

    @intrinsic
    def shuffle(typing, source, first, last, rows, moves, target):
        given = (source, first, last, rows, moves, target)

        def generate(context, builder, signature, args):
            arrays = [context.make_array(given[i])(context, builder, args[i]) for i in (0, 3, 5)]
            source, rows, target = (builder.bitcast(array.data, BYTES.element.as_pointer()) for array in arrays)
            n_from, n_to = (builder.mul(arrays[i].nitems, arrays[i].itemsize) for i in (0, 2))
            *vectors, numbers = (load(builder, builder.gep(rows, [INT64(8 * N * r)]), ITEMS) for r in range(6))
            index, fields, shifts, then, after = vectors
            once, twice, size_from, size_to = (builder.extract_element(numbers, INT32(i)) for i in range(4))
            steps = [splat(builder, builder.extract_value(args[4], i), N) for i in range(1, 10)]
            table = Table(
                builder.bitcast(index, BYTES), fields, shifts, builder.bitcast(then, BYTES), builder.bitcast(after, BYTES),
                [steps[i : i + 3] for i in (0, 3, 6)], builder.bitcast(once, BITS), builder.bitcast(twice, BITS),
            )  # fmt: skip
            ones = cgutils.alloca_once_value(builder, ir.Constant(ITEMS, [0] * N))

            def least(a, b):
                return builder.select(builder.icmp_signed("<", a, b), a, b)

            def move(group, whole):
                here, there = builder.mul(group, size_from), builder.mul(group, size_to)
                begin, to = builder.gep(source, [here]), builder.gep(target, [there])
                held = load(builder, begin, BYTES) if whole else _load(builder, begin, builder.sub(n_from, here))
                builder.store(builder.or_(builder.load(ones), builder.bitcast(held, ITEMS)), ones)
                out = moved(builder, held, table)
                if whole:
                    store(builder, out, to)
                else:
                    _store(builder, out, to, least(builder.sub(n_to, there), size_to))

            # Whole vectors while they end before either array does, and before the next run of groups, which another
            # thread may have written: what is stored beyond a group, the next group goes over. Then masks.
            ends = (n_from, size_from), (least(n_to, builder.mul(args[2], size_to)), size_to)
            middle = least(*(builder.sdiv(builder.sub(end, INT64(8 * N)), size) for end, size in ends))
            middle = builder.select(builder.icmp_signed("<", middle, args[1]), args[1], middle)
            for begin, end, whole in ((args[1], middle, True), (middle, args[2], False)):
                with cgutils.for_range_slice(builder, begin, end, INT64(1)) as (group, _):
                    move(group, whole)
            return any_of(builder, builder.load(ones))

        return types.uint64(*given), generate

    return shuffle


def _permuted(builder, held, index):
    kind = ir.FunctionType(BYTES, [BYTES, BYTES])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512.permvar.qi.512")
    return builder.call(function, [held, index])


def _first(builder, n):
    """A mask of the first n bytes, of all if there are more, of none if there are fewer."""
    n = builder.select(builder.icmp_signed("<", n, INT64(0)), INT64(0), n)
    some = builder.sub(builder.shl(INT64(1), n), INT64(1))
    return builder.bitcast(builder.select(builder.icmp_signed("<", n, INT64(8 * N)), some, INT64(-1)), BITS)


def _load(builder, pointer, n):
    """The first n bytes, and zeros."""
    kind = ir.FunctionType(BYTES, [BYTES.as_pointer(), INT32, BITS, BYTES])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.masked.load.v64i8.p0v64i8")
    pointer, nothing = builder.bitcast(pointer, BYTES.as_pointer()), ir.Constant(BYTES, [0] * (8 * N))
    return builder.call(function, [pointer, INT32(1), _first(builder, n), nothing])


def _store(builder, value, pointer, n):
    """Write the first n bytes."""
    kind = ir.FunctionType(ir.VoidType(), [BYTES, BYTES.as_pointer(), INT32, BITS])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.masked.store.v64i8.p0v64i8")
    builder.call(function, [value, builder.bitcast(pointer, BYTES.as_pointer()), INT32(1), _first(builder, n)])


@njit
def _nothing(source, first, last, rows, moves, target):
    """Never called: there are no shuffles."""
    return np.uint64(0)


pack_groups, unpack_groups = (_shuffler(_together), _shuffler(_apart)) if PERMUTES else (_nothing, _nothing)
