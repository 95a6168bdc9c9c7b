"""The compiled search for the nearest codeword: fast scores that screen, exact distances that decide.

Minimising |x - c|^2 over c is minimising the score |c - s|^2 / 2 - (x - s)(c - s) for any shift s. Scores are
computed with points running down the SIMD lanes: 128 points are transposed, then every codeword passes over
them, two at a time, eight features at a time, while each lane keeps its best and its second-best score. A
lane whose two best scores lie within the rounding bound of the score is decided by the direct form (x - c)^2
in float64, lowest index first. So the codes are those of exact arithmetic, at any offset; only the time
depends on how often two codewords are nearly equally far.
"""

import numpy as np
from numba import njit, prange

LANES = 128
# Four rows of LANES in one array: running sums of an even and an odd codeword, best and second-best score.
BEST, SECOND = 2, 3
# Contraction into fused multiply-adds only lowers the error that the bound allows for.
_FAST = {"contract", "nsz"}


@njit(parallel=True, cache=True, fastmath=_FAST, nogil=True)
def nearest(points, codebook, shift, scores_by, half_norms, slack, floor, codes, sq_dists):
    """Fill codes (n,) and sq_dists (n,) for points (n, dim) and a float64 codebook (n_codewords, dim).

    Args:
        shift: (dim,) subtracted from every point.
        scores_by: (padded n_codewords, padded dim), the negated shifted codewords in the working precision.
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
            sq_dists[start + i] = _sq_dist(points, start + i, codebook, lane_codes[i])


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
    (n, dim), n_codewords = points.shape, len(codebook)
    size = min(LANES, n - start)
    largest = np.sqrt(2 * np.max(half_norms[:n_codewords]))
    # Feature d of lane i is lanes[d * LANES + i].
    lanes = np.zeros(scores_by.shape[1] * LANES, scores_by.dtype)
    block = points[start : start + size]
    for d in range(dim):
        feature, center = lanes[d * LANES : d * LANES + size], shift[d]
        for i in range(size):
            feature[i] = block[i, d] - center
    norms = np.zeros(LANES, scores_by.dtype)
    for d in range(dim):
        feature = lanes[d * LANES : (d + 1) * LANES]
        for i in range(LANES):
            norms[i] += feature[i] * feature[i]
    sums = np.full(4 * LANES, np.inf, scores_by.dtype)
    if scores_by.shape[1] == 2:
        _scan_two(lanes, scores_by, half_norms, sums, lane_codes)
    elif scores_by.shape[1] == 4:
        _scan_four(lanes, scores_by, half_norms, sums, lane_codes)
    else:
        _scan(lanes, scores_by, half_norms, sums, lane_codes)
    best, second = sums[BEST * LANES :], sums[SECOND * LANES :]
    for i in range(size):
        gap = np.float64(second[i] - best[i])
        # Not `<=`: a NaN gap (all scores overflowed) must be decided exactly as well.
        if n_codewords > 1 and not gap > floor + slack * (largest + 2.02 * np.sqrt(np.float64(norms[i]))):
            lane_codes[i] = _decide(points, start + i, codebook)


# One flat array of sums and one slice of features at a time: the compiler then sees after three comparisons that
# nothing overlaps. With an array for each it compares thirty pairs before every loop, which costs as much as the loop.
@njit(fastmath=_FAST, nogil=True)
def _scan(lanes, scores_by, half_norms, sums, codes):
    """Keep per lane the lowest and second-lowest score and the code of the lowest; dim is 8, 16, 24 ..."""
    dim = scores_by.shape[1]
    for j in range(0, len(half_norms), 2):
        k = j + 1
        half_a, half_b = half_norms[j], half_norms[k]
        for i in range(LANES):
            sums[i] = half_a
            sums[LANES + i] = half_b
        for d in range(0, dim, 8):
            a0, a1, a2, a3 = scores_by[j, d], scores_by[j, d + 1], scores_by[j, d + 2], scores_by[j, d + 3]
            a4, a5, a6, a7 = scores_by[j, d + 4], scores_by[j, d + 5], scores_by[j, d + 6], scores_by[j, d + 7]
            b0, b1, b2, b3 = scores_by[k, d], scores_by[k, d + 1], scores_by[k, d + 2], scores_by[k, d + 3]
            b4, b5, b6, b7 = scores_by[k, d + 4], scores_by[k, d + 5], scores_by[k, d + 6], scores_by[k, d + 7]
            x = lanes[d * LANES : (d + 8) * LANES]
            if d + 8 < dim:
                for i in range(LANES):
                    x0, x1, x2, x3 = x[i], x[LANES + i], x[2 * LANES + i], x[3 * LANES + i]
                    x4, x5, x6, x7 = x[4 * LANES + i], x[5 * LANES + i], x[6 * LANES + i], x[7 * LANES + i]
                    even, odd = sums[i], sums[LANES + i]
                    sums[i] = even + x0 * a0 + x1 * a1 + x2 * a2 + x3 * a3 + x4 * a4 + x5 * a5 + x6 * a6 + x7 * a7
                    sums[LANES + i] = odd + x0 * b0 + x1 * b1 + x2 * b2 + x3 * b3 + x4 * b4 + x5 * b5 + x6 * b6 + x7 * b7
            else:
                # The last features and the comparison share a loop: finished scores never leave the registers.
                for i in range(LANES):
                    x0, x1, x2, x3 = x[i], x[LANES + i], x[2 * LANES + i], x[3 * LANES + i]
                    x4, x5, x6, x7 = x[4 * LANES + i], x[5 * LANES + i], x[6 * LANES + i], x[7 * LANES + i]
                    even, odd = sums[i], sums[LANES + i]
                    even = even + x0 * a0 + x1 * a1 + x2 * a2 + x3 * a3 + x4 * a4 + x5 * a5 + x6 * a6 + x7 * a7
                    odd = odd + x0 * b0 + x1 * b1 + x2 * b2 + x3 * b3 + x4 * b4 + x5 * b5 + x6 * b6 + x7 * b7
                    _keep(i, even, odd, np.int32(j), sums, codes)


@njit(fastmath=_FAST, nogil=True)
def _scan_four(lanes, scores_by, half_norms, sums, codes):
    """`_scan` for three or four features: a score needs no running sum."""
    for j in range(0, len(half_norms), 2):
        a0, a1, a2, a3, half_a = scores_by[j, 0], scores_by[j, 1], scores_by[j, 2], scores_by[j, 3], half_norms[j]
        k = j + 1
        b0, b1, b2, b3, half_b = scores_by[k, 0], scores_by[k, 1], scores_by[k, 2], scores_by[k, 3], half_norms[k]
        for i in range(LANES):
            x0, x1, x2, x3 = lanes[i], lanes[LANES + i], lanes[2 * LANES + i], lanes[3 * LANES + i]
            score_a = half_a + x0 * a0 + x1 * a1 + x2 * a2 + x3 * a3
            score_b = half_b + x0 * b0 + x1 * b1 + x2 * b2 + x3 * b3
            _keep(i, score_a, score_b, np.int32(j), sums, codes)


@njit(fastmath=_FAST, nogil=True)
def _scan_two(lanes, scores_by, half_norms, sums, codes):
    """`_scan` for two features."""
    for j in range(0, len(half_norms), 2):
        a0, a1, half_a = scores_by[j, 0], scores_by[j, 1], half_norms[j]
        b0, b1, half_b = scores_by[j + 1, 0], scores_by[j + 1, 1], half_norms[j + 1]
        for i in range(LANES):
            x0, x1 = lanes[i], lanes[LANES + i]
            _keep(i, half_a + x0 * a0 + x1 * a1, half_b + x0 * b0 + x1 * b1, np.int32(j), sums, codes)


@njit(inline="always", fastmath=_FAST)
def _keep(i, score_a, score_b, j, sums, codes):
    """Let a lane's best and second-best score see two more; equal scores stay with the lower code."""
    b_wins = score_b < score_a
    low = score_b if b_wins else score_a
    high = score_a if b_wins else score_b
    code = np.int32(j + np.int32(1)) if b_wins else j
    best, second = sums[BEST * LANES + i], sums[SECOND * LANES + i]
    wins = low < best
    beaten = best if wins else low
    beaten = high if high < beaten else beaten
    sums[SECOND * LANES + i] = beaten if beaten < second else second
    codes[i] = code if wins else codes[i]
    sums[BEST * LANES + i] = low if wins else best


@njit(nogil=True)
def _decide(points, i, codebook):
    """The codeword nearest to point i by the direct form in float64; a tie goes to the lowest index."""
    nearest_code, lowest = 0, np.inf
    for code in range(len(codebook)):
        sq_dist = _sq_dist(points, i, codebook, code)
        if sq_dist < lowest:
            nearest_code, lowest = code, sq_dist
    return nearest_code


# Reassociation lets the sum run in SIMD lanes; the order is fixed when the kernel is compiled.
@njit(fastmath={"reassoc", "contract", "nsz"}, nogil=True)
def _sq_dist(points, i, codebook, code):
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
            sq_dist = 0.0
            for d in range(dim):
                sq_dist += (np.float64(points[i, d]) - codewords[code, d]) ** 2
            lowest = min(lowest, sq_dist)
        result[i] = lowest
    return result
