"""Pictures hold the numbers they claim, are small and repeatable; explorers follow their controls."""

import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from vqcore import view, voronoi
from vqcore.errors import InputError
from vqcore.kernels import reference
from vqcore.lloyd import fit_lloyd
from vqcore.sources import Exponential, Laplace, LogNormal, Normal, Uniform
from vqcore.view import figures, roles
from vqcore.view.artists import Arrows, Marks, Words
from vqcore.view.lettering import Titles, letters
from vqcore.view.ratios import draw_roofline
from vqcore.view.laws import high_resolution_constant

ALT = "Three codewords; the distortion is 0.25"


@pytest.fixture(scope="module")
def points():
    rng = np.random.default_rng(4)
    return np.concatenate([rng.normal(centre, 0.4, (150, 2)) for centre in ((0, 0), (2, 1), (1, -2))])


@pytest.fixture(scope="module")
def fit(points):
    return fit_lloyd(points, 5, start="random", seed=2)


def offsets(line):
    return np.stack(line.get_data(), axis=1)


def words_of(ax):
    return [artist for artist in ax.artists if isinstance(artist, Words)]


# --- the look


@pytest.mark.parametrize("role", roles.ROLES)
def test_every_role_is_legible_on_white(role):
    assert roles.contrast(roles.ROLES[role]) >= 3
    assert len(roles.SERIES) == len(roles.SERIES_MARKERS)
    assert min(map(roles.contrast, roles.SERIES)) >= 3


def test_every_colour_of_pictures_and_pages_can_be_seen():
    decorations = {"#bbbbbb", "#d9d9d9"}  # the frame of a plane, the fill of a bit that says nothing
    places = Path(view.__file__).parent
    for path in [*places.glob("*.py"), *places.glob("*.js"), *places.parent.glob("app/*.j2")]:
        for colour in re.findall(r"#[0-9A-Fa-f]{3,8}\b", path.read_text()):
            full = ("#" + "".join(2 * digit for digit in colour[1:]) if len(colour) == 4 else colour).upper()
            if full == "#FFFFFF" or full in roles.FILLS or full.lower() in decorations:
                continue
            assert roles.contrast(full) >= 3, f"{path.name}: {colour}"


def test_points_edges_and_codes_can_be_seen_over_every_quantity(points, fit):
    import matplotlib as mpl

    fills = roles.pale(mpl.colormaps[roles.QUANTITY](np.linspace(0, 1, 256))[:, :3])
    fills = [mpl.colors.to_hex(fill) for fill in fills]
    for ink in (roles.POINT_OVER_FILL, roles.CELL, roles.CODE):
        assert min(roles.contrast(ink, fill) for fill in fills) >= 3
    # A codeword and an arrow carry an edge of white, which is as good as a white page.
    assert roles.contrast(roles.CODEWORD) >= 3 and roles.contrast(roles.ERROR) >= 3
    source = (Path(view.__file__).parent / "plane.js").read_text()
    assert f",{roles.PALE})`" in source and 'ink.fillStyle = "#4D4D4D"' in source
    shapes = voronoi.polygons(fit.codebook, (-2, 4, -4, 3))
    for order in ("fill first", "points first"):
        _, ax = view.figure()
        view.draw_points(ax, points) if order == "points first" else None
        view.draw_cells(ax, shapes, fit.weights)
        view.draw_points(ax, points) if order == "fill first" else None
        assert ax.lines[0].get_color() == roles.POINT_OVER_FILL
        assert ax.collections[0].get_alpha() == roles.PALE
    _, ax = view.figure()
    view.draw_arrows(ax, points[:3], points[3:6])
    assert ax.collections[0].get_edgecolor().tolist() == [[1, 1, 1, 1]]


def test_contrast_of_known_pairs():
    assert roles.contrast("#000000") == pytest.approx(21)
    assert roles.contrast("#FFFFFF") == pytest.approx(1)
    assert roles.contrast("#767676") == pytest.approx(4.54, abs=0.005)  # the classic threshold grey of WCAG AA
    assert max(map(roles.contrast, roles.FILLS)) < 3  # why these only fill


def test_the_look_is_not_left_behind():
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    fig, ax = view.figure()
    ax.set_title("left and bold")
    figures.small_png(fig)
    assert dict(mpl.rcParams) == before
    assert ax.get_title(loc="left") == "left and bold"


