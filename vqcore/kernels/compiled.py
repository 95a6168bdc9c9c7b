"""numpy arrays, by numba: sums are added up in slabs of fixed size, so that no thread count changes a bit."""

import functools

import numpy as np

from vqcore.errors import InputError
from vqcore.kernels import halves as _halves
from vqcore.kernels import nearest as _nearest
from vqcore.kernels import scores
from vqcore.kernels.compiling import frozen, njit
from vqcore.kernels.moments import interval_moments, sort
from vqcore.kernels.threads import SMALL, alone, share, threads_for
from vqcore.kernels.vectors import LANES

__all__ = [
    "to_points", "from_host", "to_host", "extent", "assign", "accumulate", "follow",
    "sort", "interval_moments", "nearer", "draw",
]  # fmt: skip

MANY = 2**19  # values for which a loop of our own is worth compiling
BESIDE = 2**17  # operations in every loop from which on it is quicker to do whole pieces of work side by side
DRAWN = 1024  # weights in a block whose sum `draw` skips


def to_points(values, name="points", integers=False):
    """A native, contiguous numpy array of float32 or float64 (or, with `integers`, of integers)."""
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise InputError(f"{name} is a masked array with masked entries: fill or drop them first")
    if type(values).__module__.startswith("scipy.sparse"):
        raise InputError(f"{name} is a sparse matrix: pass {name}.toarray()")
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"{name} cannot be read as an array of numbers: {error}") from None
    kind = array.dtype.kind
    if integers:
        if kind not in "iu":
            raise InputError(f"{name} has dtype {array.dtype}: it must be integers")
        return array.astype(array.dtype.newbyteorder("="), copy=False)
    if kind in "iu":
        if array.size and max(abs(int(array.min())), abs(int(array.max()))) > 2**53:
            raise InputError(f"{name} holds integers beyond 2**53, which float64 cannot keep")
        return np.ascontiguousarray(array, dtype=np.float64).reshape(array.shape)
    if kind != "f" or array.dtype.itemsize > 8:
        raise InputError(f"{name} has dtype {array.dtype}: it must be real numbers, for example {name}.astype(float)")
    dtype = np.float64 if array.dtype.itemsize == 8 else np.float32
    return np.ascontiguousarray(array, dtype=dtype).reshape(array.shape)


def from_host(table, like):
    """The table itself: numpy lives on the host."""
    return table


def to_host(array):
    """The array itself: numpy lives on the host."""
    return array


def extent(points):
    """Smallest and largest value; not finite if any value is not."""
    if points.dtype.kind != "f" or points.size < MANY:
        return points.min().item(), points.max().item()
    lows, highs = _extents(frozen(points.reshape(-1)))
    return lows.min().item(), highs.max().item()


