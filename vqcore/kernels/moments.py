"""Sorted points on a line under a tree of moments: what lies between any edges, without looking at every point."""

from typing import NamedTuple

import numpy as np

from vqcore.kernels.compiling import njit
from vqcore.kernels.threads import share

LEAF = 64  # points in a leaf of the moment tree


class Ordered(NamedTuple):
    """Sorted points under a tree of moments: mass, mean and squared error about the mean of 64, 128, 256 ... points.

    Means are kept relative to the median point, so that they lose no digits far from the origin.
    """

    values: np.ndarray
    weights: np.ndarray
    center: float
    starts: np.ndarray
    mass: np.ndarray
    means: np.ndarray
    sq_errors: np.ndarray


def sort(points, sample_weight=None):
    """One-dimensional points ascending, with a tree of moments over them: O(n log n) once, n / 32 nodes."""
    if sample_weight is None:
        values, weights = np.sort(points).astype(np.float64, copy=False), np.ones(1, np.int64)
    else:
        order = np.argsort(points, kind="stable")
        values, weights = points[order].astype(np.float64, copy=False), sample_weight[order]
    sizes = [-(-len(values) // LEAF)]
    while sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // 2))
    starts = np.concatenate([[0], np.cumsum(sizes)])
    center = float(values[len(values) // 2])
    tree = np.zeros(starts[-1], weights.dtype), np.zeros(starts[-1]), np.zeros(starts[-1])
    share(_leaves, sizes[0], 8 * len(values), values, weights, center, *tree)
    _join(starts, *tree)
    return Ordered(values, weights, center, starts, *tree)


def interval_moments(ordered, edges, codebook):
    """Mass, mean and squared error about the codeword, (n_codewords,) each, of the cells between the edges.

    A cell is the union of at most 2 log2(n) nodes and 128 single points. Their squared errors are added,
    never subtracted, so nothing cancels however narrow the cell or far the data; a step costs
    O(n_codewords log n).
    """
    return _interval_moments(*ordered, edges, codebook)


@njit(cache=True, nogil=True)
def _leaves(first, last, values, weights, center, mass, means, sq_errors):
    n = len(values)
    for leaf in range(first, last):
        begin, end = leaf * LEAF, min(leaf * LEAF + LEAF, n)
        here, start = weights[0] * 0, values[begin]
        total = 0.0
        for i in range(begin, end):
            weight = weights[i if len(weights) == n else 0]
            here += weight
            total += weight * (values[i] - start)
        mean = start + total / here if here > 0 else start
        for i in range(begin, end):
            sq_errors[leaf] += weights[i if len(weights) == n else 0] * (values[i] - mean) ** 2
        mass[leaf], means[leaf] = here, (start - center) + (total / here if here > 0 else 0.0)


@njit(cache=True, nogil=True)
def _join(starts, mass, means, sq_errors):
    """The levels of the tree above its leaves."""
    for level in range(1, len(starts) - 1):
        below, end = starts[level - 1], starts[level]
        for node in range(starts[level], starts[level + 1]):
            left = below + 2 * (node - starts[level])
            right = min(left + 1, end - 1)
            here = mass[left] + (mass[right] if right > left else 0)
            share = mass[right] / here if right > left and here > 0 else 0.0
            apart = means[right] - means[left]
            mass[node], means[node] = here, means[left] + share * apart
            sq_errors[node] = sq_errors[left] + mass[left] * share * apart**2
            if right > left:
                sq_errors[node] += sq_errors[right]


@njit(cache=True, nogil=True)
def _interval_moments(values, weights, center, starts, tree_mass, tree_means, tree_sq_errors, edges, codebook):
    n, n_codewords = len(values), len(codebook)
    mass, means, sq_errors = np.zeros(n_codewords, weights.dtype), codebook.copy(), np.zeros(n_codewords)
    begin = 0
    for code in range(n_codewords):
        end = np.searchsorted(values, edges[code], side="right") if code < n_codewords - 1 else n
        first, last = -(-begin // LEAF), end // LEAF
        # Sums about a centre that no step changes: the same cell gives the same bits, so a fit can come to rest.
        here, total, sq_error, codeword = weights[0] * 0, 0.0, 0.0, codebook[code]
        for run in range(2):
            low, high = (begin, min(first * LEAF, end)) if run == 0 else (max(last * LEAF, min(first * LEAF, end)), end)
            for i in range(low, high):
                weight = weights[i if len(weights) == n else 0]
                here += weight
                total += weight * (values[i] - center)
                sq_error += weight * (values[i] - codeword) ** 2
        level = 0
        while first < last:
            for side in range(2):
                node = -1
                if side == 0 and first % 2 == 1:
                    node, first = starts[level] + first, first + 1
                elif side == 1 and last % 2 == 1:
                    node, last = starts[level] + last - 1, last - 1
                if node >= 0:
                    here += tree_mass[node]
                    total += tree_mass[node] * tree_means[node]
                    sq_error += tree_sq_errors[node] + tree_mass[node] * (tree_means[node] - (codeword - center)) ** 2
            first, last, level = first // 2, last // 2, level + 1
        mass[code], sq_errors[code] = here, sq_error
        if here > 0:
            means[code] = center + total / here
        begin = max(begin, end)
    return mass, means, sq_errors
