"""numba loops that go through their data one after another, so that no array library has a twin of them.

Two algorithms: the exact one-dimensional optimum (`running_sums`, `cheapest_cells`) and competitive
learning (`compete`).
"""

import numpy as np
from numba.core import types
from numba.extending import intrinsic

from vqcore.kernels.compiling import njit

# Columns of the running sums: weight, weight * x and weight * x**2, each as a double and what it lacks.
WEIGHT, FIRST, SECOND = 0, 2, 4


@intrinsic
def _fma(typingctx, a, b, c):
    """a * b + c rounded once: the processor's own instruction, which numba does not offer by name."""

    def generate(context, builder, signature, arguments):
        return builder.fma(*arguments)

    return types.float64(types.float64, types.float64, types.float64), generate


@njit(inline="always")
def _two_sum(a, b):
    """The rounded sum, and exactly what the rounding took (Knuth)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


@njit(inline="always")
def _two_product(a, b):
    """The rounded product, and exactly what the rounding took."""
    product = a * b
    return product, _fma(a, b, -product)


@njit(inline="always")
def _add(high, low, other_high, other_low):
    """Sum of two numbers of 106 bits, each in two doubles."""
    total, rest = _two_sum(high, other_high)
    lows, rest_of_lows = _two_sum(low, other_low)
    total, rest = _two_sum(total, rest + lows)
    return _two_sum(total, rest + rest_of_lows)


@njit(cache=True)
def running_sums(values, weights, pivot, scale):
    """Sums (n + 1, 6) of weight, weight * x and weight * x**2 before every position, x = (value - pivot) * scale.

    In 106 bits, the shift by the pivot included: the squared error of a narrow cell is the small
    difference of two large sums, wherever the data lie.
    """
    sums = np.zeros((len(values) + 1, 6))
    for i in range(len(values)):
        x, x_low = _two_sum(values[i], -pivot)
        x, x_low = x * scale, x_low * scale
        first, first_low = _two_product(weights[i], x)
        first_low += weights[i] * x_low
        second, second_low = _two_product(first, x)
        second_low += first * x_low + first_low * x
        row, above = sums[i + 1], sums[i]
        row[WEIGHT], row[WEIGHT + 1] = _add(above[WEIGHT], above[WEIGHT + 1], weights[i], 0.0)
        row[FIRST], row[FIRST + 1] = _add(above[FIRST], above[FIRST + 1], first, first_low)
        row[SECOND], row[SECOND + 1] = _add(above[SECOND], above[SECOND + 1], second, second_low)
    return sums


@njit(inline="always")
def _difference(sums, start, stop, column):
    high, low = _two_sum(sums[stop, column], -sums[start, column])
    return high, low + (sums[stop, column + 1] - sums[start, column + 1])


@njit(inline="always")
def _cell_error(sums, start, stop):
    """Squared error of the values from `start` to before `stop` about their mean, to 1e-32 of the squared range."""
    if stop - start == 1:
        return 0.0
    weight, weight_low = _difference(sums, start, stop, WEIGHT)
    first, first_low = _difference(sums, start, stop, FIRST)
    second, second_low = _difference(sums, start, stop, SECOND)
    # About any number near the mean the error is second - mean * (2 first - mean * weight), and the
    # rounding of the mean counts only squared; the last factor is first plus a small remainder.
    mean = (first + first_low) / (weight + weight_low)
    remainder = _fma(-mean, weight, first) + (first_low - mean * weight_low)
    product, product_low = _two_product(mean, first)
    return max(0.0, (second - product) + ((second_low - product_low) - mean * (first_low + remainder)))


@njit(cache=True)
def path_error(sums, cuts):
    """Sum of the squared errors of the cells between consecutive cuts."""
    error = 0.0
    for cell in range(len(cuts) - 1):
        error += _cell_error(sums, cuts[cell], cuts[cell + 1])
    return error


@njit(cache=True)
def cell_means(sums, cuts, pivot, scale):
    """Mean of every cell between consecutive cuts, in the units of the values."""
    means = np.empty(len(cuts) - 1)
    for cell in range(len(means)):
        weight, weight_low = _difference(sums, cuts[cell], cuts[cell + 1], WEIGHT)
        # A high part that has cancelled to zero hands over to the low one.
        weight, weight_low = _two_sum(weight, weight_low)
        first, first_low = _difference(sums, cuts[cell], cuts[cell + 1], FIRST)
        mean = (first + first_low) / (weight + weight_low)
        mean_low = (_fma(-mean, weight, first) + (first_low - mean * weight_low)) / weight
        high, low = _two_sum(pivot, mean / scale)
        means[cell] = high + (low + mean_low / scale)
    return means


@njit(inline="always")
def _wins(sums, errors, counts, price, new, old, stop):
    """Whether the last cell of values up to `stop` had better begin at `new` than at `old`."""
    # The price is left out where both have the same number of cells, or it would drown small errors.
    gain = (errors[old] - errors[new]) + price * (counts[old] - counts[new])
    return _cell_error(sums, new, stop) - _cell_error(sums, old, stop) < gain


@njit(inline="always")
def _first_win(sums, errors, counts, price, new, old, low, known):
    """The first stop after `low`, where `old` wins, at which `new` wins; at the latest `known`."""
    stride = 1
    high = low + 1
    while high < known and not _wins(sums, errors, counts, price, new, old, high):
        low, stride = high, 2 * stride
        high = low + stride
    high = min(high, known)
    while high - low > 1:
        middle = (low + high) // 2
        if _wins(sums, errors, counts, price, new, old, middle):
            high = middle
        else:
            low = middle
    return high


@njit(cache=True)
def cheapest_cells(sums, price):
    """Cuts, from 0 to n, that minimise the squared error plus a price for every cell; O(n log n) time, O(n) memory.

    A start that beats an earlier one at some stop beats it at all later stops (the squared error
    satisfies the quadrangle inequality), so the starts that are best somewhere form a queue.

    Source: Hirschberg & Larmore 1987, "The least weight subsequence problem"; Galil & Park 1992,
    "Dynamic programming with convexity, concavity and sparsity".
    """
    n = len(sums) - 1
    errors, counts, best = np.zeros(n + 1), np.zeros(n + 1, np.int64), np.zeros(n + 1, np.int64)
    starts, since = np.zeros(n + 1, np.int64), np.ones(n + 1, np.int64)
    head, tail = 0, 0
    for stop in range(1, n + 1):
        while head < tail and since[head + 1] <= stop:
            head += 1
        start = starts[head]
        errors[stop] = errors[start] + _cell_error(sums, start, stop)
        counts[stop], best[stop] = counts[start] + 1, start
        if stop == n:
            break
        # The new start takes over for ever from some stop: whoever would begin later than that, leaves.
        known = n + 1
        while True:
            low = max(since[tail], stop + 1)
            if not _wins(sums, errors, counts, price, stop, starts[tail], low):
                known = _first_win(sums, errors, counts, price, stop, starts[tail], low, known)
                tail += 1
                break
            known = low
            if tail == head:
                break
            tail -= 1
        if known <= n:
            starts[tail], since[tail] = stop, known
        else:
            tail -= 1
    return _walk_back(best, counts[n])


@njit(cache=True)
def _walk_back(best, n_cells):
    cuts = np.empty(n_cells + 1, np.int64)
    stop = len(best) - 1
    for cell in range(n_cells, -1, -1):
        cuts[cell] = stop
        stop = best[stop]
    return cuts


@njit(cache=True)
def compete(samples, batch, columns, shares, running, step):
    """Competitive learning from samples (n, dim): the codeword nearest to each moves towards it. All in place.

    Args:
        batch: samples that find their codewords before any of them moves one.
        columns: (dim, n_codewords), the transposed codebook; of one dimension, ascending.
        shares: (n_codewords,) such that running[1] * shares are the running weights.
        running: samples so far, what the shares are to be multiplied with, running distortion.
        step: (a, b): the n-th sample draws its codeword by the share a / (a + b n) of the way.
    """
    scratch = np.empty(columns.shape[1])
    codes, sq_dists = np.empty(min(batch, len(samples)), np.int64), np.empty(min(batch, len(samples)))
    for first in range(0, len(samples), batch):
        some = samples[first : first + batch]
        for i in range(len(some)):
            codes[i], sq_dists[i] = _nearest(columns, some[i], scratch)
        for i in range(len(some)):
            _move(some[i], codes[i], sq_dists[i], columns, shares, running, step)


@njit(inline="always")
def _move(sample, code, sq_dist, columns, shares, running, step):
    running[0] += 1.0
    gain = step[0] / (step[0] + step[1] * running[0])
    for j in range(len(sample)):
        columns[j, code] += gain * (sample[j] - columns[j, code])
    running[2] += gain * (sq_dist - running[2])
    # All weights shrink by 1 - gain, which one common factor does for them all until it gets too small.
    running[1] *= 1.0 - gain
    if running[1] < 1e-100:
        shares *= running[1]
        running[1] = 1.0
    shares[code] += gain / running[1]


@njit(inline="always")
def _nearest(columns, sample, sq_dists):
    """Lowest index of the nearest codeword, and its squared distance."""
    if len(sample) == 1:
        nearest = _nearest_on_line(columns[0], sample[0])
        return nearest, (sample[0] - columns[0, nearest]) ** 2
    # Codewords lie side by side, so that the processor compares several at a time.
    sq_dists[:] = 0.0
    for j in range(len(sample)):
        for code in range(len(sq_dists)):
            sq_dists[code] += (sample[j] - columns[j, code]) ** 2
    nearest = 0
    for code in range(1, len(sq_dists)):
        if sq_dists[code] < sq_dists[nearest]:
            nearest = code
    return nearest, sq_dists[nearest]


@njit(inline="always")
def _nearest_on_line(codebook, sample):
    """Lowest index of the nearest of ascending codewords."""
    above, stop = 0, len(codebook)
    while above < stop:
        middle = (above + stop) // 2
        if codebook[middle] < sample:
            above = middle + 1
        else:
            stop = middle
    if above == len(codebook) or (above > 0 and (sample - codebook[above - 1]) ** 2 <= (codebook[above] - sample) ** 2):
        above -= 1
        while above > 0 and codebook[above - 1] == codebook[above]:
            above -= 1
    return above
