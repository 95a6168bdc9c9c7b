"""An explorer of Lloyd's algorithm on laws of one dimension: half-steps, the rate it must have, Newton beside it."""

from dataclasses import dataclass

import ipywidgets
import numpy as np

from vqcore import checks, scalar, sources, voronoi
from vqcore.errors import InputError
from vqcore.view import draw, figures, roles
from vqcore.view.artists import Words
from vqcore.view.explorer import Explorer

STARTS = ("random", "companding", "crowded")
LAWS = {
    "normal": sources.Normal(),
    "uniform": sources.Uniform(-(3**0.5), 3**0.5),
    "Laplace": sources.Laplace(),
    "exponential": sources.Exponential(1.0),
}
ROUNDING = 1e-15  # an excess below this is not shown: float64 knows no better
FEW = 16  # codewords whose steps can be told apart


@dataclass(frozen=True)
class _Run:
    """A run of Lloyd's algorithm on a law, and what is known about it."""

    codebooks: tuple
    cells: tuple
    best: float
    rate: float  # the spectral radius of Lloyd's map at the optimum
    excess: np.ndarray  # over the optimum, of every step, relative
    newton: np.ndarray  # the same of Newton's method, from the same codebook
    squares: bool  # whether the Hessian at the optimum is definite, so that Newton squares its error


