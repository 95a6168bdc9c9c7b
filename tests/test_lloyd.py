"""Lloyd's algorithm: monotone, exact about what it returns, equal in every library, and never undone by an empty cell."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from libraries import LIBRARIES, to_library, to_numpy
from scipy.cluster.vq import kmeans2
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans

import vqcore as vq
from vqcore import checks
from vqcore.kernels import table_for, tensors

POLICIES = ("split", "farthest", "drop", "keep", "error")


@pytest.fixture(params=LIBRARIES + ["torch, as on a device"])
def library(request, monkeypatch):
    """A library; the last one sends CPU tensors through the kernels that devices run."""
    if "as on a device" in request.param:
        choose = lambda a, *b, **c: tensors if isinstance(a, torch.Tensor) else table_for(a, *b, **c)  # noqa: E731
        monkeypatch.setattr(checks, "table_for", choose)
    return request.param.partition(",")[0]


def normal(n=2000, dim=3, seed=0):
    return np.random.default_rng(seed).standard_normal((n, dim) if dim else n)


def assert_agrees(fit, points, sample_weight=None):
    """Codes, weights and distortion are those of the returned codebook, by SciPy's distances."""
    points, codebook = np.asarray(points, dtype=np.float64), to_numpy(fit.codebook)
    n = len(points)
    apart = cdist(points.reshape(n, -1), codebook.reshape(len(codebook), -1), "sqeuclidean")
    weight = np.ones(n) if sample_weight is None else sample_weight
    chosen = apart[np.arange(n), to_numpy(fit.codes)]
    assert (chosen <= apart.min(axis=1) * (1 + 1e-12) + 1e-300).all()
    np.testing.assert_allclose(fit.distortion, np.average(chosen, weights=weight), rtol=1e-11, atol=1e-300)
    shares = np.bincount(to_numpy(fit.codes), weights=weight, minlength=len(codebook)) / weight.sum()
    np.testing.assert_allclose(to_numpy(fit.weights), shares, atol=1e-12)
    assert abs(to_numpy(fit.weights).sum() - 1) < 1e-12
    assert fit.distortions[-1] == fit.distortion and len(fit.codebooks) == len(fit.distortions) == fit.n_steps + 1
    assert len(fit.n_repairs) == fit.n_steps
    np.testing.assert_array_equal(to_numpy(fit.codebooks[-1]), codebook)
    # Only rounding may raise the distortion.
    assert (np.diff(fit.distortions) <= 1e-13 * fit.distortions[0]).all()


@pytest.mark.parametrize("dim", [0, 1, 2, 9])
@pytest.mark.parametrize("start", ["k-means++", "random", "points"])
def test_everything_returned_agrees(library, dim, start):
    points = normal(dim=dim)
    begin = points[:20] if start == "points" else start
    fit = vq.fit_lloyd(to_library(points, library), 20, start=begin, n_steps=30, seed=1)
    assert_agrees(fit, points)
    assert type(fit.codes) is type(to_library(points, library))
    assert to_numpy(fit.codebook).shape == points[:20].shape and to_numpy(fit.codebook).dtype == np.float64
    if dim < 2:
        assert (np.diff(to_numpy(fit.codebook).reshape(-1)) > 0).all()


@pytest.mark.parametrize("dim", [0, 4])
def test_steps_equal_scipy(dim):
    points, start = normal(dim=dim), np.sort(normal(12, dim, seed=5), axis=0)
    fit = vq.fit_lloyd(points, 12, start=start, n_steps=7, empty="keep")
    theirs, _ = kmeans2(points, start, iter=7, minit="matrix")
    np.testing.assert_allclose(fit.codebook, theirs, rtol=1e-10)


def test_the_fixed_point_equals_scikit_learn():
    points = normal(3000, 5)
    start = points[:25]
    fit = vq.fit_lloyd(points, 25, start=start, n_steps=1000)
    theirs = KMeans(25, init=start, n_init=1, tol=0, max_iter=1000).fit(points)
    assert fit.converged
    np.testing.assert_allclose(fit.codebook, theirs.cluster_centers_, rtol=1e-9)
    np.testing.assert_allclose(fit.distortion * len(points), theirs.inertia_, rtol=1e-9)


