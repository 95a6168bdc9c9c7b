"""Hard EM: what it tells agrees, no empty cell stops it, no scale changes it; the metric of a layer's inputs."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from libraries import LIBRARIES, to_library, to_numpy
from scipy.cluster.vq import kmeans2
from scipy.spatial.distance import cdist
from test_kernels import fake_cuda  # noqa: F401

import vqcore as vq
from vqcore import checks, em
from vqcore.kernels import table_for, tensors


@pytest.fixture(params=LIBRARIES + ["torch, as on a device"])
def library(request, monkeypatch):
    """A library; the last one sends CPU tensors through the kernels that devices run."""
    if "as on a device" in request.param:
        choose = lambda a, *b, **c: tensors if isinstance(a, torch.Tensor) else table_for(a, *b, **c)  # noqa: E731
        monkeypatch.setattr(checks, "table_for", choose)
    return request.param.partition(",")[0]


def weights(n=2000, in_features=8, seed=0):
    return np.random.default_rng(seed).standard_normal((in_features, n))


def source_step(matrix, centroids):
    """One EM step as fairseq's code takes it: norms of broadcast differences, then the mean of every cell."""
    distances = np.linalg.norm(matrix[None, :, :] - centroids[:, :, None], axis=1)
    codes = distances.argmin(axis=0)
    return codes, np.stack([matrix[:, codes == k].mean(axis=1) for k in range(len(centroids))])


def assert_agrees(fit, matrix, gram=None):
    """Codes, weights, distortion and half-steps are those of the returned codebooks, by SciPy's distances."""
    columns, codebook = np.asarray(matrix, dtype=np.float64).T, to_numpy(fit.codebook)
    n, scale = len(columns), max(fit.distortions)
    factor = np.eye(columns.shape[1]) if gram is None else np.linalg.cholesky(gram)
    apart = cdist(columns @ factor, codebook @ factor, "sqeuclidean")
    codes = to_numpy(fit.codes)
    chosen = apart[np.arange(n), codes]
    assert (chosen <= apart.min(axis=1) + 1e-9 * scale).all()
    np.testing.assert_allclose(fit.distortion, chosen.mean(), rtol=1e-9, atol=1e-12 * scale)
    np.testing.assert_allclose(to_numpy(fit.weights), np.bincount(codes, minlength=len(codebook)) / n, atol=1e-13)
    np.testing.assert_array_equal(to_numpy(fit.codebooks[-1]), codebook)
    assert len(fit.codebooks) == len(fit.distortions) == fit.n_steps + 1 and len(fit.n_repairs) == fit.n_steps
    assert fit.half_steps[::2] == fit.distortions and len(fit.half_steps) == 2 * fit.n_steps + 1
    assert (np.diff(fit.half_steps) <= 1e-13 * scale).all()
    if codebook.shape[1] == 1:
        assert (np.diff(codebook[:, 0]) > 0).all()


@pytest.mark.parametrize("in_features", [1, 2, 9])
@pytest.mark.parametrize("start", ["random", "k-means++", "columns"])
def test_everything_returned_agrees(library, in_features, start):
    matrix = weights(in_features=in_features)
    begin = matrix.T[:20] if start == "columns" else start
    fit = vq.fit_em(to_library(matrix, library), 20, 12, start=begin, seed=1)
    assert_agrees(fit, matrix)
    assert type(fit.codes) is type(fit.codebook) is type(to_library(matrix, library))
    assert tuple(fit.codebook.shape) == (20, in_features) and to_numpy(fit.codebook).dtype == np.float64


def test_half_steps_are_the_distortions_in_between():
    matrix = weights()
    fit = vq.fit_em(matrix, 30, 6)
    for step in range(fit.n_steps):
        codes = cdist(matrix.T, fit.codebooks[step]).argmin(axis=1)
        moved = ((matrix.T - fit.codebooks[step + 1][codes]) ** 2).sum(axis=1).mean()
        np.testing.assert_allclose(fit.half_steps[2 * step + 1], moved, rtol=1e-12)


def test_steps_equal_the_sources_and_scipys(library):
    matrix = weights(1500, 6)
    start = matrix.T[:16]
    fit = vq.fit_em(to_library(matrix, library), 16, 5, start=start)
    theirs, centroids = [], start
    for _ in range(5):
        codes, centroids = source_step(matrix, centroids)
        theirs.append(codes)
    np.testing.assert_allclose(to_numpy(fit.codebook), centroids, rtol=1e-11)
    # The source hands out the codes from before its last M-step; here they belong to the codebook.
    assert (theirs[-1] != to_numpy(fit.codes)).any()
    np.testing.assert_array_equal(source_step(matrix, centroids)[0], to_numpy(fit.codes))
    np.testing.assert_allclose(to_numpy(fit.codebook), kmeans2(matrix.T, start, iter=5, minit="matrix")[0], rtol=1e-10)


