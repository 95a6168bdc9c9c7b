"""Elias's codes of positive integers, by numba: one bit after the other, so that no array library has a twin."""

import numpy as np

from vqcore.kernels.compiling import frozen, njit

CODES = ("gamma", "delta", "omega")


def lengths(values, code):
    """Bits of the codeword of every positive int64."""
    if code == "omega":
        total, left = np.ones_like(values), values
        # Each number in front tells the length of the next, down to 1; a one-bit 0 ends them.
        while (left > 1).any():
            below = _floor_log2(left)
            total, left = total + np.where(left > 1, below + 1, 0), np.where(left > 1, below, 1)
        return total
    n_below = _floor_log2(values)
    return 2 * n_below + 1 if code == "gamma" else n_below + 2 * _floor_log2(n_below + 1) + 1


def write(values, code, n_words):
    """The codewords of flat positive values, in words."""
    words = np.zeros(n_words, np.uint64)
    _write(frozen(values), CODES.index(code), words)
    return words


def read(words, n_values, code):
    """The n_values int64 in the words, or None where these are not the words that `write` makes of any values."""
    values = np.zeros(n_values, np.int64)
    return values if _read(frozen(words.view(np.uint64)), CODES.index(code), values) else None


def _floor_log2(values):
    found, left = np.zeros_like(values), values
    for step in (32, 16, 8, 4, 2, 1):
        longer = left >> step > 0
        found, left = found + step * longer, np.where(longer, left >> step, left)
    return found


@njit(cache=True)
def _put(words, at, value, n_bits):
    """Writes a number of n_bits bits from bit `at` on, the most significant first; returns the bit after it."""
    for k in range(n_bits - 1, -1, -1):
        words[at >> 6] |= np.uint64((value >> k) & 1) << np.uint64(at & 63)
        at += 1
    return at


@njit(cache=True)
def _get(words, at, n_bits):
    value = 0
    for _ in range(n_bits):
        value = 2 * value + np.int64((words[at >> 6] >> np.uint64(at & 63)) & np.uint64(1))
        at += 1
    return value


@njit(cache=True)
def _n_bits(value):
    n = 0
    while value >> n:
        n += 1
    return n


@njit(cache=True)
def _write(values, code, words):
    at, parts = 0, np.empty(8, np.int64)
    for value in values:
        n = _n_bits(value)
        if code == 0:
            at = _put(words, at + n - 1, value, n)
        elif code == 1:
            at = _put(words, at + _n_bits(n) - 1, n, _n_bits(n))
            at = _put(words, at, value - (1 << (n - 1)), n - 1)
        else:
            n_parts, left = 0, value
            while left > 1:
                parts[n_parts] = left
                n_parts, left = n_parts + 1, _n_bits(left) - 1
            while n_parts:
                n_parts -= 1
                at = _put(words, at, parts[n_parts], _n_bits(parts[n_parts]))
            at += 1


@njit(cache=True)
def _read(words, code, values):
    """Fills the values; False where the words end too early, a number is too large, or anything follows."""
    at, end = 0, 64 * len(words)
    for i in range(len(values)):
        if code == 2:
            value = 1
            while True:
                if at >= end:
                    return False
                if not _get(words, at, 1):
                    break
                if value > 62 or at + value + 1 > end:
                    return False
                at, value = at + value + 1, _get(words, at, value + 1)
            at += 1
        else:
            n_zeros = 0
            while at < end and not _get(words, at, 1):
                at, n_zeros = at + 1, n_zeros + 1
            if n_zeros > 62 or at + n_zeros + 1 > end:
                return False
            value, at = _get(words, at, n_zeros + 1), at + n_zeros + 1
            if code == 1:
                if value > 63 or at + value - 1 > end:
                    return False
                n = value - 1
                value, at = (1 << n) + _get(words, at, n), at + n
        values[i] = value
    return at + 63 >= end and (at >= end or not words[at >> 6] >> np.uint64(at & 63))
