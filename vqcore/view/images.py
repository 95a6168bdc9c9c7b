"""Photographs on the page: pictures made of blocks, codebooks of patches as sheets, rate-distortion planes.

Values of pictures run from 0 to 255. What holds a photograph is shown as a JPEG of high quality, because the
palette of `show` would hide what a notebook on palettes is about.
"""

import base64
import io
import itertools
import math

import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from vqcore import checks
from vqcore.errors import InputError
from vqcore.kernels import table_for
from vqcore.view import figures, roles
from vqcore.view.artists import Photograph
from vqcore.view.draw import HALO

JPEG_TRIES = tuple(itertools.product((130, 100, 80, 60), (92, 85, 78)))  # pixels per inch, quality
MOST_NAMES = 3  # curves that carry their names; more of them get a legend


def assemble(rows, shape):
    """The image (height, width) or (height, width, channels) whose square blocks are these rows (n, values per block).

    The inverse of `vqcore.data.patches`, of the same kind of array; the size of a block follows from the shapes.

    Raises:
        InputError: blocks of this length cannot fill an image of this shape.
    """
    table, rows = checks.as_points(rows, "rows", n_dims=(2,))
    shape = tuple(checks.as_count(extent, "shape") for extent in shape)
    if len(shape) not in (2, 3):
        raise InputError(f"shape={shape}: it must be (height, width) or (height, width, channels)")
    n_rows, n_values = rows.shape
    height, width, n_channels = (*shape, 1)[:3]
    size = math.isqrt(n_values // n_channels)
    wanted = (height // max(size, 1)) * (width // max(size, 1))
    if size * size * n_channels != n_values or height % size or width % size or n_rows != wanted:
        raise InputError(f"{n_rows} rows of {n_values} values are no square blocks that fill an image of shape {shape}")
    blocks = rows.reshape(height // size, width // size, size, size * n_channels)
    return blocks.swapaxes(1, 2).reshape(shape)


def draw_picture(ax, image, title=None, sharp=False):
    """An image (height, width, 3) or (height, width) of values from 0 to 255, without a frame.

    Args:
        sharp: whether pixels stay squares, for details that are enlarged; else they are smoothed where the page
            has too few places for them.
    """
    image = _as_bytes(image)
    image = np.stack([image] * 3, axis=2) if image.ndim == 2 else image
    height, width = image.shape[:2]
    ax.add_image(Photograph(ax, image, (-0.5, width - 0.5, height - 0.5, -0.5), smooth=not sharp))
    ax.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), aspect="equal", xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    if title is not None:
        ax.set_title(title)


def draw_patches(ax, codebook, n_across=None, n_channels=3):
    """The codewords (n_codewords, size * size * n_channels) as square tiles with gaps, row by row in their order."""
    tiles = _as_bytes(codebook)
    size = math.isqrt(tiles.shape[1] // n_channels)
    n_across = n_across or math.ceil(math.sqrt(len(tiles)))
    n_down, gap = -(-len(tiles) // n_across), max(1, size // 3)
    sheet = np.full((n_down, size + gap, n_across, size + gap, n_channels), 255, np.uint8)
    for i, tile in enumerate(tiles):
        sheet[i // n_across, :size, i % n_across, :size] = tile.reshape(size, size, n_channels)
    sheet = sheet.reshape(n_down * (size + gap), n_across * (size + gap), n_channels)[:-gap, :-gap]
    draw_picture(ax, sheet if n_channels == 3 else sheet[..., 0], sharp=True)


def draw_rate_distortion(ax, curves, ideal=None, xlabel="bytes, all counted", ylabel="PSNR in dB"):
    """Rate-distortion curves: rates on a logarithmic axis, quality above; up and to the left is better.

    Args:
        curves: name -> (rates, qualities), each drawn with a marker per coder that exists.
        ideal: name -> (rates, qualities) that no coder here reaches, dashed; in the colour of the curve of that
            name if there is one.
    """
    looks = dict(zip(curves, itertools.cycle(zip(roles.SERIES, roles.SERIES_MARKERS))))
    ax.set(xscale="log", xlabel=xlabel, ylabel=ylabel)
    for name, (rate, quality) in curves.items():
        colour, marker = looks[name]
        ax.plot(rate, quality, color=colour, marker=marker, markersize=4.5, linewidth=1.3, label=figures.plain(name),
                zorder=3)  # fmt: skip
        if len(curves) <= MOST_NAMES:
            ax.annotate(figures.plain(name), (rate[-1], quality[-1]), xytext=(-7, 5), textcoords="offset points", ha="right",
                        color=colour, path_effects=HALO, zorder=7)  # fmt: skip
    for name, (rate, quality) in (ideal or {}).items():
        ax.plot(rate, quality, "--", color=looks.get(name, (roles.BOUND,))[0], linewidth=1.2, zorder=2)
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    if len(curves) > MOST_NAMES:
        ax.legend(loc="upper left")


def show_photograph(fig, alt):
    """Display a figure that holds photographs, as `show` does, but as a JPEG of at most 60 kB in true colours."""
    from IPython.display import display

    display(photograph_bundle(fig, alt), raw=True, metadata=photograph_data(fig, alt))
    figures.close(fig)


def photograph_bundle(fig, alt):
    """What a notebook stores of a figure with photographs: its picture, and its description as the text."""
    return {"image/jpeg": base64.b64encode(small_jpeg(fig)).decode("ascii"), "text/plain": figures.as_alt(alt)}


def photograph_data(fig, alt):
    """Metadata beside such a picture: its width on the page, and its description."""
    return {"image/jpeg": figures.mimedata(fig, alt)["image/png"]}


def small_jpeg(fig, largest=figures.LARGEST_PNG):
    """JPEG bytes of a figure, as sharp as fits into `largest` bytes."""
    drawn = {}
    for dpi, quality in JPEG_TRIES:
        if dpi not in drawn:
            drawn[dpi] = figures.pixels(fig, dpi)[..., :3].copy()
        encoded = as_jpeg(drawn[dpi], quality)
        if len(encoded) <= largest:
            break
    return encoded


def as_jpeg(pixels, quality, optimize=True):
    """JPEG bytes of an array (height, width, 3) of bytes, colours at full resolution; smaller and slower, or not."""
    from PIL import Image

    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "jpeg", quality=quality, subsampling=0, optimize=optimize)
    return encoded.getvalue()


def _as_bytes(values):
    """Values of any library as the nearest bytes."""
    return np.uint8(np.clip(np.rint(np.asarray(table_for(values).to_host(values), dtype=np.float64)), 0, 255))