def test_importing_vqcore_imports_no_matplotlib_and_figures_no_widgets():
    code = (
        "import sys, vqcore, vqcore.voronoi; assert 'matplotlib' not in sys.modules;"
        "import vqcore.view; assert not {'ipywidgets', 'anywidget', 'torch', 'matplotlib.pyplot'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- numbers behind the pictures


def test_codewords_and_points_are_where_they_should_be(points, fit):
    _, ax = view.figure()
    view.draw_points(ax, points)
    view.draw_codebook(ax, fit.codebook, codes=True)
    dots, diamonds = ax.lines
    assert_array_equal(offsets(dots), points)
    assert_array_equal(offsets(diamonds), fit.codebook)
    (words,) = words_of(ax)
    assert words.texts == list("01234")
    assert_array_equal(words.places, fit.codebook)


def test_cells_are_edges_and_a_fill_is_a_quantity(fit):
    box = (-2, 4, -4, 3)
    shapes = voronoi.polygons(np.concatenate([fit.codebook, fit.codebook[:1]]), box)
    _, ax = view.figure()
    view.draw_cells(ax, shapes)
    (edges,) = ax.collections
    assert len(edges.get_facecolor()) == 0
    for path, shape in zip(edges.get_paths(), shapes):
        assert_array_equal(path.vertices[:-1], shape)
    _, ax = view.figure()
    view.draw_cells(ax, shapes, np.arange(6.0), label="weight")
    filled, edges = ax.collections
    assert_array_equal(filled.get_array(), np.arange(5.0))  # the copy has no cell
    assert len(edges.get_paths()) == 5


@pytest.mark.parametrize("n_moved", [2, 60])
def test_a_step_leads_from_the_old_to_the_new_place(n_moved):
    before = np.random.default_rng(0).normal(size=(n_moved + 1, 2))
    after = before + [0.5, 0.25]
    after[-1] = before[-1]
    _, ax = view.figure()
    view.draw_step(ax, before, after)
    assert_array_equal(offsets(ax.lines[0]), before)
    assert ax.lines[0].get_markerfacecolor() == "none"
    (arrows,) = ax.collections
    assert_array_equal(arrows.tails, before[:-1])
    assert_array_equal(arrows.tips, after[:-1])


def ink(fig):
    """Where something is drawn, (height, width): how far the darkest channel is from white."""
    return 255 - figures.pixels(fig)[..., :3].min(axis=2).astype(float)


def bare_figure():
    fig, ax = view.figure((3, 3))
    ax.set(xlim=(0, 1), ylim=(0, 1), position=(0, 0, 1, 1))
    ax.set_axis_off()
    return fig, ax


@pytest.mark.parametrize("tip", [(0.9, 0.5), (0.1, 0.5), (0.5, 0.9), (0.2, 0.15), (0.52, 0.5), (0.5, 0.5)])
def test_an_arrow_is_as_long_as_the_way_and_thickest_before_its_tip(tip):
    fig, ax = bare_figure()
    ax.add_collection(Arrows([(0.5, 0.5)], [tip], "black"), autolim=False)
    down, across = np.nonzero(ink(fig) > 40)
    x, y = (across + 0.5) / 300 - 0.5, 0.5 - (down + 0.5) / 300
    way = np.array(tip) - 0.5
    length = np.hypot(*way)
    if length == 0:
        assert not len(x)
        return
    along, aside = (x * way[0] + y * way[1]) / length, (x * way[1] - y * way[0]) / length
    assert along.min() > -0.01 and along.max() == pytest.approx(length, abs=0.01)
    head = along > length - min(5.2 / 72 / 3, length)
    assert np.abs(aside[head]).max() == np.abs(aside).max() < 0.02


def test_words_are_the_letters_of_matplotlib_where_an_annotation_would_be():
    drawn = []
    for write in (
        lambda ax: ax.add_artist(Words([(0.3, 0.6)], ["Tα 12.5%"], (6, -4), size=12)),
        lambda ax: ax.annotate("Tα 12.5%", (0.3, 0.6), xytext=(6, -4), textcoords="offset points", fontsize=12,
                               fontweight="bold", path_effects=view.draw.HALO),
    ):  # fmt: skip
        fig, ax = bare_figure()
        write(ax)
        drawn.append(ink(fig))
    assert drawn[0].sum() == pytest.approx(drawn[1].sum(), rel=0.05)
    assert np.abs(drawn[0] - drawn[1]).sum() < 0.35 * drawn[1].sum()  # a third of a pixel apart, not a letter


def test_words_outside_are_not_drawn_and_halos_cover_no_word():
    fig, ax = bare_figure()
    ax.add_artist(Words([(-0.01, 0.5), (0.5, 1.2)], ["outside", "above"], (0, 0)))
    assert not ink(fig).any()
    ax.add_artist(Words([(0.4, 0.5), (0.42, 0.5)], ["I", "I"], (0, 0), size=20))
    both = ink(fig)
    ax.artists[-1].remove()
    ax.add_artist(Words([(0.4, 0.5)], ["I"], (0, 0), size=20))
    assert (both >= ink(fig) - 1).all()


@pytest.mark.parametrize("align", ["left", "center", "right"])
def test_words_that_would_leave_the_frame_stay_whole(align):
    fig, ax = bare_figure()
    seen = {}
    for x in (0.0, 0.02, 0.5, 0.98, 1.0):
        for y in (0.0, 0.02, 0.5, 0.98, 1.0):
            words = ax.add_artist(Words([(x, y)], ["ABBA"], (-7 if align == "right" else 7, 6), size=12, align=align))
            seen[x, y] = ink(fig).sum()
            words.remove()
    assert list(seen.values()) == pytest.approx([seen[0.5, 0.5]] * 25, rel=0.02)


def test_a_codeword_on_the_frame_is_whole_and_one_outside_is_not_there():
    fig, ax = view.figure((3, 3))
    ax.set(xlim=(1, 0), ylim=(0, 1), position=(0.1, 0.1, 0.8, 0.8))
    ax.set_axis_off()
    fig.set_layout_engine("none")
    seen = []
    for places in ([(0.5, 0.5)], [(0, 0), (-0.01, 0.5)], [(1, 0.5), (0.5, 1.01)], [(0.3, 1), (1.5, 0.3)]):
        mark = ax.add_line(Marks(*np.transpose(places), "D", color=roles.CODEWORD, markersize=9))
        seen.append(ink(fig).sum())
        mark.remove()
    assert seen == pytest.approx([seen[0]] * 4, rel=0.02) and seen[0] > 0
    view.draw_codebook(ax, np.array([[1.0, 1.0]]), size=9)
    view.draw_step(ax, np.array([[0.0, 1.0]]), np.array([[0.0, 1.0]]))
    view.draw_weights(ax, [0.0], [0.5])
    assert sum(isinstance(line, Marks) for line in ax.lines) == 3


@pytest.mark.parametrize("text", ["Step 3: distortion 0.1234", "To AVA, “ρ² ½”", "two\nlines", "costs \\$5 or \\$6"])
def test_titles_from_outlines_look_like_matplotlibs(text):
    drawn = []
    for ours in (True, False):
        fig, ax = view.figure("wide")
        ax.set_title(text)
        fig.canvas.draw()
        fig.set_layout_engine("none")
        title = ax._left_title
        if ours:
            title.set_text("")
        fig.canvas.draw()
        if ours:
            title.set_text(text)
            Titles(fig.canvas.get_renderer()).draw(title)
        drawn.append(255 - np.asarray(fig.canvas.buffer_rgba())[..., :3].min(axis=2).astype(float))
    ours, theirs = (image[:60, 20:] for image in drawn)
    assert ours.sum() == pytest.approx(theirs.sum(), rel=0.03)
    for axis in (0, 1):
        (low, high), (least, most) = (np.flatnonzero(image.sum(axis) > 100)[[0, -1]] for image in (ours, theirs))
        assert abs(low - least) <= 1 and abs(high - most) <= 1 + 0.012 * (most - least)  # a letter is 2 % of a line


def test_an_empty_text_has_no_outline():
    assert len(letters("").vertices) == 0


def test_the_current_step_is_ringed_and_the_bound_dashed():
    _, ax = view.figure("curve")
    view.draw_distortions(ax, [4.0, 2.0, 1.0], step=1, log=True)
    view.draw_bound(ax, [0, 2], 0.5, "the optimum")
    curve, ring, bound = ax.lines
    assert_array_equal(offsets(curve), [[0, 4], [1, 2], [2, 1]])
    assert_array_equal(offsets(ring), [[1, 2]])
    assert ring.get_markeredgecolor() == roles.NOW
    assert bound.get_linestyle() == "--" and offsets(bound)[:, 1].tolist() == [0.5, 0.5]
    assert ax.get_yscale() == "log"


def test_an_error_is_the_segment_from_query_to_reconstruction():
    _, ax = view.figure()
    view.draw_error(ax, [[0.0, 0.0]], [[3.0, 4.0]])
    assert_array_equal(ax.collections[0].get_segments(), [[[0, 0], [3, 4]]])


def test_laws_and_lines_show_their_edges():
    codebook = np.array([-1.0, 0.0, 2.0])
    edges = voronoi.interior_edges(codebook)
    _, (above, below) = view.figure("wide", nrows=2)
    view.draw_law(above, Normal())
    view.draw_edges(above, np.append(edges, np.inf))
    view.draw_intervals(below, np.linspace(-2, 3, 50), edges, codebook, codes=True)
    x, density = above.lines[0].get_data()
    assert_allclose(density, np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi))
    for ax in (above, below):
        assert [segment[0][0] for segment in ax.collections[0].get_segments()] == [-0.5, 1.0]


