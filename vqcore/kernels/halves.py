"""A first look at scores in bfloat16, at twice the speed that any product in float32 can have.

A bfloat16 keeps the upper half of the bits of a float32. Processors with AVX512_BF16 multiply two pairs of them and
add both products to a float32 in the time of one product of float32; only the sums are rounded. How far points and
codewords lie from their halves is known, hence by Cauchy and Schwarz what a score may err by: the RANKS lowest scores
settle nearly every point, and those that they leave are searched in full precision (`scores`).
"""

import functools
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from vqcore.kernels.compiling import njit
from vqcore.kernels.scores import error_of_distances, slack_of, within_float32
from vqcore.kernels.vectors import (
    DOUBLE, FEATURES, FLOAT, FOLD, INT32, INT64, LANES, TILE, first_few, load, masked_load, n_columns, pointer_to,
    rows_from, splat, store, sums_of_products, turned_over,
)  # fmt: skip

WORKS = "+avx512bf16" in FEATURES
WORTH = 2**27  # products; for less, that these loops are compiled once would cost more than they ever spare
MOST_CODEWORDS = 4096  # their numbers take the last 12 bits of a score
RANKS = 4
N = 16  # values of 32 bits in a vector
_BEYOND = np.float32(3e38)  # the score of a codeword that there is not


class Halves(NamedTuple):
    """A shifted codebook in bfloat16.

    Attributes:
        shift: (dim,) subtracted from every point.
        pairs: (padded n_codewords, n_pairs) uint32, features d and d + n_pairs of the negated codewords.
        half_norms: (padded n_codewords,) float32, half the squared norms.
        largest: the largest norm of a codeword.
        error: the largest distance of a codeword from its half.
        slack: relative rounding error of two scores, times the largest norm.
        tag: the bits that the number of a codeword takes at the end of a score.
    """

    shift: np.ndarray
    pairs: np.ndarray
    half_norms: np.ndarray
    largest: float
    error: float
    slack: float
    tag: int


class Room(NamedTuple):
    """What one thread writes on, again and again, when it looks at halves of LANES points.

    Attributes:
        lanes: shifted points as pairs: pair d of lane i is lanes[d * LANES + i].
        measures: (2 * LANES,) their squared norms, then their squared distances from what they were rounded to.
        errors: (LANES,) what two scores of a point may err by.
        lowest, tags: (RANKS * LANES,) its lowest scores, in order, and the bits of these.
    """

    lanes: np.ndarray
    measures: np.ndarray
    errors: np.ndarray
    lowest: np.ndarray
    tags: np.ndarray


def halves(codebook, screen, n):
    """The Halves of a codebook (n_codewords, dim) of this Screen, to be looked at by n points; None where they do not pay.
    """
    n_codewords, dim = codebook.shape
    pays = n * codebook.size >= WORTH and dim * screen.shift.itemsize >= 128 and 64 <= n_codewords <= MOST_CODEWORDS
    if not (WORKS and pays and within_float32(screen.scores_by)):
        return None
    n_pairs = (dim + 1) // 2
    values = np.zeros((len(screen.scores_by), 2 * n_pairs), np.float32)
    values[:, :dim] = screen.scores_by
    bits = values.view(np.uint32)
    rounded = (bits + (0x7FFF + (bits >> 16 & 1))) & np.uint32(0xFFFF0000)
    half_norms = np.minimum(screen.half_norms, _BEYOND, dtype=np.float32)
    # A thousandth more for the rounding of these sums, and a millionth of a codeword for that to float32 before.
    apart = rounded.view(np.float32) - values
    error = 1.001 * float(np.sqrt(np.einsum("ij,ij->i", apart, apart).max())) + 1e-6 * screen.largest
    return Halves(
        screen.shift, rounded[:, n_pairs:] | rounded[:, :n_pairs] >> 16, half_norms, screen.largest, error,
        slack_of(dim, np.float32) * screen.largest, 2 ** int(n_codewords - 1).bit_length() - 1,
    )  # fmt: skip


