"""Codebooks for metrics whose best codeword is not the mean: medians for the Manhattan metric, medoids for any.

The mean minimises the sum of squared distances and nothing else. The sum of Manhattan distances is smallest at the
median of every coordinate; where only the distances count, the codewords are points of the data themselves.
The loops run on the host: a tensor of another device is copied there once, and the answer goes back to it.
"""

import numpy as np

from vqcore import checks
from vqcore.errors import InputError
from vqcore.fit import Fit
from vqcore.progress import progress_bar

STARTS = ("k-means++", "random")
METRICS = ("manhattan", "euclidean", "sqeuclidean")


def fit_medians(points, n_codewords, start="k-means++", n_steps=100, *, sample_weight=None, seed=0, progress=None):
    """A codebook (n_codewords, dim) that makes the mean Manhattan distance small: k-medians.

    Every step assigns each point to the codeword nearest in the sum of absolute differences, then moves each
    codeword to the median of its cell, coordinate by coordinate; neither raises the mean distance. A codeword that
    nobody chooses goes to the point farthest from its own.

    Args:
        points: (n, dim) or (n,), numpy or torch.
        start: "k-means++" (points drawn with probability proportional to their distance so far), "random", or the
            codewords themselves.
        n_steps: steps at most; the fit stops when nothing moves.
        sample_weight: (n,) non-negative.

    Returns:
        A Fit whose codes and distortions are of the Manhattan distance, not squared.

    Raises:
        InputError: bad arguments, or fewer distinct points than codewords.

    Source: Bradley, Mangasarian and Street 1997, "Clustering via concave minimization".
    """
    data = _Data(points, n_codewords, "manhattan", sample_weight)
    n_steps, rng = checks.as_count(n_steps, "n_steps", low=0), checks.as_generator(seed)
    if isinstance(start, str):
        codebook = data.rows[_start(data, checks.as_choice(start, "start", STARTS), rng)]
    else:
        codebook = data.as_codebook(start)

    def step(codebook):
        codes, _ = data.nearest(codebook)
        moved, n_repairs = data.kernels.medians(data.rows, codes, codebook, data.weights), 0
        while len(vacant := np.flatnonzero(data.mass(data.nearest(moved)[0]) == 0)):
            moved[vacant[0]] = data.farthest(moved)
            n_repairs += 1
        return moved, n_repairs

    return data.fit(codebook, step, n_steps, f"k-medians: {n_codewords} codewords", progress)


def fit_medoids(
    points, n_codewords, metric="euclidean", start="k-means++", n_steps=100, *,
    sample_weight=None, seed=0, progress=None,
):  # fmt: skip
    """The points (n_codewords, dim) among the data that make the mean distance to the nearest of them small.

    A step is a pass over the data: every point takes the place of a medoid wherever that lowers the mean distance.
    A converged fit is a local optimum in this sense: no exchange of one codeword for one point makes it better. With
    one codeword it is the global optimum. A step takes O(n**2 dim) operations, O(n n_codewords dim) more for every
    exchange, and O(n) memory.

    Args:
        points: (n, dim) or (n,), numpy or torch.
        metric: "euclidean", "manhattan" or "sqeuclidean": the distance whose mean is minimised.
        start: "k-means++" (points drawn with probability proportional to their distance so far), "random", or the
            positions (n_codewords,) of distinct points.
        n_steps: passes at most; the fit stops when none of the points finds a place.
        sample_weight: (n,) non-negative.

    Returns:
        A Fit whose codes and distortions are of this metric; every codeword equals a point to the bit.

    Raises:
        InputError: bad arguments, or fewer distinct points than codewords.

    Source: Kaufman and Rousseeuw 1987, "Clustering by means of medoids"; Schubert and Rousseeuw 2021.
    """
    data = _Data(points, n_codewords, checks.as_choice(metric, "metric", METRICS), sample_weight)
    n_steps, rng = checks.as_count(n_steps, "n_steps", low=0), checks.as_generator(seed)
    if isinstance(start, str):
        medoids = _start(data, checks.as_choice(start, "start", STARTS), rng)
    else:
        medoids = _as_positions(start, data.n_codewords, len(data.rows))

    def step(codebook):
        nonlocal medoids
        medoids, _ = data.kernels.swap_medoids(data.rows, data.weights, medoids, data.metric)
        return data.rows[medoids], 0

    return data.fit(data.rows[medoids], step, n_steps, f"k-medoids: {n_codewords} codewords", progress)


