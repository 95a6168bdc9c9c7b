"""Competitive learning vector quantization (CLVQ): a codebook learnt from a stream, one sample or batch at a time.

The stochastic gradient of half the distortion is the vector from a sample to its codeword, so a step moves
the nearest codeword a share of the way towards the sample; the shares decrease, and their sum diverges.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from vqcore import checks
from vqcore.errors import InputError
from vqcore.fit import Fit
from vqcore.kernels.passes import cell_shares
from vqcore.lloyd import fit_lloyd
from vqcore.progress import progress_bar
from vqcore.scalar import companding
from vqcore.sources import Law
from vqcore.voronoi import cells

N_CHECKPOINTS = 100
_BLOCK_BYTES = 8 * 2**20  # of samples held at a time
_POOL = 4096  # samples from which the start is chosen


@dataclass(frozen=True, repr=False)
class OnlineFit(Fit):
    """A Fit that also knows what it believed on the way.

    `distortions` begins and ends with the distortion of the codebook on the points, or under the law; in
    between stand the running estimates, which cost nothing and lag behind a codebook that moves.

    Attributes:
        n_samples: samples seen at each of the `codebooks`, the start (0) included.
        running_weights: (n_codewords,) the companion average of "this codeword won", its latest samples counting most.
        running_distortion: the companion average of the squared distances.
    """

    n_samples: tuple = ()
    running_weights: Any = None
    running_distortion: float = math.nan


def fit_clvq(
    points_or_law, n_codewords, n_samples=None, batch=1, seed=0, *, start="k-means++", step=None, progress=None
):  # fmt: skip
    """A codebook (n_codewords, dim) by stochastic gradient: every sample draws its nearest codeword towards itself.

    Args:
        points_or_law: (n, dim) or (n,), sampled with replacement; or a law of `vqcore.sources`.
        n_samples: samples to draw; by default ten per point and at least 100,000, or a million of a law.
        batch: samples that find their codewords in the same codebook. Each of them then moves its codeword, in
            the order drawn: a larger batch is the same method with codes that are a little late.
        seed: of numpy's Generator, or a Generator: the start and the samples.
        start: "k-means++" or "random" on a few thousand samples, "companding" for a law, or the codewords.
        step: (a, b): sample n draws by the share a / (a + b n). By default a = 4 N^(1/dim), b = pi^2 N^(-2/dim),
            fit for the slowest mode of N even cells, and b at least so large that the last share is under 1 %:
            the source's pair needs 400 N^3 samples to get there in one dimension.
        progress: True or False to show or hide the progress bar; by default shown in a terminal.

    Returns:
        An OnlineFit; `n_steps` counts batches, and `converged` is False: a stream never ends by itself.

    Raises:
        InputError: bad arguments, or fewer distinct points than codewords.

    Source: Pages 2015, "Introduction to vector quantization and its applications for numerics", section on
    CLVQ and its companion parameters; the default pair (a, b) is that of montest's stochastic methods.
    """
    source = _Law(points_or_law) if isinstance(points_or_law, Law) else _Points(points_or_law)
    n_codewords = checks.as_count(n_codewords, "n_codewords", **source.limit)
    n_samples = source.n_samples if n_samples is None else checks.as_count(n_samples, "n_samples")
    batch = checks.as_count(batch, "batch")
    rng = checks.as_generator(seed)
    step = _as_step(step, n_codewords, source.dim, n_samples)
    codebook = source.start(n_codewords, start, rng)
    learner = _Learner(codebook, step, batch)
    codebooks, distortions, counts = [codebook], [source.distortion(codebook)], [0]
    with progress_bar(n_samples, f"CLVQ, {n_codewords} codewords, {n_samples} samples", progress) as bar:
        for count in _checkpoints(n_samples, batch):
            for n_drawn in _blocks(count - counts[-1], batch, source.dim):
                learner.see(source.draw(n_drawn, rng))
                bar.update(n_drawn)
            codebooks.append(learner.codebook())
            distortions.append(learner.distortion)
            counts.append(count)
    return _finish(source, learner, codebooks, distortions, counts)


class _Learner:
    """The codebook on the move with its companion averages."""

    def __init__(self, codebook, step, batch):
        self.shape, self.step, self.batch = codebook.shape, step, batch
        self.columns = np.array(codebook.reshape(len(codebook), -1).T, order="C")
        self.shares, self.running = np.zeros(len(codebook)), np.array([0.0, 1.0, 0.0])

    def see(self, samples):
        """Learn from samples (n, ...), a whole number of batches unless they are the last."""
        from vqcore.kernels.sequential import compete

        rows = samples.reshape(len(samples), -1)
        compete(rows, self.batch, self.columns, self.shares, self.running, self.step)

    def codebook(self):
        codebook = self.columns.T.reshape(self.shape).copy()
        # Codewords on a line never pass each other, but for the rounding of a step that goes all the way.
        return np.sort(codebook, axis=0) if codebook.size == len(codebook) else codebook

    # Averages that start from nothing lack the part that a start would still have; the shares know how much.
    @property
    def weights(self):
        return self.shares / self.shares.sum()

    @property
    def distortion(self):
        return float(self.running[2] / (self.running[1] * self.shares.sum()))


class _Points:
    """Samples drawn from given points with replacement."""

    def __init__(self, points):
        self.table, self.points = checks.as_points(points, "points_or_law")
        n = self.points.shape[0]
        self.dim = math.prod(self.points.shape[1:])
        self.n_samples = max(10 * n, 100_000)
        self.limit = {"high": n, "hint": f"there are {n} points"}

    def draw(self, n, rng):
        return self._rows(rng.integers(0, self.points.shape[0], n))

    def start(self, n_codewords, start, rng):
        if not isinstance(start, str):
            return _as_start(start, n_codewords, self.points)
        checks.as_choice(start, "start", ("k-means++", "random"))
        n = self.points.shape[0]
        n_pool = max(_POOL, 16 * n_codewords)
        if n > n_pool:
            pool = self._rows(np.sort(rng.choice(n, n_pool, replace=False)))
            # Without so many distinct points in the pool, all of them must do.
            if len(np.unique(pool, axis=0)) >= n_codewords:
                return _chosen(pool, n_codewords, start, rng)
        pool = self._rows(slice(None))
        m = len(np.unique(pool, axis=0))
        if m < n_codewords:
            raise InputError(f"n_codewords={n_codewords} but only {m} distinct points: ask for at most {m}")
        return _chosen(pool, n_codewords, start, rng)

    def distortion(self, codebook):
        return self.measured(codebook)[2]

    def measured(self, codebook):
        codes, sq_dists = self.table.assign(self.points, codebook)
        weights, distortion = cell_shares(self.table, codes, sq_dists, len(codebook))
        return codes, self.given(weights), distortion

    def given(self, table):
        return self.table.from_host(table, self.points)

    def _rows(self, ids):
        return np.array(self.table.to_host(self.points[ids]), dtype=np.float64)


class _Law:
    """Samples of a law of one variable."""

    n_samples, dim, limit = 1_000_000, 1, {}

    def __init__(self, law):
        self.law = law

    def draw(self, n, rng):
        return self.law.sample(n, rng)

    def start(self, n_codewords, start, rng):
        if not isinstance(start, str):
            return _as_start(start, n_codewords, np.empty(0))
        checks.as_choice(start, "start", ("k-means++", "random", "companding"))
        if start == "companding":
            return companding(self.law, n_codewords)
        return _chosen(self.law.sample(max(_POOL, 16 * n_codewords), rng), n_codewords, start, rng)

    def distortion(self, codebook):
        return cells(self.law, codebook).distortion

    def measured(self, codebook):
        measured = cells(self.law, codebook)
        return None, measured.weights, measured.distortion

    def given(self, table):
        return table


def _as_start(start, n_codewords, points):
    codebook = checks.as_codebook(start, points, "start")
    if len(codebook) != n_codewords:
        raise InputError(f"start holds {len(codebook)} codewords, but n_codewords={n_codewords}")
    return np.sort(codebook, axis=0) if codebook.size == len(codebook) else codebook


def _chosen(pool, n_codewords, start, rng):
    """Codewords among the pool, as Lloyd's algorithm would start from them."""
    return fit_lloyd(pool, n_codewords, start=start, n_steps=0, seed=rng, progress=False).codebook


