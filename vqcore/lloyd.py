"""Lloyd's algorithm in any dimension: every codeword moves to the mean of its cell, until none moves.

Lloyd 1982, "Least squares quantization in PCM". A step never raises the distortion: the mean is the best
codeword of a cell, and the nearest codeword the best code of a point.
"""

from typing import Any, NamedTuple

import numpy as np

from vqcore import checks
from vqcore.coding import edges_between
from vqcore.errors import EmptyCellError, InputError
from vqcore.fit import Fit
from vqcore.kernels import passes
from vqcore.progress import progress_bar

STARTS = ("k-means++", "random")
POLICIES = ("split", "farthest", "drop", "keep", "error")
NOBODY = np.empty(0, np.int64)


def fit_lloyd(
    points, n_codewords, start="k-means++", n_steps=100, tol=0.0, *,
    empty="split", sample_weight=None, seed=0, on_step=None, progress=None,
):  # fmt: skip
    """A codebook (n_codewords, dim) by Lloyd's algorithm, with every step on the way.

    One-dimensional points are sorted once; a step then costs O(n_codewords log n), whatever n.

    Args:
        points: (n, dim) or (n,), numpy, torch or dask. A dask array is read once for every step, and for every codeword
            of a "k-means++" start; `codes` are then a dask array that is computed when asked for.
        start: "k-means++" (Arthur and Vassilvitskii 2007), "random" (drawn without replacement), or the codewords themselves.
        n_steps: steps at most.
        tol: stop when the distortion falls by less than this share; 0 stops only when nothing moves.
        empty: what happens to a codeword that nobody chooses. "split" puts it beside the mean of the cell with
            the largest error, one standard deviation away in a random direction; "farthest" puts it on the point
            farthest from its codeword; "drop" removes it; "keep" leaves it where it is; "error" raises.
        sample_weight: (n,) non-negative.
        seed: of numpy's Generator, or a Generator: the start and the directions of splits.
        on_step: called as on_step(step, codebook, distortion) with host copies, the start (step 0) included.
        progress: True or False to show or hide the progress bar; by default shown in a terminal.

    Raises:
        InputError: bad arguments, or fewer distinct points than codewords (unless they may be dropped or kept).
        EmptyCellError: an empty cell with empty="error".
    """
    table, points = checks.as_points(points, in_blocks=True)
    n_steps = checks.as_count(n_steps, "n_steps", low=0)
    tol = checks.as_real(tol, "tol", low=0.0)
    checks.as_choice(empty, "empty", POLICIES)
    sample_weight = checks.as_sample_weight(sample_weight, points)
    rng = checks.as_generator(seed)
    n_codewords = checks.as_count(
        n_codewords, "n_codewords", high=points.shape[0], hint=f"there are {points.shape[0]} points"
    )
    codebook = first_codebook(table, points, n_codewords, start, rng, empty, sample_weight)
    on_line = codebook.size == len(codebook)
    cells = (_CellsOnLine if on_line else _Cells)(table, points, sample_weight)
    codebook = np.sort(codebook, axis=0) if on_line else codebook

    state = cells.evaluate(codebook)
    story, repairs, converged = [(codebook, state.distortion)], [], False
    device = getattr(points, "device", "cpu")
    label = f"Lloyd: {n_codewords} codewords, {points.shape[0]} points, seed {seed}, {device}"
    with progress_bar(n_steps, label, progress) as bar:
        for step in range(n_steps + 1):
            if on_step is not None:
                on_step(step, story[-1][0].copy(), story[-1][1])
            if converged or step == n_steps:
                break
            before, (codebook, state, n_repairs) = codebook, _step(cells, codebook, state, empty, rng)
            if n_repairs == 0 and np.array_equal(before, codebook):
                converged = True
                break
            story.append((codebook, state.distortion))
            repairs.append(n_repairs)
            converged = tol > 0 and n_repairs == 0 and story[-2][1] - state.distortion <= tol * story[-2][1]
            bar.update()
    return _finish(table, points, sample_weight, story, state, repairs, converged)


class _State(NamedTuple):
    """The cells of one codebook: mass, mean and squared error (tables), codes and sq_dists where they exist."""

    mass: Any
    means: Any
    sq_errors: Any
    distortion: float
    codes: Any = None
    sq_dists: Any = None


