"""Pictures of a benchmark: ratios beside their bars, kernels under the roof of the machine, growth on log axes."""

import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from vqcore.view import roles
from vqcore.view.draw import draw_bound
from vqcore.view.figures import plain


def draw_ratios(ax, rows):
    """The ratio of every row on a log axis, a line for each work; below the bar it is a vermillion cross.

    Args:
        rows: each with work, ratio, bar and is_short; rows without a ratio are left out of the picture.
    """
    measured = [row for row in rows if np.isfinite(row.ratio)]
    works = list(dict.fromkeys(row.work for row in measured))
    for height, work in enumerate(works):
        of_work = [row for row in measured if row.work == work]
        bars = sorted({row.bar for row in of_work if row.bar is not None})
        ax.plot(bars, [height] * len(bars), "|", color=roles.BOUND, markersize=15, markeredgewidth=2, zorder=2)
        for is_short, mark, colour in ((False, "o", roles.SERIES[0]), (True, "X", roles.NOW)):
            ratios = [row.ratio for row in of_work if row.is_short == is_short]
            ax.plot(ratios, [height] * len(ratios), mark, color=colour, markersize=6, markeredgecolor="white",
                    markeredgewidth=0.5, zorder=3)  # fmt: skip
    ax.axvline(1.0, color=roles.CELL, linewidth=0.8, zorder=1)
    ax.set(xscale="log", yticks=range(len(works)), yticklabels=list(map(plain, works)), ylim=(len(works) - 0.4, -0.6))
    ax.set_xlabel("time of the fastest peer / time of vqcore   (grey stroke: the bar)")


def draw_roofline(ax, flops, bandwidth, kernels):
    """Operations a second against operations per byte, under the two limits of a machine.

    Args:
        flops: operations a second of a matrix product.
        bandwidth: bytes a second of a memory copy.
        kernels: (name, operations, bytes, seconds, mark) of each; the mark "D" stands out.

    Williams, Waterman, Patterson 2009, "Roofline: an insightful visual performance model".
    """
    per_byte = np.array([operations / n_bytes for _, operations, n_bytes, _, _ in kernels] or [1.0])
    reach = np.geomspace(min(per_byte.min(), flops / bandwidth) / 4, per_byte.max() * 3, 200)
    draw_bound(ax, reach, np.minimum(flops, bandwidth * reach) / 1e9)
    for (name, operations, _, seconds, mark), x in zip(kernels, per_byte):
        y = operations / seconds / 1e9
        ours = mark == "D"
        ax.plot([x], [y], mark, color=roles.CODEWORD if ours else roles.POINT, markersize=8 if ours else 6,
                markeredgecolor="white" if mark in "Ds" else roles.POINT, zorder=4 if ours else 3)  # fmt: skip
        if name:
            ax.annotate(plain(name), (x, y), xytext=(6, -11), textcoords="offset points", fontsize=9)
    ax.set(xscale="log", yscale="log", xlabel="operations per byte", ylabel="operations a second, 10⁹")


def draw_growth(ax, sizes, seconds, slope, intercept, look=0):
    """Times against sizes on log axes, and the line seconds = exp(intercept) * size**slope through them."""
    ax.plot(sizes, 1e3 * np.asarray(seconds), roles.SERIES_MARKERS[look], color=roles.SERIES[look])
    draw_bound(ax, sizes, 1e3 * np.exp(intercept) * np.asarray(sizes, dtype=float) ** slope)
    ax.set(xscale="log", yscale="log", ylabel="milliseconds")
    ax.set_xticks(sizes[::2], [f"{size:,}" for size in sizes[::2]])
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_minor_locator(NullLocator())
