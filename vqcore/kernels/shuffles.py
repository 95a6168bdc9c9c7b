"""Fields of bits brought together and apart in vectors of eight items, whose bytes one instruction permutes at will.

What `lanes` does item by item is done here for a group at a time, where a processor has AVX512_VBMI. A group is eight
items, or as many words with the fields that they hold whole; it fills whole bytes on either side. Loads and stores are
masked, so a last group may be cut short.
"""

from functools import lru_cache

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from vqcore.kernels.compiling import frozen, njit
from vqcore.kernels.vectors import BYTES, FEATURES, INT32, INT64, any_of, load, splat, store

WORKS = "+avx512vbmi" in FEATURES
N = 8  # items
ITEMS, BITS = ir.VectorType(INT64, N), ir.VectorType(ir.IntType(1), 8 * N)
NO_BYTE = 8 * N
NO_SHUFFLES = frozen(np.empty((0, 6, N), np.uint64))


@lru_cache(maxsize=64)
def shuffles_for(n_bits, size, aligned):
    """How groups are packed and how unpacked, (2, 6, 8) uint64, or (0, 6, 8) where they cannot be.

    Rows of 64 bytes: which byte of the source goes where first, the fields of the items in their lanes, what the items
    are shifted by, which bytes then go where, and in a second turn; then masks of the bytes that are meant in the two
    turns, and the bytes of a group in the source and in the target.

    Args:
        size: bytes of a lane.
        aligned: whether words hold whole fields, or the fields follow each other.
    """
    width, per_word = n_bits * (8 // size), 64 // n_bits
    n_bytes = per_word * size  # of lanes whose fields a word holds
    slots = next(slots for slots in (1, 2, 4) if 8 * slots >= n_bytes) if aligned else N
    if not WORKS or width > (64 if aligned and slots == 1 else 56):
        return NO_SHUFFLES
    item = np.arange(N)
    word, slot = item // slots, item % slots
    # Where an item begins: its bits among packed ones, its first byte among lanes, and the end of that byte's word.
    bits = 64 * word + slot * width if aligned else item * width
    lanes = word * n_bytes + 8 * slot if aligned else 8 * item
    held = np.clip(n_bytes - 8 * slot, 0, 8) if aligned else np.full(N, 8)  # bytes of lanes
    used = np.where(held > 0, held // size * n_bits, 0)  # bits of fields
    fields = [sum((1 << n_bits) - 1 << 8 * at for at in range(0, n, size)) for n in held]
    shifts = slot * width if aligned else bits & 7
    first_byte = 8 * word if aligned else bits >> 3
    n_lanes, n_packed = (N // slots * n_bytes, 8 * (N // slots)) if aligned else (8 * N, width)

    apart, home = np.zeros((N, 8), np.uint8), np.full(8 * N, NO_BYTE)
    together, turns = np.zeros((N, 8), np.uint8), np.full((2, 8 * N), NO_BYTE)
    for i in range(N):
        apart[i] = first_byte[i] + np.arange(8)
        for byte in range(held[i]):
            together[i, byte] = lanes[i] + byte
            home[lanes[i] + byte] = 8 * i + byte
        for byte in range(shifts[i] // 8 if used[i] else 8, (shifts[i] + used[i] + 7) // 8):
            to = first_byte[i] + byte
            turns[0 if turns[0, to] == NO_BYTE else 1, to] = 8 * i + byte
    once = np.stack([home, np.full(8 * N, NO_BYTE)])
    return frozen(
        [_table(together, fields, shifts, turns, n_lanes, n_packed), _table(apart, fields, shifts, once, n_packed, n_lanes)]
    )


def _table(first, fields, shifts, turns, n_from, n_to):
    masks = [sum(1 << at for at in range(8 * N) if turn[at] != NO_BYTE) for turn in turns]
    rows = [first, *(turn % NO_BYTE for turn in turns)]
    index, then, after = (np.ascontiguousarray(row, np.uint8).reshape(-1).view(np.uint64) for row in rows)
    return np.array([index, fields, shifts, then, after, [*masks, n_from, n_to, 0, 0, 0, 0]], np.uint64)


def _shuffler(gather):
    """The intrinsic that brings the fields of groups together, or apart."""

    @intrinsic
    def shuffle(typing, source, first, last, table, moves, target):
        given = (source, first, last, table, moves, target)

        def generate(context, builder, signature, args):
            n_from, n_to = (
                builder.mul(array.nitems, array.itemsize)
                for array in (context.make_array(given[i])(context, builder, args[i]) for i in (0, 5))
            )
            begin, rows, to = (
                builder.bitcast(context.make_array(given[i])(context, builder, args[i]).data, BYTES.element.as_pointer())
                for i in (0, 3, 5)
            )
            index, fields, shifts, then, after, last_row = (
                load(builder, builder.gep(rows, [INT64(8 * N * r)]), ITEMS) for r in range(6)
            )
            index, then, after = (builder.bitcast(row, BYTES) for row in (index, then, after))
            once, twice, step_from, step_to = (builder.extract_element(last_row, INT32(i)) for i in range(4))
            once, twice = builder.bitcast(once, BITS), builder.bitcast(twice, BITS)
            steps = [splat(builder, builder.extract_value(args[4], i), N) for i in range(1, 10)]
            steps = [steps[i : i + 3] for i in (0, 3, 6)]
            ones = cgutils.alloca_once_value(builder, ir.Constant(ITEMS, [0] * N))

            def move(group, whole):
                here, there = builder.mul(group, step_from), builder.mul(group, step_to)
                source, target = builder.gep(begin, [here]), builder.gep(to, [there])
                if whole:
                    held = load(builder, source, BYTES)
                else:
                    held = _load(builder, source, builder.sub(n_from, here))
                builder.store(builder.or_(builder.load(ones), builder.bitcast(held, ITEMS)), ones)
                items = builder.bitcast(_permuted(builder, held, index), ITEMS)
                if gather:
                    items = builder.and_(items, fields)
                    for lower, upper, by in steps:
                        moved = builder.and_(builder.lshr(items, by), upper)
                        items = builder.or_(builder.and_(items, lower), moved)
                    items = builder.bitcast(builder.shl(items, shifts), BYTES)
                    nothing = ir.Constant(BYTES, [0] * (8 * N))
                    out = builder.or_(
                        builder.select(once, _permuted(builder, items, then), nothing),
                        builder.select(twice, _permuted(builder, items, after), nothing),
                    )
                else:
                    items = builder.lshr(items, shifts)
                    for lower, upper, by in reversed(steps):
                        moved = builder.shl(builder.and_(items, upper), by)
                        items = builder.or_(builder.and_(items, lower), moved)
                    out = _permuted(builder, builder.bitcast(builder.and_(items, fields), BYTES), then)
                if whole:
                    store(builder, out, target)
                else:
                    left = builder.sub(n_to, there)
                    left = builder.select(builder.icmp_signed("<", left, step_to), left, step_to)
                    _store(builder, out, target, left)

            least = lambda a, b: builder.select(builder.icmp_signed("<", a, b), a, b)
            ends = least(n_to, builder.mul(args[2], step_to))
            room = lambda n, step: builder.sdiv(builder.sub(n, INT64(8 * N)), step)
            middle = least(room(n_from, step_from), room(ends, step_to))
            middle = builder.select(builder.icmp_signed("<", middle, args[1]), args[1], middle)
            with cgutils.for_range_slice(builder, args[1], middle, INT64(1)) as (group, _):
                move(group, True)
            with cgutils.for_range_slice(builder, middle, args[2], INT64(1)) as (group, _):
                move(group, False)
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
    function = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(BYTES, [BYTES.as_pointer(), INT32, BITS, BYTES]),
        "llvm.masked.load.v64i8.p0v64i8",
    )
    nothing = ir.Constant(BYTES, [0] * (8 * N))
    return builder.call(function, [builder.bitcast(pointer, BYTES.as_pointer()), INT32(1), _first(builder, n), nothing])


def _store(builder, value, pointer, n):
    function = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(ir.VoidType(), [BYTES, BYTES.as_pointer(), INT32, BITS]),
        "llvm.masked.store.v64i8.p0v64i8",
    )
    builder.call(function, [value, builder.bitcast(pointer, BYTES.as_pointer()), INT32(1), _first(builder, n)])


@njit
def _nothing(source, first, last, table, moves, target):
    return np.uint64(0)


pack_groups, unpack_groups = (_shuffler(True), _shuffler(False)) if WORKS else (_nothing, _nothing)
