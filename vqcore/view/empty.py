"""An explorer of empty cells: two codewords on one spot, of which one stays idle, and five ways to go on."""

import ipywidgets
import numpy as np

from vqcore import checks, voronoi
from vqcore.coding import distortion
from vqcore.errors import EmptyCellError
from vqcore.lloyd import POLICIES, fit_lloyd
from vqcore.view import draw, figures, roles
from vqcore.view.artists import Words
from vqcore.view.explorer import Explorer

MOST_NAMES = 24


def draw_shared_codes(ax, codebook):
    """The codes beside their codewords; those of codewords on one spot stand together, as "0 = 1".

    Of many codewords only 0, 1, and those that share a spot are named.
    """
    places, groups = np.unique(codebook, axis=0, return_inverse=True)
    shared = [np.flatnonzero(groups.reshape(-1) == group) for group in range(len(places))]
    told = [i for i, codes in enumerate(shared) if len(codebook) <= MOST_NAMES or len(codes) > 1 or codes[0] <= 1]
    texts = [" = ".join(str(code) for code in shared[i]) for i in told]
    ax.add_artist(Words(places[told], texts, (6, 6), color=roles.CODE))


class EmptyCellExplorer(Explorer):
    """Place codewords 0 and 1 on one spot, choose a policy, step: where does the idle codeword go?

    Args:
        points: (n, 2) of any array library.
        codebook: (n_codewords, 2), at least two, to start from; its first two go to the spot.
        n_steps: steps of Lloyd's algorithm at most.
        seed: of the directions in which cells are split.
    """

    def __init__(self, points, codebook, n_steps=12, seed=0):
        self.points = checks.as_table(points, "points", (None, 2))
        self.codebook = checks.as_table(codebook, "codebook", (None, 2))
        checks.as_count(len(self.codebook), "the number of codewords", low=2, high=len(self.points))
        self.n_steps, self.seed = checks.as_count(n_steps, "n_steps"), checks.as_count(seed, "seed", low=0)
        self.reach, self._fits = draw.box_around(self.points, 0.3), {}  # with room where nobody is
        low, high = np.reshape(self.reach, (2, 2)).T
        self.box = draw.box_around(np.stack([low, high]), 0.03)  # with room for a ring in a corner
        names = {"x": "both at x", "y": "both at y"}
        controls = {
            name: ipywidgets.FloatSlider(middle, min=bottom, max=top, step=(top - bottom) / 40, readout_format=".2f",
                                         description=names[name], layout=ipywidgets.Layout(width="300px"))
            for name, bottom, top, middle in zip("xy", low, high, (low + high) / 2)
        }  # fmt: skip
        controls["policy"] = ipywidgets.Dropdown(options=POLICIES, description="policy",
                                                 layout=ipywidgets.Layout(width="190px"))  # fmt: skip
        controls["step"] = ipywidgets.IntSlider(1, 0, self.n_steps, description="step",
                                                layout=ipywidgets.Layout(width="300px"))  # fmt: skip
        super().__init__(controls)

    def fit(self, x, y, policy):
        """The Fit from codewords 0 and 1 at (x, y), or the sentence of the EmptyCellError."""
        key = x, y, policy
        if key not in self._fits:
            start = self.codebook.copy()
            start[:2] = x, y
            try:
                self._fits[key] = fit_lloyd(
                    self.points, len(start), start, self.n_steps, empty=policy, seed=self.seed, progress=False
                )
            except EmptyCellError as error:
                self._fits[key] = str(error).partition(":")[0]
        return self._fits[key]

    def _now(self, state):
        """The sentence of an error or None, the fit that is drawn, and its step."""
        fit, error = self.fit(state["x"], state["y"], state["policy"]), None
        if isinstance(fit, str):
            fit, error = self.fit(state["x"], state["y"], "keep"), fit
        return error, fit, 0 if error else min(state["step"], fit.n_steps)

    def new_figure(self):
        return figures.figure(ncols=2, width_ratios=[1.15, 1])

    def draw_still(self, axes):
        plane, curve = axes
        draw.draw_plane(plane, self.box)
        draw.draw_points(plane, self.points)
        curve.set(xlim=(-0.4, self.n_steps + 0.4), xlabel="step", ylabel="distortion", ylim=(0, self._highest()))

    def _highest(self):
        # No place of the two is worse than none, or, with no others, than a corner.
        others = self.codebook[2:] if len(self.codebook) > 2 else np.reshape(self.reach, (2, 2)).T[:1]
        return 1.08 * distortion(self.points, others)

    def draw_moving(self, axes, state):
        plane, curve = axes
        error, fit, step = self._now(state)
        codebook = fit.codebooks[step]
        draw.draw_cells(plane, voronoi.polygons(codebook, self.box))
        if step and len(fit.codebooks[step - 1]) == len(codebook):
            draw.draw_step(plane, fit.codebooks[step - 1], codebook)
        draw.draw_codebook(plane, codebook)
        draw_shared_codes(plane, codebook)
        for code in self.idle(codebook):
            draw.draw_now(plane, *codebook[code])
        kept = self.fit(state["x"], state["y"], "keep")
        draw.draw_bound(curve, np.arange(len(kept.distortions)), kept.distortions)
        if error is None:
            curve.plot(fit.distortions, "o-", color=roles.CURVE, markersize=4)
        draw.draw_now(curve, step, fit.distortions[step])
        title = f"{state['policy']}, step {step}: distortion {fit.distortions[step]:.4g}"
        plane.set_title(f"EmptyCellError: {error.partition(' (')[0]}" if error else title)
        curve.set_title("Dashed: the idle one kept")

    def idle(self, codebook):
        """The codes that no point has."""
        return np.flatnonzero(voronoi.cells(self.points, codebook).weights == 0)

    def describe(self, state):
        error, fit, step = self._now(state)
        place = f"codewords 0 and 1 at ({state['x']:.2f}, {state['y']:.2f})"
        if error:
            return f"{place}, policy {state['policy']}: EmptyCellError, {error}"
        idle = self.idle(fit.codebooks[step])
        return (
            f"{place}, policy {state['policy']}, step {step} of {fit.n_steps}: {len(fit.codebooks[step])} codewords, "
            f"{len(idle)} idle, distortion {fit.distortions[step]:.6g}; at the end {fit.distortion:.6g}"
            f"{self._beside_keep(state, fit)}"
        )

    def _beside_keep(self, state, fit):
        """What became of it: the distortion at the end beside that of doing nothing, and what that leaves idle."""
        kept = self.fit(state["x"], state["y"], "keep")
        idle = len(self.idle(kept.codebook))
        left = f"{idle if idle else 'none'} idle at the end"
        if state["policy"] == "keep":
            return f", {left}"
        more = fit.distortion / kept.distortion - 1
        if abs(more) < 5e-4:
            return f", as with keep, which leaves {left}"
        told = f", {abs(more):.1%} {'more' if more > 0 else 'less'} than with keep, which leaves {left}"
        earlier = more > 0 and fit.n_steps and fit.distortions[1] < kept.distortions[1]
        return told + (": ahead after one step, and yet in a worse place at the end" if earlier else "")
