"""What bad, odd and extreme input does to the public functions; run as a program it prints every outcome.

The list is the one that the well-known libraries were tried with: among them they crash, hang or return
infinities in twenty of these cases.
"""

import json
import sys
import warnings

import numpy as np
import torch

import vqcore as vq

RNG = np.random.default_rng(0)
BASE = RNG.standard_normal((200, 4)).astype(np.float32)


def _with(position, value):
    changed = BASE.copy()
    changed[position] = value
    return changed


# name -> (points, n_codewords, what must happen in a fit: "refused" or "works")
CASES = {
    "normal": (BASE, 8, "works"),
    "one NaN": (_with((5, 0), np.nan), 8, "refused"),
    "one inf": (_with((5, 0), np.inf), 8, "refused"),
    "row 0 NaN": (_with(0, np.nan), 8, "refused"),
    "all NaN": (np.full((200, 4), np.nan), 8, "refused"),
    "no rows": (np.zeros((0, 4)), 8, "refused"),
    "shape (0,)": (np.zeros(0), 8, "refused"),
    "no features": (np.zeros((200, 0)), 8, "refused"),
    "a scalar": (np.array(3.0), 1, "refused"),
    "one dimension": (BASE[:, 0], 8, "works"),
    "three dimensions": (BASE.reshape(50, 4, 4), 8, "refused"),
    "a single row": (BASE[:1], 1, "works"),
    "as many codewords as rows": (BASE, 200, "works"),
    "more codewords than rows": (BASE, 300, "refused"),
    "0 codewords": (BASE, 0, "refused"),
    "-3 codewords": (BASE, -3, "refused"),
    "2.5 codewords": (BASE, 2.5, "refused"),
    "True codewords": (BASE, True, "refused"),
    "'3' codewords": (BASE, "3", "refused"),
    "None codewords": (BASE, None, "refused"),
    "NaN codewords": (BASE, float("nan"), "refused"),
    "numpy integer codewords": (BASE, np.int32(8), "works"),
    "all rows identical": (np.ones((200, 4)), 8, "refused"),
    "all zeros": (np.zeros((200, 4)), 8, "refused"),
    "3 distinct rows": (np.repeat(BASE[:3], 60, axis=0), 8, "refused"),
    "1e200": (BASE.astype(np.float64) * 1e200, 8, "refused"),
    "1e19, float32": (BASE * np.float32(1e19), 8, "works"),
    "1e20, float32": (BASE * np.float32(1e20), 8, "works"),
    "1e37, float32": (BASE * np.float32(1e37), 8, "works"),
    "1e-40, float32": (BASE * np.float32(1e-40), 8, "works"),
    "1e-200": (BASE.astype(np.float64) * 1e-200, 8, "refused"),
    "int64": ((BASE * 100).astype(np.int64), 8, "works"),
    "int64 beyond 2**53": (np.full((200, 4), 2**60) + np.arange(200)[:, None], 8, "refused"),
    "uint8": ((BASE * 50).astype(np.int8).view(np.uint8), 8, "works"),
    "bool": (BASE > 0, 8, "refused"),
    "float16": (BASE.astype(np.float16), 8, "works"),
    "complex": (BASE.astype(complex), 8, "refused"),
    "strided": (np.repeat(BASE, 2, axis=0)[::2], 8, "works"),
    "Fortran order": (np.asfortranarray(BASE), 8, "works"),
    "negative strides": (BASE[::-1, ::-1], 8, "works"),
    "objects": (BASE.astype(object), 8, "refused"),
    "objects with None": (np.array([[None, 1.0]] * 9), 2, "refused"),
    "strings": (BASE.astype(str), 8, "refused"),
    "big-endian": (BASE.astype(">f4"), 8, "works"),
    "longdouble": (BASE.astype(np.longdouble), 8, "refused"),
    "a list of lists": (BASE.tolist(), 8, "works"),
    "a ragged list": ([[1.0, 2.0], [3.0]], 1, "refused"),
    "a masked array": (np.ma.masked_greater(BASE, 1.0), 8, "refused"),
    "a masked array, nothing masked": (np.ma.masked_greater(BASE, 1e9), 8, "works"),
    "None": (None, 8, "refused"),
    "a string": ("points", 8, "refused"),
    "a dictionary": ({"a": 1}, 8, "refused"),
}
# What torch has no type for.
NUMPY_ONLY = {
    "objects", "objects with None", "strings", "big-endian", "longdouble", "a list of lists", "a ragged list",
    "a masked array", "a masked array, nothing masked", "None", "a string", "a dictionary", "negative strides",
    "int64 beyond 2**53",
}  # fmt: skip

