"""Pictures made of blocks, rate-distortion planes, and the explorer of a coded photograph."""

import base64
import io

import numpy as np
import pytest
from libraries import LIBRARIES, to_library
from numpy.testing import assert_array_equal
from PIL import Image

from vqcore import rates, view
from vqcore.data import patches
from vqcore.errors import InputError
from vqcore.view import figures, images

RNG = np.random.default_rng(3)
PHOTOGRAPH = RNG.integers(0, 256, (24, 36, 3)).astype(float)
PAIRS = [(size, k) for size in (1, 2) for k in (2, 16)]
CODED = {(size, k): (100 * size * k, np.clip(PHOTOGRAPH + 40 * size / k, 0, 255)) for size, k in PAIRS}
JPEGS = [(n_bytes, np.clip(PHOTOGRAPH + shift, 0, 255)) for n_bytes, shift in ((500, 30), (1500, 9), (3200, 3))]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("size", [1, 2, 3, 4, 6, 12])
@pytest.mark.parametrize("shape", [(24, 36, 3), (24, 36), (24, 36, 1)])
def test_assembled_patches_are_the_image(size, shape, library):
    image = RNG.random(shape)
    rows = to_library(patches(image, size), library)
    again = images.assemble(rows, shape)
    assert type(again) is type(rows)
    assert_array_equal(np.asarray(again), image)


@pytest.mark.parametrize("shape", [(24, 36), (36, 24, 4), (24,), (23, 36, 3), (24, 0, 3), (12, 36, 3), (2, 24, 36, 3)])
def test_blocks_that_fill_no_image_are_refused(shape):
    with pytest.raises(InputError, match="shape"):
        images.assemble(patches(PHOTOGRAPH, 4), shape)


