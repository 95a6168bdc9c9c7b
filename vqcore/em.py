"""Hard EM on the columns of a weight matrix, in the metric of a layer's inputs if wanted.

It is what iterative product quantization of networks calls EM (Stock et al. 2020, "And the bit goes down"; Fan et
al. 2021, "Training with quantization noise"): Lloyd's algorithm, whose E-step finds the codes and whose M-step
the means. Soft EM is in `vqcore.soft`.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from vqcore import checks
from vqcore.errors import EmptyCellError, InputError
from vqcore.fit import Fit
from vqcore.kernels import passes
from vqcore.lloyd import STARTS, fit_lloyd
from vqcore.progress import progress_bar

BATCH = 4096  # columns looked at together in search of distinct ones


@dataclass(frozen=True, repr=False)
class EMFit(Fit):
    """A Fit that also tells the distortion between the half-steps. With `gram`, distances are those of its metric.

    Attributes:
        half_steps: the distortion of the start; then, for every step, once the codewords have moved (M) and once the
            codes have followed (E), empty cells repaired. Never rises; every second entry is in `distortions`.
    """

    half_steps: tuple = ()


def fit_em(
    matrix, n_codewords=256, n_steps=20, eps=1e-6, max_tentatives=30, *,
    start="random", gram=None, tol=0.0, seed=0, on_step=None, progress=None,
):  # fmt: skip
    """A codebook (n_codewords, in_features) for the columns of a weight matrix (in_features, n), by hard EM.

    Args:
        matrix: numpy, torch or dask (chunked by columns, and then without `gram`).
        n_steps: steps at most; each moves the codewords to the means of their cells, then finds the codes anew.
        eps: how far beside the mean of a divided cell an idle codeword is put, in standard deviations of that cell.
        max_tentatives: attempts per step to repair all empty cells. The first divides the cells with the largest
            errors; the others put idle codewords onto the columns farthest from theirs.
        start: "random" (distinct columns), "k-means++", or the codewords (n_codewords, in_features).
        gram: (in_features, in_features), the Gram matrix of a layer's inputs (as rows of A: A.T @ A). What is made
            small then is the error of the layer's output, (w - c).T @ gram @ (w - c) averaged over the columns w.
            All columns share this metric, so that the plain mean is still the best codeword of a cell (Stock et
            al. 2020, section 3). This is no weight per column.
        tol: stop when the distortion falls by less than this share; 0 stops only when nothing moves.
        seed: of numpy's Generator, or a Generator: the start and the directions in which cells are divided.
        on_step: called as on_step(step, codebook, distortion) with host copies, the start (step 0) included.
        progress: True or False to show or hide the progress bar; by default shown in a terminal.

    Returns:
        An EMFit; `codes` (n,) are the nearest ones in the final codebook.

    Raises:
        InputError: bad arguments, or fewer distinct columns than codewords.
        EmptyCellError: cells are still empty after `max_tentatives`; nothing is returned or changed.
    """
    instead = None if gram is None else "with gram, pass matrix.compute()"
    table, matrix = checks.as_points(matrix, "matrix", n_dims=(2,), in_blocks=gram is None, instead=instead, axis=1)
    eps = checks.as_real(eps, "eps", low=0.0, high=1.0, open_low=True)
    max_tentatives = checks.as_count(max_tentatives, "max_tentatives", low=0)
    n_steps, tol = checks.as_count(n_steps, "n_steps", low=0), checks.as_real(tol, "tol", low=0.0)
    n = matrix.shape[1]
    n_codewords = checks.as_count(n_codewords, "n_codewords", high=n, hint=f"the matrix has {n} columns")
    rng = checks.as_generator(seed)
    columns = matrix.T.reshape(-1).reshape(n, -1)  # the first reshape lays columns out one after the other
    cells = _cells(table, columns, gram)
    state = cells.evaluate(ordered(_start(cells, n_codewords, start, rng)))
    story, half_steps, repairs, converged = [(state.codebook, state.distortion)], [state.distortion], [], False
    with progress_bar(n_steps, f"EM: {n_codewords} codewords, {n} columns", progress) as bar:
        for step in range(n_steps + 1):
            if on_step is not None:
                on_step(step, story[-1][0].copy(), story[-1][1])
            if converged or step == n_steps:
                break
            before, (state, n_repairs) = state, _step(cells, state, eps, max_tentatives, rng)
            if np.array_equal(before.codebook, state.codebook):
                converged = True
                break
            story.append((state.codebook, state.distortion))
            half_steps += [before.after_move, state.distortion]
            repairs.append(n_repairs)
            converged = tol > 0 and n_repairs == 0 and before.distortion - state.distortion <= tol * before.distortion
            bar.update()
    weights = state.mass / state.mass.sum()
    return EMFit(
        **told(table, columns, story, weights), codes=state.codes, distortion=state.distortion, n_steps=len(repairs),
        converged=bool(converged), n_repairs=tuple(repairs), half_steps=tuple(half_steps),
    )  # fmt: skip


class _State(NamedTuple):
    """The cells of one codebook: mass, means, squared errors about codeword and mean (tables), codes, sq_dists."""

    codebook: Any
    mass: Any
    means: Any
    sq_errors: Any
    sq_spreads: Any
    codes: Any
    sq_dists: Any

    @property
    def distortion(self):
        return float(self.sq_errors.sum() / self.mass.sum())

    @property
    def after_move(self):
        """The distortion of the means with the codes as they are."""
        return float(self.sq_spreads.sum() / self.mass.sum())


class _Cells(NamedTuple):
    """Columns as points (n, dim), and as `seen` by the metric: multiplied by the symmetric root of the Gram matrix."""

    table: Any
    points: Any
    seen: Any
    root: Any

    def see(self, codebook):
        return codebook if self.root is None else codebook @ self.root

    def evaluate(self, codebook):
        codes, sq_dists, sums, mass, sq_errors = passes.moments(
            self.table, self.points, codebook, None, self.seen, self.see(codebook)
        )
        # A codeword that all its columns lie on stays: a rounded mean could only be worse.
        means, moves = codebook.copy(), sq_errors > 0
        means[moves] = sums[moves] / mass[moves, None]
        # Huygens: the squared error about the mean is less by the mass times the squared way to the mean.
        falls = mass * (self.see(means - codebook) ** 2).sum(axis=1)
        return _State(codebook, mass, means, sq_errors, np.maximum(sq_errors - falls, 0), codes, sq_dists)

    def rows(self, ids, seen=False):
        """Some columns as a float64 table (m, dim)."""
        return np.array(self.table.to_host((self.seen if seen else self.points)[ids]), dtype=np.float64)


def _cells(table, points, gram):
    if gram is None:
        return _Cells(table, points, points, None)
    dim = points.shape[1]
    gram = checks.as_table(gram, "gram", (dim, dim))
    values, vectors = np.linalg.eigh(gram)
    if abs(gram - gram.T).max() > 1e-6 * abs(gram).max() or values[0] < -1e-6 * values[-1] or not values[-1] > 0:
        raise InputError(
            f"gram has eigenvalues from {values[0]:g} to {values[-1]:g}: it must be symmetric, without negative "
            f"eigenvalues and not zero, as A.T @ A is"
        )
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    # In float64, to which adding a float64 zero promotes in every library.
    seen = (points + table.from_host(np.zeros(1), points)) @ table.from_host(root, points)
    return _Cells(table, points, checks.as_points(seen, "matrix under gram")[1], root)


def _step(cells, state, eps, max_tentatives, rng):
    """The means of the cells, every empty one repaired; the state they make, and how many repairs it took."""
    moved, n_repairs, tentative = state.means, 0, 0
    while True:
        vacant = np.flatnonzero(state.mass == 0)
        if len(vacant):
            if tentative == max_tentatives:
                _distinct(cells, len(moved), np.arange(len(state.codes)))
                raise EmptyCellError(
                    f"{len(vacant)} of {len(moved)} cells are empty after max_tentatives={max_tentatives} repairs "
                    f"(codewords {vacant[:8].tolist()}): allow more, or pass another start or seed"
                )
            moved = _repaired(cells, state, vacant, eps if tentative == 0 else None, rng)
            tentative, n_repairs = tentative + 1, n_repairs + len(vacant)
        state = cells.evaluate(ordered(moved))
        if state.mass.min() > 0:
            return state, n_repairs


def _repaired(cells, state, vacant, eps, rng):
    """The means, with vacant codewords beside those of the cells with the largest errors, or on far columns."""
    if not state.sq_errors.max() > 0:
        raise InputError(too_few(len(state.mass), int((state.mass > 0).sum()), "columns"))
    repaired = state.means.copy()
    if eps is None:
        places = _farthest(cells, state, len(vacant))
        repaired[vacant[: len(places)]] = places
        return repaired
    sq_spreads, dim = state.sq_spreads.copy(), repaired.shape[1]
    for code in vacant:
        donor = int(sq_spreads.argmax())
        if not sq_spreads[donor] > 0:
            break  # only the codewords were off their columns: once they have moved, the next attempt knows more
        direction = rng.standard_normal(dim)
        length = np.sqrt(state.sq_spreads[donor] / state.mass[donor]) / np.linalg.norm(cells.see(direction[None]))
        # The donor stays at its mean, so that no column is worse off.
        repaired[code] = repaired[donor] + eps * length * direction
        sq_spreads[donor] /= 2  # about what is left when a cell has been divided
    return repaired


def _farthest(cells, state, wanted):
    """At most `wanted` distinct columns (m, dim), farthest from their codewords first."""
    far, sq_dists = passes.farthest(cells.table, state.sq_dists, wanted)
    places = cells.rows(far[sq_dists > 0])
    _, first = np.unique(places, axis=0, return_index=True)
    return places[np.sort(first)][:wanted]


def _start(cells, n_codewords, start, rng):
    """The first codebook as a float64 table (n_codewords, dim)."""
    if not isinstance(start, str):
        codebook = checks.as_codebook(start, cells.points, "start")
        if len(codebook) != n_codewords:
            raise InputError(f"start holds {len(codebook)} codewords, but n_codewords={n_codewords}")
        return codebook
    if checks.as_choice(start, "start", STARTS) == "random":
        return cells.rows(_distinct(cells, n_codewords, rng.permutation(cells.points.shape[0])))
    codebook = far_apart(cells.table, cells.seen, n_codewords, rng, "columns")
    if cells.root is None:
        return codebook
    # Which columns they are: those at no distance.
    codes, sq_dists = map(cells.table.to_host, cells.table.assign(cells.seen, codebook))
    own = np.flatnonzero(sq_dists == 0)
    return cells.rows(own[np.unique(codes[own], return_index=True)[1]])


def _distinct(cells, wanted, order):
    """The first `wanted` ids in this order whose columns, as the metric sees them, all differ."""
    ids, rows = order[:0], cells.rows(order[:0], seen=True)
    for begin in range(0, len(order), max(wanted, BATCH)):
        batch = order[begin : begin + max(wanted, BATCH)]
        rows = np.concatenate([rows, cells.rows(batch, seen=True)])
        _, first = np.unique(rows, axis=0, return_index=True)
        first = np.sort(first)
        ids, rows = np.concatenate([ids, batch])[first], rows[first]
        if len(ids) >= wanted:
            return ids[:wanted]
    raise InputError(too_few(wanted, len(ids), "columns"))


def far_apart(table, points, n_codewords, rng, what):
    """A start by k-means++ as a float64 table."""
    codebook = fit_lloyd(points, n_codewords, n_steps=0, empty="drop", seed=rng).codebook
    if codebook.shape[0] < n_codewords:
        raise InputError(too_few(n_codewords, codebook.shape[0], what))
    return np.array(table.to_host(codebook), dtype=np.float64)


def too_few(n_codewords, distinct, what):
    return f"n_codewords={n_codewords} but only {distinct} distinct {what}: ask for at most {distinct}"


def ordered(codebook):
    """One-dimensional codewords ascend; others stay in their places."""
    return np.sort(codebook, axis=0) if codebook.size == len(codebook) else codebook


def told(table, points, story, weights):
    """What every fit tells of its story of codebooks and distortions, in the kind of the points."""
    return dict(
        codebook=table.from_host(story[-1][0].copy(), points),
        weights=table.from_host(weights, points),
        codebooks=tuple(table.from_host(codebook, points) for codebook, _ in story),
        distortions=tuple(distortion for _, distortion in story),
    )
