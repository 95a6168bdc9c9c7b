"""What product codes need beside the ten kernels, for numpy arrays by numba: look-ups in small tables.

Codes are (n, n_subspaces), tables (n_queries, n_subspaces, n_codewords) float64.
"""

import numpy as np

from vqcore.kernels import compiled, scan, scores
from vqcore.kernels.compiling import frozen, njit
from vqcore.kernels.nearest import nearest_parts
from vqcore.kernels.threads import share
from vqcore.kernels.vectors import LANES

_kept = njit(cache=True, nogil=True)


def empty_codes(n, n_subspaces, n_codewords, like):
    """Codes (n, n_subspaces) to be filled, in the smallest type: uint8 up to 256 codewords, then uint16."""
    return np.empty((n, n_subspaces), np.uint8 if n_codewords <= 256 else np.uint16)


def encode(points, codebooks, codes):
    """Fill codes (n, n_subspaces) with the nearest codeword of every part of the points (n, dim)."""
    if codebooks.shape[2] == 1:
        for m, codebook in enumerate(codebooks):
            codes[:, m] = compiled.assign(np.ascontiguousarray(points[:, m : m + 1]), codebook)[0]
        return
    work = scores.work_type(points, codebooks)
    *of_parts, floors, eps = zip(*(scores.screen(codebook, work) for codebook in codebooks))
    screens = *map(np.stack, of_parts), floors[0], eps[0]
    points, codebooks = frozen(points.astype(work, copy=False)), frozen(codebooks)

    def look(first, last):
        nearest_parts(first, last, points, codebooks, screens, codes, scores.room_for(codebooks.shape[2], work))

    share(look, len(points), len(points) * (codebooks.size // 8 + 16 * len(codebooks)), grain=LANES)


def decode(codes, codebooks, dtype):
    """The codewords (n, n_subspaces * width) that codes stand for, beside each other."""
    n_subspaces, n_codewords, width = codebooks.shape
    points = np.empty((len(codes), n_subspaces * width), dtype)
    books, into = codebooks.astype(dtype), points
    if books.nbytes // n_codewords // n_subspaces % 8 == 0:
        # Codewords are moved, not computed with: 8 bytes at a time.
        books, into = books.view(np.uint64), points.view(np.uint64)
    share(_decode, len(codes), 2 * into.size, _narrow(codes, n_codewords), frozen(books), into)
    return points


def distance_tables(queries, codebooks, inner):
    """Squared distance, or inner product, of every part of a query with every codeword, in float64."""
    tables = np.empty((len(queries),) + codebooks.shape[:2])
    columns = frozen(np.ascontiguousarray(codebooks.transpose(0, 2, 1)))
    share(_fill_tables, len(queries) * len(columns), len(queries) * codebooks.size, frozen(queries), columns, inner, tables)
    return tables


def nearest(tables, codes, n_neighbors):
    """Smallest sums (n_queries, n_neighbors) of table entries, ascending, and the ids of their codes."""
    return scan.nearest(tables, _narrow(codes, tables.shape[2]), n_neighbors)


def _narrow(codes, n_codewords):
    """Codes in the type that the loops are compiled for; their range has been checked."""
    return frozen(np.ascontiguousarray(codes, np.uint8 if n_codewords <= 256 else np.uint16))


@_kept
def _decode(first, last, codes, codebooks, points):
    codes, points, n_subspaces, width = codes[first:last], points[first:last], codes.shape[1], codebooks.shape[2]
    for i in range(len(codes)):
        row, point = codes[i], points[i]
        for m in range(n_subspaces):
            codeword, part = codebooks[m, row[m]], point[m * width : (m + 1) * width]
            for d in range(width):
                part[d] = codeword[d]


@_kept
def _fill_tables(first, last, queries, columns, inner, tables):
    n_subspaces, width, n_codewords = columns.shape
    for task in range(first, last):
        q, m = task // n_subspaces, task % n_subspaces
        row = tables[q, m]
        row[:] = 0.0
        for d in range(width):
            x, column = np.float64(queries[q, m * width + d]), columns[m, d]
            for k in range(n_codewords):
                row[k] += x * column[k] if inner else (x - column[k]) ** 2
