"""What product codes need beside the ten kernels, for tensors on the CPU: the compiled loops on the same memory."""

import torch

from vqcore.kernels import lookup
from vqcore.kernels.lookup_tensors import empty_codes
from vqcore.kernels.shared import _memory

__all__ = ["empty_codes", "encode", "decode", "distance_tables", "nearest"]


def encode(points, codebooks, codes):
    """Fill codes (n, n_subspaces) with the nearest codeword of every part of the points (n, dim)."""
    lookup.encode(_memory(points), codebooks, codes.numpy())


def decode(codes, codebooks, dtype):
    """The codewords (n, n_subspaces * width) that codes stand for, beside each other."""
    return torch.from_numpy(lookup.decode(_memory(codes), codebooks, dtype))


def distance_tables(queries, codebooks, inner):
    """Squared distance, or inner product, of every part of a query with every codeword, in float64."""
    return torch.from_numpy(lookup.distance_tables(_memory(queries), codebooks, inner))


def nearest(tables, codes, n_neighbors):
    """Smallest sums (n_queries, n_neighbors) of table entries, ascending, and the ids of their codes."""
    sums, ids = lookup.nearest(_memory(tables), _memory(codes), n_neighbors)
    return torch.from_numpy(sums), torch.from_numpy(ids)
