"""The one door: what a caller may pass, and the sentence when it may not.

Every public function lets its arguments in through here, before it does anything else. Nothing here
is an `assert`, so `python -O` changes nothing.
"""

import math
import numbers
from functools import partial
from pathlib import Path

import numpy as np

from vqcore.errors import InputError
from vqcore.kernels import passes, table_for

# Squares of values in this range, and of differences 1e-16 as large, neither overflow nor vanish in float64.
LARGEST, SMALLEST = 1e100, 1e-100


def as_points(values, name="points", n_dims=(1, 2), *, in_blocks=False, instead=None, axis=0):
    """The kernel table and the points as finite floats (n, dim) or (n,).

    Args:
        in_blocks: whether the caller takes dask arrays too; their values are checked when their blocks are computed.
        instead: what to do with a dask array where the caller takes none.
        axis: along which the points are counted.

    Raises:
        InputError: not an array of real numbers, empty, of another shape, not finite, or so large or
            small that squares leave float64.
    """
    table = table_for(values, name, in_blocks, instead)
    points = table.to_points(values, name)
    shape = tuple(points.shape)
    if len(shape) not in n_dims:
        allowed = " or ".join({1: "(n,)", 2: "(n, dim)", 3: "(height, width, channels)"}[d] for d in n_dims)
        raise InputError(f"{name} has shape {shape}: it must be {allowed}")
    if 0 in shape:
        raise InputError(f"{name} has shape {shape}: at least one point and one dimension are needed")
    return table, passes.bounded(table, points, partial(_check_extent, name=name), axis)


def as_table(values, name, shape=None):
    """A small finite float64 numpy array from any library; an entry of None in `shape` is free."""
    table = table_for(values, name)
    host = np.array(table.to_host(table.to_points(values, name)), dtype=np.float64)
    if shape is not None:
        ok = host.ndim == len(shape) and all(want in (None, got) for want, got in zip(shape, host.shape))
        if not ok:
            wanted = ", ".join("any" if s is None else str(s) for s in shape)
            raise InputError(f"{name} has shape {host.shape}: it must be ({wanted})")
    if host.size == 0:
        raise InputError(f"{name} has shape {host.shape}: it must not be empty")
    _check_extent(float(host.min()), float(host.max()), name)
    return host


def as_codebook(values, points, name="codebook"):
    """A codebook for these points as a float64 numpy array (n_codewords, dim), or (n_codewords,)."""
    return as_table(values, name, (None,) + tuple(points.shape[1:]))


def as_codes(codes, n_codewords, name="codes", in_blocks=False):
    """The kernel table and integer codes of any shape, each in [0, n_codewords)."""
    table = table_for(codes, name, in_blocks)
    codes = table.to_points(codes, name, integers=True)
    return table, passes.bounded(table, codes, partial(_check_codes, n_codewords=n_codewords, name=name))


def as_count(value, name, low=1, high=None, hint=""):
    """An int of at least `low` and at most `high`."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Integral):
        raise InputError(f"{name}={value!r} is a {type(value).__name__}: it must be a whole number")
    count = int(value)
    if count < low or (high is not None and count > high):
        allowed = f"at least {low}" if high is None else f"from {low} to {high}"
        raise InputError(f"{name}={count}: it must be {allowed}{hint and ': ' + hint}")
    return count


def as_real(value, name, low=-math.inf, high=math.inf, open_low=False):
    """A finite float in [low, high], or (low, high] with `open_low`."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise InputError(f"{name}={value!r} is a {type(value).__name__}: it must be a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number) or number < low or number > high or (open_low and number == low):
        allowed = f"finite, {'above' if open_low else 'at least'} {low} and at most {high}"
        raise InputError(f"{name}={number!r}: it must be {allowed}")
    return number


def as_choice(value, name, allowed):
    """One of the allowed strings."""
    if not isinstance(value, str) or value not in allowed:
        raise InputError(f"{name}={value!r}: it must be one of {', '.join(map(repr, allowed))}")
    return value


def as_sample_weight(values, points, name="sample_weight"):
    """Non-negative float64 weights (n,) of the points' own library and device, or None."""
    if values is None:
        return None
    table, home = table_for(values, name, in_blocks=True), table_for(points, in_blocks=True)
    weights = table.to_points(values, name)
    if tuple(weights.shape) != (points.shape[0],):
        raise InputError(f"{name} has shape {tuple(weights.shape)}: it must be ({points.shape[0]},)")
    weights = passes.beside(home, points, table, weights)
    low, high = table_for(weights, in_blocks=True).extent(weights)
    if not (math.isfinite(low) and math.isfinite(high)):
        raise InputError(f"{name} holds NaN or infinity: remove or replace such values first")
    if low < 0 or not high > 0:
        raise InputError(f"{name} reaches from {low:g} to {high:g}: weights must not be negative, nor all zero")
    # Weights are relative: a power of two changes no digit, and keeps their sums in range.
    weights = np.ldexp(weights, -int(np.frexp(high)[1])) if not 1e-30 < high < 1e30 else weights
    return home.from_host(weights, points)


def as_path(value, name):
    """A Path from a string or a path."""
    try:
        path = Path(value)
    except TypeError:
        raise InputError(f"{name}={value!r} is a {type(value).__name__}: it must be a path") from None
    if "\0" in str(path):
        raise InputError(f"{name}={str(value)!r}: no path holds a NUL character")
    return path


def as_generator(seed, name="seed"):
    """A numpy Generator: the one that was passed, or a new one from a non-negative whole number."""
    if isinstance(seed, np.random.Generator):
        return seed
    return np.random.default_rng(as_count(seed, name, low=0))


def _check_extent(low, high, name):
    if not (math.isfinite(low) and math.isfinite(high)):
        raise InputError(f"{name} holds NaN or infinity: remove or replace such values first")
    largest = max(abs(low), abs(high))
    if largest > LARGEST or 0 < largest < SMALLEST:
        raise InputError(
            f"{name} reaches {largest:g}: squared distances leave the range of float64; "
            f"rescale by a power of two to magnitudes between {SMALLEST:g} and {LARGEST:g}"
        )


def _check_codes(low, high, n_codewords, name):
    if low < 0 or high >= n_codewords:
        allowed = f"with {n_codewords} codewords they must lie in [0, {n_codewords - 1}]"
        raise InputError(f"{name} reach from {low} to {high}: {allowed}")
