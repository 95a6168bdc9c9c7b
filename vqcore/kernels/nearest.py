"""The compiled search for the nearest codeword: fast scores that screen, exact distances that decide.

Minimising |x - c|^2 over c is minimising the score |c - s|^2 / 2 - (x - s)(c - s) for any shift s. Scores are
computed with points running down the SIMD lanes: LANES points are transposed, then every codeword passes over
them, four at a time, while each lane keeps its best and its second-best score. A lane whose two best scores lie
within the rounding bound of the score is decided by the direct form (x - c)^2 in float64, lowest index first. So
the codes are those of exact arithmetic, at any offset; only the time depends on how often two codewords are
nearly equally far.
"""

import llvmlite.binding
import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from vqcore.kernels.compiling import njit, prange

LANES = 64
FOLD = 4  # codewords that pass over the lanes together
# A tile of FOLD running sums for each of _TILE vectors of lanes stays in registers: there are 32 wide ones with AVX-512.
_WIDE = "+avx512f" in (numba.config.CPU_FEATURES or llvmlite.binding.get_host_cpu_features().flatten()).split(",")
_VECTOR_BYTES, _TILE = (64, 4) if _WIDE else (32, 2)
# Contraction into fused multiply-adds only lowers the error that the bound allows for.
_FAST = {"contract", "nsz"}

