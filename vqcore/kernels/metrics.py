"""Nearest codewords, medians and medoids under metrics other than the squared distance, by numba on the host.

Points come as float64 (n, dim) and codebooks as float64 (n_codewords, dim), contiguous, already checked. No table
of distances between points is ever held: a distance is computed again where it is needed again.
"""

import numpy as np

from vqcore.kernels.compiling import frozen, njit
from vqcore.kernels.threads import share

METRICS = ("manhattan", "euclidean", "sqeuclidean")


def nearest(points, codebook, metric):
    """Code (n,) int64 and distance (n,) of the codeword nearest to each point; a tie goes to the lowest index."""
    codes, dists = np.empty(len(points), np.int64), np.empty(len(points))
    given = frozen(points), frozen(codebook), METRICS.index(metric), codes, dists
    share(_nearest, len(points), len(points) * codebook.size, *given)
    return codes, dists


def medians(points, codes, codebook, weights):
    """The weighted median of every cell (n_codewords, dim), coordinate by coordinate; an empty cell's codeword stays.

    Where a whole interval of numbers splits a cell in halves, the lower end of the interval.
    """
    moved = codebook.copy()
    members = np.argsort(codes, kind="stable")
    ends = np.searchsorted(codes[members], np.arange(len(codebook) + 1))
    for code in np.flatnonzero(np.diff(ends)):
        cell = members[ends[code] : ends[code + 1]]
        order = np.argsort(points[cell], axis=0, kind="stable")
        mass = np.cumsum(weights[cell][order], axis=0)
        half = (mass >= mass[-1] / 2).argmax(axis=0)
        if mass[-1, 0] > 0:
            moved[code] = np.take_along_axis(points[cell], order[half, np.arange(points.shape[1])][None], axis=0)[0]
    return moved


def swap_medoids(points, weights, medoids, metric):
    """Every point in turn takes the place of a medoid wherever that lowers the loss: (medoids, number of swaps).

    To look at all points costs O(n**2 dim), whatever the number of medoids: Schubert and Rousseeuw 2021, "Fast and
    eager k-medoids clustering". Every exchange costs O(n dim) for each medoid besides.
    """
    medoids = medoids.copy()
    return medoids, int(_swap(frozen(points), frozen(weights), medoids, METRICS.index(metric)))


@njit(inline="always")
def _distance(a, b, metric):
    total = 0.0
    if metric == 0:
        for f in range(len(a)):
            total += abs(a[f] - b[f])
        return total
    for f in range(len(a)):
        total += (a[f] - b[f]) ** 2
    return total if metric == 2 else np.sqrt(total)


@njit(cache=True, nogil=True)
def _nearest(first, last, points, codebook, metric, codes, dists):
    points, codes, dists = points[first:last], codes[first:last], dists[first:last]
    for i in range(len(points)):
        best, smallest = 0, np.inf
        for code in range(len(codebook)):
            dist = _distance(points[i], codebook[code], metric)
            if dist < smallest:
                best, smallest = code, dist
        codes[i], dists[i] = best, smallest


@njit(cache=True, nogil=True)
def _two_nearest(points, medoids, metric, first, dist, second_dist):
    for i in range(len(points)):
        dist[i], second_dist[i] = np.inf, np.inf
        for m in range(len(medoids)):
            d = _distance(points[i], points[medoids[m]], metric)
            if d < dist[i]:
                first[i], dist[i], second_dist[i] = m, d, dist[i]
            elif d < second_dist[i]:
                second_dist[i] = d


@njit(cache=True, nogil=True)
def _swap(points, weights, medoids, metric):
    n, n_medoids, n_swaps = len(points), len(medoids), 0
    first, dist, second_dist = np.empty(n, np.int64), np.empty(n), np.empty(n)
    to_candidate, change = np.empty(n), np.empty(n_medoids)
    _two_nearest(points, medoids, metric, first, dist, second_dist)
    for candidate in range(n):
        # `gain` is what the candidate saves if every medoid stays; `change[m]` what leaving out m costs besides.
        gain, loss, change[:] = 0.0, 0.0, 0.0
        for i in range(n):
            d = _distance(points[i], points[candidate], metric)
            loss += weights[i] * dist[i]
            if d < dist[i]:
                gain += weights[i] * (dist[i] - d)
            else:
                change[first[i]] += weights[i] * (min(d, second_dist[i]) - dist[i])
        leaving = change.argmin()
        # Less than rounding can make up is no fall: the loss would wander for ever.
        if change[leaving] - gain < -1e-13 * n_medoids * loss:
            medoids[leaving] = candidate
            n_swaps += 1
            _two_nearest(points, medoids, metric, first, dist, second_dist)
    return n_swaps
