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
