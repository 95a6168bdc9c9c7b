"""What soft EM needs beside the ten kernels, for torch tensors on any device."""

import torch

from vqcore.kernels import tensors
from vqcore.kernels.tensors import BLOCK_BYTES


def share(points, codebook, temperature):
    """Way (n_codewords, dim) and mass (n_codewords,) of every codeword, mean of the smallest d^2, free energy."""
    rows = points.reshape(len(points), -1)
    book = tensors.from_host(codebook.reshape(len(codebook), -1), points)
    moves, mass = torch.zeros_like(book), torch.zeros_like(book[:, 0])
    sums = torch.zeros(2, dtype=torch.float64, device=points.device)
    size = max(1, BLOCK_BYTES // (8 * book.numel()))
    for start in range(0, len(rows), size):
        # Direct differences (block, n_codewords, dim) in float64: no offset costs a digit.
        apart = rows[start : start + size, None].double() - book
        sq_dists = apart.square().sum(2)
        lowest = sq_dists.amin(1, keepdim=True)
        shares = torch.exp((lowest - sq_dists) / temperature)
        total = shares.sum(1, keepdim=True)
        shares = shares / total
        moves += (shares[:, :, None] * apart).sum(0)
        mass += shares.sum(0)
        sums += torch.stack([lowest.sum(), (lowest - temperature * torch.log(total)).sum()])
    lowest, free_energy = (tensors.to_host(sums) / len(rows)).tolist()
    return tensors.to_host(moves).reshape(codebook.shape), tensors.to_host(mass), lowest, free_energy
