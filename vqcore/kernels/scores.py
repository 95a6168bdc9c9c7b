"""Scores that tell which codewords may be the nearest, and by how much rounding may have changed them.

Minimising |x - c|^2 over c is minimising the score |c - s|^2 / 2 - (x - s)(c - s) for any shift s. Points run down the
lanes of the processor's vectors: LANES points are transposed, then every codeword passes over them, four at a time,
while each lane keeps its best and its second-best score. Between scores that lie within the rounding bound exact
distances decide (`nearest`).
"""

from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from vqcore.kernels.compiling import njit
from vqcore.kernels.vectors import (
    DOUBLE, FLOAT, FOLD, INT32, INT64, LANES, TILE, VECTOR_BYTES,
    first_few, load, masked_load, n_columns, pointer_to, rows_from, splat, store, sums_of_products, turned_over,
)  # fmt: skip

# Contraction into fused multiply-adds only lowers the error that the bound allows for.
FAST = {"contract", "nsz"}


class Limits(NamedTuple):
    """Twice the unit roundoff of a precision, and its smallest normal number."""

    eps: float
    tiny: float


LIMITS = {work: Limits(float(np.finfo(work).eps), float(np.finfo(work).tiny)) for work in (np.float32, np.float64)}


class Screen(NamedTuple):
    """What the scores need to know of a codebook.

    Attributes:
        shift: (dim,) subtracted from every point.
        scores_by: (padded n_codewords, dim), the negated shifted codewords in the working precision.
        half_norms: (padded n_codewords,) half the squared norms of the shifted codewords; infinite for padding.
        largest: the largest norm of a shifted codeword.
        slack: relative rounding error of two scores, times that norm.
        floor: what two scores may err by where their products leave the normal range.
        eps: twice the unit roundoff of the working precision.
    """

    shift: np.ndarray
    scores_by: np.ndarray
    half_norms: np.ndarray
    largest: float
    slack: float
    floor: float
    eps: float


class Room(NamedTuple):
    """What one thread writes on, again and again, when it looks at LANES points.

    Attributes:
        some: (LANES,) indices of points.
        lanes: shifted points: feature d of lane i is lanes[d * LANES + i].
        sq_norms, best, second: (LANES,) squared norms of these, their lowest and second-lowest scores.
        codes, close, bounds: (LANES,) what was found: the codes of the lowest scores, whether another codeword may be as
            near, and lower bounds on the distance of all other codewords.
    """

    some: np.ndarray
    lanes: np.ndarray
    sq_norms: np.ndarray
    best: np.ndarray
    second: np.ndarray
    codes: np.ndarray
    close: np.ndarray
    bounds: np.ndarray


