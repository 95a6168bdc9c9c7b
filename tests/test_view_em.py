"""The explorers of empty cells and of soft EM show what the fits say, and answer at once."""

import numpy as np
import pytest

from vqcore import view
from vqcore.data import blobs
from vqcore.errors import InputError
from vqcore.lloyd import fit_lloyd
from vqcore.soft import cooled, critical_temperature, fit_soft_em


@pytest.fixture(scope="module")
def points():
    return blobs(600, 2, 5, 0.18, seed=3)[0]


@pytest.fixture(scope="module")
def empty(points):
    return view.EmptyCellExplorer(points, points[:6], n_steps=8)


@pytest.fixture(scope="module")
def soft(points):
    return view.SoftExplorer(points, 5, n_temperatures=25)


def diamonds(ax):
    return [np.stack(line.get_data(), axis=1) for line in ax.lines if line.get_marker() == "D"]


@pytest.mark.parametrize("policy", ["split", "farthest", "drop", "keep"])
def test_the_picture_is_that_of_the_fit(points, empty, policy):
    empty.set(policy=policy, step=1)
    state = empty.state
    start = points[:6].copy()
    start[:2] = state["x"], state["y"]
    fit = fit_lloyd(points, 6, start, 8, empty=policy)
    plane, curve = empty.figure().axes
    np.testing.assert_array_equal(diamonds(plane)[-1], fit.codebooks[1])
    assert f"{len(fit.codebooks[1])} codewords" in empty.summary()
    assert f"distortion {fit.distortions[1]:.6g}; at the end {fit.distortion:.6g}" in empty.summary()
    np.testing.assert_allclose(np.stack(curve.lines[1].get_data())[1], fit.distortions)


def test_idle_codewords_are_ringed_and_named(empty):
    empty.set(policy="keep", step=0)
    assert "1 idle" in empty.summary()
    assert "0 = 1" in empty.figure().axes[0].artists[0].texts
    before = empty.picture.value
    for name in ("x", "y"):
        empty.controls[name].value = empty.controls[name].max
        assert empty.picture.value != before
        before = empty.picture.value
    # In a corner that nobody chooses nothing ever happens to them.
    empty.controls["y"].value = empty.controls["y"].min
    empty.set(step=8)
    assert "2 idle" in empty.summary()
    empty.set(policy="split")
    assert "0 idle" in empty.summary()


def test_the_policy_error_says_so(points):
    empty = view.EmptyCellExplorer(points, points[:6])
    empty.set(policy="error")
    assert "EmptyCellError, 1 of 6 cells are empty" in empty.summary()
    assert "1 of 6 cells are empty" in empty.figure().axes[0].get_title(loc="left")


def test_what_became_of_a_policy_is_told_as_it_is(empty):
    """Better, worse and alike all occur, wherever the spot is, and each is told by its number."""
    told = set()
    for x in np.linspace(empty.controls["x"].min, empty.controls["x"].max, 9):
        for y in np.linspace(empty.controls["y"].min, empty.controls["y"].max, 9):
            kept, fit = empty.fit(x, y, "keep"), empty.fit(x, y, "split")
            idle = len(empty.idle(kept.codebook)) or "none"
            said = empty.describe({"x": x, "y": y, "policy": "split", "step": 1})
            more = fit.distortion / kept.distortion - 1
            alike = abs(more) < 5e-4
            way = "as with keep" if alike else f"{abs(more):.1%} {'more' if more > 0 else 'less'} than with keep"
            assert f", {way}, which leaves {idle} idle at the end" in said
            ahead = not alike and more > 0 and fit.distortions[1] < kept.distortions[1]
            assert said.endswith("and yet in a worse place at the end") == ahead
            told |= {way.partition("%")[2] or way, ahead}
    assert told == {"as with keep", " more than with keep", " less than with keep", True, False}
    assert empty.describe({"x": x, "y": y, "policy": "keep", "step": 1}).endswith("2 idle at the end")


def test_two_codewords_are_the_least(points):
    assert "0 idle" in view.EmptyCellExplorer(points, points[:2]).summary()
    with pytest.raises(InputError, match="number of codewords"):
        view.EmptyCellExplorer(points, points[:1])


