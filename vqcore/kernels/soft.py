"""What soft EM needs beside the ten kernels, for numpy arrays by numba: every point shared among all codewords."""

import math

import numpy as np

from vqcore.kernels import threads
from vqcore.kernels.compiled import merged
from vqcore.kernels.compiling import frozen, njit

NOTHING = -746.0  # below this, exp is 0 in float64


def share(points, codebook, temperature):
    """Way (n_codewords, dim) and mass (n_codewords,) of every codeword, mean of the smallest d^2, free energy.

    Shares r_j are proportional to exp(-d_j^2 / T) and sum to 1 for a point. The way of codeword j is the sum of
    r_j (x - c_j), its mass that of r_j; their quotient is what the codeword moves by. The free energy is the mean
    of -T log sum_j exp(-d_j^2 / T). Distances are direct differences in float64, so no offset costs a digit, and
    exponents are taken from the smallest, so nothing overflows.
    """
    rows, book = points.reshape(len(points), -1), codebook.reshape(len(codebook), -1)
    # Slabs and lanes depend on the sizes alone, so that no thread count changes a bit.
    n_slabs = int(np.clip(len(rows) // (4 * len(book)), 1, 16))
    lanes = 64 if len(book) <= 4096 else 8
    moves, mass, sums = np.zeros((n_slabs, *book.shape)), np.zeros((n_slabs, len(book))), np.zeros((n_slabs, 2))
    given = n_slabs, frozen(rows), frozen(book), temperature, lanes, moves, mass, sums
    threads.share(_share, n_slabs, len(rows) * book.size, *given)
    lowest, free = merged(sums) / len(rows)
    return merged(moves).reshape(codebook.shape), merged(mass), float(lowest), float(free)


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})
def _share(first, last, n_slabs, rows, book, temperature, lanes, moves, mass, sums):
    (n, dim), n_codewords = rows.shape, len(book)
    # Feature d of lane i is x[d, i]; shares[j, i] holds first squared distances, then shares.
    x, shares = np.zeros((dim, lanes)), np.empty((n_codewords, lanes))
    lowest, total = np.empty(lanes), np.empty(lanes)
    for slab in range(first, last):
        end = (slab + 1) * n // n_slabs
        for start in range(slab * n // n_slabs, end, lanes):
            size = min(lanes, end - start)
            for i in range(size):
                for d in range(dim):
                    x[d, i] = rows[start + i, d]
            lowest[:], total[:] = np.inf, 0.0
            for j in range(n_codewords):
                row = shares[j]
                row[:] = 0.0
                for d in range(dim):
                    feature, at = x[d], book[j, d]
                    for i in range(lanes):
                        row[i] += (feature[i] - at) * (feature[i] - at)
                for i in range(lanes):
                    lowest[i] = min(lowest[i], row[i])
            for j in range(n_codewords):
                for i in range(size):
                    exponent = (lowest[i] - shares[j, i]) / temperature
                    shares[j, i] = math.exp(exponent) if exponent > NOTHING else 0.0
                    total[i] += shares[j, i]
            for i in range(size):
                sums[slab, 0] += lowest[i]
                sums[slab, 1] += lowest[i] - temperature * math.log(total[i])
            for j in range(n_codewords):
                here = 0.0
                for i in range(size):
                    shares[j, i] /= total[i]
                    here += shares[j, i]
                mass[slab, j] += here
                if here > 0:
                    for d in range(dim):
                        way, at = 0.0, book[j, d]
                        for i in range(size):
                            way += shares[j, i] * (x[d, i] - at)
                        moves[slab, j, d] += way
