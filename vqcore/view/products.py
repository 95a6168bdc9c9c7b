"""Product quantization in pictures: a vector cut into parts, and an explorer of product cells in the plane."""

import ipywidgets
import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.ticker import MaxNLocator

from vqcore import checks, voronoi
from vqcore.errors import InputError
from vqcore.product import ProductQuantizer
from vqcore.view import draw, figures, roles
from vqcore.view.explorer import BESIDE, Explorer

MOST_BITS = 8  # 256 cells: more cannot be told apart
SHOWN_POINTS = 5_000
KINDS = ("one codebook", "two, axes as they are", "two, turned")


def draw_parts(ax, point, point_hat, codes):
    """A vector (dim,) as stars and its reconstruction as rings, value by value, the parts apart, each under its code."""
    values, found = (checks.as_table(vector, "point", (None,)) for vector in (point, point_hat))
    codes = [int(code) for code in codes]
    if len(values) != len(found) or len(values) % len(codes):
        raise InputError(f"{len(values)} and {len(found)} values in {len(codes)} parts: parts must be equally long")
    places, width = np.arange(len(values)), len(values) // len(codes)
    errors = np.stack([np.stack([places, values], axis=1), np.stack([places, found], axis=1)], axis=1)
    ax.add_collection(LineCollection(errors, colors=roles.ERROR, linewidths=1.2, zorder=3), autolim=False)
    ax.plot(places, found, "o", markerfacecolor="none", markeredgecolor=roles.RECONSTRUCTION, markersize=6, zorder=4)
    ax.plot(places, values, "*", color=roles.QUERY, markersize=5, markeredgewidth=0, zorder=5)
    for m, code in enumerate(codes):
        if m:
            ax.axvline(m * width - 0.5, color=roles.CELL, linewidth=1.0, zorder=1)
        ax.annotate(str(code), ((m + 0.5) * width - 0.5, 1), xycoords=("data", "axes fraction"), xytext=(0, -4),
                    textcoords="offset points", ha="center", va="top", fontsize=10, fontweight="bold",
                    color=roles.CODE, path_effects=draw.HALO, zorder=6)  # fmt: skip
    low, high = min(values.min(), found.min()), max(values.max(), found.max())
    room = max(high - low, 1e-9)
    ax.set(xlim=(-0.5, len(values) - 0.5), ylim=(low - 0.08 * room, high + 0.28 * room), ylabel="value")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


class ProductExplorer(Explorer):
    """Sliders over subspaces and bits: the grid of product cells in the plane, and the distortion against the bits.

    Args:
        points: (n, 2) of any array library, at least 256; of more than 5,000 an even selection is shown.
        n_bits: of the code of a point at first: 2, 4, 6 or 8.
        seed: of the fits, all of which are computed beforehand.
    """

    def __init__(self, points, n_bits=4, seed=0):
        self.points = checks.as_table(points, "points", (None, 2))
        checks.as_count(len(self.points), "the number of points", low=2**MOST_BITS)
        n_bits, seed = checks.as_count(n_bits, "n_bits"), checks.as_count(seed, "seed", low=0)
        if n_bits not in range(2, MOST_BITS + 1, 2):
            raise InputError(f"n_bits={n_bits}: it must be 2, 4, 6 or 8, half of them for each of two subspaces")
        self.box = draw.box_around(self.points)
        self.pictures = {kind: [] for kind in KINDS}
        for bits in range(2, MOST_BITS + 1, 2):
            for kind, n_subspaces, rotation in zip(KINDS, (1, 2, 2), (None, None, "optimized")):
                pq = ProductQuantizer(n_subspaces, 2 ** (bits // n_subspaces), rotation)
                pq.fit(self.points, seed, start="k-means++", progress=False)
                self.pictures[kind].append(_Picture(pq, self.points, self.box))
        wide = {"layout": ipywidgets.Layout(width="300px"), "style": {"description_width": "90px"}}
        super().__init__({
            "n_subspaces": ipywidgets.IntSlider(2, 1, 2, description="subspaces", **wide),
            "n_bits": ipywidgets.IntSlider(n_bits, 2, MOST_BITS, 2, description="bits a point", **wide),
            "turned": ipywidgets.Checkbox(False, description="turn first (OPQ)", **BESIDE),
        })  # fmt: skip

    def new_figure(self):
        return figures.figure(ncols=2, width_ratios=[1.15, 1])

    def draw_still(self, axes):
        plane, curve = axes
        draw.draw_plane(plane, self.box)
        draw.draw_points(plane, self.points[:: -(-len(self.points) // SHOWN_POINTS)])
        bits = np.arange(2, MOST_BITS + 1, 2)
        for kind, colour, marker in zip(KINDS, roles.SERIES, roles.SERIES_MARKERS):
            distortions = [picture.distortion for picture in self.pictures[kind]]
            curve.plot(bits, distortions, marker=marker, color=colour, linewidth=1.2, markersize=5, label=kind)
        curve.set(xlabel="bits a point", ylabel="distortion", yscale="log", xticks=bits)
        curve.legend(loc="lower left", fontsize=8.5)

    def draw_moving(self, axes, state):
        plane, curve = axes
        picture = self._picture(state)
        draw.draw_cells(plane, picture.shapes)
        draw.draw_codebook(plane, picture.codewords, size=8 if len(picture.codewords) <= 16 else 4.5)
        draw.draw_now(curve, state["n_bits"], picture.distortion)
        n = len(picture.codewords)
        made = f"2 × {round(n**0.5)} stored values" if state["n_subspaces"] == 2 else f"{n} stored pairs"
        plane.set_title(f"{n} codewords from {made}")
        curve.set_title(f"Distortion {picture.distortion:.4g}")

    def describe(self, state):
        picture, free = self._picture(state), self._picture(state | {"n_subspaces": 1})
        n, ratio = len(picture.codewords), picture.distortion / max(free.distortion, 1e-300)
        text = f"{KINDS[self._kind(state)]}: {n} codewords from {picture.n_stored} stored numbers, {state['n_bits']} bits "
        text += f"a point: distortion {picture.distortion:.4g}"
        text += f", {ratio:.2f} times that of {n} free codewords" if state["n_subspaces"] == 2 else ""
        return text + f"; {picture.n_empty} of {n} cells hold no points"

    def _picture(self, state):
        return self.pictures[KINDS[self._kind(state)]][state["n_bits"] // 2 - 1]

    def _kind(self, state):
        # Turning the plane does not change what free codewords can do.
        return 0 if state["n_subspaces"] == 1 else 1 + state["turned"]


class _Picture:
    """What one quantizer of the plane looks like: all its codewords, their cells, and the numbers beside them."""

    def __init__(self, pq, points, box):
        in_parts = np.meshgrid(*[np.arange(pq.n_codewords)] * pq.n_subspaces, indexing="ij")
        self.codewords = pq.decode(np.stack(in_parts, axis=-1).reshape(-1, pq.n_subspaces))
        self.shapes = voronoi.polygons(self.codewords, box)
        self.distortion = pq.distortion
        self.n_stored = pq.codebooks.size + (0 if pq.rotation is None else pq.rotation.size)
        self.n_empty = len(self.codewords) - len(np.unique(pq.encode(points), axis=0))
