"""An explorer of a compressed network: bytes against accuracy, beside the weights that are left."""

import ipywidgets
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from vqcore import checks
from vqcore.errors import InputError
from vqcore.view import draw, figures, images, roles
from vqcore.view.explorer import BESIDE, Explorer

NAMES = {False: "as fitted", True: "codebooks trained"}
MARKS = (0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 1)  # written beside the axis
PERFECT = 0.002  # as few wrong answers count on the axis as none: a logarithm has no place for none


class NetworkExplorer(Explorer):
    """Block size, number of codewords, and whether codebooks were trained: what the network weighs and gets right.

    Args:
        plain: (n_bytes, accuracy, weight) of the network before: accuracy from 0 to 1, weight (n_rows, length) of a
            layer, or as much of it as is to be seen.
        coded: (block_size, n_codewords, trained) -> the same of the compressed one, for all triples; nothing is
            computed again.

    Raises:
        InputError: a triple is missing, or parts that do not fit.
    """

    def __init__(self, plain, coded):
        weight = checks.as_table(plain[2], "weight", (None, None))
        self.plain = _measured(*plain, weight.shape)
        sizes, numbers, trained = (sorted({key[i] for key in coded}) for i in range(3))
        if len(coded) != len(sizes) * len(numbers) * 2 or not coded or trained != [False, True]:
            raise InputError(f"coded has {len(coded)} triples (block_size, n_codewords, trained): for {len(sizes)} "
                             f"block sizes and {len(numbers)} numbers of codewords there must be "
                             f"{2 * len(sizes) * len(numbers)}, trained and not")  # fmt: skip
        self.coded = {key: _measured(*coded[key], weight.shape) for key in sorted(coded)}
        wide = {"layout": ipywidgets.Layout(width="360px"), "style": {"description_width": "80px"}}
        super().__init__({
            "block_size": ipywidgets.SelectionSlider(options=sizes, value=_middle(sizes), description="block size", **wide),
            "n_codewords": ipywidgets.SelectionSlider(options=numbers, value=_middle(numbers), description="codewords", **wide),
            "trained": ipywidgets.Checkbox(False, description="train the codebooks", **BESIDE),
        })  # fmt: skip

    def new_figure(self):
        return figures.mosaic([["before", "plane"], ["now", "plane"]], (9.4, 4.8), width_ratios=[1, 1.05])

    def draw_still(self, axes):
        self._draw_weight(axes["before"], self.plain[2], f"Before: {self.plain[0]:,} bytes, {self.plain[1]:.1%} right")
        axes["now"].set(xlim=axes["before"].get_xlim(), ylim=axes["before"].get_ylim(), aspect="equal", title=" ")
        for ax in (axes["before"], axes["now"]):
            self._label(ax)
        plane, shown = axes["plane"], {}
        for trained, name in NAMES.items():
            found = sorted(value[:2] for key, value in self.coded.items() if key[2] == trained)
            shown[name] = tuple(np.array(found).T)
        images.draw_rate_distortion(plane, shown, ylabel="right on unseen digits (log scale of errors)")
        for text in list(plane.texts):
            text.remove()  # the points are no curves: a legend names them
        for line in plane.lines:
            line.set_linestyle("none")
        left = plane.get_xlim()[0]
        draw.draw_bound(plane, plane.get_xlim(), self.plain[1])
        plane.annotate("before", (left, self.plain[1]), xytext=(2, 3), textcoords="offset points", color="#5F5F5F")
        self._stretch(plane)
        plane.set_title("Up and to the left is better")
        plane.legend(loc="lower right")

    def _stretch(self, plane):
        """An axis of accuracies on which equal steps are equal factors of wrong answers, as wide as is needed."""
        plane.set_yscale("function", functions=(_height, _accuracy))
        found = _height(np.array([self.plain[1], *(accuracy for _, accuracy, _ in self.coded.values())]))
        margin = 0.07 * max(found.max() - found.min(), 0.1)
        plane.set_ylim(_accuracy(found.min() - margin), _accuracy(found.max() + margin))
        low, high = plane.get_ylim()
        plane.yaxis.set_major_locator(FixedLocator([mark for mark in MARKS if low <= mark <= high] or [self.plain[1]]))
        plane.yaxis.set_minor_locator(NullLocator())
        plane.yaxis.set_major_formatter(FuncFormatter(lambda accuracy, _: f"{100 * accuracy:.3g}%"))

    def draw_moving(self, axes, state):
        n_bytes, accuracy, weight = self._at(state)
        self._draw_weight(axes["now"], weight, f"Now: {n_bytes:,} bytes, {accuracy:.1%} right")
        before = self.coded[state["block_size"], state["n_codewords"], False]
        after = self.coded[state["block_size"], state["n_codewords"], True]
        axes["plane"].plot([before[0], after[0]], [before[1], after[1]], "-", color=roles.NOW, linewidth=1.2, zorder=5)
        draw.draw_now(axes["plane"], n_bytes, accuracy)

    def describe(self, state):
        n_bytes, accuracy, _ = self._at(state)
        size, number = state["block_size"], state["n_codewords"]
        return (f"Blocks of {size}, {number} codewords, {NAMES[state['trained']]}: {n_bytes} bytes, "
                f"{self.plain[0] / n_bytes:.1f} times fewer, {accuracy:.1%} right, {self.plain[1]:.1%} before")  # fmt: skip

    def _at(self, state):
        return self.coded[state["block_size"], state["n_codewords"], state["trained"]]

    def _draw_weight(self, ax, weight, title):
        largest = np.abs(self.plain[2]).max()
        ax.imshow(weight, cmap=roles.QUANTITY, vmin=-largest, vmax=largest, interpolation="nearest")
        ax.set_title(title)

    def _label(self, ax):
        ax.set(xlabel="input", ylabel="neuron")
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(MaxNLocator(4, integer=True))
        largest = np.abs(self.plain[2]).max()
        scale = ScalarMappable(Normalize(-largest, largest), roles.QUANTITY)
        bar = ax.figure.colorbar(scale, cax=ax.inset_axes([1.025, 0, 0.035, 1]), label="weight")
        bar.outline.set_visible(False)


def _measured(n_bytes, accuracy, weight, shape):
    return (checks.as_count(n_bytes, "n_bytes"), checks.as_real(accuracy, "accuracy", low=0.0, high=1.0),
            checks.as_table(weight, "weight", shape))  # fmt: skip


def _height(accuracy):
    return -np.log(1 + PERFECT - np.minimum(accuracy, 1.0))


def _accuracy(height):
    return 1 + PERFECT - np.exp(-np.asarray(height))


def _middle(options):
    return options[len(options) // 2]
