"""Scans of product codes: the nearest to a query are those of which the table entries have the smallest sums.

A scan adds one entry per subspace, always in the order of the subspaces, and keeps the nearest in a bounded heap: nothing
of size n_queries x n is held, and neither the number of threads nor of slabs changes a bit of the answer.

Many queries first look at sums of bytes, 64 codes at a time. An entry is rounded down to a byte, so that a sum of bytes
bounds the sum of entries from below, and a table of 256 bytes lies in four registers, from which a processor with
AVX512_VBMI reads 64 entries at once (André, Kermarrec and Le Scouarnec 2015, "Cache locality is not enough:
high-performance nearest neighbor search with product quantization fast scan"). What may be nearer than the last one kept
is summed in full, so the answer does not depend on that look.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from vqcore.kernels.compiling import frozen, njit
from vqcore.kernels.threads import share
from vqcore.kernels.vectors import BYTES, INT64, PERMUTES, load, pointer_to, splat

_kept = njit(cache=True, nogil=True)
SLABS, SLAB_SIZE = 8, 32768  # pieces of the codes that threads share when there are few queries
FEW, MANY = 64, 256  # entries of a table in bytes, which are one vector or four
VECTORS = 4  # of codes that pass over a table together
N = 64 * VECTORS
BLOCK = 1024  # codes that are turned over together
TOGETHER = 4  # subspaces whose bytes add up to a byte, 255 if to more
STEPS = 25  # a subspace in the sum to be beaten, so that TOGETHER bytes seldom add up to more than a byte
ANEW = 0.75  # bytes are made anew when the sum to be beaten has fallen to this share
HIGHEST = 2**16 - 1  # the bound on sums of bytes that leaves nothing out


def nearest(tables, codes, n_neighbors):
    """Smallest sums (n_queries, n_neighbors) of table entries, ascending, and the ids of their codes (n, n_subspaces)."""
    in_bytes = codes.dtype == np.uint8 and bytes_pay(len(codes), tables.shape[2], n_neighbors, len(tables))
    n_slabs = 1 if len(tables) >= SLABS or len(codes) < SLABS * SLAB_SIZE else SLABS
    sums = np.full((len(tables), n_slabs * n_neighbors), np.inf)
    ids = np.full(sums.shape, len(codes), np.int64)
    if PERMUTES and in_bytes:
        _look(frozen(tables), codes, sums, ids)
    else:
        given = frozen(tables), codes, n_neighbors, n_slabs, sums, ids
        share(_scan, len(tables) * n_slabs, len(tables) * codes.size, *given)
    order = np.lexsort((ids, sums), axis=1)[:, :n_neighbors]
    return np.take_along_axis(sums, order, 1), np.take_along_axis(ids, order, 1)


def bytes_pay(n, n_codewords, n_neighbors, n_queries):
    """Whether there are queries enough to turn codes over for, and codes enough to make bytes of tables for."""
    return n_queries >= SLABS and n >= 1024 + 8 * n_codewords + 16 * n_neighbors


def _look(tables, codes, sums, ids):
    """Slab by slab, whose codes are turned over: then those of a subspace lie side by side."""
    n_queries, n_subspaces, n_codewords = tables.shape
    turned = np.zeros((n_subspaces, min(SLAB_SIZE, -(-len(codes) // N) * N)), np.uint8)
    entries, lows, highs = FEW if n_codewords <= FEW else MANY, tables.min(axis=2), tables.max(axis=2)
    # What sums are counted from: less by more than all that rounding does to sums of entries and of steps.
    reach = np.maximum(abs(lows), abs(highs)).sum(axis=1)
    scales = np.full((n_queries, 3), np.inf)
    scales[:, 1] = lows.sum(axis=1) - 4 * (n_subspaces + 4) * 2.0**-53 * reach
    of_queries = lows, np.zeros((n_queries, n_subspaces, entries), np.uint8), scales
    for start in range(0, len(codes), SLAB_SIZE):
        slab = codes[start : start + SLAB_SIZE]
        share(_turn, len(slab), 2 * slab.size, slab, turned)
        share(_look_at, n_queries, n_queries * slab.size // 4, tables, slab, start, turned, *of_queries, sums, ids)


@_kept
def _turn(first, last, codes, turned):
    for start in range(first, last, BLOCK):
        stop = min(start + BLOCK, last)
        for m in range(len(turned)):
            column, into = codes[start:stop, m], turned[m, start:stop]
            for i in range(len(column)):
                into[i] = column[i]


@_kept
def _look_at(first, last, tables, codes, start, turned, lows, in_bytes, scales, sums, ids):
    """Queries from first to last among the codes of a slab, the first of which has the id `start`.

    Args:
        lows: (n_queries, n_subspaces) smallest entries.
        in_bytes: (n_queries, n_subspaces, FEW or MANY) entries in bytes, made anew as nearer codes are found.
        scales: (n_queries, 3) the sum to be beaten, what sums are counted from, and the step of a byte, of which
            there is none yet where it is infinite.
    """
    for q in range(first, last):
        _look_at_slab(tables[q], codes, start, turned, lows[q], in_bytes[q], scales[q], sums[q], ids[q])


@njit
def _look_at_slab(table, codes, start, turned, lows, look, scale, heap, heap_ids):
    few, low, (worst, base, step), limit = look.shape[1] == FEW, ANEW * STEPS * len(turned), scale, np.uint16(HIGHEST)
    for at in range(0, len(codes), N):
        for v in range(VECTORS):
            if v == 0 or limit == HIGHEST:
                limit = _limit(worst, base, step)
                near = _below_few(turned, at, look, limit) if few else _below_many(turned, at, look, limit)
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
            if heap[0] < worst and (step == np.inf or v == VECTORS - 1):
                worst = heap[0]
                if not (worst - base) / step >= low:
                    step = _in_bytes(table, lows, worst - base, look)
    scale[0], scale[2] = worst, step


@njit
def _in_bytes(table, lows, reach, out):
    """Fill out (n_subspaces, FEW or MANY) with the entries, less the lowest of a subspace, in steps, rounded down.

    Returns the step, infinite if there can be none: so that STEPS a subspace make up the reach.
    """
    step = reach / (STEPS * len(table))
    if not (0 < step < np.inf and 1 / step < np.inf):
        return np.inf
    per_step = 1 / step
    for m in range(len(table)):
        row, into, low = table[m], out[m], lows[m]
        for k in range(len(row)):
            steps = (row[k] - low) * per_step
            into[k] = np.uint8(np.int32(steps if steps < 255.0 else 255.0))
    return step


@njit
def _limit(worst, base, step):
    """The largest sum of bytes that a sum below `worst` can have."""
    return np.uint16(min((worst - base) / step, float(HIGHEST))) if step < np.inf else np.uint16(HIGHEST)


def _comparison(entries):
    """An intrinsic: of N turned codes those whose bytes add up to the limit at most, as the bits of VECTORS uint64."""

    @intrinsic
    def below(typing, turned, at, look, limit):
        given, found = (turned, types.int64, look, types.uint16), types.UniTuple(types.uint64, VECTORS)

        def generate(context, builder, signature, args):
            n_subspaces, width = cgutils.unpack_tuple(builder, context.make_array(turned)(context, builder, args[0]).shape)
            bytes_, sums = ([cgutils.alloca_once(builder, kind) for _ in range(VECTORS)] for kind in (BYTES, _SUMS))
            for total in sums:
                builder.store(ir.Constant(_SUMS, [0] * 64), total)
            with cgutils.for_range_slice(builder, INT64(0), n_subspaces, INT64(TOGETHER)) as (first, _):
                for total in bytes_:
                    builder.store(_NOTHING, total)
                last = builder.add(first, INT64(TOGETHER))
                last = builder.select(builder.icmp_signed("<", last, n_subspaces), last, n_subspaces)
                with cgutils.for_range_slice(builder, first, last, INT64(1)) as (m, _):
                    begin, row = builder.mul(m, INT64(entries)), builder.add(builder.mul(m, width), args[1])
                    starts = [pointer_to(context, builder, look, args[2], begin, INT64(i)) for i in range(0, entries, 64)]
                    table = [load(builder, start, BYTES) for start in starts]
                    for v, total in enumerate(bytes_):
                        code = load(builder, pointer_to(context, builder, turned, args[0], row, INT64(64 * v)), BYTES)
                        builder.store(_sum(builder, builder.load(total), _entries_of(builder, table, code)), total)
                for part, total in zip(bytes_, sums):
                    builder.store(_sum(builder, builder.load(total), builder.zext(builder.load(part), _SUMS)), total)
            near = (builder.icmp_unsigned("<=", builder.load(total), splat(builder, args[3], 64)) for total in sums)
            return context.make_tuple(builder, found, [builder.bitcast(bits, INT64) for bits in near])

        return found(*given), generate

    return below


_SUMS, _NOTHING = ir.VectorType(ir.IntType(16), 64), ir.Constant(BYTES, [0] * 64)
_below_few, _below_many = _comparison(FEW), _comparison(MANY)


def _entries_of(builder, table, code):
    """The bytes of a table, one vector of them or four, that 64 codes name."""
    if len(table) == 1:
        read = ir.FunctionType(BYTES, [BYTES] * 2)
        read = cgutils.get_or_insert_function(builder.module, read, "llvm.x86.avx512.permvar.qi.512")
        return builder.call(read, [table[0], code])
    read = ir.FunctionType(BYTES, [BYTES] * 3)
    read = cgutils.get_or_insert_function(builder.module, read, "llvm.x86.avx512.vpermi2var.qi.512")
    lower, upper = (builder.call(read, [table[i], code, table[i + 1]]) for i in (0, 2))
    return builder.select(builder.icmp_signed("<", code, _NOTHING), upper, lower)


def _sum(builder, total, more):
    """The sum, or the highest number there is."""
    kind = total.type
    name = f"llvm.uadd.sat.v{kind.count}i{kind.element.width}"
    add = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind] * 2), name)
    return builder.call(add, [total, more])


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
