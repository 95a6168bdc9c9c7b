"""dask arrays of numpy blocks: every pass reads the blocks one by one, and only small tables come back.

`points`, `codes` and `sq_dists` are dask arrays that nothing has computed yet; tables are numpy, as everywhere. A
pass is one task per block, from reading it to its row of a table, so that no block is held for longer or sent
anywhere. The rows are added by a tree of fixed shape, so that neither the number of workers nor their haste
changes a bit. Whatever scheduler Dask is set to does the work: threads, processes, a cluster.

Beside the ten kernels stand the passes for which points in memory need none of their own (`passes`).
"""

import os
from functools import partial
from typing import Any, NamedTuple

import dask
import dask.array as da
import dask.local
import dask.threaded
import numpy as np
from dask.base import get_scheduler, tokenize

from vqcore.errors import InputError
from vqcore.kernels import compiled, one_block

FAN_IN = 16  # rows of a table that are added together
KEPT_BYTES = 32 * 2**20  # of squared distances kept while codewords are added one by one; more are computed anew


def of_file(path, array, n_rows):
    """A dask array over the memory-mapped array of a .npy file, in blocks of so many rows."""
    path, n = os.path.abspath(path), len(array)
    sizes = (n_rows,) * (n // n_rows) + ((n % n_rows,) if n % n_rows or not n else ())
    name = "npy-file-" + tokenize(path, os.stat(path).st_mtime_ns, array.shape, array.dtype, n_rows)
    chunks, meta = (sizes,) + tuple((extent,) for extent in array.shape[1:]), np.empty((0,) * array.ndim, array.dtype)
    return da.map_blocks(partial(one_block.rows_of_file, path=path), name=name, chunks=chunks, meta=meta)


def to_points(values, name="points", integers=False):
    """A dask array of float32 or float64 (or, with `integers`, of integers), converted block by block."""
    if not isinstance(values, da.Array):
        kind = type(values).__name__
        raise InputError(f"{name} is a dask {kind}: pass a dask array, such as {name}.to_dask_array(lengths=True)")
    if not isinstance(values._meta, np.ndarray):
        kind = type(values._meta)
        raise InputError(f"{name} has blocks of type {kind.__module__}.{kind.__name__}: they must be numpy arrays")
    if integers and values.ndim == 0:
        raise InputError(f"{name} has shape (): in a dask array it must have an axis")
    if any(np.isnan(extent) for extent in values.shape):
        todo = f"{name}.compute_chunk_sizes() first"
        raise InputError(f"{name} has shape {values.shape}, but all sizes must be known: call {todo}")
    like = compiled.to_points(np.empty((0,) * values.ndim, values.dtype), name, integers)
    return values.map_blocks(partial(one_block.converted, name=name, integers=integers, dtype=like.dtype), meta=like)


def from_host(table, like):
    """The table itself: tables live on the host."""
    return table


def to_host(array):
    """A dask array, computed: all of it must fit into memory."""
    return np.asarray(array.compute() if isinstance(array, da.Array) else array)


def extent(points):
    """Smallest and largest value; NaN if any value is NaN. This is a pass."""
    low, high = to_host(_rows(one_block.extent, [points], 2)).T
    return low.min().item(), high.max().item()


def assign(points, codebook):
    """Code (n,) and squared distance (n,) of the nearest codeword, both yet to be computed."""
    found = _along(one_block.assigned, [points], one_block.ASSIGNED, codebook=_sent(codebook))
    return tuple(
        found.map_blocks(partial(one_block.field, name=name), meta=np.empty(0, one_block.ASSIGNED[name]))
        for name in one_block.ASSIGNED.names
    )


def accumulate(values, codes, n_codewords, sample_weight=None):
    """Sum of the values (n_codewords, dim) or (n_codewords,), and number or weight (n_codewords,), per cell."""
    weights = None if sample_weight is None else beside(values, sample_weight)
    width = int(np.prod(values.shape[1:]))
    function = partial(one_block.accumulated, n_codewords=n_codewords)
    mass, *sums = _table(function, [values, beside(values, codes, np.int64), weights], (1 + width, n_codewords))
    return _per_cell(sums, (n_codewords,) + values.shape[1:]), _mass(mass, weights)


class Unsorted(NamedTuple):
    """One-dimensional points as they come: what needs them in order is a pass over them instead."""

    points: Any
    weights: Any
    center: float


def sort(points, sample_weight=None):
    """One-dimensional points ready for `interval_moments`; sums are taken about the first, to lose no digits."""
    weights = None if sample_weight is None else beside(points, sample_weight)
    return Unsorted(points, weights, float(to_host(points[:1])[0]))


def interval_moments(ordered, edges, codebook):
    """Mass, mean and squared error about the codeword, (n_codewords,) each, of the cells between the edges."""
    points, weights, center = ordered
    tables = dict(edges=_sent(edges), codebook=_sent(codebook), center=center)
    mass, sq_errors, sums = _table(one_block.interval_sums, [points, weights], (3, len(codebook)), **tables)
    means, filled = codebook.copy(), mass > 0
    means[filled] = center + sums[filled] / mass[filled]
    return _mass(mass, weights), means, sq_errors


def nearer(points, codewords, sq_dists):
    """The smaller (n,) of `sq_dists` and the squared distance to the nearest of a few codewords, to be computed."""
    arrays = [points, beside(points, sq_dists)]
    return _along(one_block.nearer, arrays, np.float64, codewords=_sent(codewords))


def draw(weights, uniforms):
    """For each uniform number in [0, 1) the position at which the running sum of the weights passes that share."""
    if not isinstance(weights, da.Array):
        return compiled.draw(weights, uniforms)
    sums = to_host(_rows(one_block.total, [weights], 1))[:, 0]
    ends, starts = np.cumsum(sums), np.cumsum((0,) + weights.chunks[0])
    if not ends[-1] > 0:
        return np.zeros(len(uniforms), np.int64)
    left = np.asarray(uniforms, dtype=np.float64) * ends[-1]
    # The last block with any weight catches what rounding leaves over.
    blocks = np.minimum(np.searchsorted(ends, left, side="right"), np.flatnonzero(sums)[-1])
    shares = np.clip((left - (ends - sums)[blocks]) / sums[blocks], 0, 1)
    tasks = [
        weights.blocks[block].map_blocks(one_block.drawn, share=share, chunks=((1,),), meta=np.empty(0, np.int64))
        for block, share in zip(blocks.tolist(), shares.tolist())
    ]
    return np.concatenate(dask.compute(*tasks)) + starts[blocks]


# ---- passes


def bounded(array, check, axis=0):
    """The array, each of whose blocks holds whole points and refuses what does not pass check(low, high)."""
    whole = array.rechunk({other: -1 for other in range(array.ndim) if other != axis})
    return whole.map_blocks(partial(one_block.checked, check=check), meta=array._meta)


def beside(array, values, dtype=np.float64):
    """Values (n,), a weight for example, in blocks as those of the array (n, ...)."""
    chunks = array.chunks[:1]
    if isinstance(values, da.Array):
        return values.astype(dtype).rechunk(chunks)
    return da.from_array(np.asarray(values, dtype=dtype), chunks=chunks)


def moments(points, codebook, sample_weight, seen, seen_codebook):
    """Codes and squared distances, to be computed; and in one pass sums, mass and squared errors of the cells."""
    tables = dict(codebook=_sent(codebook), seen_codebook=_sent(seen_codebook))
    arrays = [points, None if seen is points else seen, sample_weight]
    height = 2 + codebook.size // len(codebook)
    mass, sq_errors, *sums = _table(one_block.moments, arrays, (height, len(codebook)), **tables)
    return *assign(seen, seen_codebook), _per_cell(sums, codebook.shape), _mass(mass, sample_weight), sq_errors


def shares(points, codebook, sample_weight):
    """Codes, to be computed; and in one pass mass and squared errors of the cells."""
    arrays = [points, sample_weight]
    mass, sq_errors = _table(one_block.errors, arrays, (2, len(codebook)), codebook=_sent(codebook))
    return assign(points, codebook)[0], _mass(mass, sample_weight), sq_errors


def nearest_so_far(points, codebook, sq_dists):
    """Squared distances to the codebook, given those to all of it but the last codeword; kept if they are few.

    Only by threads of this process: processes would send them to each other.
    """
    at_work = get_scheduler(collections=[points])
    if 8 * len(points) > KEPT_BYTES or at_work not in (dask.threaded.get, dask.local.get_sync):
        return assign(points, codebook)[1]
    return nearer(points, codebook[-1:], sq_dists).persist()


def largest(values, m):
    """Positions of the m largest values, the largest first, of equal ones the first; and the values themselves."""
    chunks = (tuple(min(m, size) for size in values.chunks[0]), (2,))
    found = values.map_blocks(partial(one_block.largest, m=m), new_axis=1, chunks=chunks, meta=np.empty((0, 2)))
    found = found.to_delayed().ravel().tolist()
    of_some = dask.delayed(one_block.largest_of_some)
    while len(found) > 1:
        found = [of_some(found[first : first + FAN_IN], m) for first in range(0, len(found), FAN_IN)]
    positions, values = found[0].compute().T
    return positions.astype(np.int64), values


def row_by_row(function, array, *tables):
    """function(table, array, *tables), which does to every row the same, to be computed."""
    like = function(compiled, np.empty((0,) + array.shape[1:], array.dtype), *tables)
    old, new = range(1, array.ndim), range(array.ndim, like.ndim)
    return da.blockwise(
        partial(one_block.row_by_row, function), range(like.ndim), array, range(array.ndim),
        adjust_chunks={axis: like.shape[axis] for axis in old}, new_axes={axis: like.shape[axis] for axis in new},
        meta=like, tables=[_sent(table) for table in tables],
    )  # fmt: skip


# ---- graphs


def _sent(table):
    """A table as a task of its own, which reaches every worker once and not with every block."""
    return dask.delayed(table, pure=True)


def _named(arrays):
    """Arrays, some of them None, each with the names of its axes."""
    return [part for array in arrays for part in (array, None if array is None else "nd"[: array.ndim])]


def _along(function, arrays, dtype, **tables):
    """One number (n,) for every point."""
    if arrays[0].ndim == 1:
        return da.blockwise(function, "n", *_named(arrays), meta=np.empty(0, dtype), **tables)
    # Not "n" from "nd": Dask would read a block in one task, and in another make a number of its features.
    meta = np.empty((0, 0), dtype)
    return da.blockwise(function, "nd", *_named(arrays), adjust_chunks={"d": 1}, meta=meta, **tables)[:, 0]


def _rows(function, arrays, width, **tables):
    """One row (n_blocks, width) for every block of arrays (n, dim) or (n,)."""
    wide = any(array is not None and array.ndim == 2 for array in arrays)
    chunks = {"n": 1, "d": width} if wide else {"n": 1}
    return da.blockwise(
        function, "nd", *_named(arrays), new_axes={} if wide else {"d": width}, adjust_chunks=chunks,
        meta=np.empty((0, 0)), **tables,
    )  # fmt: skip


def _table(function, arrays, shape, **tables):
    """The sum of the rows of all blocks, as a table of this shape: one pass, now."""
    rows = _rows(function, arrays, shape[0] * shape[1], **tables)
    return to_host(rows.sum(axis=0, split_every=FAN_IN)).reshape(shape)


def _per_cell(sums, shape):
    """Sums (dim, n_codewords) as a table of the codebook's shape."""
    return np.stack(sums, axis=1).reshape(shape)


def _mass(mass, weights):
    """Numbers of points are integers, weights are not."""
    return mass.astype(np.int64) if weights is None else mass