def assign(points, codebook):
    """Code (n,) and squared distance (n,) of the nearest codeword; ties go to the lowest index."""
    codes, sq_dists = np.empty(len(points), np.int64), np.empty(len(points))
    if points.size == len(points):
        distinct, index = np.unique(codebook, return_index=True)
        ascending = np.full(2 ** len(distinct).bit_length() - 1, np.inf)
        ascending[: len(distinct)] = distinct
        line = frozen(points.reshape(-1)), ascending, len(distinct), index, codes, sq_dists
        share(_nearest.nearest_on_line, len(points), 16 * len(points), *line, grain=_nearest.ON_LINE)
        return codes, sq_dists
    work, found = scores.work_type(points, codebook), _nearest.Found(codes, sq_dists, np.empty(0))
    screen, points = scores.screen(codebook, work), frozen(points)
    halves = _halves.halves(codebook, screen, len(points))

    def look(first, last):
        run, room = (first, last, points, codebook, screen), scores.room_for(points.shape[1], work)
        if halves is None:
            return _nearest.nearest(*run, found, room)
        return _nearest.nearest_by_halves(*run, halves, found, _nearest.queue_for(LANES), (room, _halves.room_for(halves)))

    share(look, len(points), len(points) * (codebook.size // 8 + 16), grain=LANES)
    return codes, sq_dists


def side_by_side(work, n, operations):
    """What work(i) returns for every i below n, by as many threads at a time as would share the loops of each.

    One after another where little of the time is spent in loops, or where threads would wait for the last ones.
    """
    n_threads = threads_for(SMALL)
    if operations < n * BESIDE or (n % n_threads and n < 4 * n_threads):
        return [work(i) for i in range(n)]

    def some(first, last):
        with alone():
            return [work(i) for i in range(first, last)]

    return [found for run in share(some, n, n * SMALL) for found in run]


def n_slabs(n, n_codewords):
    """Into how many runs a sum over points is split: by the sizes alone, with tables that are small beside the points."""
    return 2 ** (min(max(n // (4 * n_codewords), 1), 16).bit_length() - 1)


def accumulate(values, codes, n_codewords, sample_weight=None):
    """Sum of the values (n_codewords, dim) or (n_codewords,), and number or weight (n_codewords,), per cell."""
    rows = values.reshape(len(values), -1)
    weights = np.ones(1, np.int64) if sample_weight is None else sample_weight
    slabs = n_slabs(len(rows), n_codewords)
    sums, mass, _ = tables(slabs, (n_codewords, rows.shape[1]), weights)
    share(_accumulate, slabs, 4 * rows.size, slabs, frozen(rows), frozen(codes), frozen(weights), sums, mass)
    return merged(sums).reshape((n_codewords,) + values.shape[1:]), merged(mass)


def tables(n_slabs, shape, weights):
    """Zeros for what slabs add up: sums (n_slabs, *shape), mass and squared errors (n_slabs, n_codewords)."""
    per_cell = n_slabs, shape[0]
    return np.zeros((n_slabs, *shape)), np.zeros(per_cell, weights.dtype), np.zeros(per_cell)


def merged(parts):
    """The sum of the tables of all slabs, one slab after another: a sum of numpy's goes pairwise along a line."""
    return functools.reduce(np.add, parts) if parts[0].size == 1 else np.add.reduce(parts, axis=0)


def follow(points, sample_weight=None):
    """A function from one codebook after another to codes, sq_dists and per cell sum, mass and squared error."""
    from vqcore.kernels.bounds import Steps  # which needs this module

    return Steps(points, sample_weight).moments


def nearer(points, codewords, sq_dists):
    """The smaller (n,) of `sq_dists` and the squared distance to the nearest of a few codewords."""
    columns = points.reshape(len(points), -1)
    near, result = codewords.reshape(-1, columns.shape[1]), np.empty(len(points))
    share(_nearest.nearer, len(points), 4 * columns.size * len(near), frozen(columns), near, sq_dists, result)
    return result


def draw(weights, uniforms):
    """For each uniform number in [0, 1) the position at which the running sum of the weights passes that share."""
    weights, sums = frozen(weights), np.zeros(-(-len(weights) // DRAWN))
    share(_sums_of_blocks, len(sums), len(weights), weights, sums)
    return _draw(weights, sums, np.asarray(uniforms, dtype=np.float64))


@njit(cache=True, nogil=True)
def _extents(values):
    """Smallest and largest of each of many runs, in one pass; NaN where a run holds one."""
    size, lanes = 2**15, 128
    lows = np.empty(-(-len(values) // size), values.dtype)
    highs = np.empty_like(lows)
    for run in range(len(lows)):
        here = values[run * size : (run + 1) * size]
        # Lanes side by side go into SIMD registers; a NaN stays in its lane's sum, which is zero otherwise.
        low, high, odd = np.full(lanes, here[0]), np.full(lanes, here[0]), np.zeros(lanes, values.dtype)
        for start in range(0, len(here) - lanes + 1, lanes):
            row = here[start : start + lanes]
            for i in range(lanes):
                low[i] = row[i] if row[i] < low[i] else low[i]
                high[i] = row[i] if row[i] > high[i] else high[i]
                odd[i] += row[i] * 0
        for x in here[len(here) // lanes * lanes :]:
            low[0], high[0], odd[0] = min(low[0], x), max(high[0], x), odd[0] + x * 0
        for i in range(lanes):
            low[0], high[0], odd[0] = min(low[0], low[i]), max(high[0], high[i]), odd[0] + (odd[i] if i > 0 else 0)
        lows[run], highs[run] = low[0] + odd[0], high[0] + odd[0]
    return lows, highs


@njit(cache=True, nogil=True)
def _accumulate(first, last, n_slabs, rows, codes, weights, sums, mass):
    n, dim = rows.shape
    weighted = len(weights) == n
    for slab in range(first, last):
        for i in range(slab * n // n_slabs, (slab + 1) * n // n_slabs):
            weight = weights[i if weighted else 0]
            mass[slab, codes[i]] += weight
            for d in range(dim):
                sums[slab, codes[i], d] += weight * np.float64(rows[i, d])


@njit(cache=True, nogil=True)
def _sums_of_blocks(first, last, weights, sums):
    for block in range(first, last):
        for i in range(block * DRAWN, min(block * DRAWN + DRAWN, len(weights))):
            sums[block] += weights[i]


@njit(cache=True, nogil=True)
def _draw(weights, sums, uniforms):
    n, size, total = len(weights), DRAWN, 0.0
    for block in range(len(sums)):
        total += sums[block]
    drawn = np.zeros(len(uniforms), np.int64)
    for u in range(len(uniforms)):
        left, block = uniforms[u] * total, 0
        while block < len(sums) - 1 and left >= sums[block]:
            left -= sums[block]
            block += 1
        # The last position with any weight catches what rounding leaves over.
        for i in range(block * size, min(block * size + size, n)):
            if weights[i] > 0:
                drawn[u] = i
                if left < weights[i]:
                    break
                left -= weights[i]
    return drawn
