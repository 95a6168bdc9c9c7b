"""The one-dimensional optimum: against every partition, other libraries, and its own symmetries."""

import itertools
import tracemalloc
from fractions import Fraction

import faiss
import kmeans1d
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from sklearn.cluster import KMeans

from vqcore.errors import InputError
from vqcore.kernels.sequential import cheapest_cells, path_error, running_sums
from vqcore.optimal import fit_optimal

few_values = st.lists(st.integers(-12, 12), min_size=1, max_size=10)
few_reals = st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=10)


def exact_optimum(points, n_codewords, weights=None):
    """The least distortion in rational numbers, by the textbook recursion over the last cell."""
    weights = [1] * len(points) if weights is None else weights
    pairs = sorted((Fraction(float(p)), Fraction(float(w))) for p, w in zip(points, weights) if w > 0)
    sums = [[Fraction(0)] * 3]
    for x, w in pairs:
        sums.append([a + b for a, b in zip(sums[-1], (w, w * x, w * x * x))])

    def error(start, stop):
        w, wx, wxx = (b - a for a, b in zip(sums[start], sums[stop]))
        return wxx - wx * wx / w

    best = {stop: error(0, stop) for stop in range(1, len(pairs) + 1)}
    for _ in range(1, n_codewords):
        # A further cell never hurts, so a prefix may also stay with the cells it has.
        best = {
            stop: min([best[stop]] + [best[start] + error(start, stop) for start in range(1, stop)]) for stop in best
        }
    return float(best[len(pairs)] / sums[-1][0])


def every_partition(points, n_codewords):
    """The least distortion over all ways to give every point a code, contiguous cells or not."""
    points, best = np.asarray(points, float), np.inf
    for codes in itertools.product(range(n_codewords), repeat=len(points)):
        codes = np.array(codes)
        cells = [points[codes == code] for code in range(n_codewords)]
        best = min(best, sum(((cell - cell.mean()) ** 2).sum() for cell in cells if len(cell)) / len(points))
    return best


