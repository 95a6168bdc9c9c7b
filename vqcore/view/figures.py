"""A figure from its creation to the page: `figure` makes it in the suite's look, `show` and `save` hand it out."""

import base64
import contextlib
import functools
import io
from importlib import resources
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vqcore import checks
from vqcore.errors import InputError
from vqcore.view import roles

# Width and height in inches of one panel; on a page an inch is 100 pixels.
SHAPES = {"square": (4.4, 4.5), "wide": (7.6, 3.6), "curve": (4.8, 4.0), "strip": (7.6, 1.9), "small": (2.9, 3.0)}
PIXELS_PER_INCH = 100
LARGEST_PNG = 60_000


def figure(shape="square", ncols=1, nrows=1, **subplots):
    """A new figure in the suite's look, and its Axes (one, or an array of them).

    It belongs to nobody but the caller: pyplot does not know it, so nothing is shown twice or left open.

    Args:
        shape: of each panel: "square", "wide", "curve", "strip", "small", or (width, height) in inches.
        ncols, nrows: panels across and down.
        subplots: further arguments of `Figure.subplots`, such as `sharex` or `width_ratios`.
    """
    width, height = SHAPES[checks.as_choice(shape, "shape", tuple(SHAPES))] if isinstance(shape, str) else shape
    with look():
        made = Figure(figsize=(width * ncols, height * nrows))
        FigureCanvasAgg(made)
        return made, made.subplots(nrows, ncols, subplot_kw={"axes_class": _Axes}, **subplots)


def mosaic(layout, size, **ratios):
    """A new figure of (width, height) inches in the suite's look, and a dict of its named Axes.

    Args:
        layout: rows of names, such as [["law", "curve"], ["weights", "curve"]].
        ratios: `width_ratios` and `height_ratios`.
    """
    with look():
        made = Figure(figsize=size)
        FigureCanvasAgg(made)
        return made, made.subplot_mosaic(layout, subplot_kw={"axes_class": _Axes}, **ratios)


class _Axes(Axes):
    """Axes that keep the look for what a notebook adds: matplotlib reads these defaults when they are called."""

    def set_title(self, *args, **kwargs):
        with look():
            return super().set_title(*args, **kwargs)

    def plot(self, *args, **kwargs):
        with look():
            return super().plot(*args, **kwargs)

    def legend(self, *args, **kwargs):
        with look():
            return super().legend(*args, **kwargs)


def look():
    """A context in which matplotlib has the suite's look; outside of it nothing is changed."""
    # Inside of itself it costs nothing: a frame of an explorer enters it several times.
    inside = mpl.rcParams["svg.hashsalt"] == _style()["svg.hashsalt"]
    return contextlib.nullcontext() if inside else mpl.rc_context(_style())


def plain(name):
    """A name from a file or a person for titles and legends: its dollar signs are dollar signs, not formulas."""
    return str(name).replace("$", r"\$")


def show(fig, alt):
    """Display a figure as a PNG of at most 60 kB, whose text is its description with the computed numbers in it.

    The description is what a screen reader reads, what a diff shows and what is compared when a notebook
    is tested; in a terminal it is all there is to see. The figure is closed.

    Raises:
        InputError: no description.
    """
    from IPython.display import display

    display(mimebundle(fig, alt), raw=True, metadata=mimedata(fig, alt))
    close(fig)


def mimebundle(fig, alt):
    """What a notebook stores of a figure: its picture, and its description as the text."""
    return {"image/png": base64.b64encode(small_png(fig)).decode("ascii"), "text/plain": as_alt(alt)}


def mimedata(fig, alt):
    """Metadata beside the picture: its width on the page, whatever its resolution, and its description."""
    return {"image/png": {"width": round(fig.get_figwidth() * PIXELS_PER_INCH), "alt": as_alt(alt)}}


def as_alt(alt):
    """The description in one line without surrounding blanks."""
    if not isinstance(alt, str) or not alt.strip():
        raise InputError(f"alt={alt!r}: a figure needs a sentence that says what it shows, with its numbers")
    return " ".join(alt.split())


def small_png(fig, largest=LARGEST_PNG):
    """PNG bytes of a figure, as sharp as fits into `largest` bytes: a palette first, then fewer pixels."""
    for dpi in (160, 130, 100, 80, 60):
        picture = pixels(fig, dpi)[..., :3]
        for n_colours in (256, 128):
            small = io.BytesIO()
            with_palette(picture, n_colours).save(small, "png", optimize=True)
            if small.tell() <= largest:
                return small.getvalue()
    return small.getvalue()


def with_palette(picture, n_colours):
    """An array (height, width, 3) of bytes as a Pillow image of few colours, the nearest ones for all pixels.

    Half of the palette are the most frequent colours (fills and lines keep theirs exactly), then come the
    roles, and colours that cover the range of what is left.
    """
    from PIL import Image
    from scipy.spatial import cKDTree

    flat = picture.reshape(-1, 3).astype(np.int64)
    found, code, counts = np.unique(flat @ (1 << 16, 1 << 8, 1), return_inverse=True, return_counts=True)
    found = np.uint8(np.stack([found >> 16, found >> 8 & 255, found & 255], axis=1))
    order = np.argsort(-counts, kind="stable")
    named = [bytes.fromhex(role[1:]) for role in roles.ROLES.values()]
    palette = np.concatenate([found[order[: n_colours // 2]], np.unique([list(role) for role in named], axis=0)])
    rest = order[n_colours // 2 :]
    if len(rest):
        n_rest = n_colours - len(palette)
        # Each colour once, so that rare ones count as much as frequent ones.
        spread = Image.fromarray(np.uint8(found[rest][None])).quantize(n_rest, method=Image.Quantize.MAXCOVERAGE)
        palette = np.concatenate([palette, np.array(spread.getpalette()[: 3 * n_rest]).reshape(-1, 3)])
    nearest = cKDTree(palette).query(found)[1].astype(np.uint8)
    image = Image.fromarray(nearest[code].reshape(picture.shape[:2]))
    image.putpalette(np.uint8(palette).tobytes())
    return image


def pixels(fig, dpi=PIXELS_PER_INCH):
    """The figure as an array (height, width, 4) of bytes."""
    drawn_at = fig.dpi
    with look():
        fig.set_dpi(dpi)
        canvas = FigureCanvasAgg(fig)
        canvas.draw()
        fig.set_dpi(drawn_at)
    return np.asarray(canvas.buffer_rgba())


def save(fig, path, description):
    """Write a figure as .svg or .png: the same bytes each time, with the description in its metadata."""
    path = Path(path)
    kind = checks.as_choice(path.suffix.lower().lstrip("."), "the ending of path", ("svg", "png"))
    description = as_alt(description)
    # No date, no program version: the file changes only if the picture does.
    metadata = {
        "svg": {"Date": None, "Creator": None, "Title": path.stem, "Description": description},
        "png": {"Software": None, "Title": path.stem, "Description": description},
    }[kind]
    with look():
        fig.savefig(path, format=kind, dpi=160, metadata=metadata)
    close(fig)


def close(fig):
    """Let go of a figure, also where pyplot made it."""
    import sys

    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close(fig)


@functools.cache
def _style():
    with resources.as_file(resources.files("vqcore.view") / "look.mplstyle") as path:
        return dict(mpl.rc_params_from_file(path, use_default_template=False))
