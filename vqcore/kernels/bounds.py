"""One step of Lloyd's algorithm in one pass over the points, which skips what cannot have changed.

Hamerly 2010, "Making k-means even faster": a point keeps a lower bound on its distance from every codeword but its
own. Codewords that moved by at most m lower it by m; while the point is nearer than that to its own codeword, no
other needs to be looked at. The others are gathered and searched as in `nearest`, so the codes are those of exact
arithmetic, and sums are added up in the order of `accumulate`: not a bit depends on what was skipped.
"""

import numpy as np

from vqcore.kernels import compiled, halves, scores
from vqcore.kernels.compiling import frozen, njit
from vqcore.kernels.nearest import IN_DOUBT, UNSURE, Found, queue_for, settle, sq_dist
from vqcore.kernels.threads import share

CHUNK = 256  # points that are looked at, searched and added up while they are in the cache


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
        n, work = len(self.points), scores.work_type(self.points, codebook)
        if self.codebook is None or len(self.codebook) != len(codebook):
            self.found = Found(np.zeros(n, np.int64), np.empty(n), np.full(n, -np.inf))
            drifts = np.zeros(len(codebook))
        else:
            drifts = _drifts(self.codebook, codebook)
        screen = scores.screen(codebook, work)
        first_look = halves.halves(codebook, screen, n)
        n_slabs = compiled.n_slabs(n, len(codebook))
        tables = compiled.tables(n_slabs, codebook.shape, self.weights)

        def look(first, last):
            room = scores.room_for(self.points.shape[1], work), halves.room_for(first_look)
            return step(
                first, last, n_slabs, self.points, self.weights, codebook, screen, first_look, drifts, self.found,
                tables, queue_for(CHUNK), room,
            )  # fmt: skip

        searched = share(look, n_slabs, n * (codebook.size // 8 + 32))
        self.codebook, self.n_searched = codebook.copy(), sum(searched)
        return self.found.codes, self.found.sq_dists, *map(compiled.merged, tables)


def _drifts(before, codebook):
    """How far any codeword but this one has moved (n_codewords,), a hair more for rounding."""
    moved = codebook - before
    moved = np.sqrt(np.einsum("ij,ij->i", moved, moved)) * (1 + 1e-12)
    farthest = moved.argmax()
    drifts = np.full(len(moved), moved[farthest])
    moved[farthest] = 0.0
    drifts[farthest] = moved.max()
    return drifts


@njit(cache=True, nogil=True)
def step(first, last, n_slabs, points, weights, codebook, screen, halves, drifts, found, tables, queue, rooms):
    """The cells of a codebook in slabs from first to last; how many of their points were searched.

    Args:
        weights: (n,), or (1,) for all.
        screen, halves: of the codebook.
        drifts: (n_codewords,) how far any codeword but this one has moved since the step before.
        found: of the step before, brought up to date; bounds of -inf know nothing.
        tables: zeros that a slab adds to: sums (n_slabs, n_codewords, dim), mass and squared errors (n_slabs,
            n_codewords).
    """
    searched, n = 0, len(points)
    for slab in range(first, last):
        added, stop = slab * n // n_slabs, (slab + 1) * n // n_slabs
        for start in range(added, stop, CHUNK):
            end = min(start + CHUNK, stop)
            searched += _look(points, start, end, codebook, drifts, found, queue)
            settle(points, codebook, screen, halves, queue, found, rooms, end == stop)
            ready = _settled(queue, end)
            _add(points, added, ready, weights, found, tables, slab)
            added = ready
    return searched


@njit(nogil=True)
def _settled(queue, end):
    """Up to which point none waits."""
    if queue.waiting[UNSURE] > 0:
        return queue.unsure[0]
    return queue.doubtful[0] if queue.waiting[IN_DOUBT] > 0 else end


@njit(nogil=True)
def _look(points, start, end, codebook, drifts, found, queue):
    """Bring bounds and squared distances up to date; queue, and count, points that may have another nearest codeword."""
    waiting, codes, bounds, sq_dists = queue.waiting[IN_DOUBT], found.codes, found.bounds, found.sq_dists
    before = waiting
    for i in range(start, end):
        sq_dists[i] = sq_dist(points, i, codebook, codes[i])
        # Rounded down: thousands of steps may add up.
        bounds[i] = (bounds[i] - drifts[codes[i]]) * (1 - 2.0**-52)
        # A hair's breadth for the rounding of both sides; not `>=`, so that a NaN is in doubt.
        if not np.sqrt(sq_dists[i]) * (1 + 1e-12) < bounds[i]:
            queue.doubtful[waiting] = i
            waiting += 1
    queue.waiting[IN_DOUBT] = waiting
    return waiting - before


@njit(nogil=True)
def _add(points, start, end, weights, found, tables, slab):
    (sums, mass, sq_errors), codes, sq_dists, weighted = tables, found.codes, found.sq_dists, len(weights) > 1
    for i in range(start, end):
        weight, code = weights[i if weighted else 0], codes[i]
        mass[slab, code] += weight
        sq_errors[slab, code] += weight * sq_dists[i]
        for d in range(points.shape[1]):
            sums[slab, code, d] += weight * np.float64(points[i, d])