def test_weights_are_stems():
    _, ax = view.figure()
    view.draw_weights(ax, [0.0, 1.0], [0.25, 0.75], times=2)
    assert_array_equal(ax.collections[0].get_segments(), [[[0, 0], [0, 0.5]], [[1, 0], [1, 1.5]]])
    (words,) = words_of(ax)
    assert words.texts == ["25.0%", "75.0%"]
    assert_array_equal(words.places, [[0, 0.5], [1, 1.5]])


def test_weights_are_printed_where_there_is_room():
    fig, ax = view.figure("wide")
    ax.set_xlim(0, 100)
    view.draw_weights(ax, [10.0, 12.0, 18.0, 60.0], [0.125, 0.25, 0.5, 0.125])
    (words,) = words_of(ax)
    assert words.texts == ["50%", "12.5%"]


# --- show and save


@pytest.mark.parametrize("n_colours", [128, 256])
def test_few_colours_keep_fills_and_roles(n_colours):
    # A large fill, a gradient that fills the rest, and a single pixel of every role.
    picture = np.full((64, 300, 3), 200, np.uint8)
    picture[:, 200:, 0], picture[:, 200:, 1] = np.arange(100) * 2, np.arange(64)[:, None] * 4
    picture[0, : len(roles.ROLES)] = [list(bytes.fromhex(role[1:])) for role in roles.ROLES.values()]
    image = figures.with_palette(picture, n_colours)
    drawn = np.asarray(image.convert("RGB"))
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) <= n_colours
    assert_array_equal(drawn[:, :200], picture[:, :200])
    assert np.abs(drawn.astype(int) - picture).max() < 40


