"""Codebooks that learn, side by side, and what their layer hands on: gradients and little pictures."""

import ipywidgets
import numpy as np

from vqcore import checks, coding
from vqcore.errors import InputError
from vqcore.kernels import table_for
from vqcore.view import draw, figures, roles
from vqcore.view.explorer import Explorer
from vqcore.view.steps import Shapes

SHOWN_POINTS = 2_000


class LearningExplorer(Explorer):
    """A slider over the epochs of several ways to learn a codebook: a plane for each, and one curve for all.

    Args:
        points: (n, 2) of any array library; of more than 2,000 an even selection is shown.
        stories: name -> the codebooks (n_codewords, 2) at every epoch, the start included; two to four, equally long.
        level: a distortion to compare with, drawn dashed.
    """

    def __init__(self, points, stories, level=None):
        self.points = checks.as_table(points, "points", (None, 2))
        self.stories = {
            name: [checks.as_table(codebook, "stories", (None, 2)) for codebook in story]
            for name, story in stories.items()
        }
        lengths = {len(story) for story in self.stories.values()}
        if not 2 <= len(self.stories) <= 4 or len(lengths) != 1 or lengths == {0}:
            raise InputError(f"stories has {len(self.stories)} entries of lengths {sorted(lengths)}: 2 to 4, equally long")
        self.distortions = {
            name: np.array([coding.distortion(self.points, codebook) for codebook in story])
            for name, story in self.stories.items()
        }
        self.level = None if level is None else checks.as_real(level, "level", low=0.0)
        self.box = draw.box_around(np.concatenate([self.points, *(story[-1] for story in self.stories.values())]))
        self.shapes = {name: Shapes(story, self.box) for name, story in self.stories.items()}
        last = lengths.pop() - 1
        slider = ipywidgets.IntSlider(last, 0, last, description="epoch", layout=ipywidgets.Layout(width="420px"))
        play = ipywidgets.Play(value=last, min=0, max=last, interval=300, show_repeat=False)
        ipywidgets.jslink((play, "value"), (slider, "value"))
        super().__init__({"epoch": slider}, also=[play])

    def new_figure(self):
        planes = list(range(len(self.stories)))  # a story may have any name
        return figures.mosaic([planes, ["curve"] * len(planes)], (9.4, 6.2), height_ratios=[1.25, 1])

    def draw_still(self, axes):
        for i in range(len(self.stories)):
            draw.draw_plane(axes[i], self.box)
            draw.draw_points(axes[i], self.points[:: -(-len(self.points) // SHOWN_POINTS)])
        curve = axes["curve"]
        for (name, distortions), colour, marker in zip(self.distortions.items(), roles.SERIES, roles.SERIES_MARKERS):
            curve.plot(distortions, color=colour, marker=marker, markersize=4, linewidth=1.2, label=figures.plain(name),
                       zorder=3)  # fmt: skip
        if self.level is not None:
            draw.draw_bound(curve, (0, len(distortions) - 1), self.level)
            curve.annotate("best known", (0, self.level), xytext=(2, -4), textcoords="offset points", va="top",
                           color=roles.BOUND)  # fmt: skip
        low, high = curve.get_ylim()
        curve.set(xlabel="epoch", ylabel="distortion", ylim=(low - 0.08 * (high - low), high))
        curve.legend(frameon=False, loc="upper right")

    def draw_moving(self, axes, state):
        epoch = state["epoch"]
        for i, (name, story) in enumerate(self.stories.items()):
            ax, codebook = axes[i], story[epoch]
            size = 8 if len(codebook) <= 24 else 5
            draw.draw_cells(ax, self.shapes[name][epoch])
            if epoch and len(codebook) <= 24:
                draw.draw_step(ax, story[0], codebook, size)
            draw.draw_codebook(ax, codebook, size=size)
            ax.set_title(f"{figures.plain(name)}: {self.distortions[name][epoch]:.4f}", fontsize=11)
            draw.draw_now(axes["curve"], epoch, self.distortions[name][epoch])

    def describe(self, state):
        epoch = state["epoch"]
        told = ", ".join(f"{name} {distortions[epoch]:.4f}" for name, distortions in self.distortions.items())
        best = "" if self.level is None else f"; best known {self.level:.4f}"
        return f"Distortion after epoch {epoch}: {told}{best}"


def draw_gradients(ax, points, gradients, length=1.0):
    """An arrow at each of points (n, 2) along its gradient (n, 2), `length` data units for a gradient of length one."""
    x, y = _on_host(points).T
    u, v = length * _on_host(gradients).T
    ax.quiver(x, y, u, v, angles="xy", scale_units="xy", scale=1, color=roles.ERROR, width=0.006, headwidth=4,
              headlength=5, headaxislength=4.5, zorder=4)  # fmt: skip


def draw_tiles(ax, tiles, row_labels=()):
    """Grey pictures (n_rows, n_columns, height, width) with values in [0, 1], 1 being ink, in rows and columns."""
    tiles = np.clip(_on_host(tiles), 0, 1)
    n_rows, n_columns, height, width = tiles.shape
    sheet = np.pad(tiles, ((0, 0), (0, 0), (0, 1), (0, 1))).swapaxes(1, 2).reshape(n_rows * (height + 1), -1)
    ax.imshow(1 - sheet[:-1, :-1], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set(xticks=[], yticks=[(height + 1) * row + (height - 1) / 2 for row in range(n_rows)] if row_labels else [])
    if row_labels:
        ax.set_yticklabels(map(figures.plain, row_labels))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def _on_host(values):
    return np.asarray(table_for(values).to_host(values), dtype=np.float64)
