"""Which points does a codeword speak for? The cells of a codebook: intervals, polygons, and what they hold.

A point on an edge belongs to the codeword of the lowest index, as in `assign`: intervals are closed on
the right, and a codeword that repeats an earlier one has an empty cell.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from vqcore import checks
from vqcore.coding import edges_between
from vqcore.errors import InputError

# A vertex this close to a bisector, relative to the lengths it was computed from, lies on it.
ON_THE_EDGE = 16 * np.finfo(np.float64).eps


@dataclass(frozen=True)
class Cells:
    """What a codebook does to a law or to points, cell by cell.

    Attributes:
        edges: (n_codewords - 1,) edges between the intervals of a one-dimensional codebook; None in more dimensions.
        weights: (n_codewords,) probability of every cell; sums to 1.
        means: mean of every cell, shaped like the codebook; an empty cell keeps its codeword.
        distortion: mean of the squared distance to the nearest codeword.
    """

    edges: Any
    weights: np.ndarray
    means: np.ndarray
    distortion: float


def cells(source, codebook):
    """Weights, means and distortion of the cells of a codebook, in closed form for a law, counted for points.

    Args:
        source: a law of `vqcore.sources`, or points (n,) or (n, dim) of any array library.
        codebook: (n_codewords,) ascending for a law or one-dimensional points, else (n_codewords, dim).

    Raises:
        InputError: a one-dimensional codebook that does not ascend, or one that does not fit the source.
    """
    if callable(getattr(source, "interval_moments", None)):
        return _cells_of_law(source, _as_ascending(codebook))
    table, points = checks.as_points(source)
    codebook = checks.as_codebook(codebook, points)
    edges = interior_edges(codebook) if codebook.ndim == 1 else None
    codes, sq_dists = table.assign(points, codebook)
    sums, counts = table.accumulate(points, codes, len(codebook))
    owned = counts > 0
    means = codebook.copy()
    means[owned] = (sums[owned].T / counts[owned]).T
    sq_errors, _ = table.accumulate(sq_dists, codes, len(codebook))
    edges, weights, means = (
        None if host is None else table.from_host(host, points) for host in (edges, counts / counts.sum(), means)
    )
    return Cells(edges, weights, means, float(sq_errors.sum() / counts.sum()))


def interior_edges(codebook):
    """Edges (n_codewords - 1,) between the intervals: midpoints, shared by all copies of a repeated codeword."""
    return edges_between(_as_ascending(codebook))


def intervals(codebook, low=-math.inf, high=math.inf):
    """Edges (n_codewords + 1,) of the intervals, both ends included, clipped to [low, high]."""
    if not low < high:
        raise InputError(f"low={low!r} and high={high!r}: low must be below high")
    return np.concatenate([[low], np.clip(interior_edges(codebook), low, high), [high]])


def polygons(codebook, box):
    """One counter-clockwise polygon (n_vertices, 2) per codeword: its cell, clipped to a box.

    The box is cut by the bisectors towards the other codewords, nearest first; a codeword further off
    than twice the farthest vertex cannot cut any more, so most cells look at a dozen neighbours.

    Args:
        codebook: (n_codewords, 2); codewords may lie outside the box, on one line, or repeat.
        box: (x_low, x_high, y_low, y_high).

    Returns:
        A list of arrays; (0, 2) where the cell misses the box or its codeword repeats an earlier one.
    """
    corners = _corners(box)
    codebook = checks.as_table(codebook, "codebook", (None, 2))
    first_copy = np.zeros(len(codebook), dtype=bool)
    first_copy[np.unique(codebook, axis=0, return_index=True)[1]] = True
    # A repeated codeword cuts nothing and owns nothing.
    distinct = codebook[first_copy]
    found = iter(_cut(corners, codeword, distinct) for codeword in distinct)
    return [next(found) if first else np.empty((0, 2)) for first in first_copy]


def areas(shapes):
    """Area (n_polygons,) of each polygon, by the shoelace formula; positive for counter-clockwise."""
    return np.array([_area_and_centroid(shape)[0] for shape in shapes])


def centroids(shapes):
    """Centroid (n_polygons, 2) of each polygon under the uniform law; NaN where the area is zero."""
    return np.array([_area_and_centroid(shape)[1] for shape in shapes]).reshape(-1, 2)


def normal_moments(shapes):
    """Mass (k,), first moment (k, 2) and mean squared norm (k,) that polygons hold of the 2-D standard normal.

    Closed form, a sum over edges, absolute accuracy about 1e-15. An edge at signed distance h from the
    origin, reaching from s to t along its line, spans with the origin a mass of (angle spanned) / 2 pi minus
    T(h, t/h) - T(h, s/h), with Owen's T (Owen 1956, "Tables for computing bivariate normal probabilities");
    the moments follow from the divergence theorem, because grad(density) = -x density.
    """
    moments = [_normal_moments(shape) for shape in shapes]
    mass, first, second = zip(*moments)
    return np.array(mass), np.array(first), np.array(second)


def normal_cells(codebook):
    """Cells of a codebook (n_codewords, 2) under the 2-D standard normal, exact.

    Cells are clipped 40 standard deviations away, where no mass is left in float64. The mean of a cell
    of mass below 1e-12 is its codeword: what is known of it is mostly rounding.
    """
    codebook = checks.as_table(codebook, "codebook", (None, 2))
    mass, first, second = normal_moments(polygons(codebook, (-40.0, 40.0, -40.0, 40.0)))
    means = np.where((mass > 1e-12)[:, None], first / np.maximum(mass, 1e-12)[:, None], codebook)
    sq_errors = second - 2 * (first * codebook).sum(axis=1) + (codebook**2).sum(axis=1) * mass
    return Cells(None, np.maximum(mass, 0.0), means, float(sq_errors.sum()))


def _cells_of_law(law, codebook):
    # A law need not know about repeated codewords: only the first copy owns a cell.
    distinct, first_copy = np.unique(codebook, return_index=True)
    mass, means, sq_errors = law.interval_moments(interior_edges(distinct), distinct)
    weights, all_means = np.zeros(len(codebook)), codebook.copy()
    weights[first_copy], all_means[first_copy] = mass, means
    return Cells(interior_edges(codebook), weights, all_means, float(np.sum(sq_errors)))


def _as_ascending(codebook):
    codebook = checks.as_table(codebook, "codebook", (None,))
    falls = np.flatnonzero(np.diff(codebook) < 0)
    if len(falls):
        at = falls[0]
        raise InputError(
            f"codebook falls from {codebook[at]:g} to {codebook[at + 1]:g} at position {at + 1}: "
            "one-dimensional codewords must ascend; sort them first"
        )
    return codebook


def _corners(box):
    box = checks.as_table(box, "box", (4,))
    x_low, x_high, y_low, y_high = box
    if not (x_low < x_high and y_low < y_high):
        raise InputError(f"box={tuple(box.tolist())}: it must be (x_low, x_high, y_low, y_high) with low below high")
    return np.array([[x_low, y_low], [x_high, y_low], [x_high, y_high], [x_low, y_high]])


def _cut(corners, codeword, codebook):
    """The part (n_vertices, 2) of a convex polygon that is nearest to one codeword of a codebook."""
    # Everything is relative to the codeword, so that a far-off codebook loses no digits.
    apart = codebook - codeword
    shape = (corners - codeword).tolist()
    reach = max(math.hypot(x, y) for x, y in shape)
    for x, y, gap in _nearest_first(apart, np.hypot(*apart.T)):
        if gap > 2 * reach:
            break
        smaller = _keep_below(shape, x / gap, y / gap, gap / 2, ON_THE_EDGE * max(reach, gap))
        if smaller is not shape:
            shape = smaller
            if not shape:
                break
            reach = max(math.hypot(x, y) for x, y in shape)
    return np.array(shape).reshape(-1, 2) + codeword


def _nearest_first(apart, gaps):
    """The vectors to the other codewords with their lengths, ascending; sorted in growing portions."""
    done, size = 1, 4  # the first in order is the codeword itself
    while done < len(gaps):
        size = min(8 * size, len(gaps))
        nearest = np.argpartition(gaps, size - 1)[:size] if size < len(gaps) else np.arange(size)
        order = nearest[np.argsort(gaps[nearest], kind="stable")][done:]
        yield from zip(*apart[order].T.tolist(), gaps[order].tolist())
        done = size


def _keep_below(shape, x_normal, y_normal, height, slack):
    """The vertices of a convex polygon on the near side of the line normal . v = height; itself if all are."""
    above = [x * x_normal + y * y_normal - height for x, y in shape]
    if max(above) <= slack:
        return shape
    kept = []
    for i, (x, y) in enumerate(shape):
        here, before = above[i], above[i - 1]
        if (here > slack) != (before > slack) and abs(before) > slack and abs(here) > slack:
            x_before, y_before = shape[i - 1]
            share = before / (before - here)
            kept.append([x_before + share * (x - x_before), y_before + share * (y - y_before)])
        if here <= slack:
            kept.append([x, y])
    # What touches the half-plane in a point or along an edge holds no area.
    return kept if len(kept) > 2 and min(above) < -slack else []


def _area_and_centroid(shape):
    if len(shape) < 3:
        return 0.0, np.full(2, np.nan)
    relative = shape - shape[0]
    following = np.roll(relative, -1, axis=0)
    twice = relative[:, 0] * following[:, 1] - relative[:, 1] * following[:, 0]
    area = twice.sum() / 2
    if area == 0:
        return 0.0, np.full(2, np.nan)
    return area, shape[0] + ((relative + following) * twice[:, None]).sum(axis=0) / (6 * area)


def _normal_moments(shape):
    from scipy.special import ndtr, owens_t

    if len(shape) < 3:
        return 0.0, np.zeros(2), 0.0
    along = np.roll(shape, -1, axis=0) - shape
    lengths = np.hypot(*along.T)
    shape, along, lengths = shape[lengths > 0], along[lengths > 0], lengths[lengths > 0]
    along = along / lengths[:, None]
    normal = np.stack([along[:, 1], -along[:, 0]], axis=1)
    height = (shape * normal).sum(axis=1)
    start = (shape * along).sum(axis=1)
    end = start + lengths
    # A line through the origin spans no triangle: any height that keeps the division finite gives 0.
    safe = np.where(height == 0, 1.0, height)
    angle = np.arctan(end / safe) - np.arctan(start / safe)
    wedge = angle / (2 * np.pi) - owens_t(safe, end / safe) + owens_t(safe, start / safe)
    mass = wedge[height != 0].sum()
    on_edge = np.exp(-(height**2) / 2) / math.sqrt(2 * np.pi) * (ndtr(end) - ndtr(start))
    return mass, -(normal * on_edge[:, None]).sum(axis=0), 2 * mass - (height * on_edge).sum()
