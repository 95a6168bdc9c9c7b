"""Tensors on the CPU, by the compiled kernels on the same memory: the torch kernels are for devices.

The codes are the same either way; on two cores the compiled kernels are about ten times as fast.
"""

import numpy as np
import torch

from vqcore.kernels import compiled
from vqcore.kernels.tensors import extent, from_host, to_host, to_points

__all__ = [
    "to_points", "from_host", "to_host", "extent", "assign", "accumulate",
    "sort", "interval_moments", "nearer", "draw",
]  # fmt: skip

interval_moments = compiled.interval_moments
side_by_side = compiled.side_by_side


def assign(points, codebook):
    """Code (n,) and squared distance (n,) of the nearest codeword; ties go to the lowest index."""
    codes, sq_dists = compiled.assign(_memory(points), codebook)
    return torch.from_numpy(codes), torch.from_numpy(sq_dists)


def accumulate(values, codes, n_codewords, sample_weight=None):
    """Sum of the values (n_codewords, dim) or (n_codewords,), and number or weight (n_codewords,), per cell."""
    weights = None if sample_weight is None else _memory(sample_weight)
    return compiled.accumulate(_memory(values), _memory(codes), n_codewords, weights)


def follow(points, sample_weight=None):
    """A function from one codebook after another to codes, sq_dists and per cell sum, mass and squared error."""
    step = compiled.follow(_memory(points), None if sample_weight is None else _memory(sample_weight))

    def moments(codebook):
        codes, sq_dists, *tables = step(codebook)
        return torch.from_numpy(codes), torch.from_numpy(sq_dists), *tables

    return moments


def sort(points, sample_weight=None):
    """One-dimensional points ascending, with a tree of moments over them."""
    return compiled.sort(_memory(points), None if sample_weight is None else _memory(sample_weight))


def nearer(points, codewords, sq_dists):
    """The smaller (n,) of `sq_dists` and the squared distance to the nearest of a few codewords."""
    return torch.from_numpy(compiled.nearer(_memory(points), codewords, _memory(sq_dists)))


def draw(weights, uniforms):
    """For each uniform number in [0, 1) the position at which the running sum of the weights passes that share."""
    return torch.from_numpy(compiled.draw(_memory(weights), uniforms))


def _memory(tensor):
    """The tensor's own memory as a contiguous numpy array; copied only where it has gaps."""
    return np.ascontiguousarray(tensor.numpy())
