"""Codes as bits: fixed widths in 64-bit words, and Elias's codes of whole numbers."""

from vqcore.checks import as_choice, as_count
from vqcore.errors import FormatError, InputError
from vqcore.kernels import table_for

LAYOUTS = ("dense", "aligned", "sections")


def pack(codes, n_bits, layout="dense"):
    """Non-negative integers of any shape, n_bits each, as words (n_words,).

    Args:
        codes: integers in [0, 2**n_bits), taken in row-major order.
        n_bits: width of a code, 1 to 64.
        layout: "dense" lets codes cross words, the first in the lowest bits: byte for byte one little-endian
            stream of bits, least significant first. "aligned" lets no code cross a word. "sections" cuts the
            codes into 64 // n_bits sections of n_words each; word j holds the j-th code of every section, the
            first section's in the highest of the bits in use.

    Returns:
        uint64 words, little-endian; for a tensor int64 words of the same bits on its device. Spare bits are 0.

    Raises:
        InputError: the codes are not integers, or one of them does not fit.
    """
    n_bits, layout = as_count(n_bits, "n_bits", 1, 64), as_choice(layout, "layout", LAYOUTS)
    flat = table_for(codes, "codes").to_points(codes, "codes", integers=True).reshape(-1)
    packing = packing_for(flat)
    words = packing.pack(flat, n_bits, layout, n_words_for(len(flat), n_bits, layout))
    if words is None:
        low, high = table_for(flat).extent(flat)
        allowed = f"with n_bits={n_bits} they must lie in [0, {2**n_bits - 1}]"
        raise InputError(f"codes reach from {low} to {high}: {allowed}")
    return words


def unpack(words, n_bits, n_codes, layout="dense", dtype=None):
    """The codes (n_codes,) that `pack` put into the words.

    Args:
        dtype: an integer type that holds n_bits; None for int64, and for codes of 64 bits uint64 (in torch int64 of
            the same bits). A narrow type is the quicker for being less to write.

    Raises:
        InputError: the words are not uint64 (n_words,), in torch int64, or the dtype cannot hold the codes.
        FormatError: there are too few or too many words for n_codes, or a spare bit is set.
    """
    n_bits, layout = as_count(n_bits, "n_bits", 1, 64), as_choice(layout, "layout", LAYOUTS)
    n_codes = as_count(n_codes, "n_codes", low=0)
    packing = packing_for(words)
    read = packing.to_words(words)
    if read is None:
        raise InputError(f"words are {_said(words)}: they must be a row of uint64 as pack makes it (int64 in torch)")
    wanted = packing.codes_dtype(dtype, n_bits)
    if wanted is None:
        raise InputError(f"dtype={dtype!r}: it must be an integer type that can hold codes of {n_bits} bits, or None")
    n_words = n_words_for(n_codes, n_bits, layout)
    if len(read) != n_words:
        raise FormatError(f"{n_codes} codes of {n_bits} bits fill {n_words} words ({layout}): there are {len(read)}")
    if packing.spare_bits(read, n_bits, n_codes, layout):
        raise FormatError(f"bits beyond the {n_codes} codes are set: words are damaged, or n_codes or n_bits is wrong")
    return packing.unpack(read, n_bits, n_codes, layout, wanted)


def n_words_for(n_codes, n_bits, layout="dense"):
    """How many words n_codes codes of n_bits bits fill."""
    return -(-n_codes * n_bits // 64) if layout == "dense" else -(-n_codes // (64 // n_bits))


def elias_lengths(values, code="omega"):
    """Bits that Elias's gamma, delta or omega code spends on each of these positive integers, as int64 of their shape.

    Elias 1975, "Universal codeword sets and representations of the integers".
    """
    host, like = _positive(values)
    return table_for(like).from_host(_elias().lengths(host, as_choice(code, "code", _elias().CODES)), like)


def pack_elias(values, code="omega"):
    """Positive integers of any shape in Elias's gamma, delta or omega code, one after the other, as words.

    The first bit of a codeword comes first in the stream, which fills words as `pack` does; `elias_lengths`
    sums to the bits in use.
    """
    code = as_choice(code, "code", _elias().CODES)
    host, like = _positive(values)
    n_words = n_words_for(int(_elias().lengths(host, code).sum()), 1)
    words = _elias().write(host.reshape(-1), code, n_words)
    return table_for(like).from_host(words.view("<u8" if is_numpy(like) else "int64"), like)


def unpack_elias(words, n_values, code="omega"):
    """The n_values positive integers (n_values,) int64 that `pack_elias` put into the words.

    Raises:
        FormatError: the words end too early or too late, hold a number beyond 2**63 - 1, or a spare bit is set.
    """
    code = as_choice(code, "code", _elias().CODES)
    n_values = as_count(n_values, "n_values", low=0)
    read = packing_for(words).to_words(words)
    if read is None:
        raise InputError(f"words are {_said(words)}: they must be a row of uint64 as pack makes it (int64 in torch)")
    # A codeword takes a bit or more: more values than bits cannot be, and nothing is reserved for them.
    values = _elias().read(table_for(read).to_host(read), n_values, code) if n_values <= 64 * len(read) else None
    if values is None:
        raise FormatError(f"{len(read)} words do not hold {n_values} values in Elias's {code} code and nothing else")
    return table_for(words).from_host(values, words)


def packing_for(array):
    """The loops over bits for this kind of array: `kernels.packing`, or its twin for tensors."""
    if is_numpy(array):
        from vqcore.kernels import packing

        return packing
    from vqcore.kernels import packing_tensors

    return packing_tensors


def is_numpy(array):
    """Whether the array is for numpy, not for torch, to understand."""
    return type(array).__module__ == "numpy" or table_for(array).__name__.endswith("compiled")


def _elias():
    from vqcore.kernels import elias

    return elias


def _positive(values):
    """Positive integers below 2**63 as int64 on the host, and the array whose kind the answer must have."""
    table = table_for(values)
    array = table.to_points(values, "values", integers=True)
    host = table.to_host(array)
    if host.size and not (host.min() >= 1 and host.max() < 2**63):
        raise InputError(f"values reach from {host.min()} to {host.max()}: Elias codes are for 1 to 2**63 - 1")
    return host.astype("int64"), array


def _said(words):
    shape, dtype = getattr(words, "shape", None), getattr(words, "dtype", None)
    return f"{dtype} of shape {tuple(shape)}" if shape is not None else f"a {type(words).__name__}"