@njit(inline="always")
def error_of_halves(sq_norm, sq_error, dim, largest, half_error, slack, tag, floor):
    """What two scores may err by, together, of a point with this squared norm and squared distance from its halves."""
    # A hundredth more for the rounding of these very sums.
    error = 1.01 * np.sqrt(np.float64(sq_error))
    norm = 1.01 * np.sqrt(np.float64(sq_norm)) + error
    by_halves = error * largest + norm * half_error
    by_tags = tag * 2.0**-23 * largest * (largest / 2 + norm)
    by_rounding = floor + slack * (largest + 2 * norm) + error_of_distances(np.float64(sq_norm), dim)
    return 2 * (by_halves + 1.01 * by_tags) + by_rounding


def room_for(halves):
    """A Room for searches among these codewords; None for None."""
    if halves is None:
        return None
    width, lowest = -(-halves.pairs.shape[1] // N) * N, np.zeros(RANKS * LANES, np.float32)
    return Room(
        np.zeros(LANES * width, np.uint32), np.zeros(2 * LANES, np.float32), np.zeros(LANES), lowest, lowest.view(np.uint32),
    )  # fmt: skip


@njit(nogil=True)
def search_halves(points, some, halves, room):
    """Leave in the room the measures and the RANKS lowest scores of at most LANES points.

    The last bits of a score, those of `halves.tag`, are the number of its codeword.
    """
    _gather(points, some, halves.shift, halves.pairs.shape[1], room.lanes, room.measures)
    for i in range(len(room.lowest)):
        room.lowest[i] = _BEYOND
    for code in range(0, len(halves.half_norms), FOLD):
        _fold(room.lanes, halves.pairs, halves.half_norms, code, np.uint32(halves.tag), room.lowest)


@intrinsic
def _gather(typing, points, some, shift, n_pairs, lanes, measures):
    """Turn rows of contiguous points, less the shift and rounded to pairs, over into lanes; the last row fills up.

    Their squared norms go to measures (2, LANES), and below these their squared distances from what they were rounded to.
    """
    given = (points, some, shift, n_pairs, lanes, measures)
    reals, ints, read = (ir.VectorType(kind, N) for kind in (FLOAT, INT32, FLOAT if points.dtype == types.float32 else DOUBLE))

    def generate(context, builder, signature, args):
        table, chosen, center = (context.make_array(given[i])(context, builder, args[i]) for i in range(3))
        n_pairs, row_size = context.cast(builder, args[3], given[3], types.int64), builder.extract_value(table.shape, 1)
        dim = builder.extract_value(center.shape, 0)

        def constant(value):
            return ir.Constant(ints, [value] * N)

        def rounded(values):
            bits = builder.bitcast(values, ints)
            odd = builder.and_(builder.lshr(bits, constant(16)), constant(1))
            return builder.and_(builder.add(bits, builder.add(odd, constant(0x7FFF))), constant(0xFFFF0000))

        def add_square(total, values):
            square = builder.fmul(values, values, flags=("contract",))
            builder.store(builder.fadd(builder.load(total), square, flags=("contract",)), total)

        sums = [[cgutils.alloca_once(builder, reals) for _ in range(N)] for _ in range(2)]
        n_tiles = builder.udiv(builder.add(n_pairs, INT64(N - 1)), INT64(N))
        with cgutils.for_range(builder, INT64(LANES // N)) as block:
            lane = builder.mul(block.index, INT64(N))
            for total in sums[0] + sums[1]:
                builder.store(ir.Constant(reals, [0.0] * N), total)
            with cgutils.for_range(builder, n_tiles) as tile:
                pair, pairs = builder.mul(tile.index, INT64(N)), []
                begins = [pair, builder.add(n_pairs, pair)]
                there = [first_few(builder, N, builder.sub(end, begin)) for end, begin in zip((n_pairs, dim), begins)]
                middles = [masked_load(builder, builder.gep(center.data, [begins[i]]), read, there[i]) for i in range(2)]
                for r, row in enumerate(rows_from(builder, chosen, lane, N, row_size)):
                    made = []
                    for begin, mask, middle in zip(begins, there, middles):
                        values = masked_load(builder, builder.gep(table.data, [builder.add(row, begin)]), read, mask)
                        values = builder.fsub(values, middle)
                        values = values if read == reals else builder.fptrunc(values, reals)
                        made.append(rounded(values))
                        add_square(sums[0][r], values)
                        add_square(sums[1][r], builder.fsub(values, builder.bitcast(made[-1], reals)))
                    pairs.append(builder.or_(made[1], builder.lshr(made[0], constant(16))))
                for i, column in enumerate(turned_over(builder, pairs)):
                    at = builder.add(builder.mul(builder.add(pair, INT64(i)), INT64(LANES)), lane)
                    store(builder, column, pointer_to(context, builder, lanes, args[4], at))
            for which, row in enumerate(sums):
                total = functools.reduce(builder.fadd, turned_over(builder, [builder.load(part) for part in row]))
                store(builder, total, pointer_to(context, builder, measures, args[5], lane, INT64(which * LANES)))
        return context.get_dummy_value()

    return types.void(*given), generate


class _BFloat(ir.Type):
    """LLVM's name for the type of a half."""

    def _to_string(self):
        return "bfloat"

    def __eq__(self, other):
        return isinstance(other, _BFloat)

    def __hash__(self):
        return hash(_BFloat)


@intrinsic
def _fold(typing, lanes, pairs, half_norms, code, tag, lowest):
    """Let all lanes see FOLD codewords from `code` on and keep their RANKS lowest scores."""
    given = (lanes, pairs, half_norms, code, tag, lowest)
    reals, ints, halves = (ir.VectorType(kind, n) for kind, n in ((FLOAT, N), (INT32, N), (_BFloat(), 2 * N)))

    def generate(context, builder, signature, args):
        if not WORKS:
            return context.get_dummy_value()

        def element(which, *terms):
            return pointer_to(context, builder, given[which], args[which], *terms)

        start, n_pairs = context.cast(builder, args[3], given[3], types.int64), n_columns(context, builder, pairs, args[1])
        here = [builder.add(start, INT64(j)) for j in range(FOLD)]
        row_starts = [builder.mul(code, n_pairs) for code in here]
        dot = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(reals, [reals, halves, halves]), "llvm.x86.avx512bf16.dpbf16ps.512"
        )

        def lanes_of(pair):
            first = builder.mul(pair, INT64(LANES))
            return [load(builder, element(0, first, INT64(v * N)), halves) for v in range(TILE)]

        def factor_of(j, pair):
            return builder.bitcast(splat(builder, builder.load(element(1, row_starts[j], pair)), N), halves)

        sums = sums_of_products(
            builder, [splat(builder, builder.load(element(2, code)), N) for code in here], TILE, n_pairs, lanes_of, factor_of,
            lambda total, values, factor: builder.call(dot, [total, values, factor]),
        )  # fmt: skip
        untagged = splat(builder, builder.not_(args[4]), N)
        for v in range(TILE):
            places = [element(5, INT64(rank * LANES + v * N)) for rank in range(RANKS)]
            tagged = []
            for code, row in zip(here, sums):
                bits = builder.and_(builder.bitcast(row[v], ints), untagged)
                bits = builder.or_(bits, splat(builder, builder.trunc(code, INT32), N))
                tagged.append(builder.bitcast(bits, reals))
            lowest = _lowest(builder, [load(builder, place, reals) for place in places], tagged)
            for value, place in zip(lowest, places):
                store(builder, value, place)
        return context.get_dummy_value()

    return types.void(*given), generate


def _lowest(builder, kept, seen):
    """The four lowest of four scores in order and four more, in order.

    Batcher 1968, "Sorting networks and their applications". A score that is not a number may stay: then the squared norm
    of its point is none either, and the point is unsure.
    """
    scores = list(seen)

    def order(i, j):
        lower = builder.fcmp_ordered("<", scores[j], scores[i])
        pair = builder.select(lower, scores[j], scores[i]), builder.select(lower, scores[i], scores[j])
        scores[i], scores[j] = pair

    for i, j in ((0, 1), (2, 3), (0, 2), (1, 3), (1, 2)):
        order(i, j)
    for i, other in enumerate(reversed(kept)):
        scores[i] = builder.select(builder.fcmp_ordered("<", other, scores[i]), other, scores[i])
    for i, j in ((0, 2), (1, 3), (0, 1), (2, 3)):
        order(i, j)
    return scores
