"""numpy, written to be read: this table defines what is right, and the others must equal it.

Every function works in float64 and in the plainest way; none is fast, and `assign` looks at one
codeword at a time so that nothing of the size n x n_codewords is held.
"""

import numpy as np

from vqcore.kernels.compiled import extent, from_host, to_host, to_points

__all__ = [
    "to_points", "from_host", "to_host", "extent", "assign", "accumulate",
    "sort", "interval_moments", "nearer", "draw",
]  # fmt: skip


def assign(points, codebook):
    """Code (n,) and squared distance (n,) of the nearest codeword; ties go to the lowest index."""
    codes = np.zeros(len(points), dtype=np.int64)
    sq_dists = np.full(len(points), np.inf)
    for code, codeword in enumerate(codebook):
        to_this = _sq_dists(points, codeword)
        closer = to_this < sq_dists
        codes[closer] = code
        sq_dists[closer] = to_this[closer]
    return codes, sq_dists


def accumulate(values, codes, n_codewords, sample_weight=None):
    """Sum of the values (n_codewords, dim) or (n_codewords,), and number or weight (n_codewords,), per cell."""
    values = np.asarray(values, dtype=np.float64)
    weights = np.ones(len(codes), dtype=np.int64) if sample_weight is None else sample_weight
    mass = np.zeros(n_codewords, dtype=weights.dtype)
    sums = np.zeros((n_codewords,) + values.shape[1:])
    for code in range(n_codewords):
        mine = codes == code
        mass[code] = weights[mine].sum()
        sums[code] = (values[mine].T * weights[mine]).T.sum(axis=0)
    return sums, mass


def sort(points, sample_weight=None):
    """One-dimensional points ascending, float64, with their weights."""
    order = np.argsort(points, kind="stable")
    weights = np.ones(len(points), dtype=np.int64) if sample_weight is None else sample_weight[order]
    return np.asarray(points, dtype=np.float64)[order], weights


def interval_moments(ordered, edges, codebook):
    """Mass, mean and squared error about the codeword, (n_codewords,) each, of the cells between the edges.

    A point on an edge belongs to the lower cell. The mean of an empty cell is its codeword.
    """
    values, weights = ordered
    bounds = np.concatenate([[0], np.searchsorted(values, edges, side="right"), [len(values)]])
    mass = np.zeros(len(codebook), dtype=weights.dtype)
    means, sq_errors = codebook.copy(), np.zeros(len(codebook))
    for code, codeword in enumerate(codebook):
        mine = slice(bounds[code], bounds[code + 1])
        mass[code] = weights[mine].sum()
        sq_errors[code] = (weights[mine] * (values[mine] - codeword) ** 2).sum()
        if mass[code] > 0:
            means[code] = codeword + (weights[mine] * (values[mine] - codeword)).sum() / mass[code]
    return mass, means, sq_errors


def nearer(points, codewords, sq_dists):
    """The smaller (n,) of `sq_dists` and the squared distance to the nearest of a few codewords."""
    return np.minimum(sq_dists, assign(points, codewords)[1])


def draw(weights, uniforms):
    """For each uniform number in [0, 1) the position at which the running sum of the weights passes that share."""
    running = np.cumsum(weights)
    return np.searchsorted(running, uniforms * running[-1], side="right").clip(0, len(weights) - 1)


def _sq_dists(points, codeword):
    apart = points.astype(np.float64) - codeword
    return apart**2 if apart.ndim == 1 else (apart**2).sum(axis=1)
