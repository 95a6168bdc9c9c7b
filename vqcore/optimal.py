"""The global optimum of one-dimensional quantization, which fifty random starts of Lloyd's algorithm miss."""

import itertools
from typing import NamedTuple

import numpy as np

from vqcore.checks import as_count, as_points, as_sample_weight
from vqcore.errors import InputError
from vqcore.fit import Fit
from vqcore.kernels.passes import cell_shares

# A codebook is taken as optimal when its error is within this share of a lower bound on every codebook's error.
_TOLERANCE = 1e-13
# A problem is solved on every eighth cut first, as long as that leaves so many cuts per codeword.
_STRIDE, _CUTS_PER_CODEWORD = 8, 12


class _Path(NamedTuple):
    """Cells of consecutive values: what they cost, and the price of a cell at which no cells are cheaper."""

    cuts: np.ndarray
    error: float
    price: float

    @property
    def n_cells(self):
        return len(self.cuts) - 1


def fit_optimal(points_1d, n_codewords, sample_weight=None):
    """The codebook (n_codewords,) of least distortion for the points (n,): no other one is better.

    Every codeword is given the same price; the cheapest cells at a price are found in O(n log n), and
    the price is moved until they are `n_codewords`. O(n) memory, whatever the number of codewords.

    Args:
        points_1d: (n,) real numbers, repeated ones welcome.
        n_codewords: at most the number of distinct points (of positive weight).
        sample_weight: (n,) non-negative, or None for equal weights.

    Returns:
        A Fit whose codebooks hold the optimum alone: there are no steps to show.

    Raises:
        InputError: points, number or weights cannot be used, or there are fewer distinct points than codewords.

    Source: Wu 1991, "Optimal quantization by matrix searching", for the dynamic programme; Aggarwal,
    Schieber & Tokuyama 1994, "Finding a minimum-weight k-link path in graphs with the concave Monge
    property", for the price and the joining of two paths.
    """
    table, points = as_points(points_1d, "points_1d", n_dims=(1,))
    n_codewords = as_count(n_codewords, "n_codewords")
    sample_weight = as_sample_weight(sample_weight, points)
    values, weights = _distinct(table.to_host(points), None if sample_weight is None else table.to_host(sample_weight))
    if n_codewords > len(values):
        n = len(values)
        raise InputError(f"n_codewords={n_codewords} but only {n} distinct points: ask for at most {n}")
    codebook = _optimal_codebook(values, weights, n_codewords)
    return _measured(table, points, codebook, sample_weight)


def _distinct(values, weights):
    """The distinct values ascending, float64, and the weight of each; values without weight are left out."""
    if weights is None:
        values = np.sort(values)
        first = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
        return values[first].astype(np.float64), np.diff(first, append=len(values)).astype(np.float64)
    present = weights > 0
    values, weights = values[present], weights[present]
    order = np.argsort(values, kind="stable")
    values, weights = values[order], weights[order] * _power_of_two(weights.max())
    first = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    return values[first].astype(np.float64), np.add.reduceat(weights, first)


def _power_of_two(largest):
    """The power of two that brings `largest` into [0.5, 1): a scaling without rounding."""
    return np.ldexp(1.0, -int(np.frexp(largest)[1]))


def _optimal_codebook(values, weights, n_codewords):
    """The means (n_codewords,) of the best cells of ascending values with weights."""
    from vqcore.kernels.sequential import cell_means, running_sums

    # Near the middle the sums are smallest; the shift and the scaling lose nothing.
    pivot = float(values[len(values) // 2])
    scale = float(_power_of_two(max(pivot - values[0], values[-1] - pivot)))
    sums = running_sums(values, weights, pivot, scale)
    return cell_means(sums, _best_path(sums, n_codewords).cuts, pivot, scale)


def _best_path(sums, n_cells):
    """The cells of least squared error among all that are `n_cells`."""
    from vqcore.kernels.sequential import cheapest_cells, path_error

    n = len(sums) - 1
    one_cell = np.array([0, n])
    few = _Path(one_cell, path_error(sums, one_cell), np.inf)
    many = _Path(np.arange(n + 1), 0.0, 0.0)
    if n_cells in (1, n):
        return few if n_cells == 1 else many
    price, by_slope = _first_price(sums, n_cells, few.error), False
    for step in itertools.count():
        cuts = cheapest_cells(sums, price)
        path = _Path(cuts, path_error(sums, cuts), price)
        if path.n_cells == n_cells:
            return path
        before = (few.n_cells, many.n_cells)
        if few.n_cells <= path.n_cells < n_cells:
            few = path
        elif n_cells < path.n_cells <= many.n_cells:
            many = path
        joined = _join(few, many, n_cells)
        joined = _Path(joined, path_error(sums, joined), price)
        # Any n_cells cells, with their price, cost at least as much as the cheapest cells.
        bound = path.error + price * (path.n_cells - n_cells)
        # No cells strictly between two paths are cheaper at the price of their slope: only rounding is left.
        stalled = by_slope and before == (few.n_cells, many.n_cells)
        if joined.error - bound <= _TOLERANCE * joined.error or stalled:
            return joined
        # Guesses arrive soonest, slopes arrive surely.
        by_slope = step % 3 == 2
        price = _slope(few, many) if by_slope else _guess(few, many, path, n_cells)


def _first_price(sums, n_cells, error_of_one):
    """A price at which the cheapest cells are about `n_cells`: found on every eighth cut, or by Zador's law."""
    n = len(sums) - 1
    if n >= _STRIDE * _CUTS_PER_CODEWORD * n_cells:
        coarse = np.concatenate([sums[:-1:_STRIDE], sums[-1:]])
        return _best_path(coarse, n_cells).price
    # error(k) = c / k^2 falls by 2 c / k^3 per cell; c = 2.7 * error(1) for the normal law.
    return 5.4 * error_of_one / n_cells**3


def _slope(few, many):
    """The price at which both paths cost the same: if they are not the cheapest, one between them is."""
    return (few.error - many.error) / (many.n_cells - few.n_cells)


def _guess(few, many, path, n_cells):
    """The next price, as if it were a power of the number of cells: between both paths, or going on from the last."""
    if np.isfinite(few.price) and many.price > 0:
        share = np.log(n_cells / few.n_cells) / np.log(many.n_cells / few.n_cells)
        return few.price * (many.price / few.price) ** share
    return path.price * (path.n_cells / n_cells) ** 3


def _join(few, many, n_cells):
    """Cuts of `n_cells` cells: those of `few` up to a cell that holds one of `many`, then those of `many`.

    Where both paths are the cheapest at one price, so is the joined one (quadrangle inequality).
    """
    ahead = many.n_cells - n_cells
    meets = few.cuts[1:] >= many.cuts[ahead + 1 : ahead + 1 + few.n_cells]
    cell = int(np.argmax(meets))
    return np.concatenate([few.cuts[: cell + 1], many.cuts[cell + ahead + 1 :]])


def _measured(table, points, codebook, sample_weight):
    """The Fit of a codebook that took no steps: codes, weights and distortion are those of this codebook."""
    codes, sq_dists = table.assign(points, codebook)
    if sample_weight is not None:
        sample_weight = sample_weight * float(_power_of_two(float(sample_weight.max())))
    weights, distortion = cell_shares(table, codes, sq_dists, len(codebook), sample_weight)
    codebook, weights = table.from_host(codebook, points), table.from_host(weights, points)
    return Fit(codebook, codes, weights, distortion, (codebook,), (distortion,), n_steps=0, converged=True)
