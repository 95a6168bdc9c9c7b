"""The visual language: one function per role. Each takes an Axes and arrays, returns nothing, computes nothing heavy.

Points and codebooks are (n, 2) in the plane or (n,) on a line; on a line everything sits at height 0.
"""

import matplotlib.patheffects as effects
import numpy as np
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.ticker import MaxNLocator

from vqcore.kernels import table_for
from vqcore.view import roles
from vqcore.view.artists import Arrows, Marks, Words

HALO = [effects.withStroke(linewidth=2.5, foreground="white")]
# Above so many points a vector file holds them as pixels.
MOST_VECTOR_POINTS = 2_000
SCATTER_LIMIT = 40


def draw_plane(ax, box, title=None):
    """The frame of a picture in the plane: a box (x_low, x_high, y_low, y_high), equal aspect, no ticks."""
    ax.set(xlim=box[:2], ylim=box[2:], aspect="equal", xticks=[], yticks=[])
    ax.spines[:].set(visible=True, color="#BBBBBB")
    if title is not None:
        ax.set_title(title)


def draw_points(ax, points, size=None):
    """Points as small quiet dots, darker over a quantity; the more there are, the smaller."""
    x, y = _coordinates(points)
    filled = ax.images or any(drawn.get_array() is not None for drawn in ax.collections)
    size = size or float(np.clip(9.4 - 1.8 * np.log10(max(len(x), 1)), 1.6, 5))
    ax.plot(x, y, ".", color=roles.POINT_OVER_FILL if filled else roles.POINT, markersize=size, markeredgewidth=0,
            zorder=1, rasterized=len(x) > MOST_VECTOR_POINTS)  # fmt: skip


def draw_codebook(ax, codebook, codes=False, size=9):
    """Codewords as vermillion diamonds with a white edge, each with its code beside it if asked."""
    x, y = _coordinates(codebook)
    _mark(ax, x, y, color=roles.CODEWORD, markersize=size, markeredgecolor="white", markeredgewidth=1.2, zorder=5)
    if codes:
        aside = 0.62 * size
        ax.add_artist(Words(np.stack([x, y], axis=1), range(len(x)), (aside, aside), color=roles.CODE))


def draw_cells(ax, shapes, values=None, label=None):
    """Edges of polygons (n_vertices, 2), one per cell; filled by a quantity (n_codewords,) if one is given."""
    closed = [shape for shape in shapes if len(shape)]
    if values is not None:
        owned = _on_host(values)[[len(shape) > 0 for shape in shapes]]
        filled = PolyCollection(closed, array=owned, cmap=roles.QUANTITY, alpha=roles.PALE, edgecolors="none", zorder=0.5)
        ax.add_collection(filled, autolim=False)
        for line in ax.lines:
            if line.get_color() == roles.POINT:
                line.set_color(roles.POINT_OVER_FILL)
        if label is not None:
            beside = ax.inset_axes([1.025, 0, 0.045, 1])
            ax.figure.colorbar(filled, cax=beside, label=label).outline.set_visible(False)
    edges = PolyCollection(closed, facecolors="none", edgecolors=roles.CELL, linewidths=1.0, zorder=2)
    ax.add_collection(edges, autolim=False)


def draw_step(ax, before, after, size=9):
    """Codewords that moved: hollow diamonds where they were, and an arrow from each to its new place."""
    x, y = _coordinates(before)
    x_new, y_new = _coordinates(after)
    _mark(ax, x, y, markerfacecolor="none", markeredgecolor=roles.CODEWORD, markersize=size - 2, markeredgewidth=1.1,
          zorder=3)  # fmt: skip
    moved = np.flatnonzero((x != x_new) | (y != y_new))
    tails, tips = np.stack([x, y], axis=1)[moved], np.stack([x_new, y_new], axis=1)[moved]
    # The head ends before the new diamond, which would hide it.
    arrows = Arrows(tails, tips, roles.CODEWORD, shorter=(0.3 * size, 0.55 * size), zorder=4)
    ax.add_collection(arrows, autolim=False)


def draw_arrows(ax, tails, tips):
    """Blue arrows with a white edge from tails (n, 2) to tips (n, 2): a gradient, or how far something is off."""
    ends = (np.stack(_coordinates(places), axis=1) for places in (tails, tips))
    ax.add_collection(Arrows(*ends, roles.ERROR, width=2.2, edge=0.8, zorder=4), autolim=False)


def draw_law(ax, law, reach=0.9995):
    """The density of a law over all but the outermost of its mass."""
    low, high = law_range(law, reach)
    x = np.linspace(low, high, 600)
    density = np.asarray(law.pdf(x))
    ax.plot(x, density, color=roles.LAW, zorder=2)
    ax.set(xlim=(low, high), ylim=(-0.07 * density.max(), 1.1 * density.max()), yticks=[])
    ax.spines["left"].set_visible(False)


def law_range(law, reach=0.9995):
    """The interval (low, high) that leaves (1 - reach) of the mass on either side, a little widened."""
    low, high = float(law.ppf(1 - reach)), float(law.ppf(reach))
    margin = 0.03 * (high - low)
    return low - margin, high + margin


def draw_edges(ax, edges):
    """Edges between intervals as thin vertical lines over the whole height."""
    edges = _on_host(edges)
    _vertical_lines(ax, edges[np.isfinite(edges)])


