"""Bits and random rounding, drawn: boxes of bits with the edges of words, a value between two levels."""

import functools

import matplotlib as mpl
import numpy as np
from matplotlib.collections import LineCollection, PolyCollection

from vqcore import checks
from vqcore.bits import LAYOUTS, n_words_for
from vqcore.kernels import table_for
from vqcore.view import roles
from vqcore.view.artists import Words
from vqcore.view.draw import draw_codebook, draw_weights

ONE, ZERO, SPARE = roles.CELL, "#FFFFFF", "#D9D9D9"
ROW = 1.9  # from one word to the next, in heights of a box: room for the codes above
MOST_WORDS = 16


def field_places(n_codes, n_bits, layout="dense"):
    """Where `pack` puts every bit: places (n_codes, n_bits), 64 times the word plus the bit within it, lowest first."""
    checks.as_choice(layout, "layout", LAYOUTS)
    code, bit = np.arange(n_codes)[:, None], np.arange(n_bits)
    if layout == "dense":
        return code * n_bits + bit
    per_word, n_words = 64 // n_bits, n_words_for(n_codes, n_bits, layout)
    if layout == "aligned":
        return code // per_word * 64 + code % per_word * n_bits + bit
    # The first section lies in the highest of the bits in use.
    return code % n_words * 64 + (per_word - 1 - code // n_words) * n_bits + bit


def draw_words(ax, n_words):
    """The frame of a picture of words: a row for each, bit 0 on the left."""
    n_words = checks.as_count(n_words, "n_words", 1, MOST_WORDS, hint="show the first of them")
    ax.set(xlim=(-0.6, 64.6), ylim=(ROW * (n_words - 1) + 1.25, -0.95), xticks=np.arange(0, 65, 8))
    ax.set_yticks(ROW * np.arange(n_words) + 0.5, [f"word {i}" for i in range(n_words)])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_xlabel("bit of the word, the least significant on the left")


def draw_bits(ax, words, n_bits, n_codes, layout="dense", *, marked=None):
    """Words (n_words,) as rows of 64 boxes, white for 0 and dark for 1, in the frame of `draw_words`.

    An outline holds the bits of a code, with the code above it; a code that crosses the edge of a word appears on
    both sides, with dots. Bits that belong to no code are grey and carry no digit.

    Args:
        words: as `vqcore.pack` makes them, of any array library; at most 16.
        n_bits, n_codes, layout: as they were packed.
        marked: the number of a code to be outlined in vermillion.
    """
    bits = bits_of(words)
    checks.as_count(len(bits), "the number of words", 1, MOST_WORDS)
    places = field_places(n_codes, n_bits, layout)
    in_use = np.zeros(64 * len(bits), bool)
    in_use[places] = True
    _draw_boxes(ax, bits, in_use.reshape(-1, 64))
    fields = places.tolist()
    codes = [str(sum(int(bits[place // 64, place % 64]) << b for b, place in enumerate(field))) for field in fields]
    others = [i for i in range(n_codes) if i != marked]
    _draw_fields(ax, places[others], [codes[i] for i in others], roles.CODE, 1.1, 3)
    if marked is not None:
        _draw_fields(ax, places[[marked]], [codes[marked]], roles.NOW, 2.4, 6, every=True)


def bits_of(words):
    """The bits (n_words, 64) of words of any array library, the least significant first."""
    host = np.ascontiguousarray(table_for(words).to_host(words))
    stream = host.astype(f"<{host.dtype.kind}8", copy=False).view(np.uint8)
    return np.unpackbits(stream, bitorder="little").reshape(-1, 64)


def draw_rounding(ax, value, n_bits):
    """A value in [-1, 1] as a star among the levels of n_bits bits; a stem per neighbour says how likely it is."""
    below, above, chance = neighbours(value, n_bits)
    levels = np.arange(1 - 2**n_bits, 2**n_bits) / (2**n_bits - 1)
    draw_codebook(ax, levels, size=6 if n_bits < 4 else 4)
    draw_weights(ax, np.sort([below, above]), np.array([chance, 1 - chance][:: 1 if above < below else -1]))
    ax.plot([value], [0], "*", color=roles.QUERY, markersize=13, markeredgecolor="white", markeredgewidth=0.6, zorder=7)


def neighbours(value, n_bits):
    """For a value in [-1, 1] the level below its magnitude and the next, both signed, and the chance of the next."""
    top = 2**n_bits - 1
    share = abs(value) * top
    below = min(np.floor(share), top - 1)
    sign = -1.0 if value < 0 else 1.0
    # Plus 0.0: a zero has no sign to be shown.
    return float(sign * below / top + 0.0), float(sign * (below + 1) / top), float(share - below)


def _draw_boxes(ax, bits, in_use):
    """The boxes of all words, the digits in them, and a thick outline around each word."""
    row, column = np.mgrid[: len(bits), :64]
    corners = np.stack([column.ravel(), ROW * row.ravel()], axis=1)[:, None]
    fills = np.array([mpl.colors.to_rgb(colour) for colour in (ZERO, ONE, SPARE)])
    kind = np.where(in_use, bits, 2).ravel()
    boxes = PolyCollection(corners + [[0, 0], [1, 0], [1, 1], [0, 1]], facecolors=fills[kind], edgecolors="#8C8C8C",
                           linewidths=0.5, zorder=1)  # fmt: skip
    ax.add_collection(boxes, autolim=False)
    for digit, colour in ((0, roles.CELL), (1, "white")):
        at = corners[kind == digit, 0] + 0.5
        # Markers, not texts: hundreds of digits in a frame.
        ax.plot(*at.T, linestyle="", marker=_digit(digit), color=colour, markersize=5, markeredgewidth=0.2, zorder=2)
    edges = [_outline(0, y, 64) for y in ROW * np.arange(len(bits))]
    ax.add_collection(LineCollection(edges, colors="black", linewidths=2.4, zorder=4), autolim=False)


def _draw_fields(ax, fields, texts, colour, width, zorder, every=False):
    """The outlines of codes, in a piece for every word that one touches, and the codes above, where there is room."""
    outlines, places, told = [], [], []
    for field, text in zip(fields, texts):
        pieces = np.split(field, np.flatnonzero(np.diff(field // 64)) + 1)
        for i, piece in enumerate(pieces):
            x, y, n = piece[0] % 64, ROW * (piece[0] // 64), len(piece)
            outlines.append(_outline(x, y, n))
            part = text if len(pieces) == 1 else text + "…" if i == 0 else "…" + text
            if every or n >= 0.75 * len(part):
                places.append((x + n / 2, y))
                told.append(part)
    ax.add_collection(LineCollection(outlines, colors=colour, linewidths=width, zorder=zorder), autolim=False)
    halo = 2.5 if every else 0  # where it may cover its neighbour
    ax.add_artist(Words(places, told, (0, 2.5), color=colour, size=8, align="center", halo=halo, zorder=zorder + 1))


def _outline(x, y, n):
    """Around n boxes to the right of (x, y)."""
    return np.array([[x, y], [x + n, y], [x + n, y + 1], [x, y + 1], [x, y]])


@functools.cache
def _digit(digit):
    """A digit as a marker; matplotlib would parse it anew for every line."""
    return mpl.markers.MarkerStyle(f"${digit}$")
