"""Product quantization: cut a vector into parts, quantize each part alone, and a few small codebooks make a huge one.

Jegou, Douze and Schmid 2011, "Product quantization for nearest neighbor search"; with an optimized rotation
Ge, He, Ke and Sun 2013, "Optimized product quantization".
"""

from importlib import import_module

import numpy as np

from vqcore import checks
from vqcore.errors import InputError
from vqcore.kernels import passes
from vqcore.lloyd import STARTS
from vqcore.progress import progress_bar
from vqcore.subspaces import Plan, fit_parts, fit_rotated, rotated

METRICS = ("euclidean", "inner product")
ON_A_SAMPLE = (
    "find the rotation on a sample, ProductQuantizer(..., rotation='optimized').fit(points[::100].compute()) for "
    "example, and encode the dask array with that"
)
BLOCK_BYTES = 64 * 2**20  # of points, tables or accumulators in float64, held at a time


class ProductQuantizer:
    """n_codewords to the power of n_subspaces codewords, from n_subspaces codebooks of n_codewords each.

    Args:
        n_subspaces: parts of equal width that a vector is cut into; it must divide the dimension.
        n_codewords: in each codebook, 1 to 65536; not more than there are points.
        rotation: None; "optimized" (OPQ); or an orthonormal matrix (dim, dim) to multiply points by from the right.

    Attributes:
        codebooks: (n_subspaces, n_codewords, dim / n_subspaces), numpy float64; None before `fit`.
        rotation: (dim, dim) numpy float64, or None: points @ rotation is what is cut into parts.
        distortion: mean of the squared distance between a point that was fitted and its reconstruction.
        distortions: the distortion after every step; it never rises.
    """

    def __init__(self, n_subspaces, n_codewords=256, rotation=None):
        self.n_subspaces = checks.as_count(n_subspaces, "n_subspaces")
        self.n_codewords = checks.as_count(n_codewords, "n_codewords", high=65536)
        self._wanted = _as_rotation(rotation)
        self.rotation = None if isinstance(self._wanted, str) else self._wanted
        self.codebooks, self.distortion, self.distortions = None, None, ()

    def __repr__(self):
        fitted = "not fitted" if self.codebooks is None else f"dim {self.dim}, distortion {self.distortion:.6g}"
        turned = ", rotated" if self._wanted is not None else ""
        return f"ProductQuantizer({self.n_subspaces} x {self.n_codewords} codewords{turned}, {fitted})"

    @property
    def dim(self):
        """The dimension of the points, None before `fit`."""
        return None if self.codebooks is None else self.n_subspaces * self.codebooks.shape[2]

    @property
    def n_bits(self):
        """Bits of the code of one subspace."""
        return (self.n_codewords - 1).bit_length()

    def fit(self, points, seed=0, *, start="random", n_steps=25, n_rotations=50, progress=None):
        """Learn the codebooks, and the rotation if it is to be optimized, from points (n, dim); returns itself.

        Args:
            seed: of numpy's Generator, or a Generator.
            start: "random", as other libraries start; or "k-means++", whose distortion is lower where a few points
                lie far out. It spends codewords on those, so that fewer true neighbours may be found among the rest.
            n_steps: steps of Lloyd's algorithm at most, in every subspace.
            n_rotations: times that an optimized rotation is found anew; each time every codebook makes a step.
            progress: True or False to show or hide the progress bar; by default shown in a terminal.

        Raises:
            InputError: a dimension that n_subspaces does not divide, fewer points than codewords, bad points.
        """
        optimized = isinstance(self._wanted, str)
        instead = ON_A_SAMPLE if optimized else None
        table, points = checks.as_points(points, n_dims=(2,), in_blocks=not optimized, instead=instead)
        n, dim = points.shape
        if dim % self.n_subspaces:
            raise InputError(f"n_subspaces={self.n_subspaces} does not divide the dimension {dim} of the points")
        if n < self.n_codewords:
            raise InputError(f"n_codewords={self.n_codewords} but only {n} points: ask for at most {n}")
        if not isinstance(self._wanted, str) and self._wanted is not None and len(self._wanted) != dim:
            raise InputError(f"rotation has shape {self._wanted.shape} but the points have dimension {dim}")
        checks.as_choice(start, "start", STARTS)
        n_steps, rng = checks.as_count(n_steps, "n_steps", low=0), checks.as_generator(seed)
        n_rotations = checks.as_count(n_rotations, "n_rotations", low=0)
        plan = Plan(self.n_subspaces, self.n_codewords, start, n_steps, n_rotations, rng)
        with progress_bar(self.n_subspaces * (1 + optimized) + optimized * n_rotations, repr(self), progress) as bar:
            if optimized:
                fitted = fit_rotated(table, points, plan, bar)
            else:
                fitted = fit_parts(table, points, self._wanted, plan, bar)
        self.rotation, self.codebooks, self.distortions = fitted
        self.distortion = self.distortions[-1]
        return self

    def encode(self, points):
        """Codes (n, n_subspaces) of points (n, dim): uint8 up to 256 codewords, then uint16 (int32 in torch).

        Points in a dask array give a dask array of codes that nothing has computed yet.
        """
        table, points = self._as_points(points, "points", in_blocks=True)
        return passes.row_by_row(table, _encode, points, self.codebooks, self.rotation)

    def decode(self, codes, dtype="float64"):
        """The points (n, dim) that codes (n, n_subspaces) stand for, as "float64" or "float32"; dask gives dask."""
        table, codes = self._as_codes(codes, in_blocks=True)
        dtype = getattr(dtype, "__name__", str(dtype)).removeprefix("torch.")
        dtype = checks.as_choice(dtype, "dtype", ("float64", "float32"))
        return passes.row_by_row(table, _decode, codes, self.codebooks, self.rotation, dtype)

    def distance_tables(self, queries, metric="euclidean"):
        """Tables (n_queries, n_subspaces, n_codewords), float64, of squared distances between parts.

        The sum of the entries that a code names is the squared distance of the query from the decoded point
        ("asymmetric": the query itself is not quantized).

        Args:
            metric: "euclidean", or "inner product" for inner products in the place of squared distances.
        """
        table, queries = self._as_points(queries, "queries")
        inner = checks.as_choice(metric, "metric", METRICS) == "inner product"
        return _lookup(table).distance_tables(rotated(table, queries, self.rotation), self.codebooks, inner)

    def search(self, queries, codes, n_neighbors=10, *, metric="euclidean", symmetric=False):
        """The nearest codes to every query: squared distances (n_queries, n_neighbors), ascending, and their ids.

        Equal distances come in the order of their ids.

        Args:
            queries: (n_queries, dim), of the library and device of the codes.
            codes: (n, n_subspaces).
            metric: "euclidean", or "inner product": then the largest inner products, descending.
            symmetric: quantize the queries as well; the distances are then those between reconstructions.

        Raises:
            InputError: not fitted, shapes or types that do not fit, more neighbours than codes, queries with NaN.
        """
        table, queries = self._as_points(queries, "queries")
        codes_table, codes = self._as_codes(codes)
        if codes_table is not table or str(getattr(codes, "device", "")) != str(getattr(queries, "device", "")):
            raise InputError("codes and queries must be arrays of one library, on one device")
        n = codes.shape[0]
        n_neighbors = checks.as_count(n_neighbors, "n_neighbors", high=n, hint=f"there are {n} codes")
        inner = checks.as_choice(metric, "metric", METRICS) == "inner product"
        lookup, n_queries = _lookup(table), queries.shape[0]
        distances = table.from_host(np.empty((n_queries, n_neighbors)), queries)
        ids = table.from_host(np.empty((n_queries, n_neighbors), np.int64), queries)
        # Beside a table, what a scan keeps of a query: the table in bytes, 256 a row at most; distances and ids, once as
        # found and once in order.
        for rows in _blocks(n_queries, max(self.dim, self.n_subspaces * (self.n_codewords + 32), 4 * n_neighbors)):
            parts = rotated(table, queries[rows], self.rotation)
            if symmetric:
                parts = lookup.decode(self.encode(queries[rows]), self.codebooks, "float64")
            tables = lookup.distance_tables(parts, self.codebooks, inner)
            found = lookup.nearest(-tables if inner else tables, codes, n_neighbors)
            distances[rows], ids[rows] = -found[0] if inner else found[0], found[1]
        return distances, ids

    def size_in_bits(self, n_points=0, float_bits=64):
        """Bits of the codes of n_points points, and of the tables needed to decode them, as parts of a ledger."""
        self._check_fitted()
        n_points = checks.as_count(n_points, "n_points", low=0)
        float_bits = checks.as_count(float_bits, "float_bits")
        tables = self.codebooks.size + (0 if self.rotation is None else self.rotation.size)
        codes = n_points * self.n_subspaces * self.n_bits
        return {"codes": codes, "codebooks": tables * float_bits, "n_values": n_points * self.dim}

    def _check_fitted(self):
        if self.codebooks is None:
            raise InputError("this ProductQuantizer has no codebooks yet: call fit(points) first")

    def _as_points(self, points, name, in_blocks=False):
        self._check_fitted()
        table, points = checks.as_points(points, name, n_dims=(2,), in_blocks=in_blocks)
        if points.shape[1] != self.dim:
            raise InputError(f"{name} has shape {tuple(points.shape)}: it must be (n, {self.dim}), as in fit")
        return table, points

    def _as_codes(self, codes, in_blocks=False):
        self._check_fitted()
        table, checked = checks.as_codes(codes, self.n_codewords, in_blocks=in_blocks)
        if checked.ndim != 2 or checked.shape[1] != self.n_subspaces:
            raise InputError(f"codes has shape {tuple(checked.shape)}: it must be (n, {self.n_subspaces})")
        return table, checked


