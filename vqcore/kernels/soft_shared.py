"""What soft EM needs beside the ten kernels, for tensors on the CPU: the compiled loops on the same memory."""

from vqcore.kernels import soft
from vqcore.kernels.shared import _memory

__all__ = ["share"]


def share(points, codebook, temperature):
    """Way and mass of every codeword, mean of the smallest squared distance, free energy."""
    return soft.share(_memory(points), codebook, temperature)