def test_a_sheet_shows_every_codeword_once():
    codebook = RNG.integers(0, 250, (7, 12)).astype(float)
    _, ax = view.figure()
    view.draw_patches(ax, codebook, n_across=3)
    sheet = ax.images[0].get_array()
    assert sheet.shape == (8, 8, 3)  # three tiles of two pixels and two gaps of one, both ways
    for i, tile in enumerate(codebook):
        down, across = 3 * (i // 3), 3 * (i % 3)
        assert_array_equal(sheet[down : down + 2, across : across + 2].reshape(-1), tile)
    assert (sheet[:, 2] == 255).all() and (sheet[2] == 255).all() and (sheet[6:, 3:] == 255).all()


def test_a_picture_is_its_values():
    _, ax = view.figure()
    view.draw_picture(ax, PHOTOGRAPH + 0.3, "title")
    assert_array_equal(ax.images[0].get_array(), PHOTOGRAPH)
    assert ax.get_title(loc="left") == "title" and not ax.get_xticks().size


@pytest.mark.parametrize("sharp", [True, False])
@pytest.mark.parametrize("size", [(24, 36), (7, 5), (700, 900)])
@pytest.mark.parametrize("dpi", [60, 125])
def test_a_picture_is_drawn_where_and_as_matplotlib_would(size, sharp, dpi):
    # Smooth, so that no rule of resampling matters, and different in every corner.
    down, across = np.mgrid[: size[0], : size[1]] / np.reshape(size, (2, 1, 1))
    image = 255 * np.stack([down, across, down * across], axis=2)
    drawn = []
    for ours in (True, False):
        fig, ax = view.figure("wide")
        if ours:
            view.draw_picture(ax, image, sharp=sharp)
        else:
            ax.imshow(np.uint8(np.rint(image)), interpolation="nearest" if sharp else "bilinear")
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
        drawn.append(figures.pixels(fig, dpi)[..., :3].astype(float))
    assert np.abs(drawn[0] - drawn[1]).mean() < 2
    assert (np.abs(drawn[0] - drawn[1]).max(axis=2) > 30).mean() < 0.02  # an edge may round to the next pixel


def test_a_picture_may_be_cut_by_its_frame():
    fig, ax = view.figure()
    view.draw_picture(ax, PHOTOGRAPH, sharp=True)
    ax.set(xlim=(9.5, 19.5), ylim=(12.5, 2.5))
    fig.canvas.draw()
    x, y = np.rint(ax.transData.transform((10, 3))).astype(int)
    assert_array_equal(np.asarray(fig.canvas.buffer_rgba())[::-1][y, x, :3], PHOTOGRAPH[3, 10])


@pytest.mark.parametrize("n_curves", [2, 5])
def test_a_plane_holds_its_curves(n_curves):
    curves = {f"coder {i}": ([100.0, 1000.0 + i], [20.0, 30.0 + i]) for i in range(n_curves)}
    _, ax = view.figure("wide")
    view.draw_rate_distortion(ax, curves, ideal={"coder 1": ([90, 900], [20, 31]), "a bound": ([10, 100], [40, 50])})
    for line, points in zip(ax.lines, curves.values()):
        assert_array_equal(line.get_data(), points)
    assert len({(line.get_color(), line.get_marker()) for line in ax.lines[:n_curves]}) == n_curves
    same, bound = ax.lines[n_curves:]
    assert same.get_linestyle() == bound.get_linestyle() == "--"
    assert same.get_color() == ax.lines[1].get_color() != bound.get_color()
    names = ax.texts if n_curves == 2 else ax.get_legend().get_texts()
    assert [text.get_text() for text in names] == list(curves)
    assert ax.get_xscale() == "log"


def test_a_photograph_is_shown_as_a_small_picture_with_its_text(monkeypatch):
    import IPython.display

    shown = []
    monkeypatch.setattr(IPython.display, "display", lambda data, **how: shown.append((data, how)))
    fig, ax = view.figure(ncols=2)
    view.draw_picture(ax[0], RNG.integers(0, 256, (400, 400, 3)))
    view.show_photograph(fig, "Noise;\n PSNR 8 dB")
    ((data, how),) = shown
    assert set(data) == {"image/jpeg", "text/plain"}
    assert data["text/plain"] == how["metadata"]["image/jpeg"]["alt"] == "Noise; PSNR 8 dB"
    encoded = base64.b64decode(data["image/jpeg"])
    assert len(encoded) <= 60_000
    assert Image.open(io.BytesIO(encoded)).format == "JPEG"
    with pytest.raises(InputError, match="needs a sentence"):
        view.show_photograph(view.figure()[0], " ")


@pytest.fixture(scope="module")
def explorer():
    return view.ImageExplorer(PHOTOGRAPH, CODED, JPEGS)


@pytest.mark.parametrize(("size", "k"), PAIRS)
def test_the_explorer_shows_the_pair_of_its_sliders(explorer, size, k):
    explorer.set(patch_size=size, n_codewords=k)
    n_bytes, picture = CODED[size, k]
    coded, plane, jpeg = (axes[name] for axes in [named(explorer.figure())] for name in ("coded", "plane", "jpeg"))
    assert_array_equal(coded.images[-1].get_array(), np.rint(picture))
    beside = max([j for j in JPEGS if j[0] <= n_bytes] or JPEGS[:1], key=lambda j: j[0])
    assert_array_equal(jpeg.images[-1].get_array(), np.rint(beside[1]))
    rings = [line for line in plane.lines if line.get_marker() == "o" and line.get_markerfacecolor() == "none"]
    assert [ring.get_xdata()[0] for ring in rings] == [n_bytes, beside[0]]
    assert rings[0].get_ydata()[0] == rates.psnr(PHOTOGRAPH, picture, 255)
    assert f"{n_bytes} bytes" in explorer.summary() and f"{beside[0]} bytes" in explorer.summary()


def named(fig):
    return dict(zip(("coded", "plane", "jpeg"), fig.axes))


def test_frames_are_pictures_in_true_colours_and_differ(explorer):
    frames = set()
    for size, k in PAIRS:
        explorer.set(patch_size=size, n_codewords=k)
        frames.add(bytes(explorer.picture.value))
        assert explorer.picture.value == explorer.frame(explorer.state)
    assert len(frames) == len(PAIRS)
    assert explorer.picture.format == "jpeg"
    assert all(Image.open(io.BytesIO(frame)).mode == "RGB" for frame in frames)


def test_the_bundle_is_a_live_widget_and_a_picture(explorer):
    bundle, metadata = explorer._repr_mimebundle_()
    assert {"application/vnd.jupyter.widget-view+json", "image/jpeg", "text/plain"} <= set(bundle)
    assert bundle["text/plain"] == explorer.summary() == metadata["image/jpeg"]["alt"]


def test_what_the_explorer_cannot_show_is_refused(explorer):
    with pytest.raises(InputError, match="the control allows 2, 16"):
        explorer.set(n_codewords=3)
    with pytest.raises(InputError, match="the controls are"):
        explorer.set(codewords=2)
    for coded, jpegs, complaint in [
        ({}, JPEGS, "coded has 0 pairs"),
        ({(1, 2): CODED[1, 2], (2, 16): CODED[2, 16]}, JPEGS, "coded has 2 pairs"),
        (CODED, [], "jpegs is empty"),
        (CODED, [(0, PHOTOGRAPH)], "n_bytes"),
        (CODED, [(9, PHOTOGRAPH[1:])], "picture"),
    ]:
        with pytest.raises(InputError, match=complaint):
            view.ImageExplorer(PHOTOGRAPH, coded, jpegs)
