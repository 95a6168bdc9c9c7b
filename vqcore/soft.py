"""Soft EM: every point is shared among all codewords, at a temperature whose cold limit is Lloyd's algorithm.

Rose, Gurewitz and Fox 1990, "Statistical mechanics and phase transitions in clustering"; Rose 1998,
"Deterministic annealing for clustering, compression, classification, regression, and related optimization
problems".
"""

import math
from dataclasses import dataclass
from importlib import import_module

import numpy as np

from vqcore import checks
from vqcore.em import far_apart, ordered, told
from vqcore.errors import InputError
from vqcore.fit import Fit
from vqcore.kernels.passes import cell_shares
from vqcore.lloyd import STARTS, fit_lloyd
from vqcore.progress import progress_bar


@dataclass(frozen=True, repr=False)
class SoftFit(Fit):
    """A Fit of shared points: `codes`, `weights` and `distortions` are those of the nearest codewords all the same.

    Attributes:
        temperature: what squared distances are divided by.
        free_energies: of each of the `codebooks`: the mean of -T log sum_j exp(-d_j^2 / T). Never rises.
    """

    temperature: float = math.nan
    free_energies: tuple = ()


def fit_soft_em(
    points, n_codewords, temperature=1.0, n_steps=50, start="k-means++", *, seed=0, on_step=None, progress=None
):  # fmt: skip
    """A codebook (n_codewords, dim) by soft EM: point x counts in cell j in proportion to exp(-|x - c_j|^2 / T).

    Every step moves each codeword to the mean of all points with these shares; it is EM for a mixture of equally
    likely normal laws of variance T / 2 in every direction. At temperature 0 it is Lloyd's algorithm, with idle
    codewords left where they are. Memory stays bounded: shares are made block by block, in float64.

    Args:
        points: (n, dim) or (n,), numpy or torch.
        temperature: T, in the unit of a squared distance; not negative.
        n_steps: steps at most; fewer if nothing moves.
        start: "k-means++", "random", or the codewords themselves.
        seed: of numpy's Generator, or a Generator.
        on_step: called as on_step(step, codebook, free_energy) with host copies, the start (step 0) included.
        progress: True or False to show or hide the progress bar; by default shown in a terminal.

    Returns:
        A SoftFit; its `free_energies` never rise, while the `distortions` of the nearest codewords may.

    Raises:
        InputError: bad arguments, or fewer distinct points than codewords.

    Source: Rose, Gurewitz and Fox 1990; Dempster, Laird and Rubin 1977 for EM.
    """
    table, points = checks.as_points(points)
    temperature = checks.as_real(temperature, "temperature", low=0.0)
    n_steps, rng = checks.as_count(n_steps, "n_steps", low=0), checks.as_generator(seed)
    n = points.shape[0]
    n_codewords = checks.as_count(n_codewords, "n_codewords", high=n, hint=f"there are {n} points")
    codebook = start
    if isinstance(start, str) and checks.as_choice(start, "start", STARTS) == "k-means++":
        codebook = far_apart(table, points, n_codewords, rng, "points")
    cold = temperature == 0
    fit = fit_lloyd(
        points, n_codewords, codebook, n_steps if cold else 0, empty="keep", seed=rng,
        on_step=on_step if cold else None, progress=progress,
    )  # fmt: skip
    if cold:
        return SoftFit(**vars(fit), temperature=temperature, free_energies=fit.distortions)
    story, converged = _soften(table, points, fit, temperature, n_steps, on_step, progress)
    codes, sq_dists = table.assign(points, story[-1][0])
    weights, distortion = cell_shares(table, codes, sq_dists, n_codewords)
    parts = told(table, points, [step[:2] for step in story[:-1]] + [(story[-1][0], distortion)], weights)
    return SoftFit(
        **parts, codes=codes, distortion=distortion, n_steps=len(story) - 1, converged=converged,
        temperature=temperature, free_energies=tuple(free_energy for _, _, free_energy in story),
    )  # fmt: skip


def cooled(points, n_codewords, temperatures, n_steps=200, *, seed=0):
    """A SoftFit per temperature, hot to cold: each starts from the codebook before, a little disturbed.

    Above the critical temperature all codewords lie at the mean; each time it falls below a critical value a
    group of codewords parts (deterministic annealing, Rose 1998). Undisturbed, codewords on one spot never part.

    Args:
        points: (n, dim) or (n,), numpy or torch.
        temperatures: falling, all positive.
        n_steps: steps at most at each temperature.
        seed: of numpy's Generator, or a Generator: the start and the disturbances.
    """
    table, points = checks.as_points(points)
    temperatures = checks.as_table(temperatures, "temperatures", (None,))
    if not temperatures.min() > 0 or (np.diff(temperatures) > 0).any():
        low, high = temperatures.min(), temperatures.max()
        raise InputError(f"temperatures from {high:g} to {low:g}: they must be positive and fall")
    rng, (mean, covariance) = checks.as_generator(seed), _moments(table, points)
    spread, fits = 1e-3 * math.sqrt(np.trace(covariance)), []
    codebook = np.repeat(mean[None], checks.as_count(n_codewords, "n_codewords", high=points.shape[0]), axis=0)
    for temperature in temperatures.tolist():
        disturbed = codebook + spread * rng.standard_normal(codebook.shape)
        start = disturbed.reshape((-1,) + tuple(points.shape[1:]))
        fits.append(fit_soft_em(points, len(codebook), temperature, n_steps, start))
        codebook = np.array(table.to_host(fits[-1].codebook), dtype=np.float64).reshape(codebook.shape)
    return fits


def critical_temperature(points):
    """Twice the largest eigenvalue of the covariance: below it, codewords at the mean are no longer stable.

    A step multiplies small differences between codewords at the mean by 2 C / T (Rose, Gurewitz and Fox 1990).
    """
    table, points = checks.as_points(points)
    return 2 * float(np.linalg.eigvalsh(_moments(table, points)[1])[-1])


def _moments(table, points):
    """Mean (dim,) and covariance (dim, dim) of points as tables."""
    rows = points.reshape(points.shape[0], -1) + table.from_host(np.zeros(1), points)  # in float64
    rows = rows - rows[:1]  # near the data, so that nothing cancels
    n, mean = len(rows), rows.sum(0) / len(rows)
    covariance = table.to_host((rows - mean).T @ (rows - mean)) / n
    return np.array(table.to_host(mean + points.reshape(n, -1)[0])), covariance


def _soften(table, points, fit, temperature, n_steps, on_step, progress):
    """Codebook, distortion and free energy step by step, and whether nothing moves any more."""
    share = _sharing(table).share
    codebook = np.array(table.to_host(fit.codebook), dtype=np.float64)
    story = []
    with progress_bar(n_steps, f"soft EM: {len(codebook)} codewords, {len(points)} points", progress) as bar:
        for step in range(n_steps + 1):
            moves, mass, distortion, free_energy = share(points, codebook, temperature)
            story.append((codebook, distortion, free_energy))
            if on_step is not None:
                on_step(step, codebook.copy(), free_energy)
            # A codeword whose shares vanish in float64 stays.
            alive = mass > np.finfo(float).tiny
            moved = codebook.copy()
            moved[alive] += (moves[alive].T / mass[alive]).T
            moved = ordered(moved)
            if np.array_equal(moved, codebook):
                return story, True
            codebook = moved
            bar.update()
    return story, False


def _sharing(table):
    """The kernel of soft EM that belongs to a table of kernels."""
    home = {"compiled": "soft", "shared": "soft_shared", "tensors": "soft_tensors"}
    return import_module("vqcore.kernels." + home[table.__name__.rpartition(".")[2]])