def test_a_picture_of_few_colours_stays_as_it_is():
    picture = np.random.default_rng(0).choice(np.array([0, 100, 255], np.uint8), (20, 30, 3))
    assert_array_equal(np.asarray(figures.with_palette(picture, 128).convert("RGB")), picture)


def heavy_figure():
    fig, ax = view.figure(ncols=2)
    ax[0].imshow(np.random.default_rng(0).random((400, 400, 3)))
    view.draw_points(ax[1], np.random.default_rng(0).normal(size=(20_000, 2)))
    return fig


def plain_figure():
    fig, ax = view.figure()
    view.draw_points(ax, np.random.default_rng(0).normal(size=(100, 2)))
    return fig


@pytest.mark.parametrize("make", [plain_figure, heavy_figure])
def test_a_shown_figure_is_a_small_picture_with_its_text(make, monkeypatch):
    import IPython.display
    import matplotlib.pyplot as plt
    from PIL import Image

    shown = []
    monkeypatch.setattr(IPython.display, "display", lambda data, **how: shown.append((data, how)))
    fig = make()
    view.show(fig, " " + ALT.replace("; ", ";\n  ") + "\n")
    ((data, how),) = shown
    assert set(data) == {"image/png", "text/plain"}  # text/html would be compared, and is not needed
    assert data["text/plain"] == how["metadata"]["image/png"]["alt"] == ALT
    assert how["raw"] is True
    png = base64.b64decode(data["image/png"])
    assert len(png) <= 60_000
    picture = Image.open(io.BytesIO(png))
    assert picture.width >= 0.6 * how["metadata"]["image/png"]["width"]
    assert picture.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
    assert not plt.get_fignums()


def test_a_pyplot_figure_is_closed(monkeypatch):
    import IPython.display
    import matplotlib.pyplot as plt

    monkeypatch.setattr(IPython.display, "display", lambda *args, **how: None)
    view.show(plt.figure(), ALT)
    assert not plt.get_fignums()


@pytest.mark.parametrize("alt", ["", "  \n", None, 3])
def test_a_figure_without_a_description_is_refused(alt):
    with pytest.raises(InputError, match="needs a sentence"):
        view.show(plain_figure(), alt)


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_saved_figures_are_the_same_bytes_each_time(kind, tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_view as t; from vqcore import view;"
        f"view.save(t.plain_figure(), sys.argv[2], {ALT!r})"
    )
    paths = [tmp_path / folder / f"three.{kind}" for folder in ("here", "there")]
    for path in paths:
        path.parent.mkdir()
    view.save(plain_figure(), paths[0], ALT)
    # In another process, where strings hash differently.
    command = [sys.executable, "-c", code, os.path.dirname(__file__), paths[1]]
    subprocess.run(command, check=True, env=dict(os.environ, PYTHONHASHSEED="7"))
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert ALT.encode() in paths[0].read_bytes()


