"""Cells are exact: against scipy, the nearest codeword of random points, closed forms and published distortions."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal

from vqcore import voronoi
from vqcore.errors import InputError
from vqcore.kernels import reference
from vqcore.sources import Normal

BOX = (-4.0, 4.0, -3.0, 3.0)
AREA = 48.0

# Few distinct values on a coarse grid: full of duplicates, collinear codewords, lattice ties and codewords outside.
GRID = st.integers(-6, 6).map(float)
codebooks = st.integers(1, 12).flatmap(lambda k: arrays(np.float64, (k, 2), elements=GRID))
ANYWHERE = st.floats(-8, 8).map(lambda x: round(x, 9))
spread = st.integers(1, 30).flatmap(lambda k: arrays(np.float64, (k, 2), elements=ANYWHERE))


class UniformLaw:
    """The uniform law on [0, 1], written out: a law is whatever has exact interval moments."""

    def interval_moments(self, edges, codebook):
        bounds = np.clip(np.concatenate([[0.0], edges, [1.0]]), 0.0, 1.0)
        low, high = bounds[:-1], bounds[1:]
        sq_errors = ((high - codebook) ** 3 - (low - codebook) ** 3) / 3
        return high - low, (low + high) / 2, sq_errors


def outside_by(shape, points):
    """How far (n,) points lie outside a convex counter-clockwise polygon; negative inside."""
    along = np.roll(shape, -1, axis=0) - shape
    lengths = np.hypot(*along.T)
    start, along = shape[lengths > 0], along[lengths > 0] / lengths[lengths > 0, None]
    apart = points[:, None] - start
    return (apart[..., 0] * along[:, 1] - apart[..., 1] * along[:, 0]).max(axis=1)


# --- one dimension


def test_uniform_law_with_equal_steps_has_the_optimal_distortion():
    n = 8
    found = voronoi.cells(UniformLaw(), (np.arange(n) + 0.5) / n)
    assert_allclose(found.edges, np.arange(1, n) / n)
    assert_allclose(found.weights, np.full(n, 1 / n))
    assert found.distortion == pytest.approx(1 / (12 * n**2), rel=1e-13)


def test_a_repeated_codeword_of_a_law_has_an_empty_cell():
    found = voronoi.cells(UniformLaw(), [0.25, 0.25, 0.25, 0.75, 0.75])
    assert_allclose(found.weights, [0.5, 0, 0, 0.5, 0])
    assert_array_equal(found.edges, [0.5, 0.5, 0.5, math.inf])
    assert_array_equal(found.means[[1, 2, 4]], [0.25, 0.25, 0.75])
    assert found.distortion == pytest.approx(1 / 48)


def test_two_cells_of_the_normal_law():
    place = math.sqrt(2 / math.pi)
    found = voronoi.cells(Normal(), [-place, place])
    assert_array_equal(found.edges, [0.0])
    assert_allclose(found.weights, [0.5, 0.5], rtol=1e-14)
    assert_allclose(found.means, [-place, place], rtol=1e-14)
    assert found.distortion == pytest.approx(1 - 2 / math.pi, rel=1e-13)
    assert voronoi.cells(Normal(), [-place, -place, place]).distortion == pytest.approx(1 - 2 / math.pi, rel=1e-13)


@settings(deadline=None)
@given(arrays(np.float64, st.integers(1, 9), elements=GRID), arrays(np.float64, st.integers(1, 40), elements=GRID))
def test_intervals_hold_the_points_that_assign_gives_them(codebook, points):
    codebook = np.sort(codebook)
    edges = voronoi.intervals(codebook)
    codes, sq_dists = reference.assign(points, codebook)
    assert_array_equal(np.searchsorted(edges[1:-1], points, side="left"), codes)
    found = voronoi.cells(points, codebook)
    assert_allclose(found.weights, np.bincount(codes, minlength=len(codebook)) / len(points))
    assert found.distortion == pytest.approx(sq_dists.mean())


def test_intervals_are_clipped():
    assert_array_equal(voronoi.intervals([0.0, 1.0, 5.0], -1.0, 2.0), [-1.0, 0.5, 2.0, 2.0])
    assert_array_equal(voronoi.intervals([3.0]), [-math.inf, math.inf])


@pytest.mark.parametrize("source", [UniformLaw(), np.arange(3.0)])
def test_a_codebook_that_falls_is_refused(source):
    with pytest.raises(InputError, match="falls from 2 to 1 at position 1"):
        voronoi.cells(source, [2.0, 1.0])


# --- points


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("shape", [(500,), (500, 2), (500, 5)])
def test_cells_of_points_agree_with_a_plain_count(library, shape):
    rng = np.random.default_rng(3)
    points, codebook = rng.normal(size=shape), rng.normal(size=(7,) + shape[1:])
    codebook = np.sort(codebook) if len(shape) == 1 else codebook
    apart = points.reshape(500, 1, -1) - codebook.reshape(7, -1)
    codes = (apart**2).sum(axis=2).argmin(axis=1)
    given = pytest.importorskip("torch").from_numpy(points) if library == "torch" else points
    found = voronoi.cells(given, codebook)
    assert (found.edges is None) == (len(shape) == 2)
    assert found.weights.sum() == pytest.approx(1, abs=1e-15)
    for code in range(7):
        mine = points[codes == code]
        assert found.weights[code] == len(mine) / 500
        assert_allclose(found.means[code], mine.mean(axis=0) if len(mine) else codebook[code])
    assert found.distortion == pytest.approx((apart**2).sum(axis=2).min(axis=1).mean())


# --- polygons


@settings(deadline=None)
@given(st.one_of(codebooks, spread))
def test_areas_sum_to_the_box(codebook):
    shapes = voronoi.polygons(codebook, BOX)
    assert len(shapes) == len(codebook)
    assert (voronoi.areas(shapes) >= 0).all()
    assert voronoi.areas(shapes).sum() == pytest.approx(AREA, rel=1e-12)


@settings(deadline=None)
@given(st.one_of(codebooks, spread), st.integers(0, 2**32))
def test_every_point_lies_in_the_polygon_of_its_codeword(codebook, seed):
    points = np.random.default_rng(seed).uniform([-4, -3], [4, 3], size=(50, 2))
    codes, _ = reference.assign(points, codebook)
    shapes = voronoi.polygons(codebook, BOX)
    for code in np.unique(codes):
        # A point within rounding of a bisector may be told to either side; its cell is at most that far away.
        assert len(shapes[code]), "an empty polygon owns a point"
        assert outside_by(shapes[code], points[codes == code]).max() < 1e-12


@settings(deadline=None)
@given(codebooks)
def test_a_duplicate_has_an_empty_polygon(codebook):
    twice = voronoi.polygons(np.concatenate([codebook, codebook]), BOX)
    assert all(shape.shape == (0, 2) for shape in twice[len(codebook) :])
    for alone, beside in zip(voronoi.polygons(codebook, BOX), twice):
        assert_array_equal(alone, beside)


def test_zero_and_minus_zero_are_one_place():
    first, second = voronoi.polygons([[0.0, 1.0], [-0.0, 1.0]], BOX)
    assert len(first) == 4 and len(second) == 0


def test_lattice_cells_are_unit_squares():
    codebook = np.stack(np.meshgrid(np.arange(-3, 4), np.arange(-2, 3)), axis=-1).reshape(-1, 2).astype(float)
    shapes = voronoi.polygons(codebook, (-3.5, 3.5, -2.5, 2.5))
    assert_allclose(voronoi.areas(shapes), 1.0)
    assert_allclose(voronoi.centroids(shapes), codebook, atol=1e-13)
    assert {len(shape) for shape in shapes} == {4}


@pytest.mark.parametrize("shift", [0.0, 1e6])
@pytest.mark.parametrize("k", [5, 60, 800])
def test_bounded_cells_equal_scipy(k, shift):
    from scipy.spatial import Voronoi

    codebook = np.random.default_rng(k).uniform(-1, 1, size=(k, 2)) + shift - shift
    ours = voronoi.polygons(codebook + shift, np.array([-50, 50, -50, 50]) + shift)
    oracle = Voronoi(codebook)
    checked = 0
    for code, region in enumerate(oracle.point_region):
        theirs = oracle.vertices[oracle.regions[region]]
        if -1 in oracle.regions[region] or np.abs(theirs).max() > 50:
            continue
        checked += 1
        apart = np.hypot(*(ours[code][:, None] - shift - theirs).transpose(2, 0, 1))
        assert max(apart.min(axis=0).max(), apart.min(axis=1).max()) < 1e-9
    assert checked >= k // 3 or k == 5


def test_collinear_and_outside_codewords():
    shapes = voronoi.polygons([[0, 0], [2, 0], [9, 0]], BOX)
    assert_allclose(voronoi.areas(shapes), [5 * 6, 3 * 6, 0])
    assert_allclose(voronoi.polygons([[100.0, 100.0]], BOX)[0], [[-4, -3], [4, -3], [4, 3], [-4, 3]])


def test_centroid_of_a_triangle():
    assert_allclose(voronoi.centroids([np.array([[0, 0], [3, 0], [0, 3.0]]) + 1e6]), [[1e6 + 1, 1e6 + 1]])
    assert np.isnan(voronoi.centroids([np.empty((0, 2))])).all()


@pytest.mark.parametrize(
    "codebook, box, match",
    [
        ([1.0, 2.0], BOX, r"codebook has shape \(2,\)"),
        ([[0.0, np.nan]], BOX, "NaN"),
        ([[0.0, 0.0]], (1, 0, 0, 1), "low below high"),
        ([[0.0, 0.0]], (0, 1, 0), r"box has shape \(3,\)"),
    ],
)
def test_bad_input_is_refused(codebook, box, match):
    with pytest.raises(InputError, match=match):
        voronoi.polygons(codebook, box)


# --- the standard normal in the plane


def ring(n, radius):
    angle = 2 * np.pi * np.arange(n) / n
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


ONE_D = math.sqrt(2 / math.pi)  # E|X|: the optimal two codewords of the normal law in one dimension


@pytest.mark.parametrize(
    "codebook, distortion",
    [
        (np.zeros((1, 2)), 2.0),
        (np.array([[-ONE_D, 0], [ONE_D, 0]]), 2 - 2 / math.pi),
        (ring(3, 1.036482), 0.925704134130),
        (ONE_D * np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]]), 2 * (1 - 2 / math.pi)),
    ],
)
def test_known_distortions_of_the_normal_plane(codebook, distortion):
    found = voronoi.normal_cells(codebook)
    assert found.distortion == pytest.approx(distortion, abs=2e-12)
    assert_allclose(found.weights, 1 / len(codebook), atol=1e-14)
    assert_allclose(found.means, codebook, atol=1e-6)


def test_normal_moments_of_a_rectangle_are_products():
    from scipy.stats import norm

    shape = np.array([[-0.3, 0.2], [1.7, 0.2], [1.7, 2.5], [-0.3, 2.5]])
    mass, first, second = voronoi.normal_moments([shape])

    def one(low, high):
        m = norm.cdf(high) - norm.cdf(low)
        return m, norm.pdf(low) - norm.pdf(high), m + low * norm.pdf(low) - high * norm.pdf(high)

    x, y = one(-0.3, 1.7), one(0.2, 2.5)
    assert_allclose(mass, [x[0] * y[0]], atol=1e-14)
    assert_allclose(first, [[x[1] * y[0], x[0] * y[1]]], atol=1e-14)
    assert_allclose(second, [x[2] * y[0] + x[0] * y[2]], atol=1e-14)


@settings(deadline=None, max_examples=50)
@given(st.one_of(codebooks, spread))
def test_the_normal_plane_is_all_there(codebook):
    mass, first, second = voronoi.normal_moments(voronoi.polygons(codebook, (-40, 40, -40, 40)))
    assert mass.sum() == pytest.approx(1, abs=1e-12)
    assert_allclose(first.sum(axis=0), 0, atol=1e-12)
    assert second.sum() == pytest.approx(2, abs=1e-12)


def test_normal_cells_agree_with_a_sample():
    rng = np.random.default_rng(0)
    codebook, points = rng.normal(size=(9, 2)), rng.normal(size=(400_000, 2))
    exact, counted = voronoi.normal_cells(codebook), voronoi.cells(points, codebook)
    assert_allclose(counted.weights, exact.weights, atol=5 * 0.5 / math.sqrt(400_000))
    assert_allclose(counted.means, exact.means, atol=0.05)
    assert counted.distortion == pytest.approx(exact.distortion, rel=0.02)
