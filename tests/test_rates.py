"""Sizes to the bit, entropy, quality, and the lines of theory, held to published constants and closed forms."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from libraries import LIBRARIES, to_library
from scipy import stats

import vqcore as vq
from vqcore import rates
from vqcore.product import ProductQuantizer


def normal(n=500, dim=8):
    return np.random.default_rng(0).standard_normal((n, dim))


@pytest.mark.parametrize("library", LIBRARIES)
def test_ledger_of_a_fit(library):
    fit = vq.fit_lloyd(to_library(normal(), library), 20, n_steps=2)
    book = rates.ledger(fit)
    assert (book.codes, book.codebooks, book.padding, book.n_values) == (500 * 5, 20 * 8 * 64, 0, 4000)
    assert book.total == 2500 + 10240 and book.bits_per_value == book.total / 4000
    short = rates.ledger(fit, float_bits=32, word_bits=64, header=100, n_points=13)
    assert (short.codes, short.padding, short.codebooks, short.header) == (65, 63, 5120, 100)
    assert rates.ledger(vq.fit_lloyd_max(vq.Normal(), 1)).bits_per_value == math.inf


def test_ledger_of_a_product_quantizer():
    pq = ProductQuantizer(4, 16).fit(normal())
    assert rates.ledger(pq, n_points=1000) == rates.Ledger(codes=16000, codebooks=4 * 16 * 2 * 64, n_values=8000)
    turned = ProductQuantizer(4, 16, "optimized").fit(normal(), n_rotations=1)
    assert rates.ledger(turned, float_bits=32).codebooks == (4 * 16 * 2 + 64) * 32
    # Vectors of 128 values in 8 bytes each.
    assert rates.ledger({"codes": 64 * 10**6, "n_values": 128 * 10**6}).bits_per_value == 0.5


def test_published_size_of_a_compressed_layer():
    # fairseq's SizeTracker: 1024 x 1024 weights in blocks of 8, 256 codewords in float16: 31.03 times smaller.
    fit = vq.Fit(np.zeros((256, 8)), None, None, 0.0, (), (), 0, True)
    book = rates.ledger(fit, n_points=1024 * 1024 // 8, float_bits=16)
    assert book.codes == 8 * 131072 and book.codebooks == 8 * 4096 and book.bits_per_value == 1.03125
    assert round(32 / book.bits_per_value, 2) == 31.03


def test_bad_ledgers_are_refused():
    for thing in (vq.QSGD().encode(normal()), {"codes": 3}):
        with pytest.raises(vq.InputError, match="n_points=5"):
            rates.ledger(thing, n_points=5)
    for thing in (3, {"code": 3}, {"codes": -1}, {"codes": 1.5}, None):
        with pytest.raises(vq.InputError):
            rates.ledger(thing)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=30).filter(sum))
def test_entropy_is_scipys(counts):
    np.testing.assert_allclose(rates.entropy(np.array(counts)), stats.entropy(counts, base=2), atol=1e-12)


def test_entropy_of_published_quantizers():
    for n_codewords, bits in ((4, 1.9110987662), (8, 2.8248652143), (16, 3.7653284725)):
        assert abs(rates.entropy(vq.fit_lloyd_max(vq.Normal(), n_codewords).weights) - bits) < 1e-9


def test_entropy_coded_size():
    assert rates.entropy_coded_bits(np.arange(256)) == 256 * 8
    assert rates.entropy_coded_bits(np.zeros((50, 3), np.uint8)) == 0
    codes = np.random.default_rng(0).integers(0, 7, (400, 2))
    wanted = sum(stats.entropy(np.bincount(column), base=2) * 400 for column in codes.T)
    np.testing.assert_allclose(rates.entropy_coded_bits(codes, 7), wanted, rtol=1e-12)
    for none in (np.zeros(0, int), np.zeros((0, 3), np.uint8), np.zeros((5, 0), int)):
        assert rates.entropy_coded_bits(none) == 0
    for bad in ((codes, 6), (np.int64(3),), (codes[None],)):
        with pytest.raises(vq.InputError):
            rates.entropy_coded_bits(*bad)


def test_psnr():
    image = np.random.default_rng(0).random((5, 6, 3))
    assert rates.psnr(image, image) == math.inf
    np.testing.assert_allclose(rates.psnr(image, image + 0.1), 20, rtol=1e-12)
    np.testing.assert_allclose(rates.psnr(image * 255, image * 255 + 25.5, peak=255), 20, rtol=1e-12)
    with pytest.raises(vq.InputError, match="shape"):
        rates.psnr(image, image[:4])


@pytest.mark.parametrize("library", LIBRARIES)
def test_recall(library):
    found, true = np.array([[1, 2, 3], [4, 5, 6]]), np.array([[3, 9], [6, 4]])
    assert rates.recall(to_library(found, library), to_library(true, library)) == 0.75
    for bad in (found[:1], found[0], found.astype(float)):
        with pytest.raises(vq.InputError):
            rates.recall(to_library(bad, library), to_library(true, library))


def test_published_constants():
    published = {"normal": 1, "laplace": 0.865255979432, "exponential": 0.432627989716, "uniform": 0.702597978292}
    for law, constant in published.items():
        assert abs(rates.shannon_lower_bound(law, 0) - constant) < 1e-12
        np.testing.assert_allclose(rates.shannon_lower_bound(law, [1, 2], 4.0), [constant, constant / 4], rtol=1e-11)
    # By entropy of the density, from SciPy.
    for law, known in (("laplace", stats.laplace(scale=2**-0.5)), ("exponential", stats.expon), ("normal", stats.norm)):
        constant = math.exp(2 * known.entropy()) / (2 * math.pi * math.e)
        np.testing.assert_allclose(rates.SHANNON[law], constant, rtol=1e-9)
    assert abs(rates.panter_dite("normal", 0) - 2.720699046351326775891117) < 1e-14
    assert abs(10 * math.log10(rates.PANTER_DITE["laplace"]) - 6.532125) < 1e-6


def test_the_lines_bound_and_meet_the_best_quantizers():
    laws = {
        "normal": vq.Normal(),
        "laplace": vq.Laplace(0, 1),
        "exponential": vq.Exponential(1),
        "uniform": vq.Uniform(0, 12**0.5),
    }
    for name, law in laws.items():
        for rate in (1, 4, 9):
            best = vq.fit_lloyd_max(law, 2**rate).distortion
            assert best > rates.shannon_lower_bound(name, rate)
        np.testing.assert_allclose(best, rates.panter_dite(name, 9), rtol=0.01)


def test_zador():
    np.testing.assert_allclose(rates.zador(3, 1), rates.panter_dite("normal", 3), rtol=1e-12)
    # N D for the plane: 4.0307 with hexagons, with D for both coordinates together.
    hexagon = 5 / (36 * math.sqrt(3))
    assert abs(2 * rates.zador(0, 2, hexagon) - 4.030665253853817) < 1e-12
    assert abs(2 * rates.zador(0, 2, 1 / 12) - 4.188790204786391) < 1e-12
    spheres = {1: 0.0833333, 2: 0.0795774715, 3: 0.0769669463, 4: 0.0750263597, 8: 0.0704535592, 24: 0.0647497645}
    for dim, moment in spheres.items():
        np.testing.assert_allclose(rates.zador(0, dim), rates.zador(0, dim, moment), rtol=1e-6)
    # In high dimension it falls to Shannon's bound.
    lines = [rates.zador(2, dim) for dim in (1, 2, 8, 100, 10**5)]
    assert lines == sorted(lines, reverse=True) and 1 < lines[-1] / rates.shannon_lower_bound("normal", 2) < 1.001


def test_bad_rates_are_refused():
    for call in (lambda: rates.shannon_lower_bound("cauchy", 1), lambda: rates.panter_dite("normal", -1),
                 lambda: rates.zador(1, 0), lambda: rates.entropy([-1, 2]),
                 lambda: rates.entropy([0.0, 0.0])):  # fmt: skip
        with pytest.raises(vq.InputError):
            call()