FUNCTIONS = {
    "fit_lloyd": lambda points, k: vq.fit_lloyd(points, k, n_steps=5),
    "fit_lloyd random farthest": lambda points, k: vq.fit_lloyd(points, k, start="random", empty="farthest", n_steps=5),
    "fit_clvq": lambda points, k: vq.fit_clvq(points, k, n_samples=300),
    "fit_medians": lambda points, k: vq.fit_medians(points, k, n_steps=5),
    "fit_medoids": lambda points, k: vq.fit_medoids(points, k, n_steps=5),
    "fit_em": lambda points, k: vq.fit_em(_columns(points), k, 5),
    "fit_soft_em": lambda points, k: vq.fit_soft_em(points, k, 0.5, 5),
    "fit_optimal": lambda points, k: vq.fit_optimal(points, k),
    "assign": lambda points, k: vq.assign(points, _codebook(points)),
    "distortion": lambda points, k: vq.distortion(points, _codebook(points)),
}


def _codebook(points):
    """Eight codewords of the dimension of the points."""
    shape = getattr(points, "shape", (8, 4))
    return BASE[:8, 0] if len(shape) == 1 else BASE[:8, : shape[1] if len(shape) == 2 else 4]


def _columns(points):
    """What came as rows, as columns where it has any."""
    if isinstance(points, list) and len({len(row) for row in points}) == 1:
        return [list(column) for column in zip(*points)]
    n_dims = getattr(points, "ndim", None)
    return points.T if n_dims == 2 else points[None] if n_dims == 1 else points


def outcome(function, name, library):
    """"refused: message", "works", or what is wrong with the result."""
    points, n_codewords, _ = CASES[name]
    if function == "fit_optimal" and getattr(points, "ndim", 0) == 2 and points.size:
        points = points[:, 0]
    if function == "fit_optimal" and name == "a list of lists":
        points = [row[0] for row in points]
    if library == "torch":
        points = torch.from_numpy(np.array(points))
    before = np.array(points, copy=True) if isinstance(points, np.ndarray) else None
    try:
        result = FUNCTIONS[function](points, n_codewords)
    except vq.InputError as error:
        return f"refused: {error}"
    if before is not None and not np.array_equal(before, points, equal_nan=before.dtype.kind == "f"):
        return "the input was changed"
    return _wrong(result) or "works"


def _wrong(result):
    if isinstance(result, float):
        return None if np.isfinite(result) and result >= 0 else f"distortion {result}"
    if isinstance(result, tuple):
        codes, sq_dists = (np.asarray(array) for array in result)
        return None if (codes >= 0).all() and np.isfinite(sq_dists).all() else "codes or distances out of range"
    codebook, codes = np.asarray(result.codebook), np.asarray(result.codes)
    weights = np.asarray(result.weights)
    if not (np.isfinite(codebook).all() and np.isfinite(result.distortion) and abs(weights.sum() - 1) < 1e-12):
        return f"not finite, or weights that do not sum to 1: {result}"
    return None if codes.min() >= 0 and codes.max() < len(codebook) == len(weights) else "codes out of range"


def all_outcomes():
    """Every function on every case in every library."""
    warnings.simplefilter("error")
    return {
        f"{function} / {name} / {library}": outcome(function, name, library)
        for function in FUNCTIONS
        for name in CASES
        for library in ("numpy", "torch")
        if not (library == "torch" and name in NUMPY_ONLY)
    }


if __name__ == "__main__":
    json.dump(all_outcomes(), sys.stdout)