def _as_step(step, n_codewords, dim, n_samples):
    if step is None:
        a = 4 * n_codewords ** (1 / dim)
        return a, max(math.pi**2 * n_codewords ** (-2 / dim), 100 * a / n_samples)
    if not isinstance(step, (tuple, list)) or len(step) != 2:
        raise InputError(f"step={step!r}: it must be a pair (a, b), the n-th share being a / (a + b n)")
    return tuple(checks.as_real(value, f"step[{i}]", low=1e-30, high=1e30) for i, value in enumerate(step))


def _checkpoints(n_samples, batch):
    """At most 99 numbers of samples, evenly spaced on a logarithmic scale; whole batches but for the last."""
    n_batches = -(-n_samples // batch)
    counts = np.unique(np.round(np.geomspace(1, n_batches, N_CHECKPOINTS - 1)).astype(np.int64)) * batch
    return [int(min(count, n_samples)) for count in counts]


def _blocks(n, batch, dim):
    """Sizes of blocks that add up to n, whole batches but for the last, and within the memory for samples."""
    size = max(1, _BLOCK_BYTES // (8 * dim * batch)) * batch
    return [min(size, n - first) for first in range(0, n, size)]


def _finish(source, learner, codebooks, distortions, counts):
    codes, weights, distortion = source.measured(codebooks[-1])
    given = tuple(source.given(codebook) for codebook in codebooks)
    return OnlineFit(
        codebook=given[-1],
        codes=codes,
        weights=weights,
        distortion=distortion,
        codebooks=given,
        distortions=(*distortions[:-1], distortion),
        n_steps=-(-counts[-1] // learner.batch),
        converged=False,
        n_samples=tuple(counts),
        running_weights=source.given(learner.weights),
        running_distortion=learner.distortion,
    )