def test_an_unknown_ending_is_refused(tmp_path):
    with pytest.raises(InputError, match="ending of path"):
        view.save(plain_figure(), tmp_path / "a.gif", ALT)


# --- explorers


def test_the_step_explorer_follows_its_slider(points, fit):
    explorer = view.StepExplorer(points, fit)
    frames = set()
    for step, distortion in enumerate(fit.distortions):
        explorer.controls["step"].value = step
        frames.add(bytes(explorer.picture.value))
        assert explorer.state == {"step": step}
        assert f"step {step} of {len(fit.distortions) - 1}: distortion {distortion:.6g}" in explorer.summary()
    assert len(frames) == len(fit.distortions)
    assert all(frame.startswith(b"\x89PNG") for frame in frames)
    explorer.set(step=1)
    assert explorer.picture.value == explorer.frame({"step": 1})


def test_what_comes_next_is_drawn_while_nobody_waits(points, fit):
    import asyncio

    explorer, last = view.StepExplorer(points, fit), len(fit.distortions) - 1

    async def play(*steps):
        for step in steps:
            explorer.set(step=step)
        await asyncio.sleep(0.05)
        return [dict(key)["step"] for key in explorer._frames]

    assert asyncio.run(play(1, 2)) == [0, 1, 2, 3]  # only after the last move, onward
    assert asyncio.run(play(4, 6))[-1] == min(8, last)
    assert max(asyncio.run(play(last - 1, last))) == last  # not past the end
    assert asyncio.run(play(1, 0)).count(0) == 1
    explorer.set(step=2)  # without a loop, as in a script, nothing is planned
    assert explorer.picture.value == explorer.frame({"step": 2})


def test_a_picture_says_what_it_shows(points, fit):
    explorer = view.StepExplorer(points, fit)
    for step in (0, 2):
        explorer.set(step=step)
        assert explorer.picture.alt == explorer.summary() and explorer.summary() in repr(explorer.picture)


def test_frames_do_not_depend_on_the_way_there(points, fit):
    there, back = view.StepExplorer(points, fit), view.StepExplorer(points, fit)
    for step in (1, 2, 3):
        there.set(step=step)
    for step in (4, 3):
        back.set(step=step)
    assert there.picture.value == back.picture.value


def test_the_static_twin_is_the_picture(points, fit):
    from PIL import Image

    explorer = view.StepExplorer(points, fit)
    explorer.set(step=2)
    frame = np.asarray(Image.open(io.BytesIO(explorer.picture.value)).convert("RGB"), dtype=float)
    twin = figures.pixels(explorer.figure(), 125)[..., :3].astype(float)
    assert frame.shape == twin.shape
    assert frame[0, 0].tolist() == [255, 255, 255]
    assert np.abs(frame - twin).mean() < 1.5  # the ring and the diamonds may overlap in another order


def test_the_picture_of_a_step_is_of_that_step(points, fit):
    explorer = view.StepExplorer(points, fit)
    explorer.set(step=2)
    plane, curve = explorer.figure().axes
    diamonds = [line for line in plane.lines if line.get_marker() == "D"]
    assert_array_equal([offsets(line) for line in diamonds], [fit.codebooks[1], fit.codebooks[2]])
    assert_array_equal(offsets(curve.lines[-1]), [[2, fit.distortions[2]]])
    shapes = voronoi.polygons(fit.codebooks[2], explorer.box)
    for path, shape in zip(plane.collections[0].get_paths(), shapes):
        assert_array_equal(path.vertices[:-1], shape)


def test_controls_refuse_what_they_do_not_allow(points, fit):
    explorer = view.StepExplorer(points, fit)
    with pytest.raises(InputError, match="the controls are step"):
        explorer.set(stepp=1)
    with pytest.raises(InputError, match="nearest value"):
        explorer.set(step=10_000)
    assert explorer.state == {"step": 0}


@pytest.mark.parametrize("law", [Normal(), Uniform(0.0, 1.0), Exponential(1.0)], ids=lambda law: type(law).__name__)
def test_a_law_explorer_calls_an_asymptote_what_is_one(law):
    explorer = view.LawExplorer(law, largest=64)
    ratios = explorer.distortions * np.arange(1, 65) ** 2 / explorer.constant
    off = np.abs(ratios - 1)
    assert off[-1] < 0.06 and off[-1] <= off[7] + 1e-9 <= off[0] + 2e-9  # it is neared
    explorer.set(n_codewords=8)
    assert f"{ratios[7]:.3f} times {explorer.constant:.4g} / N², its asymptote for large N and no bound" in repr(explorer)
    assert any("asymptote" in text.get_text() for ax in explorer.figure().axes for text in ax.texts)


