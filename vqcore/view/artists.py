"""Marks, arrows, short words, photographs: artists that are drawn in a part of the time that matplotlib's own take.

An explorer draws a frame for every move of a hand. Places are data; sizes and offsets are points, as for annotations.
"""

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist, allow_rasterization
from matplotlib.collections import PolyCollection
from matplotlib.font_manager import FontProperties
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.transforms import Affine2D, Bbox, IdentityTransform

from vqcore.view.lettering import letters

HEAD = (5.2, 2.6)  # length and half width of the head of an arrow, in points


class Marks(Line2D):
    """Markers at places x, y (n,), drawn in whole also on the frame, and not at all outside; for `Axes.add_line`."""

    def __init__(self, x, y, marker, **look):
        super().__init__(x, y, linestyle="", marker=marker, clip_on=False, **look)
        self.set_in_layout(False)

    @allow_rasterization
    def draw(self, renderer):
        (left, right), (low, high) = sorted(self.axes.get_xlim()), sorted(self.axes.get_ylim())
        x, y = self.get_data(orig=False)
        self.set_markevery((left <= x) & (x <= right) & (low <= y) & (y <= high))
        super().draw(renderer)


class Arrows(PolyCollection):
    """Arrows from tails (n, 2) to tips (n, 2), each a little shorter at both ends; for `Axes.add_collection`.

    Args:
        tails, tips: in data.
        shorter: points that are left free at the tail and at the tip.
        width: of the shaft, in points.
        edge: of a white edge around it, half of it within.
    """

    def __init__(self, tails, tips, color, *, shorter=(0.0, 0.0), width=1.1, edge=0.0, **kwargs):
        super().__init__([], facecolors=color, edgecolors="white" if edge else "none", linewidths=edge,
                         transform=IdentityTransform(), **kwargs)  # fmt: skip
        self.tails, self.tips = np.reshape(tails, (-1, 2)), np.reshape(tips, (-1, 2))
        self.shorter, self.width = shorter, width
        self.set_in_layout(False)

    @allow_rasterization
    def draw(self, renderer):
        # Where points and data meet is known only now: a layout may have moved the Axes.
        scale = self.figure.dpi / 72
        tails, tips = (self.axes.transData.transform(ends) for ends in (self.tails, self.tips))
        self.set_verts(_outlines(tails, tips, *(scale * np.array([*self.shorter, self.width, *HEAD]))))
        super().draw(renderer)


def _outlines(tails, tips, free, room, width, length, half):
    """Outlines (n, 7, 2) of arrows with a triangle at the tip; those too short to be seen are left out."""
    ways = tips - tails
    lengths = np.hypot(*ways.T)
    seen = lengths > free + room + 0.5
    tails, lengths = tails[seen], lengths[seen]
    along = ways[seen] / lengths[:, None]
    across = np.stack([-along[:, 1], along[:, 0]], axis=1)
    end, start = lengths - room, np.full(len(lengths), free)
    head = np.minimum(length, end - start)  # a short arrow is a small head
    neck, wing = end - head, half * head / length
    shaft = np.minimum(width / 2, wing)
    forward = np.stack([start, neck, neck, end, neck, neck, start], axis=1)
    aside = np.stack([shaft, shaft, wing, 0 * wing, -wing, -shaft, -shaft], axis=1)
    return tails[:, None] + forward[..., None] * along[:, None] + aside[..., None] * across[:, None]


