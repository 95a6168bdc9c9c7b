"""An explorer whose codewords are dragged: a canvas in the browser, which computes what follows the hand."""

from importlib import resources

import anywidget
import numpy as np
import traitlets
from matplotlib.ticker import MaxNLocator, PercentFormatter

from vqcore import checks, voronoi
from vqcore.kernels import table_for
from vqcore.view import draw, figures, roles

HERE = resources.files("vqcore.view")
LARGEST = 20_000  # points: more would not follow the hand
PANEL = 4.2  # inches of the longer side of the plane


def _to_browser(array, widget):
    return memoryview(np.ascontiguousarray(array, dtype="<f8").tobytes())


def _from_browser(buffer, widget):
    return np.frombuffer(bytes(buffer), dtype="<f8").reshape(-1, 2).copy()


PLACES = {"sync": True, "to_json": _to_browser, "from_json": _from_browser}


class PlaneExplorer(anywidget.AnyWidget):
    """Drag codewords in the plane, by mouse or by keyboard: cells, weights, distortion and its gradient follow at once.

    Tab goes to the next codeword, the arrow keys move it (with shift: finely), and so does the mouse. The buttons
    take a Lloyd step or a half of one (move the codewords to the means of their cells; assign the points anew), undo,
    and go back to the start. The browser computes in float64 what `assign` computes here; `codebook` is the same on
    both sides, and setting it from code moves the picture.

    Args:
        points: (n, 2), at most 20,000, of any array library.
        codebook: (n_codewords, 2) to start from.
        best: the best distortion known for so many codewords, to be told beside the current one.
    """

    _esm = HERE / "plane.js"
    points = traitlets.Instance(np.ndarray).tag(**PLACES)
    codebook = traitlets.Any().tag(**PLACES)
    box = traitlets.List(traitlets.Float()).tag(sync=True)
    best = traitlets.Float(None, allow_none=True).tag(sync=True)

    def __init__(self, points, codebook, best=None):
        points = checks.as_table(points, "points", (None, 2))
        checks.as_count(len(points), "the number of points", high=LARGEST, hint="show a sample of them")
        best = None if best is None else checks.as_real(best, "best", low=0.0)
        super().__init__(points=points, codebook=codebook, box=list(draw.box_around(points)), best=best)

    @traitlets.validate("codebook")
    def _door(self, proposal):
        return checks.as_table(proposal["value"], "codebook", (None, 2))

    @property
    def cells(self):
        """The Cells of the points for the codebook as it stands."""
        return voronoi.cells(self.points, self.codebook)

    def step(self):
        """One Lloyd step: every codeword moves to its cell mean; an empty cell keeps its codeword."""
        self.codebook = self.cells.means

    @property
    def gradient(self):
        """Of the distortion, by the places of the codewords: (n_codewords, 2), zero where all are at their means."""
        cells = self.cells
        return 2 * cells.weights[:, None] * (self.codebook - cells.means)

    def summary(self):
        """The numbers behind the picture as one stable sentence."""
        cells = self.cells
        empty = int((cells.weights == 0).sum())
        text = f"{len(self.codebook)} codewords for {len(self.points)} points: distortion {cells.distortion:.6g}"
        text += f", best known {self.best:.6g}" if self.best is not None else ""
        text += f"; gradient of length {np.linalg.norm(self.gradient):.4g}"
        return text + f"; largest cell {cells.weights.max():.1%}, {empty} empty"

    def figure(self):
        """The static twin: the same picture as a figure for `show` or `save`."""
        codes, sq_dists = table_for(self.points).assign(self.points, self.codebook)
        shares = np.bincount(codes, weights=sq_dists, minlength=len(self.codebook)) / len(self.points)
        x_low, x_high, y_low, y_high = self.box
        side = PANEL / max(x_high - x_low, y_high - y_low)
        width, height = side * (x_high - x_low), max(side * (y_high - y_low), 1.2)
        fig, axes = figures.mosaic([["plane", "weights"]], (width + 2.6, height + 0.5), width_ratios=[width + 0.9, 1.6])
        draw.draw_plane(axes["plane"], self.box, f"Distortion {sq_dists.mean():.4g}")
        draw.draw_cells(axes["plane"], voronoi.polygons(self.codebook, self.box), shares, "share of the distortion")
        draw.draw_points(axes["plane"], self.points)
        # A cell of weight 1 / n_codewords has its mean at the tip.
        tips = self.codebook - len(self.codebook) / 2 * self.gradient
        draw.draw_arrows(axes["plane"], self.codebook, tips)
        draw.draw_codebook(axes["plane"], self.codebook, codes=len(self.codebook) <= 16)
        self._draw_weights(axes["weights"])
        return fig

    def _draw_weights(self, ax):
        places = np.arange(len(self.codebook))
        ax.barh(places, self.cells.weights, height=0.76, color=roles.CELL)
        equal, ends = (1 / len(places), 1 / len(places)), (-0.6, len(places) - 0.4)
        ax.plot(equal, ends, color="white", linewidth=3.2, zorder=1.9)  # grey on dark bars could not be seen
        draw.draw_bound(ax, equal, ends)
        ax.set(ylim=(len(places) - 0.4, -0.6), title="Weights", yticks=places if len(places) <= 32 else [])
        ax.tick_params(axis="y", length=0)
        ax.xaxis.set_major_locator(MaxNLocator(2))
        ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))

    def __repr__(self):
        return self.summary()

    def _repr_mimebundle_(self, **kwargs):
        """The live widget, and beside it the picture and its numbers for who sees no widgets."""
        live = super()._repr_mimebundle_(**kwargs)
        live = live[0] if isinstance(live, tuple) else live
        fig = self.figure()
        return dict(live or {}) | figures.mimebundle(fig, self.summary()), figures.mimedata(fig, self.summary())