def test_a_law_explorer_shows_the_optimal_cells():
    explorer = view.LawExplorer(Normal(), largest=8)
    first = explorer.picture.value
    explorer.set(n_codewords=2)
    assert explorer.picture.value != first
    assert "2 cells: distortion 0.36338" in explorer.summary()  # 1 - 2 / pi
    fig = explorer.figure()
    diamonds = [line for ax in fig.axes for line in ax.lines if line.get_marker() == "D"]
    assert_allclose(offsets(diamonds[0])[:, 0], [-np.sqrt(2 / np.pi), np.sqrt(2 / np.pi)])


@pytest.mark.parametrize(
    "law, constant",
    [
        (Normal(), np.sqrt(3) * np.pi / 2),
        (Uniform(0.0, 1.0), 1 / 12),
        (Exponential(1.0), 9 / 4),
        (Laplace(0.0, 1.0), 9 / 2),
        (LogNormal(0.0, 1.0), np.sqrt(3) * np.pi / 2 * np.exp(2)),
    ],
)
def test_the_limit_for_many_cells_is_known_in_closed_form(law, constant):
    assert high_resolution_constant(law) == pytest.approx(constant, rel=1e-6)


class Naughty(Normal):
    def __repr__(self):
        return "<img src=x onerror=alert(1)>"


def test_markup_in_names_is_text(points, fit):
    class Tags(HTMLParser):
        seen = []

        def handle_starttag(self, tag, attrs):
            self.seen.append(tag)

    named = view.StepExplorer(points, fit, name="<img src=x onerror=alert(2)>")
    for explorer in (view.LawExplorer(Naughty(), largest=2), named):
        assert "<img" in explorer.summary()
        parser = Tags()
        parser.feed(explorer.caption.value)
    assert set(Tags.seen) == {"div"}


PRICES = "$5 a code, $6 a book_1^2"


def shown_texts(fig):
    """Every text of a figure as the reader sees it, and whether it is taken for a formula."""
    from matplotlib.text import Text

    return {text._preprocess_math(text.get_text()) for text in fig.findobj(Text) if "code" in text.get_text()}


def test_dollars_in_names_are_no_formulas(points, fit):
    story = fit.codebooks
    fig, axes = view.figure(ncols=4)
    curve = ([1.0, 10.0], [1.0, 2.0])
    view.draw_rate_distortion(axes[0], {PRICES: curve})
    view.draw_rate_distortion(axes[1], {PRICES: curve} | {str(i): curve for i in range(4)})
    roof = axes[2]
    draw_roofline(roof, 1e9, 1e9, [(PRICES, 10, 20, 1.0, "D")])
    view.draw_tiles(axes[3], np.zeros((1, 1, 2, 2)), [PRICES])
    explorers = view.StepExplorer(points, fit, name=PRICES), view.LearningExplorer(points, {PRICES: story, "curve": story})
    for one in (fig, *(explorer.figure() for explorer in explorers)):
        one.canvas.draw()
        texts = shown_texts(one)
        assert texts and all(PRICES in text and not formula for text, formula in texts), texts


def test_an_explorer_comes_with_its_picture_and_numbers(points, fit):
    explorers = [
        view.StepExplorer(points, fit),
        view.LawExplorer(Uniform(0.0, 1.0), largest=3),
        view.PlaneExplorer(points, fit.codebooks[0]),
    ]
    for explorer in explorers:
        bundle, metadata = explorer._repr_mimebundle_()
        assert set(bundle) == {"application/vnd.jupyter.widget-view+json", "image/png", "text/plain"}
        assert bundle["text/plain"] == explorer.summary() == repr(explorer) == metadata["image/png"]["alt"]


# --- codewords that are dragged


def test_the_plane_follows_its_codebook(points, fit):
    plane = view.PlaneExplorer(points, fit.codebooks[0], best=fit.distortion)
    assert f"distortion {fit.distortions[0]:.6g}, best known {fit.distortion:.6g}" in plane.summary()
    heard = []
    plane.observe(lambda change: heard.append(change["new"]), "codebook")
    plane.step()
    assert_allclose(plane.codebook, fit.codebooks[1], atol=1e-12)
    plane.codebook = [[0, 0], [0, 0]]
    assert plane.cells.weights.tolist() == [1.0, 0.0] and "1 empty" in plane.summary()
    assert len(heard) == 2
    with pytest.raises(InputError, match="codebook has shape"):
        plane.codebook = [0.0, 1.0]
    with pytest.raises(InputError, match="show a sample"):
        view.PlaneExplorer(np.zeros((20_001, 2)), [[0.0, 0.0]])


