"""An explorer of a law in one dimension: a slider over the number of codewords."""

import ipywidgets
import numpy as np

from vqcore import checks, voronoi
from vqcore.view import draw, figures
from vqcore.view.explorer import Explorer

NAMED = 12  # codewords whose codes stand apart


class LawExplorer(Explorer):
    """A slider over the number of codewords: the cells of a law, their weights, and the distortion against its asymptote.

    Args:
        law: a law of `vqcore.sources`.
        largest: number of codewords at the right end of the slider.
        codebook_of: codebook (n_codewords,) for a number of codewords; the optimal one if not given.
    """

    def __init__(self, law, largest=32, codebook_of=None):
        checks.as_count(largest, "largest", low=2, high=200)
        codebook_of = codebook_of or _optimal_codebooks(law)
        self.law = law
        self.codebooks = [np.asarray(codebook_of(n), dtype=np.float64) for n in range(1, largest + 1)]
        self.cells = [voronoi.cells(law, codebook) for codebook in self.codebooks]
        self.distortions = np.array([cells.distortion for cells in self.cells])
        self.constant = high_resolution_constant(law)
        slider = ipywidgets.IntSlider(min(8, largest), 1, largest, description="codewords",
                                      layout=ipywidgets.Layout(width="420px"))  # fmt: skip
        super().__init__({"n_codewords": slider})

    def new_figure(self):
        layout = [["law", "curve"], ["weights", "curve"]]
        return figures.mosaic(layout, (9.4, 4.6), width_ratios=[1.5, 1], height_ratios=[1.7, 1])

    def draw_still(self, axes):
        numbers = np.arange(1, len(self.distortions) + 1)
        draw.draw_law(axes["law"], self.law)
        most = max(cells.weights.max() * len(cells.weights) for cells in self.cells)
        axes["weights"].set(xlim=axes["law"].get_xlim(), ylim=(0, 1.3 * most), ylabel="weight × N", xlabel="value")
        draw.draw_bound(axes["weights"], axes["law"].get_xlim(), 1.0, "equal weights")
        draw.draw_distortions(axes["curve"], self.distortions, steps=numbers, log=True)
        draw.draw_bound(axes["curve"], numbers, self.constant / numbers**2, f"asymptote\n{self.constant:.3g} / N²")
        axes["curve"].set(xscale="log", xlabel="codewords N", title="It nears its asymptote")

    def draw_moving(self, axes, state):
        cells, codebook = self.cells[state["n_codewords"] - 1], self.codebooks[state["n_codewords"] - 1]
        few = len(codebook) <= NAMED
        draw.draw_edges(axes["law"], cells.edges)
        draw.draw_codebook(axes["law"], codebook, codes=few, size=9 if few else 6)
        draw.draw_weights(axes["weights"], codebook, cells.weights, times=len(codebook))
        draw.draw_now(axes["curve"], len(codebook), cells.distortion)
        axes["law"].set_title(f"{_cells(len(codebook))}: distortion {cells.distortion:.4g}")

    def describe(self, state):
        n = state["n_codewords"]
        cells = self.cells[n - 1]
        return (
            f"{self.law!r}, {_cells(n)}: distortion {cells.distortion:.6g}, "
            f"{cells.distortion * n**2 / self.constant:.3f} times {self.constant:.4g} / N², its asymptote for large N "
            f"and no bound; weights from {cells.weights.min():.4f} to {cells.weights.max():.4f}"
        )


def high_resolution_constant(law, n_steps=20_001):
    """Limit of N² times the optimal distortion: (integral of pdf^(1/3))³ / 12 (Panter and Dite 1951; Zador 1963)."""
    median, std = float(law.ppf(0.5)), float(law.variance) ** 0.5
    total = 0.0
    for sign, end in ((-1, float(law.ppf(0.0))), (1, float(law.ppf(1.0)))):
        # The cube root makes tails three times as long; on an unbounded side steps grow like exp.
        if np.isfinite(end):
            away = np.linspace(0.0, abs(end - median), n_steps)
        else:
            away = std * np.sinh(np.linspace(0.0, 14.0, n_steps))
        total += np.trapezoid(np.cbrt(law.pdf(median + sign * away)), away)
    return float(total) ** 3 / 12


def _optimal_codebooks(law):
    from vqcore.scalar import fit_lloyd_max

    return lambda n_codewords: fit_lloyd_max(law, n_codewords).codebook


def _cells(n_codewords):
    return f"{n_codewords} cell{'s' if n_codewords > 1 else ''}"
