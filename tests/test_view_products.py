"""Product quantization in pictures: the explorer shows what was fitted, and says it right."""

import re

import numpy as np
import pytest

import vqcore as vq
from vqcore import view


@pytest.fixture(scope="module")
def points():
    return np.random.default_rng(0).uniform(-1, 1, (600, 2)) @ [[1.0, 0.5], [-0.2, 0.3]]


@pytest.fixture(scope="module")
def explorer(points):
    return view.ProductExplorer(points)


def states():
    return [(m, bits, turned) for m in (1, 2) for bits in (2, 4, 6, 8) for turned in (False, True)]


@pytest.mark.parametrize("n_subspaces, n_bits, turned", states())
def test_the_picture_is_that_of_its_codewords(points, explorer, n_subspaces, n_bits, turned):
    explorer.set(n_subspaces=n_subspaces, n_bits=n_bits, turned=turned)
    picture = explorer._picture(explorer.state)
    codes, sq_dists = vq.assign(points, picture.codewords)
    assert len(picture.codewords) == len(picture.shapes) == 2**n_bits
    # The nearest of all codewords is made of the nearest in every part.
    np.testing.assert_allclose(sq_dists.mean(), picture.distortion, rtol=1e-9)
    told = [float(number) for number in re.findall(r"[\d.]*\d", explorer.summary())]
    assert told[0] == 2**n_bits and f"{n_bits} bits a point" in explorer.summary()
    assert f"; {2**n_bits - len(set(codes.tolist()))} of {2**n_bits} cells hold no points" in explorer.summary()
    assert f"distortion {sq_dists.mean():.4g}" in explorer.summary()
    stored = {1: 2 * 2**n_bits, 2: 2 * 2 ** (n_bits // 2) + 4 * turned}[n_subspaces]
    assert told[1] == stored


def test_product_codewords_form_a_grid(explorer):
    explorer.set(n_subspaces=2, n_bits=6, turned=False)
    codewords = explorer._picture(explorer.state).codewords
    assert [len(np.unique(codewords[:, i].round(12))) for i in (0, 1)] == [8, 8]


def test_every_control_changes_the_picture(explorer):
    explorer.set(n_subspaces=2, n_bits=4, turned=False)
    for name, value in (("n_bits", 6), ("turned", True), ("n_subspaces", 1)):
        before = explorer.picture.value
        explorer.set(**{name: value})
        assert explorer.picture.value != before and explorer.summary() in str(explorer.caption.value)


def test_turning_free_codewords_changes_nothing(explorer):
    explorer.set(n_subspaces=1, n_bits=4, turned=False)
    before = explorer.summary()
    explorer.set(turned=True)
    assert explorer.summary() == before


def test_points_and_bits_that_cannot_be_shown_are_refused(points):
    for arguments in ((points[:255],), (points[:, :1],), (points, 3), (points, 10), (points, 4, -1)):
        with pytest.raises(vq.InputError):
            view.ProductExplorer(*arguments)


def test_a_vector_in_parts():
    fig, ax = view.figure("wide")
    view.draw_parts(ax, np.arange(6.0), np.arange(6.0) + 0.5, [3, 7])
    assert [text.get_text() for text in ax.texts] == ["3", "7"]
    stars, rings = ax.lines[1].get_ydata(), ax.lines[0].get_ydata()
    np.testing.assert_array_equal(rings - stars, 0.5)
    with pytest.raises(vq.InputError, match="parts"):
        view.draw_parts(ax, np.arange(6.0), np.arange(6.0), [1, 2, 3, 4])