def test_the_bytes_sent_to_the_browser_are_the_codebook(points):
    from vqcore.view import plane

    codebook = np.random.default_rng(0).normal(size=(3, 2))
    sent = plane._to_browser(codebook, None)
    assert_array_equal(np.frombuffer(sent, "<f8").reshape(-1, 2), codebook)
    assert_array_equal(plane._from_browser(sent, None), codebook)


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PAGE = """
<div id="el"></div><script type="module">
{source}
const raw = (list) => new DataView(new Float64Array(list).buffer);
const kept = {{ points: raw({points}), codebook: raw({codebook}), box: {box}, best: null }}, heard = {{}};
window.model = {{
  get: (name) => kept[name], save_changes: () => {{ window.saved = (window.saved || 0) + 1; }},
  set: (name, value) => {{ kept[name] = value; }}, on: (name, act) => {{ heard[name] = act; }}, off: () => {{}},
}};
window.codebook = () => Array.from(new Float64Array(kept.codebook.buffer));
window.tell = (list) => {{ kept.codebook = raw(list); heard["change:codebook"](); }};
Object.assign(window, {{ measure, keep, gradient, cell }});
render({{ model: window.model, el: document.getElementById("el") }});
</script>
"""


@pytest.fixture(scope="module")
def page():
    playwright = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM:
        pytest.skip("no Chromium here")
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser.new_page()
        browser.close()


def open_plane(page, points, codebook):
    from vqcore.view import plane

    source = (plane.HERE / "plane.js").read_text().replace("export default { render };", "")
    source = source.replace("export function", "function")
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    points, codebook, box = (json.dumps(np.ravel(a).tolist()) for a in (points, codebook, view.box_around(points)))
    page.set_content(PAGE.format(source=source, points=points, codebook=codebook, box=box))
    page.locator("canvas.vqcore-plane").wait_for()
    return page.locator("canvas.vqcore-plane")


def test_the_browser_counts_what_assign_counts(page):
    rng = np.random.default_rng(9)
    points = np.round(rng.normal(size=(400, 2)), 1)  # full of ties
    codebook = np.concatenate([points[:6], points[:2], [[9.0, 9.0]]])
    canvas = open_plane(page, points, codebook)
    codes, sq_dists = reference.assign(points, codebook)
    found = page.evaluate(
        "([p, c]) => { const m = measure(p, c); return [Array.from(m.counts), Array.from(m.sums), m.distortion,"
        " Array.from(m.codes), Array.from(gradient(m, c, p.length / 2))]; }",
        [points.ravel().tolist(), codebook.ravel().tolist()],
    )
    sums, counts = reference.accumulate(points, codes, len(codebook))
    assert_array_equal(found[3], codes)  # the lowest index where several are nearest
    assert_allclose(found[4], view.PlaneExplorer(points, codebook).gradient.ravel(), atol=1e-14)
    assert_array_equal(found[0], counts)
    assert_allclose(found[1], sums.ravel(), atol=1e-12)
    assert found[2] == pytest.approx(sq_dists.mean(), rel=1e-13)
    assert float(canvas.get_attribute("data-distortion")) == found[2]
    box = view.box_around(points)
    for j, shape in enumerate(voronoi.polygons(codebook, box)):
        drawn = page.evaluate("([b, c, j]) => cell(b, c, j)", [list(box), codebook.ravel().tolist(), j])
        drawn = np.array(drawn).reshape(-1, 2)
        assert voronoi.areas([drawn])[0] == pytest.approx(voronoi.areas([shape])[0], abs=1e-9)
    assert not page.errors


