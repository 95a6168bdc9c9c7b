"""Norms of the buckets of a numpy array, by numba: the same bits in any number of threads, and in `rounding_tensors`.

Every number is made by one fixed sequence of IEEE operations in float64: a sum is a tree that halves a row of at most
1024 terms, then halves the row of those sums.
"""

import numpy as np

from vqcore.kernels.compiling import frozen, njit
from vqcore.kernels.threads import share

TREE = 1024  # values under one tree; a wider bucket is a tree over such rows
RANGE = 2.0**500  # of magnitudes, and of their quotients, whose squares are exact up to a power of two


def bucket_scales(values, bucket_size, norm):
    """For every bucket largest magnitude, a power of two that brings that near 1, norm times that power, and norm.

    All float64. The norm is "l2", or "max" for the largest magnitude itself. Where a value is NaN or infinite,
    so is the first; where only the norm leaves float64, the last is infinite.
    """
    n_rows, n_buckets = -(-bucket_size // TREE), -(-len(values) // bucket_size)
    rows, scales = np.empty((3, n_buckets * n_rows)), np.ones(n_buckets)
    largest, scaled_norms, norms = np.empty(n_buckets), np.empty(n_buckets), np.empty(n_buckets)
    bits = frozen(values.view(f"i{values.dtype.itemsize}"))
    given = frozen(values), bits, bucket_size, n_rows, scales, rows
    for _ in range(2):
        share(_rows, n_buckets * n_rows, 4 * len(values), *given)
        # Squares of the values as they are will nearly always do, and save a pass.
        if _fold(rows, n_rows, largest, scales, scaled_norms, norms) or norm == "max":
            break
    return (largest, scales, largest * scales, largest) if norm == "max" else (largest, scales, scaled_norms, norms)


def norms_of(sums, scales):
    """Square roots of sums of squares, and the same without the scale."""
    scaled_norms = np.sqrt(sums)
    with np.errstate(over="ignore", invalid="ignore"):
        return scaled_norms, scaled_norms / scales


@njit(cache=True, nogil=True)
def _rows(first, last, values, bits, bucket_size, n_rows, scales, rows):
    """Largest magnitude, smallest that is not 0, and sum of squares times the scale of rows from first to last."""
    n, tree, highest = len(values), np.empty(TREE), np.int64(np.iinfo(bits.dtype).max)
    ends = np.empty(2, bits.dtype)
    for row in range(first, last):
        bucket, place = row // n_rows, row % n_rows
        start = bucket * bucket_size + place * TREE
        begin, stop = min(start, n), min(start + TREE, (bucket + 1) * bucket_size, n)
        # Magnitudes order as their bits do, infinity and NaN on top.
        part, top, low = bits[begin:stop], np.int64(0), highest
        for k in range(len(part)):
            magnitude = np.int64(part[k]) & highest
            top = max(top, magnitude)
            low = min(low, magnitude if magnitude > 0 else highest)
        ends[0], ends[1] = top, low
        rows[0, row], rows[1, row] = ends.view(values.dtype)
        rows[2, row] = _sum_of_squares(values[begin:stop], min(bucket_size, TREE), scales[bucket], tree)


@njit
def _sum_of_squares(part, n_terms, scale, tree):
    """The tree over n_terms squares, zeros after those of the part."""
    width = 1
    while width < n_terms:
        width *= 2
    half = width // 2
    if len(part) == TREE:
        # The first two levels at once.
        half, quarter = TREE // 8, TREE // 4
        for k in range(quarter):
            low = _square(part[k], scale) + _square(part[k + 2 * quarter], scale)
            tree[k] = low + (_square(part[k + quarter], scale) + _square(part[k + 3 * quarter], scale))
    else:
        tree[len(part) : width] = 0
        for k in range(len(part)):
            tree[k] = _square(part[k], scale)
    while half > 0:
        low, high = tree[:half], tree[half : 2 * half]
        for k in range(half):
            low[k] += high[k]
        half //= 2
    return tree[0]


@njit
def _square(value, scale):
    scaled = np.float64(value) * scale
    return scaled * scaled


@njit(cache=True, nogil=True)
def _fold(rows, n_rows, largest, scales, scaled_norms, norms):
    """The answer of `bucket_scales` from rows of buckets; whether the scales did, or those that are there now must."""
    width, done = 1, True
    while width < n_rows:
        width *= 2
    tree, word = np.empty(width), np.empty(1, np.int64)
    for bucket in range(len(scales)):
        own, used = rows[:, bucket * n_rows : (bucket + 1) * n_rows], scales[bucket]
        most, least = 0.0, np.inf
        for top, low in zip(own[0], own[1]):
            most = top if top > most or not np.isfinite(top) else most
            least = low if 0.0 < top and low < least else least
            if not np.isfinite(top):
                break
        word.view(np.float64)[0] = most
        word[0] = min(max(2046 - (word[0] >> 52), 1), 2046) << 52
        scale = word.view(np.float64)[0]
        done &= used == scale or most == 0 or (most <= RANGE and least * RANGE >= max(most, 1.0))
        tree[n_rows:] = 0
        for row in range(n_rows):
            tree[row] = own[2, row] * (scale / used) * (scale / used)
        half = width // 2
        while half > 0:
            for k in range(half):
                tree[k] += tree[k + half]
            half //= 2
        largest[bucket], scales[bucket] = most, scale
        scaled_norms[bucket], norms[bucket] = np.sqrt(tree[0]), np.sqrt(tree[0]) / scale
    return done
