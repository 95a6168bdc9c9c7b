"""One step of Lloyd's algorithm in one pass over the points, which skips what cannot have changed.

Hamerly 2010, "Making k-means even faster": a point keeps a lower bound on its distance from every codeword but its
own. Codewords that moved by at most m lower it by m; while the point is nearer than that to its own codeword, no
other needs to be looked at. The others are gathered and searched as in `nearest`, so the codes are those of exact
arithmetic, and sums are added up in the order of `accumulate`: not a bit depends on what was skipped.
"""

import numpy as np

from vqcore.kernels import compiled
from vqcore.kernels.compiling import frozen, njit, prange, threads_for
from vqcore.kernels.nearest import LANES, decide, error_of_score, largest_norm, parted, search_lanes, sq_dist

BLOCK_VALUES = 2**16  # values of the points that are looked at, searched and added up while they are in the cache


class Steps:
    """The cells of one codebook after another over the same points (n, dim).

    `n_searched` is how many points the last step compared with every codeword.
    """

    def __init__(self, points, sample_weight=None):
        self.points = frozen(points)
        self.weights = frozen(np.ones(1, np.int64) if sample_weight is None else sample_weight)
        self.codebook = None

    def moments(self, codebook):
        """Codes and squared distances, the same two arrays in every step; per cell sum, mass and squared error."""
        n, work = len(self.points), compiled.work_type(self.points, codebook)
        if self.codebook is None or len(self.codebook) != len(codebook):
            self.codes, self.sq_dists, self.bounds = np.zeros(n, np.int64), np.empty(n), np.full(n, -np.inf)
            drifts = np.zeros(len(codebook))
        else:
            drifts = _drifts(self.codebook, codebook)
        screen, n_slabs = compiled.screen(codebook, work), compiled.n_slabs(n, len(codebook))
        with threads_for(codebook.size * n // 8):
            *parts, searched = step(
                self.points, self.weights, codebook, *screen, drifts, self.codes, self.bounds, self.sq_dists, n_slabs
            )
        self.codebook, self.n_searched = codebook.copy(), int(searched.sum())
        return self.codes, self.sq_dists, *map(compiled.merged, parts)


def _drifts(before, codebook):
    """How far any codeword but this one has moved (n_codewords,), a hair more for rounding."""
    moved = np.sqrt(((codebook - before) ** 2).sum(axis=1)) * (1 + 1e-12)
    drifts = np.full(len(moved), moved.max())
    drifts[moved.argmax()] = np.delete(moved, moved.argmax()).max(initial=0.0)
    return drifts


@njit(parallel=True, cache=True, nogil=True)
def step(points, weights, codebook, shift, scores_by, half_norms, slack, floor, drifts, codes, bounds, sq_dists, n_slabs):
    """The cells of a codebook, slab by slab: sums (n_slabs, n_codewords, dim), mass and squared errors (n_slabs,
    n_codewords), and how many points were searched (n_slabs,).

    Args:
        weights: (n,), or (1,) for all.
        shift, scores_by, half_norms, slack, floor: as in `nearest`.
        drifts: (n_codewords,) how far any codeword but this one has moved since the step before.
        codes, bounds, sq_dists: (n,) of the step before, brought up to date; bounds of -inf know nothing.
    """
    n_codewords, dim = codebook.shape
    sums, sq_errors = np.zeros((n_slabs, n_codewords, dim)), np.zeros((n_slabs, n_codewords))
    mass, searched = np.zeros((n_slabs, n_codewords), weights.dtype), np.zeros(n_slabs, np.int64)
    for slab in prange(n_slabs):
        first, last = slab * len(points) // n_slabs, (slab + 1) * len(points) // n_slabs
        size = max(LANES, min(1024, BLOCK_VALUES // dim))
        doubtful = np.empty(size, np.int64)
        for start in range(first, last, size):
            end = min(start + size, last)
            n_doubtful = _look(points, start, end, codebook, drifts, codes, bounds, sq_dists, doubtful)
            searched[slab] += n_doubtful
            for at in range(0, n_doubtful, LANES):
                some = doubtful[at : min(at + LANES, n_doubtful)]
                _search(points, some, codebook, shift, scores_by, half_norms, slack, floor, codes, bounds, sq_dists)
            _add(points, start, end, weights, codes, sq_dists, sums[slab], mass[slab], sq_errors[slab])
    return sums, mass, sq_errors, searched


@njit(nogil=True)
def _look(points, start, end, codebook, drifts, codes, bounds, sq_dists, doubtful):
    """Bring bounds and squared distances up to date; how many points may have another nearest codeword, and which."""
    found = 0
    for i in range(start, end):
        sq_dists[i] = sq_dist(points, i, codebook, codes[i])
        bounds[i] -= drifts[codes[i]]
        # A hair's breadth for the rounding of both sides; not `>=`, so that a NaN is in doubt.
        if not np.sqrt(sq_dists[i]) * (1 + 1e-12) < bounds[i]:
            doubtful[found] = i
            found += 1
    return found


@njit(nogil=True)
def _search(points, some, codebook, shift, scores_by, half_norms, slack, floor, codes, bounds, sq_dists):
    """New codes, bounds and squared distances for at most LANES points."""
    dim, n_codewords = points.shape[1], len(codebook)
    lanes = np.zeros(dim * LANES, scores_by.dtype)
    for lane in range(len(some)):
        row = points[some[lane]]
        for d in range(dim):
            lanes[d * LANES + lane] = row[d] - shift[d]
    lane_codes = np.zeros(LANES, np.int32)
    norms, best, second = search_lanes(lanes, scores_by, half_norms, lane_codes)
    largest = largest_norm(half_norms, n_codewords)
    for lane in range(len(some)):
        i, code = some[lane], np.int64(lane_codes[lane])
        if n_codewords > 1 and not parted(best[lane], second[lane], norms[lane], largest, slack, floor):
            code = np.int64(decide(points, i, codebook))
        if code != codes[i]:
            codes[i], sq_dists[i] = code, sq_dist(points, i, codebook, code)
        # |x - c|^2 is |x - s|^2 plus twice the score. Where the exact distances swapped two scores, they lie closer
        # together than their error.
        norm = np.float64(norms[lane])
        error = 2 * error_of_score(norm, largest, slack, floor) + (dim + 6) * np.finfo(lanes.dtype).eps * norm
        sq_bound = norm + 2 * np.float64(second[lane]) - error
        bounds[i] = np.sqrt(sq_bound) * (1 - 1e-12) if sq_bound > 0 else 0.0


@njit(nogil=True)
def _add(points, start, end, weights, codes, sq_dists, sums, mass, sq_errors):
    weighted = len(weights) > 1
    for i in range(start, end):
        weight, code = weights[i if weighted else 0], codes[i]
        mass[code] += weight
        sq_errors[code] += weight * sq_dists[i]
        for d in range(points.shape[1]):
            sums[code, d] += weight * np.float64(points[i, d])
