"""What every kernel table must do: adversarial cases, each compared with the readable reference.

The tests run these on every table; `vqcore check --device cuda` runs them on a machine the tests never saw.
"""

from typing import NamedTuple

import numpy as np

from vqcore.kernels import reference


class Case(NamedTuple):
    """One set of arguments; `exact` where float arithmetic is exact, so that ties must agree to the last code."""

    name: str
    points: np.ndarray
    codebook: np.ndarray
    exact: bool = False


def cases(seed=0):
    """About sixty-five cases: shapes around every block size, ties, duplicates, far offsets, extreme scales, odd layouts."""
    rng = np.random.default_rng(seed)
    found = []
    for n, dim, k in [
        (1, 1, 1), (1, 3, 1), (63, 2, 2), (64, 2, 3), (65, 2, 5), (200, 1, 7), (129, 3, 4), (300, 4, 16), (257, 5, 9),
        (300, 8, 33), (200, 9, 64), (150, 12, 17), (150, 13, 2), (100, 33, 50), (70, 130, 20), (150, 40, 90),
        (2100, 2, 300),
    ]:  # fmt: skip
        for dtype in (np.float32, np.float64):
            points = rng.standard_normal((n, dim)).astype(dtype)
            codebook = rng.standard_normal((k, dim))
            found.append(Case(f"normal {n}x{dim}, {k} codewords, {dtype.__name__}", points, codebook))
    base, book = rng.standard_normal((400, 6)), rng.standard_normal((24, 6))
    for offset in (1e2, 1e4, 1e6):
        points = (base + offset).astype(np.float32)
        found.append(Case(f"mean {offset:g}, float32", points, points[::17].astype(np.float64) + 1e-3))
    found.append(Case("mean 1e9, float64", base + 1e9, book + 1e9))
    blobs = (base + np.where(np.arange(400) % 2, 1e6, -1e6)[:, None]).astype(np.float32)
    found.append(Case("two blobs at -1e6 and 1e6, float32", blobs, blobs[:40].astype(np.float64)))
    for scale in (1e-40, 1e-30, 1e-13, 1e14, 1e18, 1e37):
        found.append(Case(f"scale {scale:g}, float32", (base * scale).astype(np.float32), book * scale))
    for scale in (1e-90, 1e90):
        found.append(Case(f"scale {scale:g}, float64", base * scale, book * scale))
    found.append(Case("a far outlier in the codebook", base.astype(np.float32), np.vstack([book, np.full(6, 1e7)])))
    for dtype in (np.float32, np.float64):
        grid = rng.integers(-3, 4, (500, 3)).astype(dtype)
        ties = rng.integers(-3, 4, (40, 3)) / 2.0
        found.append(Case(f"ties on a lattice, {dtype.__name__}", grid, ties, exact=True))
        found.append(Case(f"every codeword twice, {dtype.__name__}", grid, np.vstack([ties[:9], ties[:9]]), exact=True))
        wide, books = rng.integers(-2, 3, (200, 34)).astype(dtype), rng.integers(-2, 3, (70, 34)).astype(float)
        found.append(Case(f"ties in 34 dimensions, {dtype.__name__}", wide, np.vstack([books, books]), exact=True))
        found.append(Case(f"all points one, {dtype.__name__}", np.ones((70, 2), dtype), np.ones((3, 2)), exact=True))
        line = rng.integers(-9, 10, 300).astype(dtype)
        found.append(Case(f"ties on a line, {dtype.__name__}", line, rng.permutation(9) - 4.5, exact=True))
        found.append(Case(f"twins on a line, {dtype.__name__}", line, np.array([2.0, -1.0, 2.0, -1.0, 5.0]), exact=True))
    line = 2.0 ** rng.uniform(-60, 60, 300)
    found.append(Case("sixty powers of two on a line", line, 2.0 ** np.linspace(-60, 60, 90)))
    strided = rng.standard_normal((400, 12)).astype(np.float32)[::2, ::2]
    found.append(Case("strided", strided, book))
    found.append(Case("Fortran order", np.asfortranarray(base), book))
    frozen = base.copy()
    frozen.flags.writeable = False
    found.append(Case("read-only", frozen, book))
    found.append(Case("float32 codebook values", base, book.astype(np.float32).astype(np.float64)))
    return found