def draw_intervals(ax, points, edges, codebook, codes=False):
    """One-dimensional data: its outline as a histogram, a tick per point if they are few, edges and codewords."""
    points = _on_host(points)
    heights, bounds = np.histogram(points, bins=min(80, max(5, round(len(points) ** 0.5))), density=True)
    ax.stairs(heights, bounds, color=roles.POINT, linewidth=1.0, zorder=1)
    if len(points) <= 10 * SCATTER_LIMIT:
        ax.plot(points, np.zeros(len(points)), "|", color=roles.POINT, markersize=9, zorder=1)
    draw_edges(ax, edges)
    draw_codebook(ax, codebook, codes)
    margin = 0.03 * (bounds[-1] - bounds[0])
    most = heights.max()
    ax.set(xlim=(bounds[0] - margin, bounds[-1] + margin), ylim=(-0.07 * most, 1.08 * most), yticks=[])
    ax.spines["left"].set_visible(False)


def draw_weights(ax, codebook, weights, times=1):
    """The weight of each cell, a number of times, as a stem over its codeword; in percent where there is room."""
    codebook, heights = _on_host(codebook), times * _on_host(weights)
    stems = [[(x, 0), (x, height)] for x, height in zip(codebook, heights)]
    ax.add_collection(LineCollection(stems, colors=roles.CELL, linewidths=2, zorder=2), autolim=False)
    _mark(ax, codebook, heights, color=roles.CODEWORD, markersize=6, markeredgecolor="white", zorder=3)
    room = _room(ax, codebook)
    # In points: a digit takes 5.4 of them, "12.3%" about 28.
    told = [i for i in range(len(heights)) if room[i] > 18]
    texts = [f"{heights[i] / times:.{int(room[i] > 28)}%}" for i in told]
    places = np.stack([codebook, heights], axis=1)[told]
    ax.add_artist(Words(places, texts, (0, 6), color=roles.CODE, size=8.5, weight="normal", align="center", zorder=4))


def _room(ax, positions):
    """How far (n,) each of ascending positions is from its nearest neighbour on the page, in points, at most 1000."""
    low, high = ax.get_xlim()
    gaps = np.diff(positions) / (high - low) * ax.get_position().width * ax.figure.get_figwidth() * 72
    gaps = np.concatenate([[1000.0], gaps, [1000.0]])
    return np.minimum(gaps[:-1], gaps[1:])


def draw_distortions(ax, distortions, steps=None, log=False, step=None):
    """Distortion at every step, black with dots; the current step ringed in vermillion."""
    steps = np.arange(len(distortions)) if steps is None else np.asarray(steps)
    few = len(steps) <= SCATTER_LIMIT
    ax.plot(steps, distortions, color=roles.CURVE, linewidth=1.2, marker=".", markersize=6 if few else 3, zorder=3)
    ax.set(xlabel="step", ylabel="distortion", yscale="log" if log else "linear")
    if not log:
        ax.set_ylim(bottom=0)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if step is not None:
        draw_now(ax, steps[step], distortions[step])


def draw_now(ax, x, y):
    """The current step: a vermillion ring."""
    ax.plot([x], [y], "o", markerfacecolor="none", markeredgecolor=roles.NOW, markersize=12, markeredgewidth=2.2,
            zorder=6, clip_on=False)  # fmt: skip


def draw_bound(ax, x, y, label=None):
    """A theory or a bound: grey and dashed, named beside it. A single `y` is a level across."""
    x = np.atleast_1d(x)
    y = np.broadcast_to(y, x.shape)
    ax.plot(x, y, "--", color=roles.BOUND, linewidth=1.4, zorder=2)
    if label:
        # Above the end of a level; to the right of a falling line, since what it bounds is mostly below.
        falls = y[-1] < y[0]
        at, offset = (len(x) // 3, (6, 2)) if falls else (len(x) - 1, (-2, 4))
        ax.annotate(label, (x[at], y[at]), xytext=offset, textcoords="offset points", ha="left" if falls else "right",
                    va="bottom", fontsize=9.5, color="#5F5F5F", path_effects=HALO, zorder=7)  # fmt: skip


def draw_error(ax, points, points_hat):
    """Points as black stars, their reconstructions as blue rings, the error between them as a thin segment."""
    x, y = _coordinates(points)
    x_hat, y_hat = _coordinates(points_hat)
    segments = np.stack([np.stack([x, y], axis=1), np.stack([x_hat, y_hat], axis=1)], axis=1)
    ax.add_collection(LineCollection(segments, colors=roles.ERROR, linewidths=1.3, zorder=4), autolim=False)
    ax.plot(x_hat, y_hat, "o", markerfacecolor="none", markeredgecolor=roles.RECONSTRUCTION, markersize=14,
            markeredgewidth=1.8, zorder=6)  # fmt: skip
    ax.plot(x, y, "*", color=roles.QUERY, markersize=11, markeredgecolor="white", markeredgewidth=0.6, zorder=7)


def box_around(points, margin=0.06):
    """The box (x_low, x_high, y_low, y_high) around points (n, 2), a little wider."""
    points = _on_host(points)
    low, high = points.min(axis=0), points.max(axis=0)
    extra = margin * max(float((high - low).max()), 1e-9)
    return (float(low[0] - extra), float(high[0] + extra), float(low[1] - extra), float(high[1] + extra))


def _mark(ax, x, y, **look):
    """Codewords: diamonds that no frame cuts."""
    ax.add_line(Marks(x, y, "D", **look))
    ax.autoscale_view()


def _on_host(values):
    """Any library's array as float64 numpy: a tensor may lie on a GPU or ask for gradients."""
    return np.asarray(table_for(values).to_host(values), dtype=np.float64)


def _coordinates(places):
    places = _on_host(places)
    return (places, np.zeros(len(places))) if places.ndim == 1 else places.T


def _vertical_lines(ax, positions):
    ends = [[(x, 0), (x, 1)] for x in positions]
    ax.add_collection(
        LineCollection(ends, colors=roles.CELL, linewidths=1.0, zorder=1.5, transform=ax.get_xaxis_transform()),
        autolim=False,
    )
