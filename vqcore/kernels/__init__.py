"""The only code that exists once per array library: one table of ten functions for each.

Contract, the same for every table. *Points* and *codes* are arrays of the library and stay on their
device. *Tables*, everything of the size of a codebook, are numpy float64 on the host: algorithms
are written once, in numpy, over tables. `points` are (n, dim), or (n,) in one dimension with
codebooks (n_codewords,). Callers have passed the door (`vqcore.checks`) before a kernel is called.

    to_points(values)                     an array of floats of this library from whatever came
    from_host(table, like)                a numpy array as an array of this library, beside `like`
    to_host(array)                        an array of this library as numpy
    extent(points)                        smallest and largest value; not finite if any value is not
    assign(points, codebook)              codes (n,) int64 and sq_dists (n,) float64 of the nearest codewords
    accumulate(values, codes, n_codewords, sample_weight=None)
                                          tables: sum of the values per cell, and number (or weight) per cell
    sort(points, sample_weight=None)      one-dimensional points in order, ready for `interval_moments`
    interval_moments(ordered, edges, codebook)
                                          tables: mass, mean and squared error of every interval between edges
    nearer(points, codewords, sq_dists)   the smaller of sq_dists and the distance to the nearest of a few codewords
    draw(weights, uniforms)               positions drawn with probability proportional to the weights

What algorithms ask in one breath is in `vqcore.kernels.passes`: made of these ten, or by a table that has its own way.
"""

import os
import sys

from vqcore.errors import InputError

# One variable caps the threads of every numerical library, numba's too, which reads its own when it is imported.
if os.environ.get("OMP_NUM_THREADS", "").isdigit() and "numba" not in sys.modules:
    os.environ.setdefault("NUMBA_NUM_THREADS", str(max(1, int(os.environ["OMP_NUM_THREADS"]))))

INSTEAD = (
    "pass {name}.compute(), or a sample if that does not fit into memory (points or codes may be dask arrays in "
    "fit_lloyd, fit_em, ProductQuantizer, assign, encode, decode and distortion)"
)


def table_for(array, name="the array", in_blocks=False, instead=None):
    """The kernel table for this array; anything that is not a tensor is for numpy to understand.

    Args:
        in_blocks: whether the caller can work on a dask array, block by block.
        instead: what to do where it cannot.
    """
    # The library is told by the type's module, so that torch is not imported to look at a numpy array.
    library = type(array).__module__.partition(".")[0]
    if library == "torch" or _is_tensor(array):
        if array.device.type == "cpu":
            from vqcore.kernels import shared

            return shared
        from vqcore.kernels import tensors

        return tensors
    if library.startswith("dask"):
        if not in_blocks:
            raise InputError(f"{name} is a dask array, which cannot be used here: {instead or INSTEAD.format(name=name)}")
        from vqcore.kernels import blocks

        return blocks
    from vqcore.kernels import compiled

    return compiled


def _is_tensor(array):
    """Whether a class of another package (a Parameter, a fake tensor) is a torch tensor."""
    return any(base.__module__.partition(".")[0] == "torch" for base in type(array).__mro__)