class _Data:
    """The points as a float64 table with weights, and what every fit does with them whatever it minimises."""

    def __init__(self, points, n_codewords, metric, sample_weight):
        from vqcore.kernels import compiled, metrics

        self.table, self.points = checks.as_points(points)
        sample_weight = checks.as_sample_weight(sample_weight, self.points)
        n = self.points.shape[0]
        self.n_codewords = checks.as_count(n_codewords, "n_codewords", high=n, hint=f"there are {n} points")
        self.rows = self.table.to_host(self.points).reshape(n, -1).astype(np.float64)
        self.weights = np.ones(n) if sample_weight is None else self.table.to_host(sample_weight)
        self.metric, self.kernels, self.draw = metric, metrics, compiled.draw

    def nearest(self, codebook):
        return self.kernels.nearest(self.rows, codebook, self.metric)

    def as_codebook(self, start):
        codebook = checks.as_codebook(start, self.points, "start").reshape(-1, self.rows.shape[1])
        if len(codebook) != self.n_codewords:
            raise InputError(f"start holds {len(codebook)} codewords, but n_codewords={self.n_codewords}")
        return codebook

    def mass(self, codes):
        return np.bincount(codes, self.weights, minlength=self.n_codewords)

    def farthest(self, codebook):
        """The point of positive weight that is farthest from its codeword."""
        dists = self.nearest(codebook)[1] * (self.weights > 0)
        if not dists.max() > 0:
            raise InputError(self.too_few(len(np.unique(self.rows[self.weights > 0], axis=0))))
        return self.rows[dists.argmax()]

    def too_few(self, distinct):
        return f"n_codewords={self.n_codewords} but only {distinct} distinct points: ask for at most {distinct}"

    def fit(self, codebook, step, n_steps, label, progress):
        """Steps from this codebook until nothing moves, as a Fit."""
        story, repairs, converged = [self.ordered(codebook)], [], False
        with progress_bar(n_steps, label, progress) as bar:
            for _ in range(n_steps):
                codebook, n_repairs = step(story[-1])
                codebook = self.ordered(codebook)
                if converged := n_repairs == 0 and np.array_equal(codebook, story[-1]):
                    break
                story.append(codebook)
                repairs.append(n_repairs)
                bar.update()
        codes, _ = self.nearest(story[-1])
        mass = self.mass(codes)
        books = [self.given_back(book) for book in story]
        if converged and mass.min() == 0:
            raise InputError(self.too_few(int((mass > 0).sum())))
        distortions = [float(self.weights @ self.nearest(book)[1] / self.weights.sum()) for book in story]
        return Fit(
            codebook=self.given_back(story[-1].copy()),
            codes=self.table.from_host(codes, self.points),
            weights=self.table.from_host(mass / mass.sum(), self.points),
            distortion=distortions[-1],
            codebooks=tuple(books),
            distortions=tuple(distortions),
            n_steps=len(repairs),
            converged=bool(converged),
            n_repairs=tuple(repairs),
        )

    def ordered(self, codebook):
        """One-dimensional codewords ascend; others stay in their places."""
        return np.sort(codebook, axis=0) if self.rows.shape[1] == 1 else codebook

    def given_back(self, codebook):
        return self.table.from_host(codebook.reshape((-1,) + tuple(self.points.shape[1:])), self.points)


def _start(data, start, rng):
    """Positions of points to start from."""
    alive = np.flatnonzero(data.weights > 0)
    if len(alive) < data.n_codewords:
        raise InputError(f"n_codewords={data.n_codewords} but only {len(alive)} points with a positive weight")
    if start == "random":
        return rng.choice(alive, data.n_codewords, replace=False)
    uniforms = rng.random(data.n_codewords)
    chosen = [data.draw(data.weights, uniforms[:1])[0]]
    dists = np.full(len(data.rows), np.inf)
    for uniform in uniforms[1:]:
        dists = np.minimum(dists, data.kernels.nearest(data.rows, data.rows[chosen[-1:]], data.metric)[1])
        if not (share := dists * data.weights).max() > 0:
            raise InputError(data.too_few(len(chosen)))
        chosen.append(data.draw(share, [uniform])[0])
    return np.array(chosen)


def _as_positions(start, n_codewords, n):
    """Distinct positions (n_codewords,) of points."""
    table, ids = checks.as_codes(start, n, "start")
    ids = table.to_host(ids).astype(np.int64)
    if ids.shape != (n_codewords,) or len(np.unique(ids)) != n_codewords:
        raise InputError(f"start has shape {ids.shape}: it must be {n_codewords} distinct positions of points")
    return ids
