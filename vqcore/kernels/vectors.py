"""What numba cannot say: sums that stay in the processor's vector registers, written in LLVM's own vectors.

LLVM's vectorizer leaves running sums in memory between two features. Here they are held in registers, which makes a
search for the nearest codeword as fast as a matrix product of the same size.
"""

import numba
from llvmlite import ir
from numba.core import cgutils
from numba.core.codegen import get_host_cpu_features

LANES = 64  # points that lie side by side
FOLD = 4  # codewords that pass over the lanes together
# Those that numba compiles for: it may have been told other ones than the processor has.
_TOLD = numba.config.CPU_FEATURES
FEATURES = (get_host_cpu_features() if _TOLD is None else _TOLD).split(",")
# FOLD sums for each of TILE vectors of lanes fit the registers: there are 32 wide ones with AVX-512.
VECTOR_BYTES, TILE = (64, 4) if "+avx512f" in FEATURES else (32, 2)

PERMUTES = "+avx512vbmi" in FEATURES  # whether an instruction moves the bytes of a vector at will
INT32, INT64, FLOAT, DOUBLE = ir.IntType(32), ir.IntType(64), ir.FloatType(), ir.DoubleType()
BYTES = ir.VectorType(ir.IntType(8), 64)


def pointer_to(context, builder, kind, array, *terms):
    """Where the element lies in a flat or contiguous array whose index is the sum of the terms."""
    index = terms[0] if len(terms) == 1 else builder.add(*terms)
    return builder.gep(context.make_array(kind)(context, builder, array).data, [index])


def n_columns(context, builder, kind, array):
    """The second entry of the shape of an array."""
    return builder.extract_value(context.make_array(kind)(context, builder, array).shape, 1)


def load(builder, pointer, kind):
    """A vector of that kind, from anywhere."""
    loaded = builder.load(builder.bitcast(pointer, kind.as_pointer()))
    loaded.align = 1
    return loaded


def store(builder, value, pointer):
    """Write a vector, anywhere."""
    builder.store(value, builder.bitcast(pointer, value.type.as_pointer())).align = 1


def splat(builder, value, n):
    """A vector of n times the same value."""
    kind = ir.VectorType(value.type, n)
    alone = builder.insert_element(ir.Constant(kind, ir.Undefined), value, INT32(0))
    zeros = ir.Constant(ir.VectorType(INT32, n), [0] * n)
    return builder.shuffle_vector(alone, ir.Constant(kind, ir.Undefined), zeros)


def any_of(builder, items):
    """The elements of a vector of integers by a bitwise or."""
    found = builder.extract_element(items, INT32(0))
    for i in range(1, items.type.count):
        found = builder.or_(found, builder.extract_element(items, INT32(i)))
    return found


def resized(builder, value, kind):
    """Integers of a vector with zeros above them, or without their upper bits."""
    own, wanted = value.type.element.width, kind.element.width
    return value if own == wanted else (builder.zext if own < wanted else builder.trunc)(value, kind)


def masked_load(builder, pointer, kind, mask):
    """Those elements of a vector that the mask names, zeros elsewhere; nothing else is read."""
    bits = {FLOAT: 32, DOUBLE: 64}[kind.element]
    vectors, reading = kind.as_pointer(), f"llvm.masked.load.v{kind.count}f{bits}.p0v{kind.count}f{bits}"
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(kind, [vectors, INT32, mask.type, kind]), reading
    )
    nothing = ir.Constant(kind, [0.0] * kind.count)
    return builder.call(function, [builder.bitcast(pointer, vectors), INT32(4), mask, nothing])


def rows_from(builder, some, first, n, row_size):
    """Where n rows of a contiguous table begin, those that an array names from `first` on; beyond its end, the last one."""
    last_one, starts = builder.sub(builder.extract_value(some.shape, 0), INT64(1)), []
    for i in range(n):
        at = builder.add(first, INT64(i))
        at = builder.select(builder.icmp_signed("<", at, last_one), at, last_one)
        starts.append(builder.mul(builder.load(builder.gep(some.data, [at])), row_size))
    return starts


def first_few(builder, n, count):
    """A mask of n elements, true for as many of the first as `count` says."""
    counting = ir.Constant(ir.VectorType(INT64, n), list(range(n)))
    return builder.icmp_signed("<", counting, splat(builder, count, n))


def turned_over(builder, rows):
    """The columns of as many rows as there are elements in a row, a power of two."""
    n, tile, block = len(rows), list(rows), 1
    # Blocks beside the diagonal change places: of 1, 2, 4 ... values.
    while block < n:
        lower = [j if not j & block else n + j - block for j in range(n)]
        upper = [j + block if not j & block else n + j for j in range(n)]
        for i in (i for i in range(n) if not i & block):
            pair = tile[i], tile[i + block]
            for k, mask in ((i, lower), (i + block, upper)):
                tile[k] = builder.shuffle_vector(*pair, ir.Constant(ir.VectorType(INT32, n), mask))
        block *= 2
    return tile


def sums_of_products(builder, starts, n_vectors, n_terms, lanes_of, factor_of, add):
    """For every start j and every vector v of lanes: start j plus the sum over terms t of factor j times lanes v.

    Args:
        starts: vectors.
        n_vectors: how many vectors of lanes.
        n_terms: how many terms, an int64.
        lanes_of: lanes_of(t), a list of vectors.
        factor_of: factor_of(j, t), a vector.
        add: add(total, lanes, factor), the total with one more product.
    """
    sums = [[cgutils.alloca_once(builder, start.type) for _ in range(n_vectors)] for start in starts]
    for start, row in zip(starts, sums):
        for total in row:
            builder.store(start, total)
    with cgutils.for_range(builder, n_terms) as loop:
        lanes = lanes_of(loop.index)
        for j, row in enumerate(sums):
            factor = factor_of(j, loop.index)
            for values, total in zip(lanes, row):
                builder.store(add(builder.load(total), values, factor), total)
    return [[builder.load(total) for total in row] for row in sums]