def test_the_tree_is_that_of_the_fits(points, soft):
    temperatures = soft.temperatures
    assert soft.critical == pytest.approx(2 * np.linalg.eigvalsh(np.cov(points.T, bias=True))[-1], rel=1e-12)
    fits = cooled(points, 5, temperatures)
    for index in (0, 10, 24):
        soft.set(index=index)
        plane, tree = soft.figure().axes[:2]
        np.testing.assert_array_equal(diamonds(plane)[-1], fits[index].codebook)
        assert f"free energy {fits[index].free_energies[-1]:.4g}" in soft.summary()
    assert len(tree.lines) == 5 + 2
    soft.set(index=0)
    assert "1 distinct of 5" in soft.summary() and soft.figure().axes[0].artists[0].texts == ["×5"]
    soft.set(index=24)
    assert "5 distinct of 5" in soft.summary()


def test_the_temperature_stands_beside_its_slider_and_is_the_one_of_the_picture(soft):
    slider = soft.controls["index"]
    for index in (0, 7, 24):
        slider.index = index  # as the slider and the button that plays do in a browser
        assert float(slider.label) == pytest.approx(soft.fits[index].temperature, rel=5e-3)
        assert f"temperature {soft.fits[index].temperature:.4g}," in soft.picture.alt
    before = soft.state
    for wrong in (25, -1, 1.5, "0.1"):
        with pytest.raises(InputError, match="allows 0 to 24"):
            soft.set(index=wrong)
    assert soft.state == before


def test_the_critical_temperature_is_twice_the_variance_along_the_axis_of_the_picture(points, soft):
    assert soft.critical == pytest.approx(2 * np.var(points @ soft.axis), rel=1e-12)
    told = [text.get_text() for text in soft.figure().axes[1].texts]
    assert told == [f"critical\nT = {soft.critical:.3g}"] and "twice the variance along the main axis" in soft.summary()


def test_the_colour_is_the_number_of_codewords_that_share_a_place(soft):
    assert np.abs(soft._sharing(soft.fits[0]) - 5).max() < 1e-4  # all on one spot, so all share alike
    cold = soft._sharing(soft.fits[24])
    assert cold.min() >= 1 and np.median(cold) < 1.05


def test_cooling_follows_the_points_library(points):
    import torch

    temperatures = critical_temperature(points) * np.array([1.2, 0.5, 0.1])
    ours, theirs = cooled(points, 4, temperatures), cooled(torch.from_numpy(points), 4, temperatures)
    for one, other in zip(ours, theirs):
        assert isinstance(other.codebook, torch.Tensor)
        np.testing.assert_allclose(other.codebook.numpy(), one.codebook, rtol=1e-7, atol=1e-9)
    assert critical_temperature(torch.from_numpy(points)) == pytest.approx(critical_temperature(points), rel=1e-12)
    assert critical_temperature(points[:, 0] + 1e6) == pytest.approx(2 * points[:, 0].var(), rel=1e-7)


def test_cooling_is_no_worse_than_what_it_starts_from(points):
    """At every temperature the free energy is at most that of the disturbed codebook from the one before."""
    for fit in cooled(points, 4, critical_temperature(points) * np.geomspace(1.2, 0.02, 8)):
        assert fit.free_energies[-1] <= fit.free_energies[0]
    cold = fit_soft_em(points, 4, 0, 50, fit.codebook)
    assert cold.distortion <= fit.distortion * (1 + 1e-3)


@pytest.mark.parametrize("bad", [[1.0, 2.0], [1.0, 0.0], [[1.0]], [-1.0], []], ids=str)
def test_temperatures_must_fall(points, bad):
    with pytest.raises(InputError, match="temperatures"):
        cooled(points, 3, bad)


def test_explorers_come_with_their_pictures(empty, soft):
    for explorer in (empty, soft):
        bundle, metadata = explorer._repr_mimebundle_()
        assert set(bundle) == {"application/vnd.jupyter.widget-view+json", "image/png", "text/plain"}
        assert bundle["text/plain"] == explorer.summary() == metadata["image/png"]["alt"]
