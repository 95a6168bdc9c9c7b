"""Steps that skip what cannot have changed give what a full search gives, to the last bit, and do skip it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vqcore.kernels import compiled
from vqcore.kernels.bounds import Steps


@pytest.fixture(autouse=True, params=[0, 2**60], ids=["halves", "no halves"])
def whether_halves_pay(request, monkeypatch):
    monkeypatch.setattr("vqcore.kernels.halves.WORTH", request.param)


def searched_in_full(points, codebook, sample_weight=None):
    codes, sq_dists = compiled.assign(points, codebook)
    sums, mass = compiled.accumulate(points, codes, len(codebook), sample_weight)
    return codes, sq_dists, sums, mass, compiled.accumulate(sq_dists, codes, len(codebook), sample_weight)[0]


def assert_follows(points, codebooks, sample_weight=None):
    """Compare every step with a full search; how many points each step searched."""
    steps, counts = Steps(points, sample_weight), []
    for number, codebook in enumerate(codebooks):
        for ours, full in zip(steps.moments(codebook), searched_in_full(points, codebook, sample_weight)):
            assert np.array_equal(ours, full), number
        counts.append(steps.n_searched)
    return counts


def lloyd(points, codebook, n_steps, sample_weight=None):
    for _ in range(n_steps):
        yield codebook
        _, _, sums, mass, _ = searched_in_full(points, codebook, sample_weight)
        codebook = np.where(mass[:, None] > 0, sums / np.maximum(mass, 1e-300)[:, None], codebook)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n, dim, n_codewords", [(3000, 2, 7), (2501, 5, 64), (1000, 33, 20), (300, 200, 5), (65, 3, 1)])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_steps_of_lloyd(dtype, n, dim, n_codewords, offset):
    rng = np.random.default_rng(n)
    points = (rng.standard_normal((n, dim)) + offset).astype(dtype)
    weights = rng.random(n)
    codebook = points[:n_codewords].astype(np.float64)
    assert_follows(points, lloyd(points, codebook, 12))
    assert_follows(points, lloyd(points, codebook, 6, weights), weights)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("spread", [0.1, 3.0])
def test_points_that_wait_while_others_are_searched(dtype, spread):
    """Many blocks, wide enough for a first look in halves; a few points in each block wait for company."""
    rng = np.random.default_rng(5)
    centers = rng.standard_normal((150, 40))
    points = (centers[rng.integers(150, size=20_000)] + spread * rng.standard_normal((20_000, 40))).astype(dtype)
    counts = assert_follows(points, lloyd(points, points[:100].astype(np.float64), 7), rng.random(20_000))
    assert spread > 1 or min(counts) < 10_000


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_codewords, dim", [(100, 40), (100, 5), (1, 40), (2, 40), (64, 32)])
def test_bounds_lie_below_all_other_distances(dtype, n_codewords, dim):
    rng = np.random.default_rng(6)
    points = rng.standard_normal((700, dim)).astype(dtype)
    steps = Steps(points)
    for codebook in lloyd(points, points[:n_codewords].astype(np.float64), 4):
        codes, _, *_ = steps.moments(codebook)
        dists = np.sqrt(((points[:, None].astype(np.float64) - codebook) ** 2).sum(axis=2))
        dists[np.arange(700), codes] = np.inf
        others, bounds = dists.min(axis=1), steps.found.bounds
        assert (bounds <= others).all()
        if steps.n_searched == 700 and n_codewords > 1:
            assert (bounds > 0.9 * others).all()
    # Where all codewords are one there is no room for a bound.
    steps = Steps(np.ones((70, 33), dtype))
    steps.moments(np.ones((64, 33)))
    assert (steps.found.bounds <= 0).all()


def test_points_at_rest_are_not_searched():
    rng = np.random.default_rng(0)
    centers = 20 * rng.standard_normal((30, 8))
    points = (centers[rng.integers(30, size=20_000)] + rng.standard_normal((20_000, 8))).astype(np.float32)
    counts = assert_follows(points, lloyd(points, centers + 0.1, 8))
    assert counts[0] == 20_000
    assert max(counts[1:]) < 200


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_codewords_that_jump(dtype):
    """Repairs move a codeword across the plane; points on a lattice lie on many edges at once."""
    rng = np.random.default_rng(1)
    points = rng.integers(-6, 7, (2000, 2)).astype(dtype)
    codebook = rng.integers(-6, 7, (12, 2)).astype(np.float64)

    def books():
        book = codebook
        for _ in range(25):
            yield book
            book = book.copy()
            book[rng.integers(12)] = rng.integers(-6, 7, 2)
        yield book[:9]
        yield book[:9] / 2

    assert_follows(points, books())


@pytest.mark.parametrize("scale, outlier", [(1.0, 1e20), (1e-20, 1.0), (1e18, 1e30), (1e-15, 1e-12), (1.0, 3e38)])
def test_scores_that_leave_float32(scale, outlier):
    rng = np.random.default_rng(2)
    points = (scale * rng.standard_normal((500, 4))).astype(np.float32)
    points[7] = outlier
    near = scale * rng.standard_normal((6, 4))
    assert_follows(points, [near, near * 1.001, near * 1.002, np.concatenate([near[:5], np.full((1, 4), outlier)])])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 6), st.integers(2, 12), st.floats(0.0, 2.0))
def test_any_walk_of_the_codewords(seed, dim, n_codewords, stride):
    rng = np.random.default_rng(seed)
    points = np.round(4 * rng.standard_normal((400, dim))) / 4
    walk = rng.standard_normal((n_codewords, dim)) + stride * rng.standard_normal((8, n_codewords, dim)).cumsum(axis=0) ** 3
    assert_follows(points, np.round(8 * walk) / 8)
