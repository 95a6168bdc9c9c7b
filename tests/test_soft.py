"""Soft EM: the free energy never rises, the cold limit is Lloyd's algorithm, and codewords part where theory says."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from libraries import LIBRARIES, to_library, to_numpy
from scipy.spatial.distance import cdist
from scipy.special import logsumexp
from test_kernels import fake_cuda  # noqa: F401

import vqcore as vq
from vqcore import checks, soft
from vqcore.kernels import soft_tensors, table_for, tensors


@pytest.fixture(params=LIBRARIES + ["torch, as on a device"])
def library(request, monkeypatch):
    """A library; the last one sends CPU tensors through the kernels that devices run."""
    if "as on a device" in request.param:
        choose = lambda a, *b, **c: tensors if isinstance(a, torch.Tensor) else table_for(a, *b, **c)  # noqa: E731
        monkeypatch.setattr(checks, "table_for", choose)
    return request.param.partition(",")[0]


def normal(n=1000, dim=3, seed=0):
    return np.random.default_rng(seed).standard_normal((n, dim) if dim else n)


def by_scipy(points, codebook, temperature):
    """One step and the free energy, with all shares in one table."""
    points, shape = points.reshape(len(points), -1), codebook.shape
    exponents = -cdist(points, codebook.reshape(len(codebook), -1), "sqeuclidean") / temperature
    totals = logsumexp(exponents, axis=1)
    shares = np.exp(exponents - totals[:, None])
    return (shares.T @ points / shares.sum(axis=0)[:, None]).reshape(shape), -temperature * totals.mean()


@pytest.mark.parametrize("dim", [0, 1, 2, 7])
@pytest.mark.parametrize("temperature", [0.05, 0.7, 30.0])
def test_steps_equal_the_plain_formulas(library, dim, temperature):
    points = normal(dim=dim)
    fit = vq.fit_soft_em(to_library(points, library), 11, temperature, 4, seed=1)
    for before, after, free_energy in zip(fit.codebooks, fit.codebooks[1:], fit.free_energies):
        step, expected = by_scipy(points, to_numpy(before), temperature)
        np.testing.assert_allclose(to_numpy(after), step, rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(free_energy, expected, rtol=1e-11, atol=1e-12)
    if dim < 2:
        assert (np.diff(to_numpy(fit.codebook).reshape(-1)) >= 0).all()


def test_codes_weights_and_distortions_are_the_nearest_ones(library):
    points = normal()
    fit = vq.fit_soft_em(to_library(points, library), 9, 0.3, 5)
    for codebook, distortion in zip(fit.codebooks, fit.distortions):
        want = cdist(points, to_numpy(codebook), "sqeuclidean").min(axis=1).mean()
        np.testing.assert_allclose(distortion, want, rtol=1e-11)
    codes = cdist(points, to_numpy(fit.codebook)).argmin(axis=1)
    np.testing.assert_array_equal(to_numpy(fit.codes), codes)
    np.testing.assert_allclose(to_numpy(fit.weights), np.bincount(codes, minlength=9) / 1000, atol=1e-13)
    assert len(fit.codebooks) == len(fit.distortions) == len(fit.free_energies) == fit.n_steps + 1 == 6
    assert fit.distortion == fit.distortions[-1] and isinstance(fit, vq.Fit)
    assert type(fit.codes) is type(to_library(points, library))


@given(
    hnp.arrays(np.float64, st.tuples(st.integers(6, 60), st.integers(1, 3)), elements=st.floats(-5, 5, width=32)),
    st.integers(1, 6), st.floats(1e-6, 1e3), st.integers(0, 5),
)  # fmt: skip
def test_the_free_energy_never_rises(points, n_codewords, temperature, seed):
    fit = vq.fit_soft_em(points, n_codewords, temperature, 15, "random", seed=seed)
    scale = fit.distortions[0] + temperature * np.log(n_codewords + 1)
    assert (np.diff(fit.free_energies) <= 1e-12 * scale).all()
    assert np.isfinite(fit.codebook).all()


@pytest.mark.parametrize("dim", [0, 1, 4])
def test_the_cold_limit_is_lloyd(library, dim):
    points = normal(2000, dim)
    start = np.sort(points[:24], axis=0) if dim < 2 else points[:24]
    lloyd = vq.fit_lloyd(points, 24, start=start, n_steps=30, empty="keep")
    for temperature in (0, 1e-12, 1e-300):
        fit = vq.fit_soft_em(to_library(points, library), 24, temperature, 30, start)
        np.testing.assert_array_equal(to_numpy(fit.codes), lloyd.codes)
        np.testing.assert_allclose(to_numpy(fit.codebook), lloyd.codebook, rtol=1e-10, atol=1e-13)
        np.testing.assert_allclose(fit.free_energies, lloyd.distortions, rtol=1e-9)


def test_an_idle_codeword_stays(library):
    points = normal(500, 2)
    start = np.concatenate([points[:3], [[1e6, 0.0], [1e6, 0.0]]])
    for temperature in (0, 0.5):
        fit = vq.fit_soft_em(to_library(points, library), 5, temperature, 20, start)
        np.testing.assert_array_equal(to_numpy(fit.codebook)[3:], start[3:])


@pytest.mark.parametrize("temperature", [0.8, 1.5, 4.0])
@pytest.mark.parametrize("n_codewords", [2, 3, 8])
def test_small_differences_grow_by_twice_the_variance_over_the_temperature(temperature, n_codewords):
    """Rose 1990: about the state with all codewords at the mean, a step multiplies differences by 2 C / T."""
    points = normal(3000, 3) * [1.5, 1.0, 0.5]
    covariance = np.cov(points.T, bias=True)
    apart = np.random.default_rng(1).standard_normal((n_codewords, 3)) * 1e-6
    apart -= apart.mean(axis=0)
    fit = vq.fit_soft_em(points, n_codewords, temperature, 1, points.mean(axis=0) + apart)
    np.testing.assert_allclose(fit.codebook - points.mean(axis=0), 2 * apart @ covariance / temperature, atol=1e-11)


def test_codewords_part_at_the_critical_temperature(library):
    points = normal(2000, 2) * [2.0, 1.0]
    critical = 2 * np.linalg.eigvalsh(np.cov(points.T, bias=True))[-1]
    start = points.mean(axis=0) + [[1e-3, 0], [-1e-3, 0]]
    spread = {}
    for share in (0.9, 1.1):
        fit = vq.fit_soft_em(to_library(points, library), 2, share * critical, 300, start)
        spread[share] = np.ptp(to_numpy(fit.codebook)[:, 0])
    assert spread[0.9] > 0.5 and spread[1.1] < 1e-5


def test_hot_codewords_meet_at_the_mean(library):
    points = normal(500, 3)
    fit = vq.fit_soft_em(to_library(points, library), 7, 1e6, 50)
    np.testing.assert_allclose(to_numpy(fit.codebook), np.tile(points.mean(axis=0), (7, 1)), atol=1e-12)


def test_libraries_tell_one_story(library):
    points = normal(5000, 6)
    ours = vq.fit_soft_em(points, 30, 0.4, 25, seed=2)
    theirs = vq.fit_soft_em(to_library(points, library), 30, 0.4, 25, seed=2)
    np.testing.assert_allclose(to_numpy(theirs.codebook), ours.codebook, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(theirs.free_energies, ours.free_energies, rtol=1e-11)


@pytest.mark.parametrize("exponent", [-150, -40, 40, 150])
def test_scale_and_offset(library, exponent):
    points = np.round(256 * normal(800, 2)) / 256
    start = points[:8]
    here = vq.fit_soft_em(to_library(points, library), 8, 0.25, 20, start)
    scaled = vq.fit_soft_em(
        to_library(np.ldexp(points, exponent), library), 8, np.ldexp(0.25, 2 * exponent), 20, np.ldexp(start, exponent)
    )
    np.testing.assert_array_equal(to_numpy(scaled.codebook), np.ldexp(to_numpy(here.codebook), exponent))
    far = vq.fit_soft_em(to_library(points + 2.0**20, library), 8, 0.25, 20, start + 2.0**20)
    np.testing.assert_allclose(to_numpy(far.codebook) - 2.0**20, to_numpy(here.codebook), atol=1e-6)


def test_many_codewords_come_in_blocks(library, monkeypatch):
    """What is held at a time is bounded; smaller blocks change only the rounding."""
    points = normal(700, 2)
    whole = vq.fit_soft_em(points, 100, 0.1, 3)
    monkeypatch.setattr(soft_tensors, "BLOCK_BYTES", 8 * 200 * 13)
    parts = vq.fit_soft_em(to_library(points, library), 100, 0.1, 3)
    np.testing.assert_allclose(to_numpy(parts.codebook), whole.codebook, rtol=1e-11, atol=1e-13)


def test_it_comes_to_rest_and_tells_every_step():
    seen, points = [], normal(200, 1)
    fit = vq.fit_soft_em(points, 2, 0.5, 5000, on_step=lambda *state: seen.append(state))
    assert fit.converged and fit.n_steps < 5000
    assert [(step, free_energy) for step, _, free_energy in seen] == list(enumerate(fit.free_energies))


@pytest.mark.parametrize("bad", [
    dict(temperature=-1.0), dict(temperature=float("nan")), dict(temperature=float("inf")), dict(temperature="warm"),
    dict(n_steps=-1), dict(start="far"), dict(start=np.zeros((7, 3))), dict(seed=-1), dict(n_codewords=0),
    dict(n_codewords=201),
], ids=lambda bad: f"{next(iter(bad))}={str(next(iter(bad.values())))[:12]}")  # fmt: skip
def test_refusals_name_the_argument(bad):
    with pytest.raises(vq.InputError, match=next(iter(bad))):
        vq.fit_soft_em(normal(200), **{"n_codewords": 16, **bad})


def test_it_is_saved_and_loaded(tmp_path, library):
    fit = vq.fit_soft_em(to_library(normal(300), library), 6, 0.3)
    vq.save(tmp_path / "fit.vq", fit)
    back = vq.load(tmp_path / "fit.vq", library)
    assert type(back) is soft.SoftFit and back.free_energies == fit.free_energies and back.temperature == 0.3
    np.testing.assert_array_equal(to_numpy(back.codebook), to_numpy(fit.codebook))


@pytest.mark.parametrize("dim", [1, 4])
def test_nothing_leaves_a_fake_cuda_device(fake_cuda, dim):  # noqa: F811
    points = torch.empty((700, dim), dtype=torch.float32, device="cuda")
    moves, mass, _, _ = soft_tensors.share(points, np.arange(9.0 * dim).reshape(9, dim), 0.5)
    assert moves.shape == (9, dim) and mass.shape == (9,)
