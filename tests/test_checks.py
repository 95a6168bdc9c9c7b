"""Bad input is refused at the door by name, odd input works, and nothing crashes, hangs or lies."""

import json
import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from bad_input import BASE, CASES, FUNCTIONS, NUMPY_ONLY, all_outcomes
from libraries import LIBRARIES, to_library, to_numpy

import vqcore as vq

# Fits only: assign and distortion have no n_codewords to refuse, and take repeated points.
FITS = [name for name in FUNCTIONS if name.startswith("fit")]
ABOUT_COUNTS = {"all rows identical", "all zeros", "3 distinct rows"} | {name for name in CASES if "codewords" in name}


@pytest.fixture(scope="module")
def outcomes():
    return all_outcomes()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_case_is_refused_or_works(outcomes, function):
    for name, (_, _, expected) in CASES.items():
        for library in ("numpy", "torch"):
            if library == "torch" and name in NUMPY_ONLY:
                continue
            got = outcomes[f"{function} / {name} / {library}"]
            if function in FITS and not (function == "fit_clvq" and name in ABOUT_COUNTS):
                assert got.partition(":")[0] == expected, f"{function}, {name}, {library}: {got}"
            elif name not in ABOUT_COUNTS:
                assert got.partition(":")[0] == expected, f"{function}, {name}, {library}: {got}"
            else:
                assert got == "works" or got.startswith("refused: "), f"{function}, {name}, {library}: {got}"


def test_a_refusal_names_the_argument(outcomes):
    for key, got in outcomes.items():
        if got.startswith("refused"):
            assert any(word in got for word in ("points", "matrix", "n_codewords", "codebook")), f"{key}: {got}"


def test_the_same_under_optimisation(outcomes):
    """`python -O` drops asserts: nothing may depend on them."""
    program = os.path.join(os.path.dirname(__file__), "bad_input.py")
    run = subprocess.run([sys.executable, "-O", program], capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == outcomes


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("codebook", [
    np.full((3, 4), np.nan), np.full((3, 4), np.inf), np.zeros((0, 4)), np.zeros((3, 5)), np.zeros(4), "codebook", None,
], ids=["NaN", "inf", "empty", "wrong width", "one-dimensional", "a string", "None"])  # fmt: skip
def test_a_bad_codebook_is_refused(library, codebook):
    points = to_library(BASE, library)
    for function in (vq.assign, vq.encode, vq.distortion):
        with pytest.raises(vq.InputError, match="codebook"):
            function(points, codebook)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("codes", [[0, 8], [-1], [0.0], [True], ["a"], None], ids=str)
def test_bad_codes_are_refused(library, codes):
    codebook = to_library(BASE[:8], library)
    if library != "numpy" and codes in ([0, 8], [-1], [0.0], [True]):
        codes = torch.tensor(codes)
    with pytest.raises(vq.InputError, match="codes"):
        vq.decode(codes, codebook)


@pytest.mark.parametrize("bad", [
    dict(start="kmeans"), dict(start=BASE[:7]), dict(start=BASE[:8, :3]), dict(start=np.full((8, 4), np.nan)),
    dict(n_steps=-1), dict(n_steps=1.5), dict(tol=-1e-3), dict(tol=float("nan")), dict(tol="small"),
    dict(empty="ignore"), dict(empty=None), dict(seed=-1), dict(seed=1.5), dict(seed=None), dict(seed="0"),
    dict(sample_weight=np.ones(199)), dict(sample_weight=-np.ones(200)), dict(sample_weight=np.zeros(200)),
    dict(sample_weight=np.full(200, np.nan)), dict(sample_weight=np.ones((200, 1))),
], ids=lambda bad: f"{next(iter(bad))}={str(next(iter(bad.values())))[:12]}")  # fmt: skip
def test_fit_lloyd_refuses(bad):
    with pytest.raises(vq.InputError, match=next(iter(bad))):
        vq.fit_lloyd(BASE, 8, **bad)


@pytest.mark.parametrize("call", [
    lambda: vq.fit_lloyd(BASE, 8, tol=10**400), lambda: vq.Normal(10**400), lambda: vq.Normal().sample(10**20),
    lambda: vq.fit_clvq(BASE, 3, step=(1e-300, 1e300)), lambda: vq.assign(torch.zeros(3, 2, device="meta"), BASE[:2, :2]),
    lambda: vq.assign(torch.full((3, 2), 2**60), BASE[:2, :2]),
    lambda: vq.cells(BASE, "codebook"), lambda: vq.cells("law", [1.0]), lambda: vq.fit_lloyd_max("normal", 3),
    lambda: vq.fit_lloyd_max(vq.Normal(), 0), lambda: vq.LogNormal(0, 10.0),
], ids=range(11))  # fmt: skip
def test_more_that_is_refused(call):
    with pytest.raises(vq.InputError):
        call()


def test_unsigned_integers_of_torch_work():
    for dtype in (torch.uint8, torch.uint16, torch.uint32, torch.int16):
        points = torch.arange(12).reshape(6, 2).to(dtype)
        assert vq.encode(points, points.double()).tolist() == list(range(6))


def test_an_unknown_argument_is_no_option():
    with pytest.raises(TypeError):
        vq.fit_lloyd(BASE, 8, n_iter=5)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("exponent", [-100, -60, 0, 60, 100])
def test_scale_by_a_power_of_two_changes_no_code(library, exponent):
    small = vq.fit_lloyd(to_library(BASE, library), 8, seed=3)
    large = vq.fit_lloyd(to_library(BASE * np.float32(2.0**exponent), library), 8, seed=3)
    np.testing.assert_array_equal(to_numpy(large.codes), to_numpy(small.codes))
    np.testing.assert_array_equal(to_numpy(large.codebook), np.ldexp(to_numpy(small.codebook), exponent))


@pytest.mark.parametrize("exponent", [-600, -300, 300, 600])
def test_float64_scales_work_or_are_refused(exponent):
    points = np.ldexp(BASE.astype(np.float64), exponent)
    if abs(exponent) > 330:
        with pytest.raises(vq.InputError, match="points reaches"):
            vq.fit_lloyd(points, 8)
    else:
        np.testing.assert_array_equal(vq.fit_lloyd(points, 8).codes, vq.fit_lloyd(BASE.astype(float), 8).codes)


def test_no_global_generator_is_touched():
    np.random.seed(1)
    random.seed(1)
    torch.manual_seed(1)
    before = np.random.get_state()[1].tolist(), random.getstate(), torch.get_rng_state().tolist()
    vq.fit_lloyd(BASE, 8)
    vq.fit_clvq(BASE, 8, n_samples=100)
    vq.Normal().sample(10)
    vq.data.blobs(50)
    assert before == (np.random.get_state()[1].tolist(), random.getstate(), torch.get_rng_state().tolist())


def test_a_tensor_that_asks_for_gradients_is_served():
    points = torch.from_numpy(BASE).requires_grad_()
    fit = vq.fit_lloyd(points, 8)
    assert not fit.codebook.requires_grad and points.grad is None
