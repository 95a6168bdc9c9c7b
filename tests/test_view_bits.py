"""Pictures of bits hold the bits that `pack` writes; the explorers of codes and of rounding follow their controls."""

import numpy as np
import pytest
import torch
from matplotlib.font_manager import FontProperties
from libraries import LIBRARIES, to_library

from vqcore import InputError, pack, view
from vqcore.bits import LAYOUTS
from vqcore.view.bits import ROW, bits_of, neighbours
from vqcore.view.lettering import letters

WORDS = [0x300500800C01001, 0x1802C0500901001C, 0x2003C0700D0]  # 1 to 16 at 11 bits, dense


def digits_of(ax):
    """The bits of the words as they are drawn, -1 where there is no digit."""
    n_words = len(ax.get_yticks())
    seen = np.full((n_words, 64), -1)
    for line in ax.lines:
        x, y = line.get_data()
        rows, columns = np.round((y - 0.5) / ROW).astype(int), np.floor(x).astype(int)
        seen[rows, columns] = int(line.get_marker().strip("$"))
    return seen


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("n_bits", [1, 3, 5, 11, 16, 21, 31, 32, 33, 63, 64])
@pytest.mark.parametrize("n_codes", [1, 2, 14, 40])
def test_places_are_those_where_pack_puts_the_bits(n_codes, n_bits, layout):
    codes = np.random.default_rng(n_bits).integers(0, 2**n_bits, n_codes, dtype=np.uint64)
    bits = bits_of(pack(codes, n_bits, layout))
    places = view.field_places(n_codes, n_bits, layout)
    assert len(np.unique(places)) == n_codes * n_bits  # no bit belongs to two
    for code, field in zip(codes.tolist(), bits.reshape(-1)[places].tolist()):
        assert "".join(map(str, field[::-1])) == f"{code:0{n_bits}b}"
    assert bits.sum() == sum(code.bit_count() for code in codes.tolist())


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_printed_words_are_drawn(library):
    codes = to_library(np.arange(1, 17), library)
    _, ax = view.figure((9.4, 2))
    view.draw_words(ax, 3)
    view.draw_bits(ax, pack(codes, 11), 11, 16, marked=5)
    seen = digits_of(ax)
    for row, word in zip(seen, WORDS):
        assert "".join(str(max(bit, 0)) for bit in row[::-1]) == f"{word:064b}"
    assert (seen[2, 48:] == -1).all() and (seen >= 0).sum() == 176
    others, marked = ax.artists
    assert others.texts == [*"12345", "7", "8", "9", "10", "11", "12…", "…12", "13", "14", "15", "16"]
    assert marked.texts == ["6…", "…6"] and marked.color == view.roles.NOW


def test_too_many_words_are_refused():
    _, ax = view.figure()
    with pytest.raises(InputError, match="words"):
        view.draw_bits(ax, pack(np.arange(2000), 64), 64, 2000)
    with pytest.raises(InputError, match="n_words"):
        view.draw_words(ax, 17)


def test_the_bits_explorer_follows_and_keeps_codes_that_fit():
    explorer = view.BitsExplorer()
    assert explorer.summary().endswith(" ".join(f"{word:x}" for word in WORDS))
    assert "bits 55 to 63 of word 0 and bits 0 to 1 of word 1; 3 words, 16 bits spare" in explorer.summary()
    seen = {explorer.picture.value}
    for change in ({"code": 2047}, {"place": 0}, {"layout": "sections"}, {"layout": "aligned"}, {"width": 12}):
        explorer.set(**change)
        assert explorer.picture.value not in seen
        seen.add(explorer.picture.value)
    explorer.set(width=2)
    assert explorer.state == {"width": 2, "layout": "aligned", "place": 0, "code": 3}
    codes, words = explorer.words_of(explorer.state)
    np.testing.assert_array_equal(codes, [3, 2, 3, 0] + [1, 2, 3, 0] * 3)
    assert len(words) == 1 and "1 words" not in explorer.summary()
    with pytest.raises(InputError, match="code=4"):
        explorer.set(code=4)
    assert (digits_of(explorer.figure().axes[0])[0] >= 0).sum() == 32


