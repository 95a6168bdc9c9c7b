"""What algorithms ask of all points at once: made of the ten kernels, unless a table has a way of its own.

For points in memory each of these is a line or two over the kernels. Points that come in blocks (`blocks`) are read
anew by every pass, so there a question is one pass, and what comes back is small.
"""

from typing import Any, NamedTuple

import numpy as np


class Moments(NamedTuple):
    """Codes and squared distances of the points; per cell sum of the points, mass and squared error (tables)."""

    codes: Any
    sq_dists: Any
    sums: Any
    mass: Any
    sq_errors: Any


def bounded(table, array, check, axis=0):
    """The array, once check(low, high) has passed its extent: now, or in every block when that is computed.

    Args:
        axis: along which the points are counted: blocks are merged until each holds whole points.
    """
    if hasattr(table, "bounded"):
        return table.bounded(array, check, axis)
    if np.prod(array.shape):
        check(*table.extent(array))
    return array


def beside(table, array, weights_table, weights):
    """Weights (n,) of any library in float64: on the host, or in blocks as those of the array."""
    if hasattr(table, "beside"):
        return table.beside(array, weights if weights_table is table else weights_table.to_host(weights))
    return np.array(weights_table.to_host(weights), dtype=np.float64)


def moments(table, points, codebook, sample_weight=None, seen=None, seen_codebook=None):
    """The Moments of the cells of a codebook.

    Args:
        seen, seen_codebook: points and codebook as a metric sees them, whose distances then count.
    """
    seen, seen_codebook = (points, codebook) if seen is None else (seen, seen_codebook)
    if hasattr(table, "moments"):
        return Moments(*table.moments(points, codebook, sample_weight, seen, seen_codebook))
    codes, sq_dists = table.assign(seen, seen_codebook)
    sums, mass = table.accumulate(points, codes, len(codebook), sample_weight)
    sq_errors, _ = table.accumulate(sq_dists, codes, len(codebook), sample_weight)
    return Moments(codes, sq_dists, sums, mass, sq_errors)


def follow(table, points, sample_weight=None):
    """A function from one codebook after another to the Moments of its cells, over the same points (n, dim).

    It may write the codes and squared distances of every call into the same two arrays.
    """
    if hasattr(table, "follow"):
        step = table.follow(points, sample_weight)
        return lambda codebook: Moments(*step(codebook))
    return lambda codebook: moments(table, points, codebook, sample_weight)


def shares(table, points, codebook, sample_weight=None):
    """Codes (n,) of the points, weight (n_codewords,) of every cell, and the distortion."""
    if hasattr(table, "shares"):
        codes, mass, sq_errors = table.shares(points, codebook, sample_weight)
        return codes, mass / mass.sum(), float(sq_errors.sum() / mass.sum())
    codes, sq_dists = table.assign(points, codebook)
    return codes, *cell_shares(table, codes, sq_dists, len(codebook), sample_weight)


def cell_shares(table, codes, sq_dists, n_codewords, sample_weight=None):
    """Weight (n_codewords,) of every cell, and the distortion, from codes and squared distances."""
    sq_errors, mass = table.accumulate(sq_dists, codes, n_codewords, sample_weight)
    return mass / mass.sum(), float(sq_errors.sum() / mass.sum())


def nearer(table, points, codebook, sq_dists):
    """Squared distances (n,) to the codebook, given those to all of it but the last codeword."""
    if hasattr(table, "nearest_so_far"):
        return table.nearest_so_far(points, codebook, sq_dists)
    return table.nearer(points, codebook[-1:], sq_dists)


def farthest(table, sq_dists, wanted):
    """At least `wanted` points, if there are as many, farthest first, and their squared distances; some more, as many
    points may lie on one spot.

    Distances that only rounding can have set apart count as equal, and then the lowest index comes first.
    """
    far, sq_dists = largest(table, sq_dists, 64 + 8 * wanted)
    mantissas, exponents = np.frexp(sq_dists)
    order = np.lexsort((far, -np.ldexp(np.round(np.ldexp(mantissas, 30)), exponents)))
    return far[order], sq_dists[order]


def largest(table, values, m):
    """Positions of the m largest values, the largest first, of equal ones the first; and the values themselves."""
    if hasattr(table, "largest"):
        return table.largest(values, m)
    return largest_of(np.arange(values.shape[0]), table.to_host(values), m)


def largest_of(positions, values, m):
    """`largest` among values on the host, whose positions ascend."""
    if m < len(values):
        least = np.partition(values, -m)[-m]
        above = np.flatnonzero(values > least)
        chosen = np.sort(np.concatenate([above, np.flatnonzero(values == least)[: m - len(above)]]))
        positions, values = positions[chosen], values[chosen]
    order = np.argsort(-values, kind="stable")
    return positions[order], values[order]


def side_by_side(table, work, n, operations):
    """What work(i) returns for every i below n: by several threads, if a table has any, each with kernels of its own.

    Args:
        operations: about how many of the kernels' there are in all.
    """
    if hasattr(table, "side_by_side"):
        return table.side_by_side(work, n, operations)
    return [work(i) for i in range(n)]


def row_by_row(table, function, array, *tables):
    """function(table, array, *tables), which does to every row the same: now, or to every block when it is computed."""
    if hasattr(table, "row_by_row"):
        return table.row_by_row(function, array, *tables)
    return function(table, array, *tables)
