"""Scores in bfloat16 only choose what is looked at closer: codes stay those of exact arithmetic, and errors within bounds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from vqcore.kernels import compiled
from vqcore.kernels.bounds import Steps
from vqcore.kernels.compiling import frozen
from vqcore.kernels.halves import RANKS, WORKS, error_of_halves, halves, room_for, search_halves
from vqcore.kernels.scores import screen
from vqcore.kernels.vectors import LANES

@pytest.fixture(autouse=True)
def few_points_are_looked_at_too(monkeypatch):
    monkeypatch.setattr("vqcore.kernels.halves.WORTH", 0)


needs_halves = pytest.mark.skipif(not WORKS, reason="this processor has no products of bfloat16")


def sq_dists_of(points, codebook):
    """All squared distances, by differences in float64."""
    return np.array([((row.astype(np.float64) - codebook) ** 2).sum(axis=1) for row in points])


def assert_exact(points, codebook):
    """The nearest codeword, wherever float64 can tell it from the next."""
    codes, sq_dists = compiled.assign(points, codebook)
    expected = sq_dists_of(points, codebook)
    np.testing.assert_allclose(sq_dists, expected.min(axis=1), rtol=1e-12)
    least, second = np.partition(expected, 1, axis=1)[:, :2].T
    clear = second > least * (1 + 1e-12)
    assert np.array_equal(codes[clear], expected.argmin(axis=1)[clear])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n, dim, n_codewords", [(700, 32, 64), (130, 33, 257), (64, 127, 100), (300, 64, 4096), (70, 40, 4100)])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_codes_are_exact(dtype, n, dim, n_codewords, offset):
    rng = np.random.default_rng(dim)
    points = (rng.standard_normal((n, dim)) + offset).astype(dtype)
    assert_exact(points, rng.standard_normal((n_codewords, dim)) + offset)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("apart", [0.0, 1e-9, 2.0**-20, 2.0**-12, 2.0**-9, 2.0**-6])
def test_codewords_that_halves_cannot_tell_apart(dtype, apart):
    """Many copies of each codeword, a hair from each other: the halves of most of them are the same."""
    rng = np.random.default_rng(0)
    codebook = np.repeat(rng.standard_normal((16, 48)), 9, axis=0)
    codebook += apart * rng.standard_normal(codebook.shape)
    rng.shuffle(codebook)
    assert_exact(rng.standard_normal((500, 48)).astype(dtype), codebook)
    # On the codewords, and half-way between two of them.
    assert_exact(codebook.astype(dtype), codebook)
    middle = (codebook[:-1] + codebook[1:]) / 2
    assert np.array_equal(compiled.assign(middle, codebook)[1], compiled.assign(middle[::-1].copy(), codebook)[1][::-1])


def test_equally_near_codewords():
    """On a lattice every distance is exact, and many are the same: the lowest index counts."""
    rng = np.random.default_rng(1)
    points = rng.integers(-2, 3, (800, 32)).astype(np.float32)
    codebook = rng.integers(-2, 3, (90, 32)).astype(np.float64)
    twice = np.vstack([codebook, codebook[::-1]])
    assert np.array_equal(compiled.assign(points, twice)[0], sq_dists_of(points, twice).argmin(axis=1))


def test_scores_that_the_numbers_of_codewords_blur():
    """Halves of small integers are exact: only the bits that make room for a number can put scores out of order."""
    rng = np.random.default_rng(4)
    some = rng.integers(-250, 251, (1024, 32)).astype(np.float64)
    beside = some + np.eye(32)[rng.integers(32, size=1024)]
    # Their mean is 0, so that no shift makes fractions of them.
    codebook = np.vstack([some, -some, beside, -beside])
    points = (some[:300] + rng.integers(-1, 2, (300, 32))).astype(np.float32)
    assert np.array_equal(compiled.assign(points, codebook)[0], sq_dists_of(points, codebook).argmin(axis=1))


@pytest.mark.parametrize("scale", [1e-18, 1e-11, 1e-5, 1e5, 1e14, 1e17])
@pytest.mark.parametrize("outlier", [1.0, 1e4, 1e19, 1e30])
def test_scales_and_outliers(scale, outlier):
    rng = np.random.default_rng(2)
    points = (scale * rng.standard_normal((300, 32))).astype(np.float32)
    points[5] = np.minimum(outlier * scale, 3e38)
    codebook = scale * rng.standard_normal((80, 32))
    assert_exact(points, codebook)
    codebook[7] *= outlier
    assert_exact(points, codebook)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1e-19, 1e-22, 1e-25, 1e-40])
def test_small_differences_beside_a_constant_column(dtype, scale):
    """What is left of a codebook when its mean is taken off may lie far below what float32 can square."""
    rng = np.random.default_rng(7)
    codebook, points = np.zeros((128, 33)), np.zeros((300, 33), dtype)
    codebook[:, 0] = points[:, 0] = 1.0
    codebook[:, 1:] = scale * rng.standard_normal((128, 32))
    points[:, 1:] = scale * rng.standard_normal((300, 32))
    apart = points[:, None].astype(np.float64) - codebook
    # Squares of what lies beneath float64's range would vanish.
    expected = ((apart / scale) ** 2).sum(axis=2).argmin(axis=1)
    assert np.array_equal(compiled.assign(points, codebook)[0], expected)
    steps = Steps(points)
    codes, *_ = steps.moments(codebook)
    dists = np.sqrt((apart**2).sum(axis=2))
    dists[np.arange(300), codes] = np.inf
    assert (steps.found.bounds <= dists.min(axis=1)).all()


@pytest.mark.parametrize("dtype, center, apart", [(np.float64, 1e4, 1e-12), (np.float32, 1e14, 1e-4)])
def test_no_code_depends_on_other_points(dtype, center, apart):
    """Points so far away that float64 hardly tells their codewords apart, alone and behind hundreds that nothing settles."""
    rng = np.random.default_rng(8)
    pairs = np.repeat(rng.standard_normal((40, 40)), 2, axis=0)
    pairs[1::2] += apart * rng.standard_normal((40, 40))
    codebook = np.vstack([pairs, 1e-9 * rng.standard_normal((30, 40))])
    points, between = (center * rng.standard_normal((380, 40))).astype(dtype), np.zeros((640, 40), dtype)
    alone = compiled.assign(points, codebook)[0]
    assert np.array_equal(compiled.assign(np.vstack([between, points]), codebook)[0][640:], alone)
    assert np.array_equal(compiled.assign(points[::-1].copy(), codebook)[0][::-1], alone)
    assert np.array_equal(Steps(points).moments(codebook)[0], alone)


@njit
def _search(points, some, halves, room):
    search_halves(points, some, halves, room)


@njit
def _errors(measures, dim, largest, error, slack, tag, floor):
    return [
        error_of_halves(measures[lane], measures[LANES + lane], dim, largest, error, slack, tag, floor)
        for lane in range(LANES)
    ]


def looked_at(points, codebook):
    """The lowest scores (RANKS, LANES) of LANES points and their codes, what two scores may err by, and all exact scores."""
    precise = screen(codebook, points.dtype.type)
    coarse = halves(codebook, precise, len(points))
    room = room_for(coarse)
    _search(frozen(points), np.arange(len(points)), coarse, room)
    scores, measures = room.lowest, room.measures
    errors = _errors(measures, points.shape[1], coarse.largest, coarse.error, coarse.slack, coarse.tag, precise.floor)
    moved, shift = codebook - precise.shift, precise.shift.astype(np.float64)
    exact = (moved**2).sum(axis=1) / 2 - (points - shift) @ moved.T
    codes = scores.view(np.uint32) & np.uint32(coarse.tag)
    return scores.reshape(RANKS, LANES), codes.reshape(RANKS, LANES), np.array(errors), exact


@needs_halves
@given(
    st.integers(0, 2**32 - 1), st.integers(32, 70), st.integers(64, 300), st.sampled_from([np.float32, np.float64]),
    st.floats(-10, 14), st.floats(-3, 3), st.booleans(),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_errors_stay_within_their_bound(seed, dim, n_codewords, dtype, magnitude, offset, sparse):
    rng = np.random.default_rng(seed)
    spread = 10.0**magnitude * (rng.pareto(1.0, dim) if sparse else 1.0)
    codebook = spread * (rng.standard_normal((n_codewords, dim)) + offset)
    points = (spread * (rng.standard_normal((LANES, dim)) + offset)).astype(dtype)
    if np.abs(codebook).max() >= 1e15:
        return
    scores, codes, errors, exact = looked_at(points, codebook)
    for rank in range(RANKS):
        apart = np.abs(scores[rank] - exact[np.arange(LANES), codes[rank]])
        assert (apart <= errors / 2).all(), (rank, (2 * apart / errors).max())
    # Whatever is not among the lowest lies no lower than the last of them.
    others = exact.copy()
    for row in codes:
        others[np.arange(LANES), row] = np.inf
    assert (others.min(axis=1) >= scores[-1] - errors / 2).all()


@needs_halves
def test_halves_settle_most_points():
    rng = np.random.default_rng(3)
    points, codebook = rng.standard_normal((LANES, 128)).astype(np.float32), rng.standard_normal((1024, 128))
    scores, _, errors, _ = looked_at(points, codebook)
    assert (scores[-1] - scores[0] > errors).mean() > 0.9