def faults(table, case, to_library=lambda array: array, seed=0):
    """What this table gets wrong on this case, as sentences; none if it equals the reference."""
    rng = np.random.default_rng(seed)
    points, codebook = case.points, case.codebook
    theirs = table.to_points(to_library(points))
    found = []

    want_codes, want_sq_dists = reference.assign(points, codebook)
    codes, sq_dists = table.assign(theirs, codebook)
    host_codes, host_sq_dists = table.to_host(codes), table.to_host(sq_dists)
    if host_codes.dtype != np.int64 or host_sq_dists.dtype != np.float64:
        found.append(f"assign gives {host_codes.dtype} codes and {host_sq_dists.dtype} distances")
    wrong = host_codes != want_codes
    if not case.exact:
        chosen = reference._sq_dists(points, codebook[np.clip(host_codes, 0, len(codebook) - 1)])
        wrong &= ~(chosen <= want_sq_dists * (1 + 1e-9))
    if wrong.any():
        found.append(f"assign: {wrong.sum()} of {len(wrong)} codes differ, first at point {wrong.argmax()}")
    _compare(found, "assign: squared distances", host_sq_dists, want_sq_dists, 1e-12)

    weights = rng.random(len(points)) * (rng.random(len(points)) < 0.8)
    weights[0] = 1.0
    ours = table.from_host(weights, theirs)
    for name, here, there in (("counts", None, None), ("weights", weights, ours)):
        want = reference.accumulate(points, host_codes, len(codebook), here)
        got = table.accumulate(theirs, codes, len(codebook), there)
        size = reference.accumulate(np.abs(points), host_codes, len(codebook), here)[0].max()
        _compare(found, f"accumulate: sums of {name}", got[0], want[0], 1e-12, size)
        _compare(found, f"accumulate: {name}", got[1], want[1], 1e-12)

    first = codebook[:1]
    _compare(
        found, "nearer", table.to_host(table.nearer(theirs, first, sq_dists)),
        reference.nearer(points, first, host_sq_dists), 1e-12,
    )  # fmt: skip
    uniforms = rng.random(20)
    drawn = table.to_host(table.draw(ours, uniforms))
    if (drawn != reference.draw(weights, uniforms)).any() or not (weights[drawn] > 0).all():
        found.append("draw: other positions, or positions of no weight")
    low, high = table.extent(theirs)
    if (low, high) != (points.min(), points.max()):
        found.append("extent: not the smallest and largest value")
    if points.ndim == 1 or points.shape[1] == 1:
        found += _faults_on_line(table, theirs, points.reshape(-1), codebook.reshape(-1), weights, ours)
    return found


def _faults_on_line(table, theirs, points, codebook, weights, ours):
    found, ascending = [], np.unique(codebook)
    edges = (ascending[1:] + ascending[:-1]) / 2
    for name, here, there in (("counts", None, None), ("weights", weights, ours)):
        want = reference.interval_moments(reference.sort(points, here), edges, ascending)
        got = table.interval_moments(table.sort(theirs.reshape(-1), there), edges, ascending)
        for what, a, b in zip(("mass", "means", "squared errors"), got, want):
            _compare(found, f"interval_moments: {what} of {name}", a, b, 1e-11)
    return found


def _compare(found, name, got, want, tolerance, size=None):
    size = np.abs(want).max() if size is None else size
    apart = np.abs(np.asarray(got, np.float64) - np.asarray(want, np.float64)).max()
    if not apart <= tolerance * size:
        found.append(f"{name}: off by {apart / size if size else apart:.1e} of the largest")