def _lookup(table):
    """The look-ups that belong to a table of kernels: the same names, once per array library."""
    home = {"compiled": "lookup", "shared": "lookup_shared", "tensors": "lookup_tensors"}
    return import_module("vqcore.kernels." + home[table.__name__.rpartition(".")[2]])


def _encode(table, points, codebooks, rotation):
    """The codes of points in memory."""
    n_subspaces, n_codewords, _ = codebooks.shape
    codes = _lookup(table).empty_codes(points.shape[0], n_subspaces, n_codewords, points)
    for rows in _blocks(*points.shape):
        _lookup(table).encode(rotated(table, points[rows], rotation), codebooks, codes[rows])
    return codes


def _decode(table, codes, codebooks, rotation, dtype):
    """The points that codes in memory stand for."""
    lookup, dim = _lookup(table), codebooks.shape[0] * codebooks.shape[2]
    if rotation is None:
        return lookup.decode(codes, codebooks, dtype)
    points = table.from_host(np.empty((codes.shape[0], dim), dtype), codes)
    back = table.from_host(np.ascontiguousarray(rotation.T), codes)
    # Turned back in float64, whatever the answer is rounded to: far from the origin a float32 product is off.
    for rows in _blocks(codes.shape[0], dim):
        points[rows] = lookup.decode(codes[rows], codebooks, "float64") @ back
    return points


def _as_rotation(rotation):
    """None, "optimized", or an orthonormal float64 matrix."""
    if rotation is None:
        return None
    if isinstance(rotation, str):
        return checks.as_choice(rotation, "rotation", ("optimized",))
    matrix = checks.as_table(rotation, "rotation", (None, None))
    if matrix.shape[0] != matrix.shape[1] or abs(matrix.T @ matrix - np.eye(len(matrix))).max() > 1e-6:
        raise InputError(f"rotation of shape {matrix.shape} is not orthonormal: its columns must be")
    return matrix


def _blocks(n, width):
    """Slices that cover n rows, each of rows so many that `width` float64 per row stay within the budget."""
    size = max(1, BLOCK_BYTES // (8 * width))
    return [slice(start, start + size) for start in range(0, n, size)]
