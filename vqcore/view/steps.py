"""An explorer of a finished fit in the plane: a slider over its steps."""

import ipywidgets
import numpy as np

from vqcore import checks, voronoi
from vqcore.errors import InputError
from vqcore.view import draw, figures
from vqcore.view.explorer import Explorer

SHOWN_POINTS = 5_000
CELLS_BEFOREHAND = 6_000  # a second on a slow machine


class Shapes:
    """The cells of many codebooks in a box, as polygons: kept, and computed beforehand if they are not too many."""

    def __init__(self, codebooks, box):
        self.codebooks, self.box, self._kept = list(codebooks), box, {}
        if sum(map(len, self.codebooks)) <= CELLS_BEFOREHAND:
            for i in range(len(self.codebooks)):
                self[i]

    def __getitem__(self, i):
        if i not in self._kept:
            self._kept[i] = voronoi.polygons(self.codebooks[i], self.box)
        return self._kept[i]


class StepExplorer(Explorer):
    """A slider over the steps of a fit: cells and codewords at the step, whence they came, and the distortion.

    Args:
        points: (n, 2) of any array library; of more than 5,000 an even selection is shown.
        fit: a Fit of these points; nothing is computed again.
        name: what the fit is, for the title.
    """

    def __init__(self, points, fit, name="Lloyd"):
        self.points = checks.as_table(points, "points", (None, 2))
        self.codebooks = [checks.as_table(codebook, "fit.codebooks", (None, 2)) for codebook in fit.codebooks]
        self.distortions = np.array([float(d) for d in fit.distortions])
        if len(self.codebooks) != len(self.distortions):
            raise InputError(f"fit has {len(self.codebooks)} codebooks but {len(self.distortions)} distortions")
        self.box = draw.box_around(np.concatenate([self.points, *self.codebooks]))
        self.shapes = Shapes(self.codebooks, self.box)
        self.name = name
        slider = ipywidgets.IntSlider(0, 0, len(self.codebooks) - 1, description="step",
                                      layout=ipywidgets.Layout(width="420px"))  # fmt: skip
        play = ipywidgets.Play(value=0, min=0, max=slider.max, interval=400, show_repeat=False)
        ipywidgets.jslink((play, "value"), (slider, "value"))
        super().__init__({"step": slider}, also=[play])

    def new_figure(self):
        return figures.figure(ncols=2, width_ratios=[1.15, 1])

    def draw_still(self, axes):
        plane, curve = axes
        draw.draw_plane(plane, self.box)
        draw.draw_points(plane, self.points[:: -(-len(self.points) // SHOWN_POINTS)])
        draw.draw_distortions(curve, self.distortions)
        curve.set_title("Distortion, step by step")

    def draw_moving(self, axes, state):
        plane, curve = axes
        step = state["step"]
        codebook = self.codebooks[step]
        few = len(codebook) <= 16
        size = 9 if few else 6
        draw.draw_cells(plane, self.shapes[step])
        if step and len(self.codebooks[step - 1]) == len(codebook):
            draw.draw_step(plane, self.codebooks[step - 1], codebook, size)
        draw.draw_codebook(plane, codebook, few, size)
        draw.draw_now(curve, step, self.distortions[step])
        plane.set_title(f"{figures.plain(self.name)}, step {step}: distortion {self.distortions[step]:.4g}")

    def describe(self, state):
        step = state["step"]
        text = f"{self.name}, step {step} of {len(self.codebooks) - 1}: distortion {self.distortions[step]:.6g}"
        if step and len(self.codebooks[step - 1]) == len(self.codebooks[step]):
            fallen = 1 - self.distortions[step] / self.distortions[0] if self.distortions[0] else 0.0
            moved = np.hypot(*(self.codebooks[step] - self.codebooks[step - 1]).T).max()
            text += f", {fallen:.1%} below the start; the codewords moved by at most {moved:.3g}"
        return text
