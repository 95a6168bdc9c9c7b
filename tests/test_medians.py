"""Medians and medoids: what they minimise, against brute force, the weighted median and exact searches."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import vqcore as vq
from libraries import LIBRARIES, to_library, to_numpy

DISTANCES = {
    "manhattan": lambda a, b: np.abs(a - b).sum(-1),
    "euclidean": lambda a, b: np.sqrt(((a - b) ** 2).sum(-1)),
    "sqeuclidean": lambda a, b: ((a - b) ** 2).sum(-1),
}


def loss(points, codebook, metric, weights=None):
    """Mean distance to the nearest codeword, from the full table of distances."""
    return np.average(DISTANCES[metric](points[:, None], codebook[None]).min(axis=1), weights=weights)


def drawn(seed, n=60, dim=2):
    return np.random.default_rng(seed).standard_normal((n, dim)) ** 3


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("seed", range(5))
def test_medians_are_stationary_and_never_rise(seed, library):
    points = drawn(seed, 300, 3)
    fit = vq.fit_medians(to_library(points, library), 7, seed=seed)
    codebook, codes = to_numpy(fit.codebook), to_numpy(fit.codes)
    assert fit.converged and fit.distortion == pytest.approx(loss(points, codebook, "manhattan"), rel=1e-14)
    assert np.all(np.diff(fit.distortions) <= 1e-15 * fit.distortions[0])
    assert np.array_equal(codes, DISTANCES["manhattan"](points[:, None], codebook[None]).argmin(axis=1))
    for code in range(7):
        # No other place of this codeword serves its cell better: scipy's and numpy's median agree on the loss.
        cell = points[codes == code]
        best = np.abs(cell - np.median(cell, axis=0)).sum()
        assert np.abs(cell - codebook[code]).sum() == pytest.approx(best, rel=1e-12)
    assert np.allclose(to_numpy(fit.weights), np.bincount(codes, minlength=7) / 300)


def test_one_median_is_the_median_and_the_mean_is_worse():
    points = np.array([0.0, 1.0, 2.0, 3.0, 100.0])
    fit = vq.fit_medians(points, 1)
    assert fit.codebook.tolist() == [2.0]
    assert fit.distortion == pytest.approx(np.abs(points - 2).mean())
    assert fit.distortion < np.abs(points - points.mean()).mean()


@pytest.mark.parametrize("fitted", [vq.fit_medians, vq.fit_medoids])
def test_whole_weights_are_copies(fitted):
    points, weights = drawn(3, 40), np.random.default_rng(0).integers(0, 4, 40)
    copies = np.repeat(points, weights, axis=0)
    start = points[weights > 0][:3]
    if fitted is vq.fit_medoids:
        weighted = fitted(points, 3, "manhattan", start=np.flatnonzero(weights)[:3], sample_weight=weights)
        first = [int((copies == point).all(axis=1).argmax()) for point in start]
        copied = fitted(copies, 3, "manhattan", start=np.array(first))
    else:
        weighted, copied = fitted(points, 3, start, sample_weight=weights), fitted(copies, 3, start)
    assert np.array_equal(weighted.codebook, copied.codebook)
    assert weighted.distortion == pytest.approx(copied.distortion, rel=1e-12)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("metric", DISTANCES)
@pytest.mark.parametrize("seed", range(4))
def test_no_exchange_of_a_medoid_is_better(seed, metric, library):
    points = drawn(seed)
    fit = vq.fit_medoids(to_library(points, library), 4, metric, seed=seed)
    codebook = to_numpy(fit.codebook)
    assert fit.converged and fit.distortion == pytest.approx(loss(points, codebook, metric), rel=1e-12)
    assert all((points == codeword).all(axis=1).any() for codeword in codebook)
    assert np.all(np.diff(fit.distortions) < 0)
    for code, point in itertools.product(range(4), points):
        exchanged = codebook.copy()
        exchanged[code] = point
        assert loss(points, exchanged, metric) >= fit.distortion * (1 - 1e-12)


@pytest.mark.parametrize("metric", DISTANCES)
def test_one_medoid_is_the_best_point(metric):
    points = drawn(9)
    best = min(points, key=lambda point: DISTANCES[metric](points, point).sum())
    assert np.array_equal(vq.fit_medoids(points, 1, metric).codebook[0], best)


def test_medoids_find_the_best_pair():
    """Some start leads to the best of all pairs, and no start goes below it."""
    points = drawn(1, 25)
    best = min(loss(points, points[list(pair)], "euclidean") for pair in itertools.combinations(range(25), 2))
    found = [vq.fit_medoids(points, 2, seed=seed).distortion for seed in range(10)]
    assert min(found) == pytest.approx(best, rel=1e-12)


def test_far_from_the_origin_and_in_float32():
    points = (drawn(2) + 1e6).astype(np.float32)
    assert np.array_equal(
        vq.fit_medians(points, 5).codes, vq.fit_medians(points.astype(np.float64) - 1e6, 5).codes
    )


@pytest.mark.parametrize("fitted", [vq.fit_medians, vq.fit_medoids])
def test_one_dimension_ascends_and_shapes_are_kept(fitted):
    fit = fitted(drawn(5, 100, 1)[:, 0], 6)
    assert fit.codebook.shape == (6,) and np.all(np.diff(fit.codebook) > 0)
    assert np.array_equal(np.bincount(fit.codes, minlength=6) / 100, fit.weights)
    same = fitted(torch.tensor(drawn(5, 100, 1)), 6)
    assert same.codebook.shape == (6, 1) and same.codebook.dtype == torch.float64
    assert np.array_equal(same.codebook[:, 0].numpy(), fit.codebook)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_crowded_points(data):
    """Few distinct places, any start: all codewords get a place of their own, or a sentence says why not."""
    places = data.draw(st.integers(1, 6))
    points = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, places, (30, 1)).astype(float)
    k, start = data.draw(st.integers(1, 6)), data.draw(st.sampled_from(["k-means++", "random"]))
    distinct = len(np.unique(points))
    for fitted in (vq.fit_medians, vq.fit_medoids):
        if k > distinct:
            with pytest.raises(vq.InputError, match=f"only {distinct} distinct"):
                fitted(points, k, start=start)
        else:
            assert len(np.unique(fitted(points, k, start=start).codebook)) == k


def test_what_is_refused():
    points = drawn(0)
    for call, words in [
        (lambda: vq.fit_medoids(points, 3, "cosine"), "metric='cosine'"),
        (lambda: vq.fit_medoids(points, 3, start=np.array([1, 1, 2])), "distinct positions"),
        (lambda: vq.fit_medoids(points, 3, start=np.array([1, 2, 60])), "start reach"),
        (lambda: vq.fit_medians(points, 3, start=points[:2]), "start holds 2"),
        (lambda: vq.fit_medians(points, 3, n_steps=-1), "n_steps"),
        (lambda: vq.fit_medians(points, 3, sample_weight=-np.ones(60)), "sample_weight"),
    ]:
        with pytest.raises(vq.InputError, match=words):
            call()
