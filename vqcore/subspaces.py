"""How the codebooks of product quantization are learned: one for every part of the vectors, and a rotation before.

Jegou, Douze and Schmid 2011, "Product quantization for nearest neighbor search"; with an optimized rotation
Ge, He, Ke and Sun 2013, "Optimized product quantization".
"""

import threading
from typing import NamedTuple

import numpy as np

from vqcore.errors import InputError
from vqcore.kernels import passes
from vqcore.lloyd import first_codebook, fit_lloyd


def rotated(table, points, rotation):
    """points @ rotation in float64, since a float32 product would lose what lies far from the origin."""
    if rotation is None:
        return points
    # Adding a float64 zero promotes, in every library.
    return (points + table.from_host(np.zeros(1), points)) @ table.from_host(rotation, points)


def _part(table, points, n_subspaces, m):
    """The columns (n, width) of subspace m."""
    width = points.shape[1] // n_subspaces
    return table.to_points(points[:, m * width : (m + 1) * width])


class Plan(NamedTuple):
    """How a quantizer is to be fitted."""

    n_subspaces: int
    n_codewords: int
    start: str
    n_steps: int
    n_rotations: int
    rng: np.random.Generator


class _GivenUp(Exception):
    """Another subspace has failed."""


def fit_parts(table, points, rotation, plan, bar, codebooks=None):
    """Rotation (as given), codebooks and distortions: Lloyd's algorithm in every subspace alone, side by side."""
    turned, n_subspaces, counted = rotated(table, points, rotation), plan.n_subspaces, codebooks is None
    if codebooks is None:
        codebooks = [_first_codebook(table, _part(table, turned, n_subspaces, m), plan) for m in range(n_subspaces)]
    # A generator for each, so that no subspace waits for the directions of another one's splits.
    seeds, given_up, errors = plan.rng.integers(2**63, size=n_subspaces), threading.Event(), []

    def on_step(*_):
        if given_up.is_set():
            raise _GivenUp

    def fit(m):
        try:
            return _fit_lloyd(_part(table, turned, n_subspaces, m), plan, codebooks[m], int(seeds[m]), on_step)
        except _GivenUp:
            raise
        except BaseException as error:
            errors.append(error)
            given_up.set()
            raise
        finally:
            bar.update(counted)

    try:
        fits = passes.side_by_side(table, fit, n_subspaces, points.shape[0] * points.shape[1] * plan.n_codewords)
    except _GivenUp:
        raise errors[0] from None
    finally:
        given_up.set()  # Ctrl-C may come to this thread while it waits for others
        errors.clear()  # whose tracebacks would keep the points
    longest = max(len(fit.distortions) for fit in fits)
    # A subspace that came to rest early keeps its last distortion.
    stories = [fit.distortions + fit.distortions[-1:] * (longest - len(fit.distortions)) for fit in fits]
    books = np.stack([table.to_host(fit.codebook) for fit in fits])
    return rotation, books, tuple(float(sum(step)) for step in zip(*stories))


def _first_codebook(table, part, plan):
    try:
        return first_codebook(table, part, plan.n_codewords, plan.start, plan.rng, "split")
    except InputError:  # as below
        return first_codebook(table, part, plan.n_codewords, plan.start, plan.rng, "keep")


def _fit_lloyd(part, plan, codebook, seed, on_step):
    given = {"n_codewords": plan.n_codewords, "start": codebook, "n_steps": plan.n_steps, "seed": seed, "on_step": on_step}
    try:
        return fit_lloyd(part, **given, progress=False)
    except InputError:
        # Fewer distinct sub-vectors than codewords, a constant column for example: the rest are spare copies.
        return fit_lloyd(part, **given, empty="keep", progress=False)


def fit_rotated(table, points, plan, bar):
    """Rotation, codebooks, distortions of OPQ: codes, codebooks and rotation take turns, each the best for the rest."""
    n, n_subspaces = points.shape[0], plan.n_subspaces
    one_cell = table.from_host(np.zeros(n, np.int64), points)
    mean = table.accumulate(points, one_cell, 1)[0][0] / n
    # Codebooks absorb any shift, so the rotation is sought about the mean, where it loses no digits.
    centered = points - table.from_host(mean, points)
    covariance = table.to_host(centered.T @ centered) / n
    # Where the data has good axes already (many zeros, few values) its own beat the principal ones.
    rotations = [np.eye(len(mean)), _spread_variance(covariance, n_subspaces)]
    tried = [fit_parts(table, centered, rotation, plan, bar) for rotation in rotations]
    rotation, codebooks, distortions = min(tried, key=lambda fitted: fitted[2][-1])
    for turn in range(plan.n_rotations):
        rotation, codebooks, before = _turn(table, centered, rotation, codebooks)
        distortions += (before,) if turn else ()
        bar.update()
    rotation, codebooks, story = fit_parts(table, centered, rotation, plan, bar, codebooks)
    shift = (mean @ rotation).reshape(n_subspaces, 1, -1)
    return rotation, codebooks + shift, distortions + (story if plan.n_rotations else story[1:])


def _spread_variance(covariance, n_subspaces):
    """A rotation to start from (dim, dim): principal axes, dealt so that every part has the same product of variances.

    Source: Ge et al. 2013, section 3.2, the eigenvalue allocation that is optimal for normal laws.
    """
    variances, axes = np.linalg.eigh(covariance)
    width = len(variances) // n_subspaces
    dealt, sizes = [[] for _ in range(n_subspaces)], np.zeros(n_subspaces)
    floor = max(variances[-1], np.finfo(float).tiny) * 1e-12
    for axis in np.argsort(-variances, kind="stable"):
        open_parts = [m for m in range(n_subspaces) if len(dealt[m]) < width]
        chosen = min(open_parts, key=lambda m: sizes[m])
        dealt[chosen].append(axis)
        # Relative to the floor every logarithm is positive: no part is full of small axes before it has large ones.
        sizes[chosen] += np.log(max(variances[axis], floor) / floor)
    return axes[:, np.concatenate(dealt)]


def _turn(table, points, rotation, codebooks):
    """The best codebooks for the nearest codes, then the best rotation for both; and the distortion before."""
    n_subspaces, n_codewords, width = codebooks.shape
    codebooks, cross, distortion = codebooks.copy(), np.empty(rotation.shape), 0.0
    turned = rotated(table, points, rotation)
    for m in range(n_subspaces):
        part, columns = _part(table, turned, n_subspaces, m), slice(m * width, (m + 1) * width)
        codes, sq_dists = table.assign(part, codebooks[m])
        distortion += passes.cell_shares(table, codes, sq_dists, n_codewords)[1]
        sums, mass = table.accumulate(points, codes, n_codewords)
        filled = mass > 0
        codebooks[m, filled] = sums[filled] / mass[filled, None] @ rotation[:, columns]
        # The reconstructions are constant on cells, so points.T @ reconstructions needs the sums of the cells alone.
        cross[:, columns] = sums.T @ codebooks[m]
    return _nearest_rotation(cross, rotation), codebooks, distortion


def _nearest_rotation(cross, rotation):
    """The orthonormal matrix with the largest inner product with `cross`; of several, the nearest to `rotation`."""
    left, sizes, right = np.linalg.svd(cross)
    free = sizes <= 1e-10 * sizes[0]
    if free.any():
        # What few codewords leave open would be settled by rounding, in each library in its own way.
        turn, _, back = np.linalg.svd(left[:, free].T @ rotation @ right[free].T)
        left[:, free] = left[:, free] @ turn @ back
    return left @ right
