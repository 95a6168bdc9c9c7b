"""Text as outlines whose glyphs are kept: the layout of matplotlib takes 50 microseconds a glyph, this one 2.

For what an explorer writes anew at every move: titles and short words. Kerned like matplotlib's, not hinted.
"""

import functools

import numpy as np
from matplotlib import ft2font
from matplotlib.cbook import is_math_text
from matplotlib.colors import to_rgb
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.path import Path
from matplotlib.transforms import Affine2D

EM = 100.0  # size at which glyphs are read, in points
# Before matplotlib 3.10 these were plain numbers.
UNHINTED = ft2font.LoadFlags.NO_HINTING if hasattr(ft2font, "LoadFlags") else 2
UNFITTED = ft2font.Kerning.UNFITTED if hasattr(ft2font, "Kerning") else 1
ALIGN = {"left": 0.0, "center": 0.5, "right": 1.0}


def letters(text, font=None, size=10.5, align="left"):
    """The outline of one line of text in points, from its base line up and from 0 to the right, or around it, or left.

    Args:
        font: FontProperties; their size is ignored.
    """
    path = findfont(font or FontProperties(family="DejaVu Sans"))
    x, vertices, codes = 0.0, [np.empty((0, 2))], [np.empty(0, np.uint8)]
    for before, char in zip("\0" + text, text):
        outline, advance = _glyph(path, char)
        x += _kerning(path, before, char)
        vertices.append(outline.vertices + (x, 0.0))
        codes.append(outline.codes)
        x += advance
    vertices = np.concatenate(vertices) - (ALIGN[align] * x, 0.0)
    return Path(size / EM * vertices, np.concatenate(codes))


@functools.lru_cache(2_000)
def _glyph(path, char):
    """The outline of a glyph and how far it advances, at 100 points."""
    font = get_font(path)
    font.set_size(EM, 72)
    advance = font.load_char(ord(char), flags=UNHINTED).linearHoriAdvance / 65536
    vertices, codes = font.get_path()
    return Path(np.reshape(vertices, (-1, 2)), np.asarray(codes, np.uint8)), advance


@functools.lru_cache(10_000)
def _kerning(path, before, char):
    font = get_font(path)
    font.set_size(EM, 72)
    return font.get_kerning(font.get_char_index(ord(before)), font.get_char_index(ord(char)), UNFITTED) / 64


class Titles:
    """Draws the titles of a figure after it has been drawn once, which tells where their lines begin.

    Args:
        renderer: of a figure that is laid out and stays so.
    """

    def __init__(self, renderer):
        self.renderer, self._starts = renderer, {}

    def draw(self, title):
        """A left-aligned Text, from outlines; a formula, or a sign that its font has not, as matplotlib does it."""
        font, lines = title.get_fontproperties(), title.get_text().split("\n")
        known = get_font(findfont(font))
        if is_math_text(title.get_text()) or not all(known.get_char_index(ord(c)) for line in lines for c in line):
            return title.draw(self.renderer)
        if (title, len(lines)) not in self._starts:
            # Lines of one title are equally high, so it is measured once. Up to matplotlib 3.10 x and y stand apart.
            found = title._get_layout(self.renderer)[1]
            self._starts[title, len(lines)] = [np.ravel(line[2:]).tolist() for line in found]
        x, y = title.get_transform().transform(title.get_position())
        gc = self.renderer.new_gc()
        gc.set_linewidth(0)
        scale = title.figure.dpi / 72
        for line, (right, up) in zip(lines, self._starts[title, len(lines)]):
            outline = letters(line.replace(r"\$", "$"), font, title.get_fontsize())
            place = Affine2D().scale(scale).translate(x + right, y + up)
            self.renderer.draw_path(gc, outline, place, to_rgb(title.get_color()))
        gc.restore()
