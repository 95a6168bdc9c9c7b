"""The explorer of a compressed network shows the numbers it was given, and refuses others."""

import numpy as np
import pytest

from vqcore import view
from vqcore.errors import InputError

SIZES, NUMBERS = (1, 2, 4), (4, 16)


def weight(seed):
    return np.random.default_rng(seed).standard_normal((6, 8))


def results():
    keys = [(size, number, trained) for size in SIZES for number in NUMBERS for trained in (False, True)]
    return {key: (100 * key[1] // key[0], 0.3 + 0.05 * key[0] + 0.3 * key[2], weight(i)) for i, key in enumerate(keys)}


@pytest.fixture
def explorer():
    return view.NetworkExplorer((5000, 0.98, weight(99)), results())


@pytest.mark.parametrize("key", results())
def test_the_picture_and_its_numbers_are_those_that_were_given(explorer, key):
    explorer.set(block_size=key[0], n_codewords=key[1], trained=key[2])
    n_bytes, accuracy, shown = results()[key]
    before, plane, now = explorer.figure().axes
    np.testing.assert_array_equal(before.images[0].get_array(), weight(99))
    np.testing.assert_array_equal(now.images[0].get_array(), shown)
    (ring,) = [line for line in plane.lines if line.get_marker() == "o" and line.get_markerfacecolor() == "none"]
    assert (ring.get_xdata()[0], ring.get_ydata()[0]) == (n_bytes, accuracy)
    assert f"{n_bytes} bytes, {5000 / n_bytes:.1f} times fewer, {accuracy:.1%} right, 98.0% before" in repr(explorer)
    points = {tuple(pair) for line in plane.lines for pair in zip(*line.get_data())}
    assert points >= {value[:2] for value in results().values()}


@pytest.mark.parametrize(
    "accuracies", [(0.62, 0.93, 0.97), (0.05, 0.5, 0.9), (0.98, 0.99, 1.0), (0.5, 0.5, 0.5), (0.0, 0.0, 0.0)]
)
def test_accuracies_are_told_apart_and_all_inside_with_true_ticks(accuracies):
    low, middle, high = accuracies
    keys = sorted(results())
    coded = {key: (100 + i, (low, middle)[i % 2], weight(i)) for i, key in enumerate(keys)}
    fig = view.NetworkExplorer((5000, high, weight(99)), coded).figure()
    fig.canvas.draw()
    plane = fig.axes[1]
    bottom, top = plane.get_ylim()
    assert bottom < low <= high < top
    heights = plane.transData.transform([(100, accuracy) for accuracy in accuracies])[:, 1]
    shares = np.diff(heights) / plane.bbox.height
    assert (shares[np.diff(accuracies) > 0.009] > 0.08).all()  # at 400 pixels a marker and a half, at least
    told = [(text.get_position()[1], text.get_text()) for text in plane.get_yticklabels()]
    assert told and all(bottom <= at <= top and float(text.strip("%")) == pytest.approx(100 * at) for at, text in told)


def test_the_axes_of_the_weights_have_names(explorer):
    before, plane, now = explorer.figure().axes
    for ax in (before, now):
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("input", "neuron")
        (bar,) = ax.child_axes
        assert bar.get_ylabel() == "weight" and bar.get_ylim() == pytest.approx(ax.images[0].get_clim())
    assert now.get_xlim() == before.get_xlim() and now.get_ylim() == before.get_ylim()
    assert "unseen digits" in plane.get_ylabel()


def test_each_control_moves_the_picture_and_back(explorer):
    first = explorer.picture.value
    for name, value in (("block_size", 4), ("n_codewords", 4), ("trained", True)):
        held = explorer.state[name]
        explorer.set(**{name: value})
        assert explorer.picture.value != first and explorer.summary() in explorer.caption.value.replace("&#x27;", "'")
        explorer.set(**{name: held})
        assert explorer.picture.value == first


@pytest.mark.parametrize("values", [{"block_size": 3}, {"n_codewords": "4"}, {"trained": 2}, {"bits": 4}])
def test_what_a_control_does_not_allow_is_refused(explorer, values):
    before = explorer.state
    with pytest.raises(InputError):
        explorer.set(**values)
    assert explorer.state == before


def bad_results():
    return {
        "none": {},
        "one missing": dict(list(results().items())[1:]),
        "never trained": {key: value for key, value in results().items() if not key[2]},
        "more than all right": results() | {(1, 4, False): (100, 1.2, weight(0))},
        "another shape": results() | {(1, 4, False): (100, 0.5, weight(0)[:3])},
        "no bytes": results() | {(1, 4, False): (0, 0.5, weight(0))},
    }


@pytest.mark.parametrize("case", bad_results())
def test_bad_results_are_refused(case):
    with pytest.raises(InputError):
        view.NetworkExplorer((5000, 0.98, weight(99)), bad_results()[case])