def assert_agrees(fit, points, sample_weight=None):
    """Codes, weights and distortion are those of the codebook, which ascends."""
    points = np.asarray(points, float)
    share = np.ones(len(points)) if sample_weight is None else np.asarray(sample_weight, float)
    share = share / share.sum()
    assert fit.codebook.dtype == np.float64 and fit.codes.dtype == np.int64 and np.all(np.diff(fit.codebook) > 0)
    sq_dists = (points[:, None] - fit.codebook) ** 2
    np.testing.assert_array_equal(fit.codes, sq_dists.argmin(axis=1))
    np.testing.assert_allclose(fit.distortion, (share * sq_dists.min(axis=1)).sum(), rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(fit.weights, np.bincount(fit.codes, share, len(fit.codebook)), rtol=1e-12)
    assert len(fit.codebooks) == len(fit.distortions) == 1 and fit.converged and fit.n_steps == 0


def test_six_points_where_lloyd_is_stuck_at_101():
    fit = fit_optimal([0, 1, 10, 11, 20, 21], 3)
    np.testing.assert_allclose(fit.codebook, [0.5, 10.5, 20.5], rtol=1e-15)
    np.testing.assert_allclose(6 * fit.distortion, 1.5, rtol=1e-15)


def test_the_example_of_the_kmeans1d_page():
    points = [4.0, 4.1, 4.2, -50, 200.2, 200.4, 200.9, 80, 100, 102]
    fit = fit_optimal(points, 4)
    assert fit.codes.tolist() == [1, 1, 1, 0, 3, 3, 3, 2, 2, 2]
    np.testing.assert_allclose(fit.codebook, [-50, 4.1, 94, 200.5], rtol=1e-14)
    np.testing.assert_allclose(10 * fit.distortion, 296.28, rtol=1e-12)
    assert_agrees(fit, points)


@pytest.mark.parametrize("seed", range(3))
def test_no_partition_is_better(seed):
    points = np.random.default_rng(seed).integers(0, 30, 7).astype(float)
    for n_codewords in range(1, min(4, len(np.unique(points))) + 1):
        best = every_partition(points, n_codewords)
        assert fit_optimal(points, n_codewords).distortion == pytest.approx(best, rel=1e-12)


@given(st.one_of(few_values, few_reals), st.integers(1, 4))
@example(list(range(10)), 4)  # equal gaps: whole ranges of the number of cells share one price
def test_equals_exact_arithmetic(points, n_codewords):
    n_codewords = min(n_codewords, len(set(points)))
    fit = fit_optimal(points, n_codewords)
    np.testing.assert_allclose(fit.distortion, exact_optimum(points, n_codewords), rtol=1e-9, atol=1e-26)
    assert_agrees(fit, points)


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng, n: rng.normal(size=n),
        lambda rng, n: np.arange(n) * 1.0,
        lambda rng, n: np.r_[rng.normal(size=n - 1), 1e8],
        lambda rng, n: 10.0 ** rng.uniform(-8, 8, n) * rng.choice([-1, 1], n),
        lambda rng, n: np.repeat(rng.normal(size=n), 5)[:n] * 1e6 + 0.1 * rng.normal(size=n),
        lambda rng, n: rng.normal(size=n) * 1e-90,
    ],
    ids=["normal", "even", "outlier", "sixteen decades", "clusters", "tiny"],
)
@pytest.mark.parametrize("weighted", [False, True])
def test_equals_exact_arithmetic_on_hard_data(draw, weighted):
    rng = np.random.default_rng(7)
    for n in (2, 5, 13, 24):
        points = draw(rng, n)
        sample_weight = 10.0 ** rng.uniform(-6, 6, n) if weighted else None
        for n_codewords in {1, 2, n // 2 + 1, max(1, n - 2)}:
            fit = fit_optimal(points, n_codewords, sample_weight=sample_weight)
            expected = exact_optimum(points, n_codewords, sample_weight)
            # 106 bits of sums over the whole range hold no more.
            np.testing.assert_allclose(fit.distortion, expected, rtol=1e-8, atol=1e-32 * np.ptp(points) ** 2)


@pytest.mark.parametrize("n, n_codewords", [(2000, 16), (1500, 200), (300, 299)])
@pytest.mark.parametrize("mean", [0.0, 1e6])
def test_equals_kmeans1d(n, n_codewords, mean):
    # kmeans1d loses its digits far from zero, so it sees the same points after an exact shift.
    points = np.random.default_rng(n).normal(mean, 1, n)
    peer = kmeans1d.cluster(points - mean, n_codewords)
    peer_distortion = ((points - mean - np.array(peer.centroids)[peer.clusters]) ** 2).mean()
    fit = fit_optimal(points, n_codewords)
    np.testing.assert_allclose(fit.distortion, peer_distortion, rtol=1e-9 if mean == 0 else 1e-6)
    assert_agrees(fit, points)


@pytest.mark.parametrize("seed", range(3))
def test_never_above_other_methods(seed):
    points = np.random.default_rng(seed).standard_t(3, 2000)
    fit = fit_optimal(points, 16)
    lloyd = KMeans(16, n_init=10, random_state=seed).fit(points[:, None])
    assert fit.distortion <= lloyd.inertia_ / 2000 * (1 + 1e-12)
    peer = faiss.Clustering1D(16)
    peer.train_exact(points.astype(np.float32)[:, None])
    codebook = faiss.vector_to_array(peer.centroids).astype(float)
    peer_distortion = ((points[:, None] - codebook) ** 2).min(axis=1).mean()
    assert peer_distortion * (1 - 1e-6) <= fit.distortion <= peer_distortion * (1 + 1e-12)


def test_a_lower_bound_proves_a_large_fit():
    # Weak duality: any n_codewords cells, each with a price, cost at least as much as the cheapest cells.
    points = np.sort(np.random.default_rng(3).lognormal(0, 1, 20_000))
    fit = fit_optimal(points, 1000)
    sums = running_sums(points, np.ones(len(points)), float(np.median(points)), 1.0)
    error = fit.distortion * len(points)

    def bound(price):
        cuts = cheapest_cells(sums, price)
        return path_error(sums, cuts) + price * (len(cuts) - 1 - 1000)

    # The bound is concave in the price and touches the error on a whole interval of prices.
    prices, tight = (error / 1000, 4 * error / 1000), {"xatol": error * 1e-9}
    best = minimize_scalar(lambda price: -bound(price), bounds=prices, method="bounded", options=tight)
    assert abs(error + best.fun) < 1e-10 * error


@given(st.lists(st.tuples(st.integers(-20, 20), st.integers(0, 4)), min_size=1, max_size=12), st.integers(1, 4))
def test_a_weight_is_a_repetition(pairs, n_codewords):
    points, sample_weight = np.array(pairs, float).T
    repeated = np.repeat(points, sample_weight.astype(int))
    if len(np.unique(repeated)) < n_codewords:
        return
    weighted = fit_optimal(points, n_codewords, sample_weight=sample_weight)
    np.testing.assert_allclose(weighted.codebook, fit_optimal(repeated, n_codewords).codebook, rtol=1e-12, atol=1e-12)
    assert_agrees(weighted, points, sample_weight)


@given(few_values, st.integers(1, 4), st.integers(-200, 200), st.integers(-(2**30), 2**30))
def test_scaling_is_exact_and_translation_moves_the_codebook(points, n_codewords, exponent, shift):
    points = np.array(points, float)
    n_codewords = min(n_codewords, len(np.unique(points)))
    fit, scaled = fit_optimal(points, n_codewords), fit_optimal(np.ldexp(points, exponent), n_codewords)
    np.testing.assert_array_equal(scaled.codebook, np.ldexp(fit.codebook, exponent))
    np.testing.assert_array_equal(scaled.codes, fit.codes)
    shifted = fit_optimal(points + shift, n_codewords)
    np.testing.assert_allclose(shifted.codebook - shift, fit.codebook, rtol=0, atol=1e-6)
    np.testing.assert_allclose(shifted.distortion, fit.distortion, rtol=1e-9, atol=1e-12)


@given(few_values, st.integers(0, 2**32))
def test_order_does_not_matter(points, seed):
    order = np.random.default_rng(seed).permutation(len(points))
    points, n_codewords = np.array(points, float), min(3, len(set(points)))
    fit, shuffled = fit_optimal(points, n_codewords), fit_optimal(points[order], n_codewords)
    np.testing.assert_array_equal(shuffled.codebook, fit.codebook)
    np.testing.assert_array_equal(shuffled.codes, fit.codes[order])


def test_more_codewords_are_never_worse_up_to_one_each():
    points = np.random.default_rng(0).normal(size=60)
    distortions = [fit_optimal(points, n_codewords).distortion for n_codewords in range(1, 61)]
    assert distortions[0] == pytest.approx(points.var(), rel=1e-13) and distortions[-1] == 0
    # The optimum is convex in the number of codewords, which is why a price finds it.
    assert np.all(np.diff(distortions) < 0) and np.all(np.diff(distortions, 2) > -1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tensors_stay_tensors_and_agree_with_numpy(dtype):
    points = np.random.default_rng(1).normal(1e4, 1, 500).astype(dtype)
    sample_weight = np.random.default_rng(2).uniform(size=500)
    fit = fit_optimal(points, 7, sample_weight=sample_weight)
    tensors = fit_optimal(torch.from_numpy(points), 7, sample_weight=torch.from_numpy(sample_weight))
    for name in ("codebook", "codes", "weights"):
        tensor = getattr(tensors, name)
        assert isinstance(tensor, torch.Tensor)
        np.testing.assert_allclose(tensor.numpy(), getattr(fit, name), rtol=1e-14)
    assert tensors.distortion == pytest.approx(fit.distortion, rel=1e-12)
    assert tensors.codebook.dtype == torch.float64 and tensors.codes.dtype == torch.int64


def test_the_points_are_left_alone():
    points = np.array([3.0, 1.0, 2.0])[::-1]
    points.flags.writeable = False
    assert_agrees(fit_optimal(points, 2), points)
    assert points.tolist() == [2.0, 1.0, 3.0]


def test_memory_does_not_grow_with_the_codewords():
    points = np.random.default_rng(0).normal(size=50_000)
    fit_optimal(points, 2)
    peaks = []
    for n_codewords in (2, 5_000):
        tracemalloc.start()
        fit_optimal(points, n_codewords)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 8 * len(points) * 8 < 40 * points.nbytes


@settings(max_examples=5)
@given(st.sampled_from([np.inf, -np.inf, np.nan]))
def test_not_finite_is_refused(value):
    with pytest.raises(InputError, match="NaN or infinity"):
        fit_optimal([0.0, value, 1.0], 2)


@pytest.mark.parametrize(
    "points, n_codewords, sample_weight, message",
    [
        ([1.0, 1.0, 2.0], 3, None, "n_codewords=3 but only 2 distinct points: ask for at most 2"),
        ([1.0, 2.0, 3.0], 3, [1, 0, 1], "only 2 distinct points"),
        ([[1.0], [2.0]], 1, None, r"shape \(2, 1\)"),
        ([], 1, None, "at least one point"),
        ([1.0, 2.0], 0, None, "n_codewords=0"),
        ([1.0, 2.0], 1.5, None, "whole number"),
        ([1.0, 2.0], True, None, "whole number"),
        ([1.0, 2.0], 1, [1.0], "sample_weight"),
        ([1.0, 2.0], 1, [1.0, -1.0], "negative"),
        ([1.0, 2.0], 1, [0.0, 0.0], "all zero"),
        (["a", "b"], 1, None, "real numbers"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(points, n_codewords, sample_weight, message):
    with pytest.raises(InputError, match=message):
        fit_optimal(points, n_codewords, sample_weight=sample_weight)
