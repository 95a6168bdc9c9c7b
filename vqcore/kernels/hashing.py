"""Hashes of counters and of words: random numbers that anybody can recompute, and sums that notice a changed bit."""

import numpy as np

from vqcore.kernels.compiling import SMALL, frozen, njit, prange

GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio: Weyl's step between counters
BLOCK = 2**14  # words that a thread hashes at a time


def checksum(words, start):
    """A 64-bit sum over hashed words and their positions: no thread order changes it, any changed bit does."""
    run = _checksum_all if 8 * len(words) >= SMALL else _checksum_part
    return int(run(frozen(words), np.uint64(start)))


@njit(inline="always")
def mix(counter):
    """The finalizer of splitmix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators")."""
    counter = (counter ^ (counter >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    counter = (counter ^ (counter >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return counter ^ (counter >> np.uint64(31))


@njit(cache=True, nogil=True)
def _checksum_part(words, start):
    total = np.uint64(0)
    for w in range(len(words)):
        total += mix(words[w] ^ mix(start + np.uint64(w) * GOLDEN))
    return total


@njit(parallel=True, cache=True, nogil=True)
def _checksum_all(words, start):
    total = np.uint64(0)
    for block in prange(-(-len(words) // BLOCK)):
        first = block * BLOCK
        total += _checksum_part(words[first : min(first + BLOCK, len(words))], start + np.uint64(first) * GOLDEN)
    return total