class Words(Artist):
    """Short texts beside their places (n, 2), mostly with a white halo; for `Axes.add_artist`.

    None is drawn whose place lies outside, and one that would leave the frame goes to the other side of its place.

    Args:
        places: in data.
        texts: n strings, taken as they are: no formulas.
        offset: (right, up) in points, one for all.
        color, size, weight: of the letters, one for all.
        align: "left", "center" or "right" of a text stands at its place.
        halo: its width in points.
    """

    def __init__(self, places, texts, offset, *, color="#000000", size=10, weight="bold", align="left", halo=2.5,
                 zorder=6):  # fmt: skip
        super().__init__()
        self.places, self.texts = np.reshape(np.asarray(places, dtype=float), (-1, 2)), [str(text) for text in texts]
        self.offset, self.color, self.size, self.weight = offset, color, size, weight
        self.align, self.halo = align, halo
        self.set_zorder(zorder)
        self.set_in_layout(False)

    @allow_rasterization
    def draw(self, renderer):
        if not self.get_visible():
            return
        gc = renderer.new_gc()
        self._set_gc_clip(gc)
        scale = self.figure.dpi / 72
        font = FontProperties(family="DejaVu Sans", weight=self.weight)
        paths = [letters(text, font, self.size, self.align) for text in self.texts]
        inside = self.axes.viewLim.contains
        drawn = [
            (path, Affine2D().scale(scale).translate(*(place + scale * self._beside(path, place / scale))))
            for path, data, place in zip(paths, self.places, self.axes.transData.transform(self.places))
            if inside(*data)
        ]
        # All halos first, so that none covers a neighbour.
        gc.set_foreground("white")
        gc.set_linewidth(renderer.points_to_pixels(self.halo))
        for path, place in drawn if self.halo else ():
            renderer.draw_path(gc, path, place, None)
        gc.set_linewidth(0)
        for path, place in drawn:
            renderer.draw_path(gc, path, place, mpl.colors.to_rgb(self.color))
        gc.restore()

    def _beside(self, path, place):
        """Where (right, up) of a place, all in points, a text is written so that it stays within the frame."""
        offset = np.array(self.offset, dtype=float)
        if not len(path.vertices):
            return offset
        frame = 72 / self.figure.dpi * self.axes.bbox.get_points()
        low, high = path.vertices.min(axis=0), path.vertices.max(axis=0)
        past, short = place + offset + high - frame[1], frame[0] - place - offset - low
        across = -2 * offset - low - high
        if self.align == "center":
            across[0] = offset[0] + max(short[0], 0.0) - max(past[0], 0.0)
        return np.where((past > 0) | (short > 0), across, offset)


class Photograph(AxesImage):
    """An image (height, width, 3) of bytes, brought to the pixels of the page by Pillow; for `Axes.add_image`.

    Args:
        extent: (left, right, bottom, top) in data; its first row is the upper one.
        smooth: False for pixels that stay squares where they are enlarged.
    """

    def __init__(self, ax, image, extent, smooth=True):
        super().__init__(ax, extent=extent, origin="upper", interpolation="antialiased" if smooth else "nearest")
        self.smooth = smooth
        self.set_data(image)
        self.set_clip_path(ax.patch)

    def make_image(self, renderer, magnification=1.0, unsampled=False):
        """The image at the size at which it is drawn, (rows, columns, 4), its corner, and no further transform."""
        from PIL import Image

        left, right, bottom, top = self.get_extent()
        corners = self.get_transform().transform([[left, bottom], [right, top]])
        x, y, x_end, y_end = np.rint(magnification * corners).astype(int).ravel().tolist()
        frame = Bbox(magnification * self.axes.bbox.get_points()).padded(1)
        # What is cut, turned over or left to another program is matplotlib's affair.
        if unsampled or x_end <= x or y_end <= y or not (frame.contains(x, y) and frame.contains(x_end, y_end)):
            return super().make_image(renderer, magnification, unsampled)
        image = Image.fromarray(np.asarray(self.get_array()))
        enlarged = x_end - x > image.width
        squares = Image.Resampling.NEAREST if enlarged else Image.Resampling.BOX
        how = Image.Resampling.BICUBIC if self.smooth else squares
        drawn = image.resize((x_end - x, y_end - y), how).convert("RGBA").transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        return np.array(drawn), x, y, IdentityTransform()