@pytest.mark.parametrize("value", [-0.99, -0.5, -1 / 3, 0.0, 0.3, 1.0])
@pytest.mark.parametrize("n_bits", [1, 2, 4])
def test_the_neighbours_enclose_a_value_and_have_it_as_mean(value, n_bits):
    below, above, chance = neighbours(value, n_bits)
    assert abs(above - below) == pytest.approx(1 / (2**n_bits - 1)) and abs(above) <= 1 + 1e-12
    assert min(below, above) - 1e-12 <= value <= max(below, above) + 1e-12
    assert chance * above + (1 - chance) * below == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("value", [-0.85, 0.1, 0.3])
def test_a_stem_stands_on_each_neighbour_as_high_as_it_is_likely(value):
    _, ax = view.figure()
    ax.set(xlim=(-1, 1), ylim=(0, 1))
    view.draw_rounding(ax, value, 2)
    tips = {round(x, 9): height for (_, (x, height)) in (path.vertices for path in ax.collections[0].get_paths())}
    below, above, chance = neighbours(value, 2)
    assert tips == pytest.approx({round(below, 9): 1 - chance, round(above, 9): chance})
    levels, star = ax.lines[0], ax.lines[-1]
    np.testing.assert_allclose(levels.get_xdata(), np.arange(-3, 4) / 3)
    assert star.get_xdata() == [value]


def test_the_rounding_explorer_shows_an_unbiased_mean_and_a_backward_one():
    explorer = view.RoundingExplorer(n_draws=4000)
    for value, n_bits in ((0.3, 2), (-0.85, 3), (0.1, 1), (-0.01, 4)):
        explorer.set(value=value, n_bits=n_bits)
        right, backward = explorer.means(explorer.state)
        below, above, chance = neighbours(value, n_bits)
        spread = abs(above - below) * np.sqrt(chance * (1 - chance) / 4000)
        assert abs(right[-1] - value) <= 4.5 * spread + 1e-12
        assert abs(backward[-1] - (below + above - value)) <= 4.5 * spread + 1e-12
        assert np.isin(np.round(right[0], 9), np.round([below, above], 9))
        assert f"{right[-1]:.4f}" in explorer.summary() and "-0.0000;" not in explorer.summary()
    before = explorer.picture.value
    explorer.set(draws=10)
    assert explorer.picture.value != before and len(explorer.means(explorer.state)[0]) == 10
    for bad in ({"n_draws": 1}, {"n_draws": 2.5}, {"seed": -1}):
        with pytest.raises(InputError):
            view.RoundingExplorer(**bad)


def test_tensors_of_words_have_the_bits_of_numpys():
    words = pack(np.array([2**64 - 1, 1, 2**63], dtype=np.uint64), 64)
    np.testing.assert_array_equal(bits_of(torch.from_numpy(words.view(np.int64))), bits_of(words))


def test_a_zero_is_rounded_to_zero_whatever_the_direction():
    explorer = view.RoundingExplorer()
    explorer.set(value=0.0)
    right, backward = explorer.means(explorer.state)
    assert not right.any() and not backward.any()
    assert "backward, with the two chances swapped, 0.0000 (expected 0.0000)" in explorer.summary()


def test_what_is_written_above_the_outermost_levels_has_room():
    explorer = view.RoundingExplorer()
    for value in (-0.99, -0.5, 0.99):
        explorer.set(value=value, n_bits=1)
        fig = explorer.figure()
        fig.canvas.draw()
        for words in (words for ax in fig.axes for words in ax.artists):
            font = FontProperties(family="DejaVu Sans", weight=words.weight)
            for place, text in zip(words.axes.transData.transform(words.places), words.texts):
                outline = letters(text, font, words.size, words.align).vertices + words.offset
                corners = place + fig.dpi / 72 * np.stack([outline.min(axis=0), outline.max(axis=0)])
                assert all(words.axes.bbox.contains(*corner) for corner in corners), text