def test_codewords_move_by_mouse_keyboard_and_buttons(page, points, fit):
    start = fit.codebooks[0]
    canvas = open_plane(page, points, start)
    box, size = view.box_around(points), canvas.bounding_box()
    across = size["width"] / (box[1] - box[0])

    def at(place):
        return size["x"] + (place[0] - box[0]) * across, size["y"] + (box[3] - place[1]) * across

    def codebook():
        return np.array(page.evaluate("codebook()")).reshape(-1, 2)

    before = canvas.screenshot()
    page.mouse.move(*at(start[3]))
    page.mouse.down()
    page.mouse.move(*at([1.0, -0.5]), steps=4)
    page.mouse.up()
    assert_allclose(codebook()[3], [1.0, -0.5], atol=2 / across)
    assert_array_equal(np.delete(codebook(), 3, axis=0), np.delete(start, 3, axis=0))
    assert canvas.screenshot() != before
    assert canvas.get_attribute("data-chosen") == "3"

    moved = codebook()
    page.keyboard.press("ArrowRight")
    assert codebook()[3, 0] == pytest.approx(moved[3, 0] + 0.02 * (box[1] - box[0]))
    page.keyboard.press("Tab")
    assert canvas.get_attribute("data-chosen") == "4"
    page.keyboard.press("Shift+ArrowUp")
    assert codebook()[4, 1] == pytest.approx(moved[4, 1] + 0.002 * (box[1] - box[0]))
    page.keyboard.press("Tab")  # past the last codeword: on to the buttons, so the canvas is no trap
    assert page.evaluate("document.activeElement.textContent") .startswith("1st half")

    page.get_by_role("button", name="Undo").click()
    page.get_by_role("button", name="Undo").click()
    assert_array_equal(codebook(), moved)
    page.get_by_role("button", name="Start again").click()
    page.get_by_role("button", name="Lloyd step").click()
    assert_allclose(codebook(), fit.codebooks[1], atol=1e-12)
    distortion = float(canvas.get_attribute("data-distortion"))
    assert distortion == pytest.approx(fit.distortions[1], rel=1e-12)

    page.evaluate("tell([0, 0, 1, 1])")  # from Python
    assert float(canvas.get_attribute("data-distortion")) != distortion
    assert f"{float(canvas.get_attribute('data-distortion')):.5g}"[:6] in page.get_by_role("status").text_content()
    assert not page.errors


def test_a_lloyd_step_goes_by_halves(page, points, fit):
    start = fit.codebooks[0]
    canvas = open_plane(page, points, start)
    press = lambda name: page.get_by_role("button", name=name).click()
    place = lambda: np.array(page.evaluate("codebook()")).reshape(-1, 2)
    told = lambda: float(canvas.get_attribute("data-distortion"))
    codes = reference.assign(points, start)[0]
    before = canvas.screenshot()

    press("1st half")
    assert_allclose(place(), fit.codebooks[1], atol=1e-12)
    assert told() == pytest.approx(((points - fit.codebooks[1][codes]) ** 2).sum(1).mean(), rel=1e-12)
    assert page.get_by_role("button", name="1st half").is_disabled()
    halfway = canvas.screenshot()
    press("2nd half")
    assert_allclose(place(), fit.codebooks[1], atol=1e-12)
    assert told() == pytest.approx(fit.distortions[1], rel=1e-12)
    assert page.get_by_role("button", name="2nd half").is_disabled()
    assert len({before, halfway, canvas.screenshot()}) == 3

    press("Undo")
    assert canvas.get_attribute("data-half") == "1" and told() > fit.distortions[1]
    press("Lloyd step")  # what is left of the step
    assert told() == pytest.approx(fit.distortions[1], rel=1e-12)
    press("Lloyd step")
    assert told() == pytest.approx(fit.distortions[2], rel=1e-12)
    assert not page.errors


def test_the_gradient_of_the_plane_is_that_of_the_distortion(points, fit):
    plane = view.PlaneExplorer(points, fit.codebooks[0])
    step, found = 1e-6, plane.gradient
    for place in np.ndindex(found.shape):
        ends = []
        for sign in (1, -1):
            moved = fit.codebooks[0].copy()
            moved[place] += sign * step
            ends.append(((points[:, None] - moved) ** 2).sum(2).min(1).mean())
        assert found[place] == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-5)
    assert view.PlaneExplorer(points, fit.codebook).gradient == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("shape", [(1.0, 1.0), (3.0, 1.0), (1.0, 4.0), (1.0, 1e-3)])
def test_the_picture_of_the_plane_fits_the_box(shape):
    points = np.random.default_rng(0).uniform(size=(200, 2)) * shape
    fig = view.PlaneExplorer(points, points[:5]).figure()
    fig.canvas.draw()
    plane = fig.axes[0].get_window_extent()
    room = fig.get_window_extent()
    assert plane.height > 0.6 * room.height or plane.height < 0.3 * plane.width  # no blank bands above and below
    assert plane.width > 0.25 * room.width


def test_what_is_drawn_may_be_a_tensor_that_asks_for_gradients():
    """numpy cannot read such a tensor, nor one on a GPU: it must come to the host by torch's own way."""
    points = torch.rand(30, 2, dtype=torch.float64).requires_grad_()
    _, ax = view.figure()
    view.draw_points(ax, points)
    view.draw_codebook(ax, points[:3])
    view.draw_error(ax, points[:2], points[2:4])
    assert view.box_around(points) == view.box_around(points.detach().numpy())
