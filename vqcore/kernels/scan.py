"""Scans of product codes: the nearest to a query are those of which the table entries have the smallest sums.

A scan adds one entry per subspace, always in the order of the subspaces, and keeps the nearest in a bounded heap: nothing
of size n_queries x n is held, and neither the number of threads nor of slabs changes a bit of the answer.

Many queries first look at sums of bytes, 64 codes at a time. An entry is rounded down to a byte, so that a sum of bytes
bounds the sum of entries from below, and a table of 256 bytes lies in four registers, from which a processor with
AVX512_VBMI reads 64 entries at once (Andre, Kermarrec and Le Scouarnec 2015, "Cache locality is not enough:
high-performance nearest neighbor search with product quantization fast scan"). What may be nearer than all that are kept
is summed in full, so the answer does not depend on that look.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from vqcore.kernels.compiling import frozen, njit
from vqcore.kernels.threads import share
from vqcore.kernels.vectors import BYTES, FEATURES, INT64, load, pointer_to, splat

_kept = njit(cache=True, nogil=True)
SLABS, SLAB_SIZE = 8, 32768  # pieces of the codes that threads share when there are few queries
WORKS = "+avx512vbmi" in FEATURES
ENTRIES = 256  # of a table in bytes
VECTORS = 4  # of codes that pass over a table together
N = 64 * VECTORS
TOP, LOW = 200, 150  # the byte of the sum that is to be beaten, and the one at which bytes are made anew


def nearest(tables, codes, n_neighbors):
    """Smallest sums (n_queries, n_neighbors) of table entries, ascending, and the ids of their codes (n, n_subspaces)."""
    in_bytes = WORKS and len(tables) >= SLABS and codes.dtype == np.uint8
    n_slabs = 1 if len(tables) >= SLABS or len(codes) < SLABS * SLAB_SIZE else SLABS
    sums = np.full((len(tables), n_slabs * n_neighbors), np.inf)
    ids = np.full(sums.shape, len(codes), np.int64)
    if in_bytes:
        _look(frozen(tables), codes, sums, ids)
    else:
        given = frozen(tables), codes, n_neighbors, n_slabs, sums, ids
        share(_scan, len(tables) * n_slabs, len(tables) * codes.size, *given)
    order = np.lexsort((ids, sums), axis=1)[:, :n_neighbors]
    return np.take_along_axis(sums, order, 1), np.take_along_axis(ids, order, 1)


def _look(tables, codes, sums, ids):
    """Slab by slab, whose codes are turned over: then those of a subspace lie side by side."""
    n_queries, n_subspaces, _ = tables.shape
    turned = np.zeros((n_subspaces, min(SLAB_SIZE, -(-len(codes) // N) * N)), np.uint8)
    of_queries = np.zeros((n_queries, n_subspaces, ENTRIES), np.uint8), np.full((n_queries, 3), np.inf)
    for start in range(0, len(codes), SLAB_SIZE):
        slab = codes[start : start + SLAB_SIZE]
        share(_turn, len(slab), 2 * slab.size, slab, turned)
        share(_look_at, n_queries, n_queries * slab.size // 8, tables, slab, start, turned, *of_queries, sums, ids)


@_kept
def _turn(first, last, codes, turned):
    for m in range(len(turned)):
        column, into = codes[first:last, m], turned[m, first:last]
        for i in range(len(column)):
            into[i] = column[i]


@_kept
def _look_at(first, last, tables, codes, start, turned, in_bytes, scales, sums, ids):
    """Queries from first to last among the codes of a slab, the first of which has the id `start`."""
    for q in range(first, last):
        table, look, heap, heap_ids, (worst, base, step) = tables[q], in_bytes[q], sums[q], ids[q], scales[q]
        limit = _limit(worst, base, step)
        for at in range(0, len(codes), N):
            near = _below(turned, at, look, limit)
            for v in range(VECTORS):
                some = near[v]
                while some > 0:
                    i, some = at + 64 * v + _lowest(some), some & (some - np.uint64(1))
                    if i < len(codes):
                        total = table[0, codes[i, 0]]
                        for m in range(1, len(turned)):
                            total += table[m, codes[i, m]]
                        # Ids ascend: of two equal sums the one that is kept already has the lower id.
                        if total < heap[0]:
                            _replace_largest(heap, heap_ids, total, start + i)
            if heap[0] < worst:
                worst = heap[0]
                limit = _limit(worst, base, step)
                if limit < LOW or step == np.inf:
                    base, step = _in_bytes(table, worst, look)
                    limit = _limit(worst, base, step)
        scales[q, 0], scales[q, 1], scales[q, 2] = worst, base, step


@njit
def _in_bytes(table, worst, out):
    """Fill out (n_subspaces, ENTRIES) with the entries, less the smallest of a subspace, in steps, rounded down.

    Returns what sums are counted from, and the step: infinite if they cannot be counted.
    """
    base, reach = 0.0, 0.0
    for row in table:
        low, high = row[0], 0.0
        for entry in row:
            low, high = min(low, entry), max(high, abs(entry))
        base, reach = base + low, reach + high
    # More than all that rounding does to sums of entries and of steps.
    base -= 4 * (len(table) + 4) * 2.0**-53 * reach
    step = (worst - base) / TOP
    if not (0 < step < np.inf and 1 / step < np.inf):
        return base, np.inf
    for m in range(len(table)):
        row, into, low, per_step = table[m], out[m], table[m].min(), 1 / step
        for k in range(len(row)):
            into[k] = np.uint8(min((row[k] - low) * per_step, 255.0))
    return base, step


@njit
def _limit(worst, base, step):
    """The largest sum of bytes that a sum below `worst` can have; 255 for all that are as large or larger."""
    return np.uint8(min((worst - base) / step, 255.0)) if step < np.inf else np.uint8(255)


@intrinsic
def _below(typing, turned, at, look, limit):
    """Of N turned codes those whose bytes add up to the limit at most, as the bits of VECTORS uint64."""
    given, kept = (turned, at, look, limit), types.UniTuple(types.uint64, VECTORS)

    def generate(context, builder, signature, args):
        codes = context.make_array(turned)(context, builder, args[0])
        n_subspaces, width = (builder.extract_value(codes.shape, i) for i in (0, 1))
        at = context.cast(builder, args[1], given[1], types.int64)
        totals = [cgutils.alloca_once_value(builder, ir.Constant(BYTES, [0] * 64)) for _ in range(VECTORS)]
        add = cgutils.get_or_insert_function(builder.module, ir.FunctionType(BYTES, [BYTES] * 2), "llvm.uadd.sat.v64i8")
        read = "llvm.x86.avx512.vpermi2var.qi.512"
        read = cgutils.get_or_insert_function(builder.module, ir.FunctionType(BYTES, [BYTES] * 3), read)
        with cgutils.for_range(builder, n_subspaces) as m:
            first = builder.mul(m.index, INT64(ENTRIES))
            table = [
                load(builder, pointer_to(context, builder, look, args[2], first, INT64(64 * quarter)), BYTES)
                for quarter in range(4)
            ]
            row = builder.add(builder.mul(m.index, width), at)
            for v, total in enumerate(totals):
                code = load(builder, pointer_to(context, builder, turned, args[0], row, INT64(64 * v)), BYTES)
                lower, upper = (builder.call(read, [table[i], code, table[i + 1]]) for i in (0, 2))
                upper_half = builder.icmp_signed("<", code, ir.Constant(BYTES, [0] * 64))
                entry = builder.select(upper_half, upper, lower)
                builder.store(builder.call(add, [builder.load(total), entry]), total)
        near = (builder.icmp_unsigned("<=", builder.load(total), splat(builder, args[3], 64)) for total in totals)
        return context.make_tuple(builder, kept, [builder.bitcast(bits, INT64) for bits in near])

    return kept(turned, types.int64, look, types.uint8), generate


@intrinsic
def _lowest(typing, bits):
    """The place of the lowest bit that is set."""

    def generate(context, builder, signature, args):
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), generate


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