class _Cells:
    """Points of several dimensions, each assigned anew unless its code cannot have changed."""

    def __init__(self, table, points, sample_weight):
        self.table, self.points, self.sample_weight = table, points, sample_weight
        self.follow = passes.follow(table, points, sample_weight)

    def evaluate(self, codebook):
        codes, sq_dists, sums, mass, sq_errors = self.follow(codebook)
        # A codeword that all its points lie on stays: a rounded mean could only be worse.
        means, moves = codebook.copy(), sq_errors > 0
        means[moves] = sums[moves] / mass[moves, None]
        return _State(mass, means, sq_errors, float(sq_errors.sum() / mass.sum()), codes, sq_dists)

    def sq_dists(self, state, codebook):
        return state.sq_dists


class _CellsOnLine:
    """One dimension: cells are intervals of the sorted points, known by their ends."""

    def __init__(self, table, points, sample_weight):
        self.table, self.points, self.sample_weight = table, points, sample_weight
        self.ordered = table.sort(points.reshape(-1), sample_weight)

    def evaluate(self, codebook):
        ascending = codebook.reshape(-1)
        mass, means, sq_errors = self.table.interval_moments(self.ordered, edges_between(ascending), ascending)
        means = np.where(sq_errors > 0, means, ascending)
        return _State(mass, means.reshape(codebook.shape), sq_errors, float(sq_errors.sum() / mass.sum()))

    def sq_dists(self, state, codebook):
        return self.table.assign(self.points, codebook)[1]


def _step(cells, codebook, state, empty, rng):
    """The means of the cells, empty cells repaired by the policy; the state they make; how many repairs it took."""
    moved, n_repairs, policy = state.means, 0, empty
    vacant = _vacant(state, empty)
    if len(vacant):
        moved = _repair(cells, state, codebook, moved, vacant, policy, rng)
        n_repairs, policy = len(vacant), "farthest" if policy == "split" else policy
    while True:
        moved = _ordered(moved)
        after = cells.evaluate(moved)
        vacant = _vacant(after, empty)
        if len(vacant) == 0:
            return moved, after, n_repairs
        # Within the step, so that no state but the start has an empty cell. A split can miss every point; a
        # codeword on the farthest point owns at least that point.
        moved = _repair(cells, after, moved, moved, vacant, policy, rng)
        n_repairs, policy = n_repairs + len(vacant), "farthest" if policy == "split" else policy


def _vacant(state, empty):
    """The codewords to repair: those that nobody chooses, unless they may keep their places."""
    if state.mass.all():
        return NOBODY
    vacant = np.flatnonzero(state.mass == 0)
    if empty == "error":
        raise EmptyCellError(
            f"{len(vacant)} of {len(state.mass)} cells are empty (codewords {vacant[:8].tolist()}): pass another "
            f"start or seed, or empty='split', 'farthest', 'drop' or 'keep'"
        )
    return NOBODY if empty == "keep" else vacant


def _repair(cells, state, codebook, means, vacant, policy, rng):
    """The means, with vacant codewords dropped, or moved to where they take error away; no other is disturbed."""
    if policy == "drop":
        return np.delete(means, vacant, axis=0)
    if not state.sq_errors.max() > 0:
        distinct = int((state.mass > 0).sum())
        raise InputError(_too_few(len(means), distinct))
    repaired = means.copy()
    if policy == "farthest":
        places = _farthest(cells, cells.sq_dists(state, codebook), len(vacant))
        if len(places) == 0:
            raise InputError(
                f"n_codewords={len(means)}: the points lie so close together, for their size, that float64 cannot "
                f"tell as many codewords apart; ask for fewer, or pass empty='drop' or 'keep'"
            )
        repaired[vacant[: len(places)]] = places
        return repaired
    sq_errors, dim = state.sq_errors.copy(), means[0].size
    spread = np.sqrt(state.sq_errors / np.maximum(state.mass, np.finfo(float).tiny) / dim)
    for code in vacant:
        donor = int(sq_errors.argmax())
        direction = rng.standard_normal(means.shape[1:])
        repaired[code] = means[donor] + spread[donor] * direction / np.linalg.norm(direction)
        # A cell that was split in two is left with about half its error.
        sq_errors[donor] /= 2
    return repaired


