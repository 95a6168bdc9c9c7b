"""An explorer of soft EM: a slider over the temperature, and the tree of codewords that part as it falls."""

import ipywidgets
import numpy as np
from matplotlib import colormaps

from vqcore import checks
from vqcore.soft import cooled, critical_temperature
from vqcore.view import draw, figures, roles
from vqcore.view.artists import Photograph, Words
from vqcore.view.explorer import Explorer

TOGETHER = 0.02  # codewords nearer than this share of the data's spread count as one


class SoftExplorer(Explorer):
    """A slider over the temperature of soft EM: codewords part, one critical temperature after the other.

    In the plane, colour is the number of codewords that share a place: the exponential of the entropy of its
    shares. Beside it stands every codeword's position along the main axis of the points, at all temperatures, and
    dashed the first critical one: twice the largest eigenvalue of the covariance, the variance along that axis.

    Args:
        points: (n, 2) of any array library.
        n_codewords: at least 2.
        n_temperatures: from 1.5 times the critical temperature down to a 200th of it.
        seed: of the small disturbances without which nothing parts.
    """

    def __init__(self, points, n_codewords=8, n_temperatures=49, seed=0):
        self.points = checks.as_table(points, "points", (None, 2))
        n_temperatures = checks.as_count(n_temperatures, "n_temperatures", low=2, high=200)
        self.critical = critical_temperature(self.points)
        self.temperatures = self.critical * np.geomspace(1.5, 0.005, n_temperatures)
        n_codewords = checks.as_count(n_codewords, "n_codewords", low=2)
        self.fits = cooled(self.points, n_codewords, self.temperatures, seed=seed)
        self.box = draw.box_around(self.points)
        covariance = np.cov(self.points.T, bias=True)
        self.axis = np.linalg.eigh(covariance)[1][:, -1]
        self.axis = self.axis * np.sign(self.axis[np.abs(self.axis).argmax()])
        self.spread = float(np.sqrt(np.trace(covariance)))
        told = [(f"{temperature:.3g}", index) for index, temperature in enumerate(self.temperatures)]
        slider = ipywidgets.SelectionSlider(options=told, value=n_temperatures // 3, description="temperature",
                                            style={"description_width": "90px"},
                                            layout=ipywidgets.Layout(width="470px"))  # fmt: skip
        play = ipywidgets.Play(value=slider.index, min=0, max=n_temperatures - 1, interval=300, show_repeat=False)
        ipywidgets.jslink((play, "value"), (slider, "index"))
        super().__init__({"index": slider}, also=[play])

    def new_figure(self):
        return figures.figure(ncols=2, width_ratios=[1.15, 1])

    def draw_still(self, axes):
        plane, tree = axes
        draw.draw_plane(plane, self.box)
        along = np.array([fit.codebook @ self.axis for fit in self.fits]) - self.points.mean(axis=0) @ self.axis
        tree.plot(self.temperatures, along, "-", color=roles.CODEWORD, linewidth=1.2)
        tree.axvline(self.critical, linestyle="--", color=roles.BOUND, linewidth=1.4)
        tree.annotate(f"critical\nT = {self.critical:.3g}", (self.critical, 0.98), xytext=(5, 0), ha="left", va="top", color="#5F5F5F",
                      xycoords=tree.get_xaxis_transform(), textcoords="offset points")  # fmt: skip
        tree.set(xscale="log", xlim=(1.15 * self.temperatures[0], self.temperatures[-1] / 1.15), xlabel="temperature T",
                 ylabel="place along the main axis", title="Codewords part as it gets colder")  # fmt: skip
        self._bar(plane)

    def _bar(self, plane):
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize

        scale = ScalarMappable(Normalize(1, len(self.fits[0].codebook)), roles.QUANTITY)
        beside = plane.inset_axes([1.025, 0, 0.045, 1])
        bar = plane.figure.colorbar(scale, cax=beside, label="codewords that share a place", alpha=roles.PALE)
        bar.outline.set_visible(False)

    def draw_moving(self, axes, state):
        plane, tree = axes
        fit, temperature = self.fits[state["index"]], self.temperatures[state["index"]]
        shares = (self._sharing(fit)[::-1] - 1) / (len(fit.codebook) - 1)
        colours = roles.pale(colormaps[roles.QUANTITY](shares)[..., :3])
        image = Photograph(plane, np.uint8(np.rint(255 * colours)), self.box)
        image.set_zorder(0.5)
        plane.add_image(image)
        draw.draw_points(plane, self.points)
        draw.draw_codebook(plane, fit.codebook)
        shared = [(place, f"×{number}") for place, number in self._groups(fit) if number > 1]
        plane.add_artist(Words([place for place, _ in shared], [text for _, text in shared], (7, 6), color=roles.CODE))
        tree.axvline(temperature, color=roles.NOW, linewidth=2.2)
        plane.set_title(f"At {temperature / self.critical:.3g} of the critical T: {len(self._groups(fit))} distinct")

    def _sharing(self, fit, size=72):
        """The exponential of the entropy of the shares, on a grid (size, size)."""
        x, y = np.linspace(*self.box[:2], size), np.linspace(*self.box[2:], size)
        sq_dists = (x[None, :, None] - fit.codebook[:, 0]) ** 2 + (y[:, None, None] - fit.codebook[:, 1]) ** 2
        exponents = (sq_dists.min(axis=2, keepdims=True) - sq_dists) / fit.temperature
        totals = np.exp(exponents).sum(axis=2, keepdims=True)
        return np.exp(np.log(totals[..., 0]) - (np.exp(exponents) / totals * exponents).sum(axis=2))

    def _groups(self, fit):
        """Places of the codewords, those that lie together once, each with their number."""
        places, groups = [], []
        for codeword in fit.codebook:
            near = [i for i, place in enumerate(places) if np.hypot(*(codeword - place)) < TOGETHER * self.spread]
            if near:
                groups[near[0]] += 1
            else:
                places.append(codeword)
                groups.append(1)
        return list(zip(places, groups))

    def describe(self, state):
        fit = self.fits[state["index"]]
        return (
            f"temperature {fit.temperature:.4g}, {fit.temperature / self.critical:.3f} of the critical one, "
            f"{self.critical:.4g}, which is twice the variance along the main axis and above which all codewords are one: "
            f"{len(self._groups(fit))} distinct of {len(fit.codebook)} codewords, "
            f"free energy {fit.free_energies[-1]:.4g}, distortion {fit.distortion:.4g}"
        )
