"""Explorers of bits: one code among packed ones, and one gradient value between its two levels."""

import ipywidgets
import numpy as np

from vqcore import checks
from vqcore.bits import LAYOUTS, n_words_for, pack
from vqcore.qsgd import QSGD
from vqcore.view import bits, draw, figures, roles
from vqcore.view.artists import Words
from vqcore.view.explorer import Explorer


class BitsExplorer(Explorer):
    """Sixteen codes, 1 to 16 but for one that is yours: its bits move as its value, place, width or layout change.

    Args:
        n_bits: width of a code to begin with, at most `widest`.
        widest: the right end of the slider of widths, at most 32.
    """

    n_codes = 16

    def __init__(self, n_bits=11, widest=16):
        checks.as_count(n_bits, "n_bits", 1, checks.as_count(widest, "widest", 2, 32))
        row = ipywidgets.Layout(width="300px")
        width = ipywidgets.IntSlider(n_bits, 1, widest, description="width", layout=row)
        code = ipywidgets.IntSlider(min(6, 2**n_bits - 1), 0, 2**n_bits - 1, description="code", layout=row)
        place = ipywidgets.IntSlider(5, 0, self.n_codes - 1, description="place", layout=row)
        layout = ipywidgets.Dropdown(options=LAYOUTS, value="dense", description="layout", layout=row)
        self.most_words = max(n_words_for(self.n_codes, n, kind) for n in range(1, widest + 1) for kind in LAYOUTS)
        # Before the picture follows: a code that no longer fits becomes the largest that does.
        width.observe(lambda change: setattr(code, "max", 2 ** change["new"] - 1), names="value")
        super().__init__({"width": width, "layout": layout, "place": place, "code": code})

    def words_of(self, state):
        """The sixteen codes in a state, and their words."""
        top = 2 ** state["width"] - 1
        codes = np.arange(1, self.n_codes + 1) & top
        codes[state["place"]] = min(state["code"], top)
        return codes, pack(codes, state["width"], state["layout"])

    def new_figure(self):
        return figures.figure((9.4, 0.95 + 0.42 * self.most_words))

    def draw_still(self, ax):
        bits.draw_words(ax, self.most_words)

    def draw_moving(self, ax, state):
        _, words = self.words_of(state)
        bits.draw_bits(ax, words, state["width"], self.n_codes, state["layout"], marked=state["place"])
        ax.set_title(self.describe(state).partition(";")[0])

    def describe(self, state):
        codes, words = self.words_of(state)
        place, width = state["place"], state["width"]
        field = bits.field_places(self.n_codes, width, state["layout"])[place]
        where = " and ".join(
            f"{_range(piece % 64)} of word {piece[0] // 64}"
            for piece in np.split(field, np.flatnonzero(np.diff(field // 64)) + 1)
        )
        spare = 64 * len(words) - self.n_codes * width
        listed = " ".join(f"{int(word):x}" for word in words)
        return (
            f"{state['layout']}, {width} bits: code {codes[place]} at place {place} lies in {where}; "
            f"{len(words)} word{'s' * (len(words) > 1)}, {spare} bits spare; in hexadecimal {listed}"
        )


class RoundingExplorer(Explorer):
    """One gradient value: slide it, see the two levels that it may become, its random draws and their mean.

    Beside the right direction stands the backward one, in which the two chances are swapped: with the same dice it goes
    up where the right one goes down.

    Args:
        n_draws: the most draws to be seen.
        seed: of the draws, which QSGD makes.
    """

    def __init__(self, n_draws=400, seed=0):
        self.n_draws, self.seed = checks.as_count(n_draws, "n_draws", 2, 5_000), checks.as_count(seed, "seed", 0)
        row = ipywidgets.Layout(width="300px")
        value = ipywidgets.FloatSlider(0.3, min=-0.99, max=0.99, step=0.01, description="value", layout=row)
        n_bits = ipywidgets.IntSlider(2, 1, 4, description="bits", layout=row)
        draws = ipywidgets.IntSlider(n_draws, 1, n_draws, description="draws", layout=row)
        super().__init__({"value": value, "n_bits": n_bits, "draws": draws})

    def means(self, state):
        """Running means (draws,) of one value coded again and again, the right way and backward."""
        # The other value of each bucket keeps the norm at 1; every bucket has dice of its own.
        pairs = np.tile([state["value"], 1.0], (self.n_draws, 1))
        coder = QSGD(state["n_bits"], bucket_size=2, norm="max")
        drawn = coder.decode(coder.encode(pairs, seed=self.seed))[: state["draws"], 0]
        below, above, _ = bits.neighbours(state["value"], state["n_bits"])
        so_far = np.arange(1, state["draws"] + 1)
        # A zero has no sign, and the source multiplies by it: zero goes nowhere, whatever the dice.
        backward = below + above - drawn if state["value"] else drawn
        return np.cumsum(drawn) / so_far, np.cumsum(backward) / so_far

    def new_figure(self):
        return figures.mosaic([["levels", "means"]], (9.4, 3.5), width_ratios=[1.15, 1])

    def draw_still(self, axes):
        marks = (-1, -0.5, 0, 0.5, 1)
        # With room for what is written above the outermost levels.
        axes["levels"].set(xlim=(-1.18, 1.18), ylim=(-0.1, 1.25), xlabel="value / norm", ylabel="how likely",
                           xticks=marks, yticks=(0, 0.5, 1))  # fmt: skip
        axes["means"].set(xlim=(1, 1.35 * self.n_draws), ylim=(-1.35, 1.35), xscale="log", xlabel="draws",
                          yticks=marks, ylabel="mean of the draws")  # fmt: skip

    def draw_moving(self, axes, state):
        right, backward = self.means(state)
        so_far = np.arange(1, state["draws"] + 1)
        bits.draw_rounding(axes["levels"], state["value"], state["n_bits"])
        draw.draw_bound(axes["means"], (1, 1.35 * self.n_draws), state["value"])
        up = 8 if right[-1] > backward[-1] else -8
        shown = (right, roles.LAW, "right", up), (backward, roles.SERIES[3], "backward: chances swapped", -up)
        for mean, colour, name, aside in shown:
            axes["means"].plot(so_far, mean, color=colour, zorder=3)
            draw.draw_now(axes["means"], so_far[-1], mean[-1])
            axes["means"].add_artist(Words([(so_far[-1], mean[-1])], [name], (-10, aside - 4), color=colour, size=10.5,
                                           weight="normal", align="right", zorder=7))  # fmt: skip
        below, above, chance = bits.neighbours(state["value"], state["n_bits"])
        axes["levels"].set_title(f"{state['value']:.2f} becomes {above:.3g} with {chance:.0%}, else {below:.3g}")
        axes["means"].set_title(f"Mean {right[-1]:.3f}; backward {backward[-1]:.3f}")

    def describe(self, state):
        value, n_bits = state["value"], state["n_bits"]
        right, backward = self.means(state)
        below, above, chance = bits.neighbours(value, n_bits)
        return (
            f"{value:.2f}, {n_bits} bit{'s' * (n_bits > 1)}: {above:.3f} with chance {chance:.2f}, "
            f"else {below:.3f}; mean of {state['draws']} {right[-1]:.4f}; backward, with the two chances swapped, "
            f"{backward[-1]:.4f} (expected {below + above - value if value else 0.0:.4f})"
        )


def _range(places):
    return f"bit {places[0]}" if len(places) == 1 else f"bits {places[0]} to {places[-1]}"
