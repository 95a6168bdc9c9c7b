"""What product codes need beside the ten kernels, for numpy arrays by numba: look-ups in small tables.

Codes are (n, n_subspaces), tables (n_queries, n_subspaces, n_codewords) float64. A scan adds one table entry per
subspace, always in the order of the subspaces, and keeps the nearest in a bounded heap: nothing of size
n_queries x n is held, and neither the number of threads nor of slabs changes a bit of the answer.
"""

import numpy as np

from vqcore.kernels import compiled, scores
from vqcore.kernels.compiling import frozen, njit
from vqcore.kernels.nearest import nearest_parts
from vqcore.kernels.threads import share
from vqcore.kernels.vectors import LANES

_kept = njit(cache=True, nogil=True)
SLABS, SLAB_SIZE = 8, 32768  # pieces of the codes that threads share when there are few queries


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
    n_slabs = 1 if len(tables) >= SLABS or len(codes) < SLABS * SLAB_SIZE else SLABS
    sums = np.full((len(tables), n_slabs * n_neighbors), np.inf)
    ids = np.full(sums.shape, len(codes), np.int64)
    given = frozen(tables), _narrow(codes, tables.shape[2]), n_neighbors, n_slabs, sums, ids
    share(_scan, len(tables) * n_slabs, len(tables) * codes.size, *given)
    order = np.lexsort((ids, sums), axis=1)[:, :n_neighbors]
    return np.take_along_axis(sums, order, 1), np.take_along_axis(ids, order, 1)


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


@_kept
def _scan(first, last, tables, codes, n_neighbors, n_slabs, sums, ids):
    for task in range(first, last):
        _scan_slab(tables, codes, n_neighbors, n_slabs, sums, ids, task)


@_kept
def _scan_slab(tables, codes, n_neighbors, n_slabs, sums, ids, task):
    n, n_subspaces = codes.shape
    q, slab = task // n_slabs, task % n_slabs
    table = tables[q]
    heap = sums[q, slab * n_neighbors : (slab + 1) * n_neighbors]
    heap_ids = ids[q, slab * n_neighbors : (slab + 1) * n_neighbors]
    first, last = slab * n // n_slabs, (slab + 1) * n // n_slabs
    # Four codes at a time: each sum waits for its own last addition, so four run in the time of one.
    for i in range(first, last - 3, 4):
        a, b = table[0, codes[i, 0]], table[0, codes[i + 1, 0]]
        c, d = table[0, codes[i + 2, 0]], table[0, codes[i + 3, 0]]
        for m in range(1, n_subspaces):
            a += table[m, codes[i, m]]
            b += table[m, codes[i + 1, m]]
            c += table[m, codes[i + 2, m]]
            d += table[m, codes[i + 3, m]]
        # Ids ascend: of two equal sums the one that is kept already has the lower id.
        if a < heap[0] or b < heap[0] or c < heap[0] or d < heap[0]:
            for j, total in enumerate((a, b, c, d)):
                if total < heap[0]:
                    _replace_largest(heap, heap_ids, total, i + j)
    for i in range(last - (last - first) % 4, last):
        total = table[0, codes[i, 0]]
        for m in range(1, n_subspaces):
            total += table[m, codes[i, m]]
        if total < heap[0]:
            _replace_largest(heap, heap_ids, total, i)


@_kept
def _replace_largest(heap, ids, value, number):
    """Put (value, number) in the place of the largest pair, which stands at the root of the heap."""
    size, at = len(heap), 0
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        right = child + 1
        if right < size and (heap[right], ids[right]) > (heap[child], ids[child]):
            child = right
        if (heap[child], ids[child]) <= (value, number):
            break
        heap[at], ids[at] = heap[child], ids[child]
        at = child
    heap[at], ids[at] = value, number
