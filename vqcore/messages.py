"""What QSGD sends: the packed signs and levels with all that decoding needs, and how damage to it is noticed."""

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from vqcore.bits import LAYOUTS, is_numpy, n_words_for, packing_for
from vqcore.checks import as_choice, as_count
from vqcore.errors import FormatError, InputError

MAX_BITS = 52  # of a level: beyond, a float64 has no fraction left to round by
LARGEST = {
    "float16": 65504.0,
    "bfloat16": (2 - 2**-7) * 2.0**127,
    "float32": (2 - 2**-23) * 2.0**127,
    "float64": (2 - 2**-52) * 2.0**1023,
}


class Fields(NamedTuple):
    """How values lie in words: levels of n_bits with a sign above, width bits in all; `ternary` signs in sections."""

    n_values: int
    n_bits: int
    width: int
    layout: str
    n_words: int

    @property
    def ternary(self):
        """Whether the sign is one of -1, 0, +1, coded as 0, 1, 2, and not 1 for a negative value."""
        return self.layout == "sections"

    @property
    def n_codes(self):
        """Values, and in sections the zeros behind them that fill the words, as in the source of this layout."""
        return self.n_words * (64 // self.width) if self.ternary else self.n_values


@dataclass(frozen=True, eq=False)
class Message:
    """A vector that QSGD has coded: all that `decode` needs, and a checksum of it.

    Attributes:
        words: the packed signs and levels, uint64 (int64 in torch).
        norms: (n_buckets,) float64.
        shape, dtype: of the vector; its device is that of the words.
        n_bits, bucket_size, layout, norm: as the coder had them; bucket_size is a number.
        checksum: 64 bits over everything above.
    """

    words: Any
    norms: Any
    shape: tuple
    dtype: str
    n_bits: int
    bucket_size: int
    layout: str
    norm: str
    checksum: int

    @property
    def n_values(self):
        """Length of the vector."""
        return math.prod(self.shape)

    @property
    def n_bits_codes(self):
        """Bits of all signs and levels."""
        return self.n_values * code_width(self.n_bits, self.layout)

    @property
    def n_bits_padding(self):
        """Bits of the words that carry nothing."""
        return 64 * len(self.words) - self.n_bits_codes

    @property
    def n_bits_norms(self):
        """64 bits for every bucket."""
        return 64 * len(self.norms)

    @property
    def n_bits_header(self):
        """64 bits each for the size of every axis, the size of a bucket, the checksum, and the four small options."""
        return 64 * (len(self.shape) + 3)

    @property
    def n_bits_total(self):
        """All bits that have to be sent."""
        return self.n_bits_codes + self.n_bits_padding + self.n_bits_norms + self.n_bits_header

    def __repr__(self):
        sizes = f"{self.n_bits} bits and sign, {len(self.norms)} norms, {self.n_bits_total} bits in all"
        return f"Message({self.dtype} {self.shape}, {sizes})"


def code_width(n_bits, layout):
    """Bits of a value: its level, and a sign of one bit, or of two in sections."""
    return n_bits + (2 if layout == "sections" else 1)


def fields_for(n_values, n_bits, layout):
    """How this many values lie in words."""
    width = code_width(n_bits, layout)
    return Fields(n_values, n_bits, width, layout, n_words_for(n_values, width, layout))


def opened(message):
    """The words, the norms and the Fields of a message in which everything agrees.

    Nothing is reserved for the values before their number has been held against the words.
    """
    if not isinstance(message, Message):
        raise InputError(f"message is a {type(message).__name__}: it must be a Message, as encode returns it")
    _check_header(message)
    packing, norms, n_values = packing_for(message.words), message.norms, message.n_values
    words, n_norms = packing.to_words(message.words), -(-n_values // message.bucket_size)
    fields = fields_for(n_values, message.n_bits, message.layout)
    same_kind = type(norms) is type(message.words) and getattr(norms, "device", None) == getattr(words, "device", None)
    if words is None or not same_kind or name_of(norms.dtype) != "float64":
        raise FormatError("the words of a message must be uint64 and its norms float64 (in torch int64 and float64)")
    if len(words) != fields.n_words or tuple(norms.shape) != (n_norms,):
        raise FormatError(
            f"shape {message.shape} takes {fields.n_words} words and {n_norms} norms, "
            f"but there are {len(words)} and {tuple(norms.shape)}"
        )
    if n_norms and not (float(norms.min()) >= 0 and float(norms.max()) < math.inf):
        raise FormatError(f"the norms reach from {float(norms.min())} to {float(norms.max())}")
    if checksum_of(words, norms, header_of(message)) != message.checksum:
        raise FormatError("the checksum is not that of the message: something in it was changed")
    if packing.spare_bits(words, fields.width, fields.n_codes, fields.layout):
        raise FormatError("bits of the words that belong to no value are set")
    return words, norms, fields


def header_of(message):
    return (message.shape, message.dtype, message.n_bits, message.bucket_size, message.layout, message.norm)


def _check_header(message):
    try:
        as_count(message.n_bits, "n_bits", 1, MAX_BITS)
        as_count(message.bucket_size, "bucket_size")
        as_choice(message.layout, "layout", LAYOUTS)
        as_choice(message.norm, "norm", ("l2", "max"))
        as_choice(message.dtype, "dtype", [d for d in LARGEST if d != "bfloat16" or not is_numpy(message.words)])
        if not isinstance(message.shape, tuple):
            raise InputError(f"shape={message.shape!r} is not a tuple")
        for size in message.shape:
            as_count(size, "shape", low=0)
        if message.bucket_size > max(message.n_values, 1):
            raise InputError(f"bucket_size={message.bucket_size} is beyond the {message.n_values} values")
    except InputError as error:
        raise FormatError(f"not a message: {error}") from None


def checksum_of(words, norms, header):
    """64 bits over the header, the words and the norms: the same in every library."""
    packing = packing_for(words)
    of_norms = packing.checksum(packing.bits_of(norms), hash_of((header, "norms")))
    return packing.checksum(words, hash_of(header)) ^ of_norms


def hash_of(thing):
    """64 bits from a number, or from a tuple of numbers and strings; the same in every process."""
    return int.from_bytes(hashlib.blake2b(repr(thing).encode(), digest_size=8).digest(), "little")


@lru_cache(maxsize=64)  # numpy makes the name anew each time, more slowly than a small vector is decoded
def name_of(dtype):
    """float64 for numpy.dtype("float64") and for torch.float64."""
    return getattr(dtype, "name", str(dtype)).rpartition(".")[2]
