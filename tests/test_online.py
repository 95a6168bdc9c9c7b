"""Competitive learning: equal to a loop one can read, to closed forms, and near the optimum in the end."""

import random
import tracemalloc

import numpy as np
import pytest
import torch

from vqcore import online
from vqcore.errors import InputError
from vqcore.online import fit_clvq
from vqcore.optimal import fit_optimal
from vqcore.scalar import companding, fit_lloyd_max
from vqcore.sources import Exponential, Normal

D10 = 0.0229370529045015  # of the optimal ten codewords for the standard normal law


def readable(samples, start, step, batch):
    """Competitive learning as it is written on the board; codebooks (n_codewords, dim) as lists of lists."""
    codebook, weights, distortion = [list(codeword) for codeword in start], [0.0] * len(start), 0.0
    for first in range(0, len(samples), batch):
        frozen = [list(codeword) for codeword in codebook]
        for n, sample in enumerate(samples[first : first + batch], start=first + 1):
            sq_dists = [sum((x - c) ** 2 for x, c in zip(sample, codeword)) for codeword in frozen]
            code = sq_dists.index(min(sq_dists))
            gain = step[0] / (step[0] + step[1] * n)
            codebook[code] = [c + gain * (x - c) for x, c in zip(sample, codebook[code])]
            weights = [(1 - gain) * weight + gain * (i == code) for i, weight in enumerate(weights)]
            distortion += gain * (sq_dists[code] - distortion)
    return np.array(codebook), np.array(weights), distortion


