"""What is done to one block of a dask array, on whatever thread or machine holds it: numpy in, numpy out.

Every block runs on one thread: what runs side by side are Dask's own threads and processes.
"""

import numpy as np

from vqcore.errors import InputError
from vqcore.kernels import compiled
from vqcore.kernels.passes import largest_of
from vqcore.kernels.threads import alone

ASSIGNED = np.dtype([("code", np.int64), ("sq_dist", np.float64)])
SLICE = 2**16  # points looked at together, so that little is held besides the block


def rows_of_file(path, block_info=None):
    """The rows of this block in a .npy file, still on the disk."""
    first, last = block_info[None]["array-location"][0]
    return np.load(path, mmap_mode="r")[first:last]


def converted(block, name, integers, dtype, block_info=None):
    """A block as an array of the type that was announced; refused if it has another shape."""
    with alone():
        array = compiled.to_points(block, name, integers)
    announced = tuple(last - first for first, last in block_info[0]["array-location"])
    if array.shape != announced:
        raise InputError(f"{name} has a block of shape {array.shape} where {announced} was announced")
    return array.astype(dtype, copy=False)


def checked(block, check):
    """The block, once its extent has passed."""
    if block.size:
        check(*extent(block)[0].tolist())
    return block


def extent(block):
    """Smallest and largest value as a row; an empty block has none."""
    with alone():
        return np.array([compiled.extent(block) if block.size else (np.inf, -np.inf)])


def total(block):
    """The sum as a row."""
    return block.sum(keepdims=True)[None]


def assigned(points, codebook):
    """Codes and squared distances of the points, as the fields of an array (n,), or (n, 1) of points (n, dim)."""
    found = np.empty(len(points), ASSIGNED)
    with alone():
        for rows in _slices(points):
            found["code"][rows], found["sq_dist"][rows] = compiled.assign(_packed(points[rows]), codebook)
    return found.reshape((-1, 1)[: points.ndim])


def field(found, name):
    """One field of what `assigned` found."""
    return np.ascontiguousarray(found[name])


def nearer(points, sq_dists, codewords):
    """The smaller of `sq_dists` and the squared distance to the nearest codeword, in the shape of `assigned`."""
    with alone():
        found = compiled.nearer(_packed(points), codewords, sq_dists) if len(points) else sq_dists
    return found.reshape((-1, 1)[: points.ndim])


def moments(points, seen, weights, codebook, seen_codebook):
    """Mass, squared error and sums of the points of every cell (2 + dim, n_codewords), as a row."""
    n_codewords = len(codebook)
    table = np.zeros((2 + codebook.size // n_codewords, n_codewords))
    with alone():
        for rows in _slices(points):
            codes, sq_dists = compiled.assign(_packed((points if seen is None else seen)[rows]), seen_codebook)
            share = None if weights is None else weights[rows]
            _, *sums = _summed(points[rows], codes, n_codewords, share)
            table += [*_summed(sq_dists, codes, n_codewords, share), *sums]
    return table.reshape(1, -1)


def errors(points, weights, codebook):
    """Mass and squared error of every cell (2, n_codewords), as a row."""
    table = np.zeros((2, len(codebook)))
    with alone():
        for rows in _slices(points):
            codes, sq_dists = compiled.assign(_packed(points[rows]), codebook)
            table += _summed(sq_dists, codes, len(codebook), None if weights is None else weights[rows])
    return table.reshape(1, -1)


def accumulated(values, codes, weights, n_codewords):
    """Mass and sums of the values of every cell (1 + width, n_codewords), as a row."""
    with alone():
        return _summed(values, codes, n_codewords, weights).reshape(1, -1)


def interval_sums(points, weights, edges, codebook, center):
    """Mass, squared error about the codeword and sum about the center of every interval (3, n_codewords), as a row."""
    table = np.zeros((3, len(codebook)))
    with alone():
        for rows in _slices(points):
            values = points[rows].astype(np.float64)
            codes = np.searchsorted(edges, values)
            both = np.stack([(values - codebook[codes]) ** 2, values - center], axis=1)
            table += _summed(both, codes, len(codebook), None if weights is None else weights[rows])
    return table.reshape(1, -1)


def drawn(weights, share):
    """The position (1,) in this block at which the running sum of the weights passes a share of it."""
    with alone():
        return compiled.draw(_packed(weights), [share])


def largest(values, m, block_info=None):
    """Positions in the whole array and values (at most m, 2) of the largest in this block."""
    ((start, _),) = block_info[0]["array-location"]
    return np.stack(largest_of(np.arange(start, start + len(values)), values, m), axis=1)


def largest_of_some(found, m):
    """`largest` of some neighbouring blocks, given those of each."""
    found = np.concatenate(found)
    found = found[np.argsort(found[:, 0])]
    return np.stack(largest_of(found[:, 0], found[:, 1], m), axis=1)


def row_by_row(function, block, tables):
    """What a function of a kernel table makes of a block."""
    with alone():
        return function(compiled, block, *tables)


def _summed(values, codes, n_codewords, weights):
    """Mass and sums of the values of every cell (1 + width, n_codewords)."""
    rows = values.reshape(len(values), int(np.prod(values.shape[1:])))
    if not len(rows):
        return np.zeros((1 + rows.shape[1], n_codewords))
    share = None if weights is None else _packed(weights)
    sums, mass = compiled.accumulate(_packed(rows), _packed(codes), n_codewords, share)
    return np.vstack([mass, sums.T])


def _packed(array):
    """Without gaps, as the kernels are compiled for."""
    return np.ascontiguousarray(array)


def _slices(points):
    return [slice(first, first + SLICE) for first in range(0, len(points), SLICE)]