def _farthest(cells, sq_dists, wanted):
    """At most `wanted` distinct points (m, dim), farthest from their codewords first."""
    if cells.sample_weight is not None:
        sq_dists = sq_dists * (cells.sample_weight > 0)
    far, sq_dists = passes.farthest(cells.table, sq_dists, wanted)
    places = _rows(cells.table, cells.points, far[sq_dists > 0])
    _, first = np.unique(places, axis=0, return_index=True)
    return places[np.sort(first)][:wanted]


def _too_few(n_codewords, distinct):
    return (
        f"n_codewords={n_codewords} but only {distinct} distinct points: ask for at most {distinct}, "
        f"or pass empty='drop' or 'keep'"
    )


def _ordered(codebook):
    """One-dimensional codewords ascend; others stay in their places."""
    if codebook.size > len(codebook):
        return codebook
    codebook = codebook.copy()
    codebook.sort(axis=0)
    return codebook


def first_codebook(table, points, n_codewords, start, rng, empty, sample_weight=None):
    """The codebook that a fit starts from, as a float64 table of the points' shape."""
    if not isinstance(start, str):
        codebook = checks.as_codebook(start, points, "start")
        if len(codebook) != n_codewords:
            raise InputError(f"start holds {len(codebook)} codewords, but n_codewords={n_codewords}")
        return codebook
    checks.as_choice(start, "start", STARTS)
    if start == "random":
        alive = n_alive = points.shape[0]
        if sample_weight is not None:
            alive = np.flatnonzero(table.to_host(sample_weight) > 0)
            n_alive = len(alive)
        if n_alive < n_codewords:
            raise InputError(f"n_codewords={n_codewords} but only {n_alive} points with a positive weight")
        chosen = rng.choice(alive, n_codewords, replace=False)
        return _rows(table, points, chosen)
    return _start_far_apart(table, points, n_codewords, sample_weight, rng, empty)


def _start_far_apart(table, points, n_codewords, sample_weight, rng, empty):
    """k-means++: each codeword is a point drawn with probability proportional to its squared distance so far."""
    uniforms = rng.random(n_codewords)
    if sample_weight is None:
        codebook = _rows(table, points, np.array([int(uniforms[0] * points.shape[0])]))
    else:
        codebook = _rows(table, points, table.draw(sample_weight, uniforms[:1]))
    sq_dists = table.assign(points, codebook)[1]
    for uniform in uniforms[1:]:
        share = sq_dists if sample_weight is None else sq_dists * sample_weight
        drawn = table.draw(share, [uniform])
        if not table.to_host(share[drawn])[0] > 0:
            # Every point lies on a codeword already.
            if empty == "drop":
                return codebook
            if empty == "keep":
                # Copies of a codeword own no points: the lower index has them all.
                return np.concatenate([codebook, np.repeat(codebook[:1], n_codewords - len(codebook), axis=0)])
            raise InputError(_too_few(n_codewords, len(codebook)))
        codeword = _rows(table, points, drawn)
        codebook = np.concatenate([codebook, codeword])
        sq_dists = passes.nearer(table, points, codebook, sq_dists)
    return codebook


def _rows(table, points, ids):
    """Some points as a float64 table."""
    return np.array(table.to_host(points[ids]), dtype=np.float64)


def _finish(table, points, sample_weight, story, state, repairs, converged):
    """The fit: codes of the last codebook, and weights and distortion of those very codes."""
    codebook = story[-1][0]
    if state.codes is None:
        codes, weights, distortion = passes.shares(table, points, codebook, sample_weight)
    else:
        codes, weights, distortion = state.codes, state.mass / state.mass.sum(), state.distortion
    codebooks = tuple(table.from_host(book, points) for book, _ in story)
    return Fit(
        codebook=table.from_host(codebook.copy(), points),
        codes=codes,
        weights=table.from_host(weights, points),
        distortion=distortion,
        codebooks=codebooks,
        distortions=tuple(d for _, d in story[:-1]) + (distortion,),
        n_steps=len(repairs),
        converged=bool(converged),
        n_repairs=tuple(repairs),
    )