def test_libraries_tell_one_story(library):
    matrix = weights(900)
    ours = vq.fit_em(matrix, 256, seed=3)
    theirs = vq.fit_em(to_library(matrix, library), 256, seed=3)
    np.testing.assert_array_equal(to_numpy(theirs.codebooks[0]), ours.codebooks[0])
    np.testing.assert_array_equal(to_numpy(theirs.codes), ours.codes)
    np.testing.assert_allclose(to_numpy(theirs.codebook), ours.codebook, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(theirs.half_steps, ours.half_steps, rtol=1e-9)


def test_one_seed_one_story(library):
    matrix = to_library(weights(600), library)
    first, again, other = (vq.fit_em(matrix, 64, seed=seed) for seed in (4, np.random.default_rng(4), 5))
    np.testing.assert_array_equal(to_numpy(first.codebook), to_numpy(again.codebook))
    assert not np.array_equal(to_numpy(first.codebook), to_numpy(other.codebook))


@pytest.mark.parametrize("n", [257, 300, 512, 1000])
def test_256_codewords_for_few_columns_never_fail(n):
    """The source fails in 20 of 20 seeds at n = 257, 300 and 512, and in 11 of 20 at 1000."""
    for seed in range(20):
        matrix = weights(n, seed=seed)
        fit = vq.fit_em(matrix, seed=seed)
        assert_agrees(fit, matrix)
        assert (fit.weights > 0).all() and len(np.unique(fit.codebooks[0], axis=0)) == 256


@pytest.mark.parametrize("start", ["drawn with replacement", "all on one column"])
@pytest.mark.parametrize("eps", [1e-14, 1e-6, 1.0])
def test_twins_at_the_start_are_parted(library, start, eps):
    for seed, n in enumerate((257, 400, 1000)):
        matrix = weights(n, seed=seed)
        drawn = np.random.default_rng(seed).integers(0, n, 256) if "drawn" in start else np.zeros(256, int)
        fit = vq.fit_em(to_library(matrix, library), 256, 4, eps, start=matrix.T[drawn], seed=seed)
        assert_agrees(fit, matrix)
        assert (to_numpy(fit.weights) > 0).all() and fit.n_repairs[0] >= 256 - len(set(drawn))


@pytest.mark.parametrize("exponent", [-40, -20, -1, 13, 40])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_scale_changes_a_code(library, exponent, dtype):
    """The source, with its absolute eps, fails in 19 of 20 seeds at 1e4 and at 1e-8."""
    for seed in range(3):
        matrix = weights(1000, seed=seed).astype(dtype)
        start = matrix.T[np.random.default_rng(seed).integers(0, 1000, 64)]
        one = vq.fit_em(to_library(matrix, library), 64, start=start, seed=seed)
        scaled = to_library(np.ldexp(matrix, exponent), library)
        other = vq.fit_em(scaled, 64, start=np.ldexp(start, exponent), seed=seed)
        np.testing.assert_array_equal(to_numpy(other.codes), to_numpy(one.codes))
        np.testing.assert_array_equal(to_numpy(other.codebook), np.ldexp(to_numpy(one.codebook), exponent))
        np.testing.assert_array_equal(np.ldexp(other.half_steps, -2 * exponent), one.half_steps)


def test_far_from_the_origin(library):
    near = np.round(64 * weights(600, 4)) / 64
    start = near.T[np.random.default_rng(0).integers(0, 600, 100)]  # with twins, to be parted there as well
    fit = vq.fit_em(to_library(near + 2.0**30, library), 100, start=start + 2.0**30)
    assert_agrees(fit, near + 2.0**30)
    assert (to_numpy(fit.weights) > 0).all() and sum(fit.n_repairs) > 0


def test_one_pass_repairs_many(library):
    """No more than the first attempt, where cells are large enough to be divided: the source needs one for each."""
    matrix = weights(20_000)
    start = matrix.T[np.repeat(np.arange(32), 2)]
    fit = vq.fit_em(to_library(matrix, library), 64, 3, start=start, max_tentatives=1)
    assert fit.n_repairs[0] == 32 and (to_numpy(fit.weights) > 0).all()


def test_too_few_tentatives_raise_and_change_nothing(library):
    matrix = weights(300)
    start = np.repeat(matrix.T[:1], 5, axis=0)
    given = to_library(matrix, library)
    with pytest.raises(vq.EmptyCellError, match="4 of 5 cells are empty after max_tentatives=0"):
        vq.fit_em(given, 5, start=start, max_tentatives=0)
    np.testing.assert_array_equal(to_numpy(given), matrix)
    assert (to_numpy(vq.fit_em(given, 5, start=start).weights) > 0).all()


@pytest.mark.parametrize("start", ["random", "k-means++", "columns"])
def test_fewer_distinct_columns_than_codewords(library, start):
    matrix = np.repeat(weights(5, 3), 40, axis=1)
    begin = matrix.T[:9] + np.arange(9)[:, None] if start == "columns" else start
    with pytest.raises(vq.InputError, match="n_codewords=9 but only 5 distinct columns"):
        vq.fit_em(to_library(matrix, library), 9, start=begin)
    if start == "columns":
        with pytest.raises(vq.InputError, match="only 5 distinct columns"):
            vq.fit_em(to_library(matrix, library), 9, start=begin, max_tentatives=0)
    for k in (1, 5):
        fit = vq.fit_em(to_library(matrix, library), k, start=begin[:k] if start == "columns" else start)
        assert_agrees(fit, matrix)
        assert (fit.distortion < 1e-28) == (k == 5)  # the mean of equal columns is theirs but for rounding


@pytest.mark.parametrize("n", [2, 30, 6000])
def test_as_many_codewords_as_distinct_columns(n):
    matrix = np.concatenate([weights(n, 3)] * 2, axis=1)
    fit = vq.fit_em(matrix, n)
    assert fit.distortion == 0 and fit.converged and fit.n_steps == 0


@given(
    hnp.arrays(np.float64, st.tuples(st.integers(1, 3), st.integers(5, 60)), elements=st.integers(-5, 5).map(float)),
    st.integers(1, 5), st.sampled_from(["random", "k-means++", "columns"]), st.integers(0, 5),
)  # fmt: skip
def test_any_columns(matrix, n_codewords, start, seed):
    distinct = len(np.unique(matrix, axis=1).T)
    begin = matrix.T[:n_codewords] if start == "columns" else start
    if n_codewords > distinct:
        with pytest.raises(vq.InputError, match=f"only {distinct} distinct columns"):
            vq.fit_em(matrix, n_codewords, start=begin, seed=seed)
        return
    fit = vq.fit_em(matrix, n_codewords, 40, start=begin, seed=seed)
    assert_agrees(fit, matrix)
    assert (fit.weights > 0).all() or fit.n_steps == 0


def test_tol_and_on_step():
    seen, matrix = [], weights()
    fit = vq.fit_em(matrix, 12, 500, tol=1e-3, on_step=lambda *state: seen.append(state))
    assert fit.converged and 0 < fit.n_steps < vq.fit_em(matrix, 12, 500).n_steps
    assert [(step, distortion) for step, _, distortion in seen] == list(enumerate(fit.distortions))


# --- the metric of a layer's inputs


def inputs(in_features=6, m=500, seed=1):
    """Correlated inputs of a layer as rows."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((m, in_features)) @ rng.standard_normal((in_features, in_features)) ** 3


@pytest.mark.parametrize("start", ["random", "k-means++", "columns"])
def test_the_metric_is_the_error_of_the_output(library, start):
    matrix, rows = weights(800, 6), inputs()
    begin = matrix.T[:32] if start == "columns" else start
    fit = vq.fit_em(to_library(matrix, library), 32, start=begin, gram=to_library(rows.T @ rows, library))
    assert_agrees(fit, matrix, rows.T @ rows)
    assert {tuple(c) for c in to_numpy(fit.codebooks[0])} <= {tuple(w) for w in matrix.T}
    matrix_hat = to_numpy(fit.codebook)[to_numpy(fit.codes)].T
    np.testing.assert_allclose(fit.distortion * 800, ((rows @ (matrix - matrix_hat)) ** 2).sum(), rtol=1e-9)


def test_the_metric_by_a_cholesky_factor():
    """The same fit where it is Euclidean: columns multiplied by the transposed factor."""
    matrix, rows = weights(800, 6), inputs()
    factor = np.linalg.cholesky(rows.T @ rows)
    start = matrix.T[:32]
    ours = vq.fit_em(matrix, 32, start=start, gram=rows.T @ rows)
    theirs = vq.fit_em(factor.T @ matrix, 32, start=start @ factor)
    np.testing.assert_array_equal(ours.codes, theirs.codes)
    scale = abs(theirs.codebook).max()
    np.testing.assert_allclose(ours.codebook @ factor / scale, theirs.codebook / scale, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(ours.half_steps, theirs.half_steps, rtol=1e-9)


def test_the_identity_is_no_metric():
    matrix = weights(800, 6)
    plain, identity = vq.fit_em(matrix, 32), vq.fit_em(matrix, 32, gram=np.eye(6))
    np.testing.assert_array_equal(identity.codes, plain.codes)
    np.testing.assert_allclose(identity.half_steps, plain.half_steps, rtol=1e-12)


def test_a_layer_with_dependent_inputs(library):
    """Three of six inputs are copies: the metric does not see some directions, and nothing breaks."""
    rows = np.repeat(inputs(3), 2, axis=1)
    matrix = weights(400, 6)
    fit = vq.fit_em(to_library(matrix, library), 50, gram=rows.T @ rows, seed=2)
    matrix_hat = to_numpy(fit.codebook)[to_numpy(fit.codes)].T
    np.testing.assert_allclose(fit.distortion * 400, ((rows @ (matrix - matrix_hat)) ** 2).sum(), rtol=1e-7)
    assert (to_numpy(fit.weights) > 0).all()


def test_columns_that_the_metric_cannot_tell_apart():
    matrix = np.concatenate([np.repeat([[0.0, 1.0, 2.0]], 20, axis=1), weights(60, 1)])
    with pytest.raises(vq.InputError, match="only 3 distinct columns"):
        vq.fit_em(matrix, 4, gram=np.diag([1.0, 0.0]))
    assert vq.fit_em(matrix, 3, gram=np.diag([1.0, 0.0])).distortion == 0


@pytest.mark.parametrize("bad", [
    dict(gram=np.eye(7)), dict(gram=-np.eye(8)), dict(gram=np.zeros((8, 8))), dict(gram=np.full((8, 8), np.nan)),
    dict(gram=np.tri(8)), dict(gram="gram"), dict(eps=0.0), dict(eps=2.0), dict(eps=float("nan")),
    dict(max_tentatives=-1), dict(max_tentatives=1.5), dict(n_steps=-1), dict(tol=-1.0), dict(seed=-1),
    dict(start="far"), dict(start=np.zeros((7, 8))), dict(start=np.zeros((16, 9))), dict(start=np.full((16, 8), np.inf)),
], ids=lambda bad: f"{next(iter(bad))}={str(next(iter(bad.values())))[:12]}")  # fmt: skip
def test_refusals_name_the_argument(bad):
    with pytest.raises(vq.InputError, match=next(iter(bad))):
        vq.fit_em(weights(200), 16, **bad)


@pytest.mark.parametrize("matrix", [
    np.zeros(5), np.zeros((0, 5)), np.zeros((5, 0)), np.zeros((2, 2, 2)), np.eye(9) * 1e200,
    np.where(np.eye(9) > 0, np.nan, 1.0),
], ids=range(6))  # fmt: skip
def test_a_bad_matrix_is_refused(matrix):
    with pytest.raises(vq.InputError, match="matrix"):
        vq.fit_em(matrix, 2)


def test_a_matrix_with_gradients_is_served():
    matrix = torch.from_numpy(weights(300)).requires_grad_()
    fit = vq.fit_em(matrix, 16)
    assert not fit.codebook.requires_grad and isinstance(fit, vq.Fit)


def test_it_is_saved_and_loaded(tmp_path, library):
    fit = vq.fit_em(to_library(weights(300), library), 16, start=weights(300).T[:1].repeat(16, axis=0))
    vq.save(tmp_path / "fit.vq", fit)
    back = vq.load(tmp_path / "fit.vq", library)
    assert type(back) is em.EMFit and back.half_steps == fit.half_steps and back.n_repairs == fit.n_repairs
    np.testing.assert_array_equal(to_numpy(back.codes), to_numpy(fit.codes))


def test_nothing_leaves_a_fake_cuda_device(fake_cuda):  # noqa: F811
    columns = torch.empty((700, 5), dtype=torch.float32, device="cuda")
    for cells in (em._Cells(tensors, columns, columns, None), em._Cells(tensors, columns, columns.double(), np.eye(5))):
        state = cells.evaluate(np.arange(45.0).reshape(9, 5))
        assert state.codes.device.type == state.sq_dists.device.type == "cuda"
        assert state.means.shape == (9, 5) and state.sq_spreads.shape == (9,)
    assert cells.rows(np.arange(4), seen=True).shape == (4, 5)