@pytest.mark.parametrize("dim", [0, 1, 3])
def test_libraries_tell_one_story(library, dim):
    points = normal(5000, dim)
    ours = vq.fit_lloyd(points, 30, n_steps=40, seed=2)
    theirs = vq.fit_lloyd(to_library(points, library), 30, n_steps=40, seed=2)
    np.testing.assert_allclose(to_numpy(theirs.codebooks[0]), ours.codebooks[0], rtol=1e-15)
    np.testing.assert_allclose(to_numpy(theirs.codebook), ours.codebook, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(theirs.distortions, ours.distortions, rtol=1e-9)
    assert theirs.n_steps == ours.n_steps and theirs.converged == ours.converged


def test_one_seed_one_story(library):
    points = to_library(normal(), library)
    first, again, other = (vq.fit_lloyd(points, 16, seed=seed) for seed in (4, 4, 5))
    np.testing.assert_array_equal(to_numpy(first.codebook), to_numpy(again.codebook))
    assert first.distortions == again.distortions
    assert not np.array_equal(to_numpy(first.codebook), to_numpy(other.codebook))


def test_a_generator_is_a_seed():
    points = normal()
    by_seed = vq.fit_lloyd(points, 16, seed=9)
    by_generator = vq.fit_lloyd(points, 16, seed=np.random.default_rng(9))
    np.testing.assert_array_equal(by_seed.codebook, by_generator.codebook)


@pytest.mark.parametrize("dim", [0, 3])
def test_weights_are_repetitions(library, dim):
    points = normal(300, dim)
    counts = np.random.default_rng(1).integers(0, 4, 300)
    start = points[counts > 0][:10]
    weighted = vq.fit_lloyd(to_library(points, library), 10, start=start, sample_weight=counts.astype(float))
    repeated = vq.fit_lloyd(to_library(np.repeat(points, counts, axis=0), library), 10, start=start)
    np.testing.assert_allclose(to_numpy(weighted.codebook), to_numpy(repeated.codebook), rtol=1e-10)
    np.testing.assert_allclose(weighted.distortions, repeated.distortions, rtol=1e-10)
    np.testing.assert_allclose(to_numpy(weighted.weights), to_numpy(repeated.weights), atol=1e-12)
    assert_agrees(weighted, points, counts.astype(float))


@pytest.mark.parametrize("dim", [0, 1, 2, 6])
@pytest.mark.parametrize("empty", POLICIES)
def test_empty_cells(library, dim, empty):
    points = normal(400, dim)
    start = np.concatenate([points[:5], np.repeat(points[:1] + 50, 15, axis=0)])
    fit_it = lambda: vq.fit_lloyd(to_library(points, library), 20, start=start, empty=empty, n_steps=50)  # noqa: E731
    if empty == "error":
        with pytest.raises(vq.EmptyCellError, match="cells are empty"):
            fit_it()
        return
    fit = fit_it()
    assert_agrees(fit, points)
    weights = to_numpy(fit.weights)
    if empty == "keep":
        assert (weights == 0).sum() >= 10 and sum(fit.n_repairs) == 0 and len(weights) == 20
    elif empty == "drop":
        assert (weights > 0).all() and len(weights) < 20 and sum(fit.n_repairs) == 20 - len(weights)
    else:
        assert (weights > 0).all() and len(weights) == 20 and fit.n_repairs[0] >= 10


@pytest.mark.parametrize("empty", ["split", "farthest"])
@pytest.mark.parametrize("n", [257, 300, 512, 1000])
def test_256_codewords_for_few_points_never_fail(empty, n):
    """The EM of the sources fails in 20 of 20 seeds at n = 257, 300 and 512."""
    for seed in range(5):
        points = normal(n, 8, seed)
        start = points[np.random.default_rng(seed).integers(0, n, 256)]  # with replacement: dozens of twins
        fit = vq.fit_lloyd(points, 256, start=start, empty=empty, n_steps=15, seed=seed)
        assert (fit.weights > 0).all() and np.isfinite(fit.codebook).all()
        assert_agrees(fit, points)


@pytest.mark.parametrize("n_codewords, n_points", [(10, 100), (50, 1000), (100, 1000), (500, 10_000)])
def test_the_blogs_grid_has_no_nan(n_codewords, n_points):
    """The blog's code returns NaN in 23 to 94 of 100 seeds on this grid."""
    for seed in range(20):
        points = normal(n_points, 0, seed)
        start = np.random.default_rng(seed + 1000).standard_normal(n_codewords)
        fit = vq.fit_lloyd(points, n_codewords, start=start, n_steps=20, seed=seed)
        assert np.isfinite(fit.codebook).all() and len(fit.weights) == n_codewords and (fit.weights > 0).all()
        assert abs(fit.weights.sum() - 1) < 1e-12


def test_fewer_distinct_points_than_codewords(library):
    points = to_library(np.repeat(normal(5, 2), 40, axis=0), library)
    for start in ("k-means++", "random"):
        for empty in ("split", "farthest"):
            with pytest.raises(vq.InputError, match="only 5 distinct points"):
                vq.fit_lloyd(points, 9, start=start, empty=empty)
    assert to_numpy(vq.fit_lloyd(points, 9, empty="drop").codebook).shape == (5, 2)
    kept = vq.fit_lloyd(points, 9, empty="keep")
    assert to_numpy(kept.codebook).shape == (9, 2) and kept.distortion < 1e-30


def test_as_many_codewords_as_distinct_points(library):
    points = np.repeat(normal(30, 3), 2, axis=0)
    fit = vq.fit_lloyd(to_library(points, library), 30)
    assert fit.distortion == 0 and fit.converged


def test_one_codeword_is_the_mean(library):
    for dim in (0, 1, 4):
        points = normal(777, dim)
        fit = vq.fit_lloyd(to_library(points, library), 1)
        np.testing.assert_allclose(to_numpy(fit.codebook)[0], points.mean(axis=0), rtol=1e-11)
        np.testing.assert_allclose(fit.distortion, ((points - points.mean(axis=0)) ** 2).sum() / 777, rtol=1e-12)


def test_zero_weights_are_as_if_absent(library):
    """Decoys without weight, far away and in the middle, change no start, no step and no repair."""
    points = normal(200, 2)
    decoys = np.concatenate([points, np.full((40, 2), 50.0), normal(60, 2, seed=8)])
    weight = np.concatenate([np.ones(200), np.zeros(100)])
    for start in ("k-means++", "random", np.repeat(points[:1], 12, axis=0)):
        for empty in ("split", "farthest"):
            fit = vq.fit_lloyd(to_library(decoys, library), 12, start=start, empty=empty, sample_weight=weight, seed=3)
            assert_agrees(fit, decoys, weight)
            assert (to_numpy(fit.weights) > 0).all() and np.abs(to_numpy(fit.codebooks[1])).max() < 10
    got = vq.distortion(to_library(decoys, library), points[:5], sample_weight=weight)
    assert got == pytest.approx(cdist(points, points[:5], "sqeuclidean").min(axis=1).mean(), rel=1e-12)


def test_a_heavy_point_is_found_by_weighted_k_means_plus_plus(library):
    points, weight = np.concatenate([normal(500, 2), [[3.0, 3.0]]]), np.ones(501)
    weight[-1] = 1e6
    hits = [
        (to_numpy(vq.fit_lloyd(to_library(points, library), 2, n_steps=0, sample_weight=weight, seed=s).codebook) == 3.0).any()
        for s in range(20)
    ]
    assert sum(hits) == 20


def test_weights_are_relative(library):
    points, weight = to_library(normal(300, 2), library), np.random.default_rng(0).random(300)
    one, tiny = (vq.fit_lloyd(points, 9, sample_weight=weight * scale) for scale in (1.0, 2.0**-900))
    np.testing.assert_array_equal(to_numpy(one.codebook), to_numpy(tiny.codebook))


@pytest.mark.parametrize("points, n_codewords", [
    (np.array([1.0, 1.0 + 2**-52, 1.0 + 2**-51]), 3),
    (1e16 + 2 * np.arange(8.0), 8),
    (1e16 + 2 * np.arange(8.0), 6),
    (1.7e18 + 256 * np.arange(400.0), 390),
], ids=["one", "1e16", "1e16, fewer", "timestamps"])  # fmt: skip
def test_neighbouring_floats_come_to_rest(library, points, n_codewords):
    for policy in ("split", "farthest"):
        fit = vq.fit_lloyd(to_library(points, library), n_codewords, empty=policy, n_steps=30)
        assert (to_numpy(fit.weights) > 0).all()
    if n_codewords == len(points):
        assert fit.distortion == 0


def test_a_perfect_codebook_stays_perfect(library):
    for points in (np.repeat([0.1, 0.3, 0.9], [3, 7, 11]), np.repeat(normal(3, 2), [3, 7, 11], axis=0)):
        fit = vq.fit_lloyd(to_library(points, library), 3)
        assert fit.converged and fit.distortions == (0.0,)


def test_lloyd_cannot_leave_a_poor_fixed_point():
    points = np.array([0.0, 1.0, 10.0, 11.0, 20.0, 21.0])
    fit = vq.fit_lloyd(points, 3, start=[0.0, 1.0, 15.5])
    assert fit.converged and fit.n_steps == 0
    np.testing.assert_allclose(fit.distortion * 6, 101.0)


@pytest.mark.parametrize("offset", [1e3, 1e6])
def test_far_from_the_origin_nothing_is_lost(library, offset):
    """faiss pays 33 % more distortion at 1e6, SciPy 37 %."""
    centred = (np.random.default_rng(0).integers(-64, 64, (4000, 4)) / 16).astype(np.float32)
    far = centred + np.float32(offset)  # exact: the values have few bits
    start = centred[:32].astype(float)
    here = vq.fit_lloyd(to_library(centred, library), 32, start=start, n_steps=20)
    there = vq.fit_lloyd(to_library(far, library), 32, start=start + offset, n_steps=20)
    np.testing.assert_allclose(there.distortion, here.distortion, rtol=1e-9)
    assert_agrees(there, far)


def test_far_from_the_origin_on_a_line(library):
    points = normal(5000, 0)
    far = points + 2.0**20
    exact = far - 2.0**20
    start = np.sort(exact[:40])
    here = vq.fit_lloyd(to_library(exact, library), 40, start=start, n_steps=30)
    there = vq.fit_lloyd(to_library(far, library), 40, start=start + 2.0**20, n_steps=30)
    np.testing.assert_allclose(there.distortions, here.distortions, rtol=1e-7)


def test_tol_stops_early_and_zero_stops_at_rest():
    points = normal(3000, 2)
    rest = vq.fit_lloyd(points, 12, n_steps=2000)
    early = vq.fit_lloyd(points, 12, tol=1e-3, n_steps=2000)
    assert rest.converged and early.converged and early.n_steps < rest.n_steps
    again = vq.fit_lloyd(points, 12, start=rest.codebook)
    assert again.n_steps == 0 and again.distortion == rest.distortion
    falls = 1 - np.divide(early.distortions[1:], early.distortions[:-1])
    assert falls[-1] <= 1e-3 and (falls[:-1] > 1e-3).all()


def test_on_step_sees_the_whole_story():
    seen = []
    fit = vq.fit_lloyd(normal(500, 2), 6, n_steps=9, on_step=lambda *state: seen.append(state))
    assert [step for step, _, _ in seen] == list(range(fit.n_steps + 1))
    for (_, codebook, distortion), kept, value in zip(seen, fit.codebooks, fit.distortions):
        np.testing.assert_array_equal(codebook, kept)
        np.testing.assert_allclose(distortion, value, rtol=1e-14)


def test_k_means_plus_plus_prefers_what_is_far():
    """Three far blobs: the seeding finds all of them, plain random starts do not (Arthur and Vassilvitskii 2007)."""
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.standard_normal((m, 2)) + c for m, c in ((900, 0), (50, 1e3), (50, -1e3))])
    hits = {"k-means++": 0, "random": 0}
    for start in hits:
        for seed in range(50):
            first = vq.fit_lloyd(points, 3, start=start, n_steps=0, seed=seed).codebook
            hits[start] += len(set(np.round(first[:, 0] / 1e3))) == 3
    assert hits["k-means++"] == 50 and hits["random"] < 10