@njit(parallel=True, cache=True, fastmath=_FAST, nogil=True)
def nearest(points, codebook, shift, scores_by, half_norms, slack, floor, codes, sq_dists):
    """Fill codes (n,) and sq_dists (n,) for points (n, dim) and a float64 codebook (n_codewords, dim).

    Args:
        shift: (dim,) subtracted from every point.
        scores_by: (padded n_codewords, dim), the negated shifted codewords in the working precision.
        half_norms: (padded n_codewords,) half the squared norms of the shifted codewords; infinite for padding.
        slack: relative rounding error of a score, times the largest norm of a shifted codeword.
        floor: what two scores may err by where their products leave the normal range.
    """
    n = len(points)
    for block in prange((n + LANES - 1) // LANES):
        start = block * LANES
        lane_codes = np.zeros(LANES, np.int32)
        _nearest_of_block(points, start, codebook, shift, scores_by, half_norms, slack, floor, lane_codes)
        for i in range(min(LANES, n - start)):
            codes[start + i] = lane_codes[i]
            sq_dists[start + i] = sq_dist(points, start + i, codebook, lane_codes[i])


@njit(parallel=True, cache=True, nogil=True)
def nearest_parts(points, codebooks, shifts, scores_by, half_norms, slacks, floor, codes):
    """Fill codes (n, n_parts) of the n_parts runs of columns of points (n, dim), each with a codebook of its own.

    The arguments of `nearest` with one more axis in front. A point is read once for all its parts.
    """
    n, (n_parts, _, width) = len(points), codebooks.shape
    for block in prange((n + LANES - 1) // LANES):
        start = block * LANES
        lane_codes = np.zeros(LANES, np.int32)
        for m in range(n_parts):
            part = points[:, m * width : (m + 1) * width]
            _nearest_of_block(
                part, start, codebooks[m], shifts[m], scores_by[m], half_norms[m], slacks[m], floor, lane_codes
            )
            for i in range(min(LANES, n - start)):
                codes[start + i, m] = lane_codes[i]


@njit(fastmath=_FAST, nogil=True)
def _nearest_of_block(points, start, codebook, shift, scores_by, half_norms, slack, floor, lane_codes):
    """Fill lane_codes for the LANES points that begin at `start`, or as many as there are."""
    n, dim = points.shape
    size = min(LANES, n - start)
    # Feature d of lane i is lanes[d * LANES + i].
    lanes = np.zeros(dim * LANES, scores_by.dtype)
    block = points[start : start + size]
    for d in range(dim):
        feature, center = lanes[d * LANES : d * LANES + size], shift[d]
        for i in range(size):
            feature[i] = block[i, d] - center
    norms, best, second = search_lanes(lanes, scores_by, half_norms, lane_codes)
    largest = largest_norm(half_norms, len(codebook))
    for i in range(size):
        if len(codebook) > 1 and not parted(best[i], second[i], norms[i], largest, slack, floor):
            lane_codes[i] = decide(points, start + i, codebook)


@njit(fastmath=_FAST, nogil=True)
def search_lanes(lanes, scores_by, half_norms, lane_codes):
    """Squared norms, lowest and second-lowest score of LANES transposed points; their codes go to lane_codes."""
    norms = np.zeros(LANES, scores_by.dtype)
    for d in range(scores_by.shape[1]):
        feature = lanes[d * LANES : (d + 1) * LANES]
        for i in range(LANES):
            norms[i] += feature[i] * feature[i]
    best, second = np.full(LANES, np.inf, scores_by.dtype), np.full(LANES, np.inf, scores_by.dtype)
    _scan(lanes, scores_by, half_norms, best, second, lane_codes)
    return norms, best, second


@njit
def largest_norm(half_norms, n_codewords):
    """The largest norm of a shifted codeword."""
    largest = 0.0
    for code in range(n_codewords):
        largest = max(largest, np.float64(half_norms[code]))
    return np.sqrt(2 * largest)


@njit(inline="always")
def error_of_score(norm, largest, slack, floor):
    """What two scores of a point with this squared norm may err by, together."""
    return floor + slack * (largest + 2.02 * np.sqrt(np.float64(norm)))


@njit(inline="always")
def parted(best, second, norm, largest, slack, floor):
    """Whether two scores lie so far apart that no rounding can have swapped them; never for NaN (overflow)."""
    return np.float64(second - best) > error_of_score(norm, largest, slack, floor)


@njit(fastmath=_FAST, nogil=True)
def _scan(lanes, scores_by, half_norms, best, second, codes):
    """Keep per lane the lowest and second-lowest score and the code of the lowest."""
    width = _TILE * _VECTOR_BYTES // lanes.itemsize
    for at in range(0, LANES, width):
        for code in range(0, len(half_norms), FOLD):
            _fold(lanes, at, scores_by, half_norms, code, best, second, codes)


# LLVM's vectorizer leaves running sums in memory between two features; written in vectors they stay in registers,
# which makes the search as fast as a matrix product of the same size.
@intrinsic
def _fold(typing, lanes, at, scores_by, half_norms, code, best, second, codes):
    """Let the lanes from `at` on see FOLD codewords from `code` on; equal scores stay with the lower code."""
    given = (lanes, at, scores_by, half_norms, code, best, second, codes)

    def generate(context, builder, signature, args):
        bits = 32 if lanes.dtype == types.float32 else 64
        n = _VECTOR_BYTES * 8 // bits
        int32, int64, real = ir.IntType(32), ir.IntType(64), ir.FloatType() if bits == 32 else ir.DoubleType()
        vector, codes_vector = ir.VectorType(real, n), ir.VectorType(int32, n)

        def element(which, index):
            array = context.make_array(given[which])(context, builder, args[which])
            return builder.gep(array.data, [index])

        def splat(value, kind):
            alone = builder.insert_element(ir.Constant(kind, ir.Undefined), value, int32(0))
            return builder.shuffle_vector(
                alone, ir.Constant(kind, ir.Undefined), ir.Constant(ir.VectorType(int32, n), [0] * n)
            )

        def load(pointer, kind):
            loaded = builder.load(builder.bitcast(pointer, kind.as_pointer()))
            loaded.align = 4
            return loaded

        def store(value, pointer):
            builder.store(value, builder.bitcast(pointer, value.type.as_pointer())).align = 4

        first, start = (context.cast(builder, args[i], given[i], types.int64) for i in (1, 4))
        dim = builder.extract_value(context.make_array(given[2])(context, builder, args[2]).shape, 1)
        fused = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fmuladd.v{n}f{bits}"
        )
        sums = [[cgutils.alloca_once(builder, vector) for _ in range(_TILE)] for _ in range(FOLD)]
        for j, row in enumerate(sums):
            half = splat(builder.load(element(3, builder.add(start, int64(j)))), vector)
            for total in row:
                builder.store(half, total)
        row_starts = [builder.mul(builder.add(start, int64(j)), dim) for j in range(FOLD)]
        with cgutils.for_range(builder, dim) as loop:
            feature = builder.add(builder.mul(loop.index, int64(LANES)), first)
            xs = [load(element(0, builder.add(feature, int64(v * n))), vector) for v in range(_TILE)]
            for row, row_start in zip(sums, row_starts):
                factor = splat(builder.load(element(2, builder.add(row_start, loop.index))), vector)
                for x, total in zip(xs, row):
                    builder.store(builder.call(fused, [x, factor, builder.load(total)]), total)
        for v in range(_TILE):
            places = [element(which, builder.add(first, int64(v * n))) for which in (5, 6, 7)]
            lowest, runner_up, winner = (load(p, k) for p, k in zip(places, (vector, vector, codes_vector)))
            for j, row in enumerate(sums):
                score = builder.load(row[v])
                wins = builder.fcmp_ordered("<", score, lowest)
                beaten = builder.select(wins, lowest, score)
                runner_up = builder.select(builder.fcmp_ordered("<", beaten, runner_up), beaten, runner_up)
                here = splat(builder.trunc(builder.add(start, int64(j)), int32), codes_vector)
                winner = builder.select(wins, here, winner)
                lowest = builder.select(wins, score, lowest)
            for value, place in zip((lowest, runner_up, winner), places):
                store(value, place)
        return context.get_dummy_value()

    return types.void(*given), generate


@njit(nogil=True)
def decide(points, i, codebook):
    """The codeword nearest to point i by the direct form in float64; a tie goes to the lowest index."""
    nearest_code, lowest = 0, np.inf
    for code in range(len(codebook)):
        here = sq_dist(points, i, codebook, code)
        if here < lowest:
            nearest_code, lowest = code, here
    return nearest_code


# Reassociation lets the sum run in SIMD lanes; the order is fixed when the kernel is compiled.
@njit(fastmath={"reassoc", "contract", "nsz"}, nogil=True)
def sq_dist(points, i, codebook, code):
    """Squared distance of point i from a codeword, in float64."""
    total = 0.0
    for d in range(points.shape[1]):
        apart = np.float64(points[i, d]) - codebook[code, d]
        total += apart * apart
    return total


@njit(parallel=True, cache=True, nogil=True)
def nearest_on_line(points, ascending, index, codes, sq_dists):
    """Fill codes (n,) and sq_dists (n,) for points (n,) by bisection in distinct ascending codewords."""
    n_codewords = len(ascending)
    for i in prange(len(points)):
        x = np.float64(points[i])
        # The first codeword that is not below the point; the answer is this one or the one before.
        low, high = 0, n_codewords
        while low < high:
            middle = (low + high) >> 1
            if ascending[middle] < x:
                low = middle + 1
            else:
                high = middle
        at = min(low, n_codewords - 1)
        code = index[at]
        if 0 < low < n_codewords:
            # Differences, not squares: those of a far point round to the same value.
            below, above = x - ascending[low - 1], ascending[low] - x
            if below < above or (below == above and index[low - 1] < code):
                at, code = low - 1, index[low - 1]
        codes[i] = code
        sq_dists[i] = (x - ascending[at]) ** 2


@njit(parallel=True, cache=True, nogil=True)
def nearer(points, codewords, sq_dists):
    """The smaller (n,) of sq_dists and the squared distance to the nearest of a few codewords, float64."""
    n, dim = points.shape
    result = np.empty(n)
    for i in prange(n):
        lowest = sq_dists[i]
        for code in range(len(codewords)):
            total = 0.0
            for d in range(dim):
                total += (np.float64(points[i, d]) - codewords[code, d]) ** 2
            lowest = min(lowest, total)
        result[i] = lowest
    return result
