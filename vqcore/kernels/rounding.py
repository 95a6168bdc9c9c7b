"""Stochastic rounding of numpy arrays, by numba: norms per bucket, levels drawn from a counter, values back.

Every number is made by one fixed sequence of IEEE operations in float64 (a sum is a tree that halves a
row of at most 1024, then halves the row of those sums), so that `rounding_tensors` finds the same bits.
"""

import numpy as np

from vqcore.kernels.compiling import frozen, njit, prange, threads_for
from vqcore.kernels.hashing import GOLDEN, mix

ROW = 1024  # values under one tree; a wider bucket is a tree over rows


def bucket_scales(values, bucket_size, norm):
    """For every bucket largest magnitude, a power of two that brings that near 1, norm times that power, and norm.

    All float64. The norm is "l2", or "max" for the largest magnitude itself. Where a value is NaN or infinite,
    so is the first; where only the norm leaves float64, the last is infinite.
    """
    n_rows = -(-bucket_size // ROW)
    n_buckets = -(-len(values) // bucket_size)
    bits = values.view(f"i{values.dtype.itemsize}")
    largest = np.zeros(n_buckets * n_rows, bits.dtype)
    with threads_for(len(values)):
        _largest(frozen(bits), np.iinfo(bits.dtype).max, bucket_size, n_rows, largest)
    # Magnitudes order as their bits do, infinity and NaN on top.
    largest = largest.reshape(n_buckets, n_rows).max(1).view(values.dtype).astype(np.float64)
    exponents = largest.view(np.int64) >> 52
    scales = ((2046 - exponents).clip(1, 2046) << 52).view(np.float64)
    if norm == "max":
        return largest, scales, largest * scales, largest
    sums = np.zeros(n_buckets * n_rows)
    with threads_for(4 * len(values)):
        _sums_of_squares(frozen(values), bucket_size, n_rows, scales, sums)
    tree = np.zeros((n_buckets, 2 ** (n_rows - 1).bit_length()))
    tree[:, :n_rows] = sums.reshape(n_buckets, n_rows)
    while tree.shape[1] > 1:
        half = tree.shape[1] // 2
        tree = tree[:, :half] + tree[:, half:]
    return largest, scales, *norms_of(tree[:, 0], scales)


def norms_of(sums, scales):
    """Square roots of sums of squares, and the same without the scale."""
    scaled_norms = np.sqrt(sums)
    with np.errstate(over="ignore", invalid="ignore"):
        return scaled_norms, scaled_norms / scales


def draw_codes(values, bucket_size, scaling, n_bits, key, n_codes, ternary):
    """Codes (n_codes,), a level and above its n_bits bits a sign, in the smallest unsigned type; beyond the values, 0.

    The level of a value is its share |value| / norm * (2**n_bits - 1) rounded up with probability equal to
    its fraction: where a uniform number, the hash of its position, is less than that. The sign is 1 for a
    negative value whose level is not 0; `ternary` signs are the value's own, 0, 1, 2 for -1, 0, +1.
    """
    _, scales, scaled_norms, _ = scaling
    n_bytes = -(-(n_bits + 1 + ternary) // 8)
    codes = np.zeros(n_codes, f"u{2 ** (n_bytes - 1).bit_length()}")
    if ternary:
        codes[len(values) :] = 1 << n_bits
    divisors = np.where(scaled_norms > 0, scaled_norms, 1.0)
    with threads_for(16 * len(values)):
        _draw_codes(frozen(values), bucket_size, scales, divisors, n_bits, np.uint64(key), ternary, codes)
    return codes


def values_of(codes, bucket_size, norms, n_bits, ternary, dtype):
    """The values (n,) that codes stand for: sign * (level / (2**n_bits - 1) * norm of the bucket)."""
    # To float16 by way of float32, as torch goes.
    values = np.empty(len(codes), np.float64 if dtype == "float64" else np.float32)
    with threads_for(4 * len(codes)):
        _values_of(frozen(codes), bucket_size, frozen(norms), n_bits, ternary, values)
    with np.errstate(over="ignore"):
        return values.astype(dtype, copy=False)


@njit(parallel=True, cache=True, nogil=True)
def _largest(bits, unsigned, bucket_size, n_rows, largest):
    n = len(bits)
    for row in prange(len(largest)):
        bucket, place = row // n_rows, row % n_rows
        start = bucket * bucket_size + place * ROW
        part = bits[min(start, n) : min(start + ROW, (bucket + 1) * bucket_size, n)]
        top = np.int64(0)
        for k in range(len(part)):
            magnitude = np.int64(part[k]) & unsigned
            top = magnitude if magnitude > top else top
        largest[row] = top


@njit(parallel=True, cache=True, nogil=True)
def _sums_of_squares(values, bucket_size, n_rows, scales, sums):
    n, width = len(values), 1
    while width < min(bucket_size, ROW):
        width *= 2
    for row in prange(len(sums)):
        bucket, place = row // n_rows, row % n_rows
        start = bucket * bucket_size + place * ROW
        part = values[min(start, n) : min(start + ROW, (bucket + 1) * bucket_size, n)]
        tree, scale = np.zeros(ROW), scales[bucket]
        for k in range(len(part)):
            scaled = np.float64(part[k]) * scale
            tree[k] = scaled * scaled
        half = width // 2
        while half > 0:
            low, high = tree[:half], tree[half : 2 * half]
            for k in range(half):
                low[k] += high[k]
            half //= 2
        sums[row] = tree[0]


@njit(parallel=True, cache=True, nogil=True)
def _draw_codes(values, bucket_size, scales, divisors, n_bits, key, ternary, codes):
    n, top = len(values), np.float64((1 << n_bits) - 1)
    n_rows = -(-bucket_size // ROW)
    for row in prange(len(divisors) * n_rows):
        bucket, place = row // n_rows, row % n_rows
        start = bucket * bucket_size + place * ROW
        stop = min(start + ROW, (bucket + 1) * bucket_size, n)
        part, out = values[min(start, n) : stop], codes[min(start, n) : stop]
        scale, divisor, first = scales[bucket], divisors[bucket], key + np.uint64(start + 1) * GOLDEN
        for k in range(len(part)):
            value = np.float64(part[k])
            share = abs(value) * scale / divisor * top
            below = np.floor(share)
            uniform = np.float64(np.int64(mix(first + np.uint64(k) * GOLDEN) >> np.uint64(11))) * 2.0**-53
            level = below + (1.0 if uniform < share - below else 0.0)
            # No share passes the top: a rounded square has its own number as square root. Clamped all the same.
            level = level if level < top else top
            if ternary:
                sign = np.int64(value > 0) - np.int64(value < 0) + 1
            else:
                sign = np.int64(value < 0) & np.int64(level > 0)
            out[k] = np.int64(level) | (sign << n_bits)


@njit(parallel=True, cache=True, nogil=True)
def _values_of(codes, bucket_size, norms, n_bits, ternary, values):
    n, mask, n_levels = len(codes), (1 << n_bits) - 1, np.float64((1 << n_bits) - 1)
    n_rows = -(-bucket_size // ROW)
    for row in prange(len(norms) * n_rows):
        bucket, place = row // n_rows, row % n_rows
        start = bucket * bucket_size + place * ROW
        stop, norm = min(start + ROW, (bucket + 1) * bucket_size, n), norms[bucket]
        part, out = codes[min(start, n) : stop], values[min(start, n) : stop]
        for k in range(len(part)):
            sign = part[k] >> n_bits
            sign = sign - 1 if ternary else 1 - 2 * sign
            out[k] = np.float64(part[k] & mask) / n_levels * norm * np.float64(sign)