def test_k_means_plus_plus_draws_by_squared_distance():
    points = np.array([[0.0], [1.0], [3.0]])
    second = [
        sorted(vq.fit_lloyd(points, 2, start="k-means++", n_steps=0, seed=seed).codebook.reshape(-1)) for seed in range(3000)
    ]
    pairs = {pair: second.count(list(pair)) / 3000 for pair in ((0.0, 1.0), (0.0, 3.0), (1.0, 3.0))}
    # First point uniform, second in proportion to squared distance.
    want = {(0.0, 1.0): (1 / 10 + 1 / 5) / 3, (0.0, 3.0): (9 / 10 + 9 / 13) / 3, (1.0, 3.0): (4 / 5 + 4 / 13) / 3}
    for pair, share in want.items():
        assert abs(pairs[pair] - share) < 4 * np.sqrt(share * (1 - share) / 3000)


@given(
    hnp.arrays(np.float64, st.tuples(st.integers(5, 60), st.integers(1, 3)), elements=st.integers(-5, 5).map(float)),
    st.integers(1, 5),
    st.sampled_from(["split", "farthest", "drop", "keep"]),
    st.integers(0, 5),
)
def test_any_data_any_policy(points, n_codewords, empty, seed):
    distinct = len(np.unique(points, axis=0))
    if n_codewords > distinct and empty in ("split", "farthest"):
        with pytest.raises(vq.InputError, match=f"only {distinct} distinct"):
            vq.fit_lloyd(points, n_codewords, empty=empty, seed=seed)
        return
    fit = vq.fit_lloyd(points, n_codewords, empty=empty, seed=seed)
    assert_agrees(fit, points)
    assert fit.converged
    if empty != "keep":
        assert (fit.weights > 0).all()


