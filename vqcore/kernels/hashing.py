"""Hashes of counters and of words: random numbers that anybody can recompute, and sums that notice a changed bit."""

import numpy as np

from vqcore.kernels.compiling import frozen, njit
from vqcore.kernels.threads import share

GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio: Weyl's step between counters


def checksum(words, start):
    """A 64-bit sum over hashed words and their positions: no thread order changes it, any changed bit does."""
    parts = share(_checksum, len(words), 8 * len(words), frozen(words), np.uint64(start))
    return sum(parts) % 2**64


@njit(inline="always")
def mix(counter):
    """The finalizer of splitmix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators")."""
    counter = (counter ^ (counter >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    counter = (counter ^ (counter >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return counter ^ (counter >> np.uint64(31))


@njit(cache=True, nogil=True)
def _checksum(first, last, words, start):
    total, part, start = np.uint64(0), words[first:last], start + np.uint64(first) * GOLDEN
    for w in range(len(part)):
        total += mix(part[w] ^ mix(start + np.uint64(w) * GOLDEN))
    return total