def assert_same(one, other):
    for name in ("codebook", "codes", "weights", "running_weights"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert one.distortions == other.distortions and one.running_distortion == other.running_distortion


@pytest.mark.parametrize("batch", [1, 4, 1000])
@pytest.mark.parametrize("dim", [1, 2, 5])
def test_equals_a_readable_loop_bit_for_bit(dim, batch):
    points = np.random.default_rng(1).normal(3, 1, (40, dim))
    start, step = points[np.argsort(points[:6, 0])], (24.0, 0.27)
    samples = points[np.random.default_rng(5).integers(0, 40, 150)]
    codebook, weights, distortion = readable(samples.tolist(), start.tolist(), step, batch)
    fit = fit_clvq(points, 6, n_samples=150, batch=batch, seed=5, start=start, step=step)
    np.testing.assert_array_equal(fit.codebook, codebook)
    np.testing.assert_allclose(fit.running_weights, weights, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(fit.running_distortion, distortion, rtol=1e-12)
    assert fit.n_steps == -(-150 // batch)


@pytest.mark.parametrize("batch", [1, 7, 50])
def test_one_codeword_is_the_mean_of_every_sample(batch):
    # With the shares 1 / (n + 1) a single codeword is the plain mean of the start and all samples.
    samples = Exponential(2.0).sample(23, np.random.default_rng(3))
    fit = fit_clvq(Exponential(2.0), 1, n_samples=23, batch=batch, seed=3, start=[5.0], step=(1.0, 1.0))
    np.testing.assert_allclose(fit.codebook, [(5.0 + samples.sum()) / 24], rtol=1e-13)
    assert fit.n_samples[-1] == 23 and fit.n_samples[0] == 0
    np.testing.assert_array_equal(fit.running_weights, [1.0])
    # E (X - c)^2 = variance + (mean - c)^2
    assert fit.distortion == pytest.approx(0.25 + (0.5 - fit.codebook[0]) ** 2, rel=1e-12)


@pytest.mark.parametrize("options", [{}, {"batch": 50}, {"start": "companding"}, {"start": "random"}])
def test_comes_within_a_fifth_of_a_per_cent_of_lloyd_max(options):
    fit = fit_clvq(Normal(), 10, n_samples=1_000_000, seed=1, **options)
    assert D10 * (1 - 1e-12) <= fit.distortion < 1.002 * D10
    assert fit.codes is None and not fit.converged
    np.testing.assert_allclose(fit.running_weights, fit.weights, atol=0.05)
    assert fit.running_distortion == pytest.approx(D10, rel=0.2)


def test_the_default_step_serves_many_codewords_with_few_samples():
    # After 300,000 samples of 100 codewords the source still moves more than half of the way: ours has come down.
    pair = (400.0, np.pi**2 / 100**2)
    ours, source = (fit_clvq(Normal(), 100, n_samples=300_000, step=step) for step in (None, pair))
    assert ours.distortion < 1.1 * fit_lloyd_max(Normal(), 100).distortion < source.distortion


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_all_four_agree(dim, library):
    points = np.random.default_rng(0).normal(1e4, 1, (500, dim)).astype(np.float32)
    points = points[:, 0] if dim == 1 else points
    given = torch.from_numpy(points) if library == "torch" else points
    fit = fit_clvq(given, 8, n_samples=5000, batch=2)
    if library == "torch":
        assert all(isinstance(array, torch.Tensor) for array in (fit.codebook, fit.codes, fit.weights, *fit.codebooks))
    codebook, codes, weights = (np.asarray(array) for array in (fit.codebook, fit.codes, fit.weights))
    assert codebook.dtype == np.float64 and codebook.shape == (8,) + points.shape[1:]
    apart = points.reshape(500, 1, -1).astype(float) - codebook.reshape(1, 8, -1)
    sq_dists = (apart**2).sum(axis=2)
    np.testing.assert_array_equal(codes, sq_dists.argmin(axis=1))
    np.testing.assert_allclose(weights, np.bincount(codes, minlength=8) / 500, rtol=1e-15)
    np.testing.assert_allclose(fit.distortion, sq_dists.min(axis=1).mean(), rtol=1e-9)
    assert fit.distortions[-1] == fit.distortion < fit.distortions[0]
    np.testing.assert_array_equal(np.asarray(fit.codebooks[-1]), codebook)
    if dim == 1:
        assert all(np.all(np.diff(np.asarray(book)) >= 0) for book in fit.codebooks)


def test_numpy_and_torch_learn_the_same():
    points = np.random.default_rng(0).normal(size=(300, 3))
    one, other = fit_clvq(points, 5, n_samples=2000), fit_clvq(torch.from_numpy(points), 5, n_samples=2000)
    np.testing.assert_array_equal(one.codebook, other.codebook.numpy())
    np.testing.assert_array_equal(one.codes, other.codes.numpy())


def test_on_a_sample_it_nears_the_best_codebook_of_the_sample():
    points = np.random.default_rng(2).normal(size=2000)
    best = fit_optimal(points, 8).distortion
    fit = fit_clvq(points, 8, n_samples=500_000)
    assert best * (1 - 1e-12) <= fit.distortion < 1.02 * best


@pytest.mark.parametrize("n_samples, batch", [(1, 1), (5, 1), (100_000, 1), (100_000, 33), (10, 100)])
def test_at_most_a_hundred_checkpoints_in_order(n_samples, batch):
    fit = fit_clvq(Normal(), 3, n_samples=n_samples, batch=batch)
    assert len(fit.codebooks) == len(fit.distortions) == len(fit.n_samples) <= 100
    assert fit.n_samples[0] == 0 and fit.n_samples[-1] == n_samples and np.all(np.diff(fit.n_samples) > 0)
    assert np.isfinite(fit.distortions).all() and np.isfinite(fit.running_distortion)
    assert all(count % batch == 0 for count in fit.n_samples[:-1])


def test_same_seed_same_bits_and_no_global_generator():
    points = np.random.default_rng(0).normal(size=(200, 2))
    before = np.random.get_state()[1].copy(), random.getstate(), torch.get_rng_state()
    one, other = fit_clvq(points, 6, n_samples=3000, seed=4), fit_clvq(points, 6, n_samples=3000, seed=4)
    assert_same(one, other)
    assert_same(fit_clvq(points, 6, n_samples=3000, seed=np.random.default_rng(4)), one)
    assert not np.array_equal(fit_clvq(points, 6, n_samples=3000, seed=5).codebook, one.codebook)
    np.testing.assert_array_equal(np.random.get_state()[1], before[0])
    assert random.getstate() == before[1] and torch.equal(torch.get_rng_state(), before[2])


def test_samples_are_drawn_in_blocks(monkeypatch):
    fit_clvq(Normal(), 4, n_samples=10)
    whole = fit_clvq(Normal(), 4, n_samples=400_000, batch=3)
    monkeypatch.setattr(online, "_BLOCK_BYTES", 2**16)
    tracemalloc.start()
    fit = fit_clvq(Normal(), 4, n_samples=400_000, batch=3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000
    assert_same(fit, whole)


def test_far_from_zero_nothing_changes():
    points = np.round(np.random.default_rng(0).normal(size=400) * 2**10) / 2**10
    near = fit_clvq(points, 5, n_samples=5000, start="random")
    far = fit_clvq(points + 2**20, 5, n_samples=5000, start="random")
    np.testing.assert_allclose(far.codebook - 2**20, near.codebook, rtol=0, atol=1e-8)
    np.testing.assert_array_equal(far.codes, near.codes)


def test_equal_codewords_and_a_share_of_one():
    # Of equal codewords the first is drawn, until they part; a share that rounds to one jumps onto the sample.
    fit = fit_clvq(Normal(), 3, n_samples=1000, start=[0.0, 0.0, 0.0], step=(1e30, 1.0))
    assert np.all(np.diff(fit.codebook) >= 0) and np.isfinite(fit.codebook).all()
    np.testing.assert_allclose(fit.weights.sum(), 1)


def test_a_pool_without_enough_distinct_points_gives_way_to_all_points():
    points = np.zeros(20_000)
    points[:3] = [1.0, 2.0, 3.0]
    assert len(np.unique(fit_clvq(points, 4, n_samples=100).codebooks[0])) == 4


def test_what_is_printed_is_a_line_of_numbers_not_of_arrays():
    fit = fit_clvq(Normal(), 5, n_samples=1000)
    assert repr(fit).startswith("Fit(5 codewords, distortion 0.") and len(repr(fit)) < 120


def test_starts():
    given = fit_clvq(Normal(), 3, n_samples=5, start=[2.0, 0.0, 1.0])
    assert given.codebooks[0].tolist() == [0.0, 1.0, 2.0]
    start = fit_clvq(Normal(1.0, 2.0), 7, n_samples=5, start="companding").codebooks[0]
    np.testing.assert_array_equal(start, companding(Normal(1.0, 2.0), 7))


@pytest.mark.parametrize(
    "source, options, message",
    [
        ([1.0, np.nan], {}, "NaN or infinity"),
        (np.zeros((2, 2, 2)), {}, "shape"),
        ([1.0, 1.0, 1.0], {}, "n_codewords=2 but only 1 distinct points"),
        ([1.0], {}, "n_codewords=2"),
        (Normal(), {"n_samples": 0}, "n_samples=0"),
        (Normal(), {"batch": 0}, "batch=0"),
        (Normal(), {"batch": 1.0}, "whole number"),
        (Normal(), {"seed": -1}, "seed"),
        (Normal(), {"seed": None}, "seed"),
        (Normal(), {"start": "best"}, "start='best'"),
        ([1.0, 2.0, 3.0], {"start": "companding"}, "start='companding'"),
        (Normal(), {"start": [0.0]}, "start holds 1 codewords, but n_codewords=2"),
        (Normal(), {"start": [[0.0], [1.0]]}, "start has shape"),
        (Normal(), {"step": 0.1}, "step=0.1"),
        (Normal(), {"step": (1.0, 0.0)}, r"step\[1\]=0.0"),
        (Normal(), {"step": (1.0, np.inf)}, r"step\[1\]=inf"),
        ("points", {}, "points_or_law"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(source, options, message):
    with pytest.raises(InputError, match=message):
        fit_clvq(source, 2, **options)