def room_for(dim, work):
    """A Room for points of this dimension and precision."""
    width = VECTOR_BYTES // np.dtype(work).itemsize
    lanes, kept = np.zeros(-(-dim // width) * width * LANES, work), np.empty((3, LANES), work)
    found = np.zeros(LANES, np.int32), np.zeros(LANES, np.bool_), np.empty(LANES)
    return Room(np.zeros(LANES, np.int64), lanes, *kept, *found)


def work_type(points, codebook):
    """The precision of the scores: that of the points, or float64 where squares of codewords might leave float32.

    A point whose own scores overflow is decided exactly, like one between two codewords.
    """
    return np.float32 if points.dtype == np.float32 and within_float32(codebook) else np.float64


def within_float32(values):
    """Whether the squares of the largest values, and sums of many of them, stay within the range of float32."""
    return 1e-12 < np.abs(values).max() < 1e15


def screen(codebook, work):
    """The Screen of a float64 codebook (n_codewords, dim) in this precision."""
    shift, limits = (np.add.reduce(codebook, axis=0) / len(codebook)).astype(work), LIMITS[work]
    moved = codebook - shift
    n_codewords, dim = codebook.shape
    scores_by = np.zeros((-(-n_codewords // FOLD) * FOLD, dim), work)
    np.negative(moved, out=scores_by[:n_codewords], casting="same_kind")
    sq_norms = np.einsum("ij,ij->i", moved, moved)
    half_norms = np.full(len(scores_by), np.inf, work)
    half_norms[:n_codewords] = sq_norms / 2
    largest = float(np.sqrt(sq_norms.max()))
    # Products below the normal range lose all digits: so much more may a score err.
    floor = 4 * (dim + 6) * limits.tiny
    return Screen(shift, scores_by, half_norms, largest, slack_of(dim, work) * largest, floor, limits.eps)


def slack_of(dim, work):
    """Relative rounding error of two scores in this precision.

    Higham 2002, section 3.1: a dot product of length dim + 1 errs by at most (dim + 1) u times the product of norms;
    rounding the shifted point and codeword adds two u each; both compared scores err.
    """
    return 2 * (dim + 6) * LIMITS[work].eps / 2


@njit(inline="always")
def error_of_scores(sq_norm, dim, largest, slack, floor):
    """What two scores of a point with this squared norm may err by, together."""
    return floor + slack * (largest + 2.02 * np.sqrt(sq_norm)) + error_of_distances(sq_norm, dim)


@njit(inline="always")
def error_of_distances(sq_norm, dim):
    """What a squared distance in float64 errs by, so that nothing is told apart by scores that distances cannot tell."""
    return (dim + 6) * 2.0**-52 * sq_norm


@njit(inline="always")
def parted(best, other, error):
    """Whether two scores lie so far apart that no error can have swapped them; never for NaN (overflow)."""
    return np.float64(other) - np.float64(best) > error


@njit(fastmath=FAST, nogil=True)
def search(points, some, column, screen, room):
    """Leave in the room what the scores of at most LANES points tell, whose features begin at a column."""
    lanes, norms, best, second, codes = room.lanes, room.sq_norms, room.best, room.second, room.codes
    _gather(points, some, column, screen.shift, lanes)
    for i in range(LANES):
        norms[i], best[i], second[i] = 0, np.inf, np.inf
    for d in range(screen.scores_by.shape[1]):
        feature = lanes[d * LANES : (d + 1) * LANES]
        for i in range(LANES):
            norms[i] += feature[i] * feature[i]
    width = TILE * VECTOR_BYTES // lanes.itemsize
    for at in range(0, LANES, width):
        for code in range(0, len(screen.half_norms), FOLD):
            _fold(lanes, at, screen.scores_by, screen.half_norms, code, best, second, codes)
    close, bounds, dim, shrunk = room.close, room.bounds, len(screen.shift), 1 - (len(screen.shift) + 6) * screen.eps
    # |x - c|^2 is |x - s|^2 plus twice the score.
    for i in range(LANES):
        sq_norm = np.float64(norms[i])
        error = error_of_scores(sq_norm, dim, screen.largest, screen.slack, screen.floor)
        close[i] = not parted(best[i], second[i], error)
        bounds[i] = root_of(shrunk * sq_norm + 2 * np.float64(second[i]) - error)


@njit(inline="always")
def root_of(sq_bound):
    """A lower bound from its square, which rounding may have made negative or NaN."""
    return np.sqrt(sq_bound if sq_bound > 0 else 0.0) * (1 - 1e-12)


@intrinsic
def _gather(typing, points, some, column, shift, lanes):
    """Turn rows of contiguous points, less the shift, over into lanes; the last row fills those that are left."""
    given = (points, some, column, shift, lanes)
    come, work = (FLOAT if array.dtype == types.float32 else DOUBLE for array in (points, lanes))
    n = VECTOR_BYTES // (4 if work is FLOAT else 8)
    read, moved = ir.VectorType(come, n), ir.VectorType(work, n)

    def generate(context, builder, signature, args):
        table, chosen, center = (context.make_array(given[i])(context, builder, args[i]) for i in (0, 1, 3))
        column, dim = context.cast(builder, args[2], given[2], types.int64), builder.extract_value(center.shape, 0)
        row_size = builder.extract_value(table.shape, 1)
        n_tiles = builder.udiv(builder.add(dim, INT64(n - 1)), INT64(n))
        with cgutils.for_range(builder, INT64(LANES // n)) as block, cgutils.for_range(builder, n_tiles) as tile:
            lane, feature = builder.mul(block.index, INT64(n)), builder.mul(tile.index, INT64(n))
            there = first_few(builder, n, builder.sub(dim, feature))
            middle = masked_load(builder, builder.gep(center.data, [feature]), moved, there)
            begin, rows = builder.add(column, feature), []
            for row in rows_from(builder, chosen, lane, n, row_size):
                values = masked_load(builder, builder.gep(table.data, [builder.add(row, begin)]), read, there)
                values = builder.fpext(values, moved) if read != moved else values
                rows.append(builder.fsub(values, middle))
            for f, values in enumerate(turned_over(builder, rows)):
                at = builder.add(builder.mul(builder.add(feature, INT64(f)), INT64(LANES)), lane)
                store(builder, values, pointer_to(context, builder, lanes, args[4], at))
        return context.get_dummy_value()

    return types.void(*given), generate


@intrinsic
def _fold(typing, lanes, at, scores_by, half_norms, code, best, second, codes):
    """Let the lanes from `at` on see FOLD codewords from `code` on; equal scores stay with the lower code."""
    given = (lanes, at, scores_by, half_norms, code, best, second, codes)
    real = FLOAT if lanes.dtype == types.float32 else DOUBLE
    n = VECTOR_BYTES // (4 if real is FLOAT else 8)
    vector = ir.VectorType(real, n)

    def generate(context, builder, signature, args):
        def element(which, *terms):
            return pointer_to(context, builder, given[which], args[which], *terms)

        first, start = (context.cast(builder, args[i], given[i], types.int64) for i in (1, 4))
        dim = n_columns(context, builder, given[2], args[2])
        here = [builder.add(start, INT64(j)) for j in range(FOLD)]
        row_starts = [builder.mul(code, dim) for code in here]
        fused = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fmuladd.v{n}f{32 if real is FLOAT else 64}"
        )

        def lanes_of(d):
            feature = builder.add(builder.mul(d, INT64(LANES)), first)
            return [load(builder, element(0, feature, INT64(v * n)), vector) for v in range(TILE)]

        sums = sums_of_products(
            builder, [splat(builder, builder.load(element(3, code)), n) for code in here], TILE, dim, lanes_of,
            lambda j, d: splat(builder, builder.load(element(2, row_starts[j], d)), n),
            lambda total, values, factor: builder.call(fused, [values, factor, total]),
        )  # fmt: skip
        for v in range(TILE):
            places = [element(which, first, INT64(v * n)) for which in (5, 6, 7)]
            kinds = vector, vector, ir.VectorType(INT32, n)
            kept = [load(builder, place, kind) for place, kind in zip(places, kinds)]
            for code, row in zip(here, sums):
                kept = _kept(builder, *kept, row[v], splat(builder, builder.trunc(code, INT32), n))
            for value, place in zip(kept, places):
                store(builder, value, place)
        return context.get_dummy_value()

    return types.void(*given), generate


def _kept(builder, lowest, runner_up, winner, score, code):
    """The two lowest scores and the code of the lowest, when one more codeword has been seen."""
    wins = builder.fcmp_ordered("<", score, lowest)
    beaten = builder.select(wins, lowest, score)
    runner_up = builder.select(builder.fcmp_ordered("<", beaten, runner_up), beaten, runner_up)
    return builder.select(wins, score, lowest), runner_up, builder.select(wins, code, winner)