class RunExplorer(Explorer):
    """Choose a law, a number of codewords and a start, and go through Lloyd's algorithm by half-steps.

    A half-step moves the codewords to the means of their cells, the other draws the cells anew. Beside it the excess
    of the distortion over the optimum falls, at last by the square of the spectral radius of Lloyd's map per step
    (dashed); Newton's method, from the same start, at last squares it, where its Hessian is not singular.

    Args:
        laws: name -> law of `vqcore.sources`; the first is shown first. By default four, all of std 1.
        n_codewords: at first, at least 2.
        largest: number of codewords at the right end of the slider, at most 200.
        n_steps: steps of Lloyd's algorithm.
        start: "random" (of a sample), "companding" (nearly optimal), or "crowded" (all between two quantiles).
        seed: of the random start.
    """

    def __init__(self, laws=None, n_codewords=10, largest=64, n_steps=60, *, start="random", seed=0):
        self.laws = dict(LAWS if laws is None else laws)
        if not self.laws:
            raise InputError("laws is empty: pass at least one law by its name")
        self.laws = {str(name): sources.as_law(law) for name, law in self.laws.items()}
        largest = checks.as_count(largest, "largest", 2, 200)
        n_codewords = checks.as_count(n_codewords, "n_codewords", 2, largest)
        self.n_steps, self.seed = checks.as_count(n_steps, "n_steps", 1, 1_000), checks.as_count(seed, "seed", 0)
        checks.as_choice(start, "start", STARTS)
        self.range = self._range()
        self._runs = {}
        short, long = (ipywidgets.Layout(width=width) for width in ("200px", "330px"))
        half = ipywidgets.IntSlider(0, 0, 2 * self.n_steps, description="half-step", layout=long)
        play = ipywidgets.Play(value=0, min=0, max=half.max, interval=300, show_repeat=False)
        ipywidgets.jslink((play, "value"), (half, "value"))
        names = list(self.laws)
        super().__init__({
            "law": ipywidgets.Dropdown(options=names, description="law", layout=short),
            "start": ipywidgets.Dropdown(options=STARTS, value=start, description="start", layout=short),
            "n_codewords": ipywidgets.IntSlider(n_codewords, 2, largest, description="codewords", layout=long),
            "half": half,
        }, also=[play])  # fmt: skip

    def run(self, law, start, n_codewords):
        """The whole run from a start, as computed once: its codebooks, cells, excess, and Newton's."""
        key = law, start, n_codewords
        if key not in self._runs:
            self._runs[key] = self._computed(self.laws[law], start, n_codewords)
        return self._runs[key]

    def _computed(self, law, start, n_codewords):
        codebook = self._start(law, start, n_codewords)
        optimum = scalar.fit_lloyd_max(law, n_codewords)
        newton = scalar.fit_lloyd_max(law, n_codewords, start=codebook)
        codebooks, cells = [], []
        for _ in range(self.n_steps + 1):
            codebooks.append(codebook)
            cells.append(voronoi.cells(law, codebook))
            codebook = cells[-1].means
        return _Run(
            tuple(codebooks), tuple(cells), optimum.distortion, scalar.spectral_radius(law, optimum.codebook),
            np.array([found.distortion for found in cells]) / optimum.distortion - 1,
            np.array(newton.distortions) / optimum.distortion - 1, optimum.certificate.definite,
        )  # fmt: skip

    def _start(self, law, start, n_codewords):
        if start == "companding":
            return scalar.companding(law, n_codewords)
        if start == "crowded":
            return law.ppf(np.linspace(0.55, 0.65, n_codewords))
        return np.sort(law.sample(n_codewords, seed=self.seed))

    def _range(self):
        ends = np.array([draw.law_range(law, 0.997) for law in self.laws.values()])
        return float(ends[:, 0].min()), float(ends[:, 1].max())

    def new_figure(self):
        return figures.mosaic([["law", "curve"]], (9.4, 3.6), width_ratios=[1.55, 1])

    def draw_still(self, axes):
        axes["law"].set(xlim=self.range, ylim=(-0.09, 1.08), yticks=[], xlabel="value")
        axes["law"].spines["left"].set_visible(False)
        axes["curve"].set(xlim=(-0.03 * self.n_steps, 1.03 * self.n_steps), ylim=(ROUNDING / 3, 1e3), yscale="log",
                          xlabel="step", ylabel="distortion / optimum - 1", title="Lloyd's excess over the optimum")  # fmt: skip
        axes["law"].set_title(" ")

    def draw_moving(self, axes, state):
        run, (step, moved) = self._now(state)
        few = state["n_codewords"] <= FEW
        x = np.linspace(*self.range, 800)
        density = self.laws[state["law"]].pdf(x)
        axes["law"].plot(x, density / density.max(), color=roles.LAW, zorder=2)  # every law as high as the panel
        draw.draw_edges(axes["law"], run.cells[step].edges)
        size = 8 if few else 5.5
        if moved and few:
            draw.draw_step(axes["law"], run.codebooks[step], run.cells[step].means, size)
        codebook = run.cells[step].means if moved else run.codebooks[step]
        draw.draw_codebook(axes["law"], codebook, size=size)
        self._tell_beyond(axes["law"], codebook)
        steps = np.arange(self.n_steps + 1)
        curve = axes["curve"]
        curve.plot(steps, np.maximum(run.excess, ROUNDING), color=roles.CURVE, linewidth=1.2, zorder=3)
        draw.draw_bound(curve, steps, self._line(run))
        by_newton = np.maximum(run.newton[: self.n_steps + 1], ROUNDING)
        curve.plot(by_newton, "s-", color=roles.LAW, markersize=3.5, linewidth=1.0, zorder=4)
        curve.annotate("Newton", (min(len(by_newton), self.n_steps), ROUNDING), xytext=(5, 2), color=roles.LAW,
                       textcoords="offset points", zorder=7)  # fmt: skip
        curve.annotate(f"dashed: times ρ² = {run.rate**2:.4f} a step", (0.98, 0.97), xycoords="axes fraction", ha="right",
                       va="top", color="#5F5F5F", fontsize=9.5)  # fmt: skip
        draw.draw_now(curve, step + moved / 2, max(self._excess(run, step, moved), ROUNDING))
        ratio = 1 + self._excess(run, step, moved)
        done = f"Step {step}, then codewords moved" if moved else f"Step {step}, cells drawn" if step else "The start"
        axes["law"].set_title(f"{done}: {ratio:.4f} times the optimum")

    def _tell_beyond(self, ax, codebook):
        """How many codewords lie outside of the picture, at its edges."""
        for end, align, outside in ((0, "left", codebook < self.range[0]), (1, "right", codebook > self.range[1])):
            if outside.any():
                text = f"{outside.sum()} further out"
                ax.add_artist(Words([(self.range[end], 0)], [text], (2 - 4 * end, 9), color=roles.CODEWORD, size=9.5,
                                    weight="normal", align=align))  # fmt: skip

    def _line(self, run):
        """The slope that the excess must have at last, through its last value above rounding."""
        last = int(np.flatnonzero(run.excess > 1e-13)[-1]) if (run.excess > 1e-13).any() else 0
        line = np.maximum(run.excess[last], ROUNDING) * run.rate ** (2.0 * (np.arange(self.n_steps + 1) - last))
        return np.clip(line, ROUNDING / 10, 1e6)

    def _now(self, state):
        return self.run(state["law"], state["start"], state["n_codewords"]), divmod(state["half"], 2)

    def _excess(self, run, step, moved):
        """After the first half of a step, cells are old: their weighted squared moves have left the distortion."""
        if not moved:
            return run.excess[step]
        cells = run.cells[step]
        fallen = float(cells.weights @ (cells.means - run.codebooks[step]) ** 2)
        return (cells.distortion - fallen) / run.best - 1

    def describe(self, state):
        run, (step, moved) = self._now(state)
        n, ratio = state["n_codewords"], 1 + self._excess(run, step, moved)
        inside = int((np.abs(run.cells[step].means if moved else run.codebooks[step]) < 1).sum())
        there = np.flatnonzero(run.newton < 1e-12)
        needed = f"{there[0]}" if len(there) else f"more than {len(run.newton) - 1}"
        slowly = "" if run.squares else "; its Hessian is singular at the optimum, so it does not square the error"
        half = " and a half, codewords at the means of the old cells" if moved else ""
        return (
            f"{state['law']}, {n} codewords, {state['start']} start, step {step}{half}: {ratio:.4f} times the optimum, "
            f"{inside} codewords between -1 and 1; spectral radius ρ = {run.rate:.4f}; "
            f"Newton, from the same start, needs {needed} steps for twelve digits{slowly}"
        )