@given(st.integers(0, 200))
def test_permuting_and_scaling(seed):
    rng = np.random.default_rng(seed)
    points = rng.standard_normal((120, 3))
    start = points[:6]
    fit = vq.fit_lloyd(points, 6, start=start, n_steps=10)
    order, columns = rng.permutation(120), rng.permutation(3)
    np.testing.assert_array_equal(vq.fit_lloyd(points[order], 6, start=start, n_steps=10).codes, fit.codes[order])
    np.testing.assert_array_equal(
        vq.fit_lloyd(points[:, columns], 6, start=start[:, columns], n_steps=10).codes, fit.codes
    )
    scaled = vq.fit_lloyd(points * 2.0**40, 6, start=start * 2.0**40, n_steps=10)
    np.testing.assert_array_equal(scaled.codebook, fit.codebook * 2.0**40)


def test_codes_go_there_and_back(library):
    points, codebook = normal(500, 4), normal(16, 4, seed=1)
    codes, sq_dists = vq.assign(to_library(points, library), to_library(codebook, library))
    points_hat = vq.decode(codes, to_library(codebook, library))
    assert type(points_hat) is type(codes)
    np.testing.assert_allclose(((points - to_numpy(points_hat)) ** 2).sum(axis=1), to_numpy(sq_dists), rtol=1e-12)
    np.testing.assert_array_equal(to_numpy(vq.encode(points_hat, codebook)), to_numpy(codes))
    assert vq.distortion(to_library(points, library), codebook) == pytest.approx(to_numpy(sq_dists).mean(), rel=1e-12)


def test_decode_keeps_the_shape_of_codes_and_the_type_of_the_codebook(library):
    codebook = to_library(normal(16, 4).astype(np.float32), library)
    codes = to_library(np.arange(12, dtype=np.uint8).reshape(3, 4), library)
    points_hat = vq.decode(codes, codebook)
    assert tuple(points_hat.shape) == (3, 4, 4) and points_hat.dtype == codebook.dtype
    np.testing.assert_array_equal(to_numpy(points_hat)[2, 1], to_numpy(codebook)[9])


@pytest.mark.slow
def test_ten_million_points_on_a_line_stay_under_600_megabytes():
    program = (
        "import numpy as np, resource, vqcore as vq\n"
        "vq.fit_lloyd(np.random.default_rng(0).standard_normal(10_000), 100, n_steps=2)\n"
        "points = np.random.default_rng(0).standard_normal(10_000_000)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "vq.fit_lloyd(points, 1000, start='random', n_steps=3)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert float(run.stdout) < 600
