"""Gradients in a few bits: every value becomes a sign and one of a few levels, right on average (QSGD)."""

import math

from vqcore.bits import LAYOUTS, elias_lengths, is_numpy, packing_for
from vqcore.checks import as_choice, as_count
from vqcore.errors import FormatError, InputError
from vqcore.kernels import table_for
from vqcore.messages import LARGEST, MAX_BITS, Message, checksum_of, fields_for, hash_of, name_of, opened

WRONG_SIGN = "a value of the message has a sign that no value can have"


class QSGD:
    """Unbiased coding of real vectors: |value| / norm lies between two of 2**n_bits levels and goes to one by chance.

    The chance is the place between the levels, so that the decoded vector is the true one on average. No value is
    off by more than norm / (2**n_bits - 1); a smaller bucket has a smaller norm, and costs 64 bits for it.

    Args:
        n_bits: bits of a level, 1 to 52; the sign is coded besides.
        bucket_size: values that share a norm; None for one norm in all.
        layout: "dense" or "aligned" for one sign bit above the level, or "sections" for a two-bit sign -1, 0, +1,
            section after section. See `vqcore.pack`.
        norm: "l2", or "max" for the largest magnitude, which with n_bits=1 is TernGrad.

    Alistarh, Grubic, Li, Tomioka, Vojnovic 2017, "QSGD: Communication-Efficient SGD via Gradient Quantization
    and Encoding"; Wen et al. 2017, "TernGrad".
    """

    def __init__(self, n_bits=4, bucket_size=None, layout="dense", norm="l2"):
        self.n_bits = as_count(n_bits, "n_bits", 1, MAX_BITS)
        self.bucket_size = None if bucket_size is None else as_count(bucket_size, "bucket_size")
        self.layout = as_choice(layout, "layout", LAYOUTS)
        self.norm = as_choice(norm, "norm", ("l2", "max"))

    def __repr__(self):
        return f"QSGD(n_bits={self.n_bits}, bucket_size={self.bucket_size}, layout={self.layout!r}, norm={self.norm!r})"

    def encode(self, vector, seed=0):
        """The Message of a vector of any shape; the same seed gives the same bits on numpy, torch CPU and CUDA.

        Raises:
            InputError: a value is not finite, or the vector might decode to something its dtype cannot hold.
        """
        key = hash_of(as_count(seed, "seed", low=0))
        values, shape, dtype, bucket_size = self._open(vector)
        scaling = self._scaling(values, bucket_size, dtype)
        fields = fields_for(len(values), self.n_bits, self.layout)
        words, norms = _rounding_for(values).write(values, bucket_size, scaling, key, fields), scaling[3]
        header = (shape, dtype, self.n_bits, bucket_size, self.layout, self.norm)
        return Message(words, norms, *header, checksum=checksum_of(words, norms, header))

    def decode(self, message):
        """The vector of a message, in its shape and dtype, on the device of its words.

        How it was coded is read from the message, not from this coder.

        Raises:
            FormatError: the message is damaged, or no coder made it.
        """
        words, norms, fields = opened(message)
        values = _rounding_for(words).read(words, message.bucket_size, norms, fields, message.dtype)
        if values is None:
            raise FormatError(WRONG_SIGN)
        # No value is larger than its norm, and norms are finite.
        if message.dtype != "float64" and len(norms) and float(norms.max()) > LARGEST[message.dtype]:
            if not all(map(math.isfinite, table_for(values).extent(values))):
                raise FormatError(f"the norms are too large for {message.dtype}")
        return values.reshape(message.shape)

    def variance(self, vector):
        """Expected squared error of coding this vector: the sum over buckets of (norm / s)**2 * sum p (1 - p).

        s is 2**n_bits - 1 and p is the fraction of |value| / norm * s. It is at most n / (4 s**2) * norm**2, and
        by Lemma 3.1 of the paper at most min(n / s**2, sqrt(n) / s) * norm**2.
        """
        values, _, dtype, bucket_size = self._open(vector)
        if not len(values):
            return 0.0
        _, scales, scaled_norms, norms = self._scaling(values, bucket_size, dtype)
        # Relative to the bucket of the largest values, so that a square leaves float64 only if the sum does.
        common, top, total = float(scales.min()), 2**self.n_bits - 1, 0.0
        n_full = len(values) // bucket_size
        for first, last in ((0, n_full), (n_full, len(scales))):
            if first < last:
                rows = abs(values[first * bucket_size : last * bucket_size].reshape(last - first, -1))
                scale, norm = scales[first:last, None], scaled_norms[first:last, None]
                fractions = rows * scale / (norm + (norm == 0)) * top % 1
                steps = norms[first:last] * common / top
                total += float(((fractions * (1 - fractions)).sum(1) * steps**2).sum())
        total = total / common / common
        if not math.isfinite(total):
            raise InputError("the variance of this vector leaves the range of float64: rescale the vector")
        return total

    def _open(self, vector):
        """The values flat, as float32 or float64, the vector's shape, its dtype by name, and the size of a bucket."""
        table = table_for(vector, "vector")
        points = table.to_points(vector, "vector")
        dtype = name_of(getattr(vector, "dtype", points.dtype))
        dtype = dtype if dtype in ("float16", "bfloat16") else name_of(points.dtype)
        size = max(math.prod(points.shape), 1)
        return points.reshape(-1), tuple(points.shape), dtype, min(self.bucket_size or size, size)

    def _scaling(self, values, bucket_size, dtype):
        """What the kernel knows of every bucket, once it is certain that no decoded value can leave the dtype."""
        scaling = _rounding_for(values).bucket_scales(values, bucket_size, self.norm)
        if not len(values):
            return scaling
        largest, scales, scaled_norms, norms = scaling
        if not math.isfinite(float(largest.max())):
            raise InputError("vector holds NaN or infinity: such a gradient has no direction, skip or clip it")
        if float(norms.max()) <= LARGEST[dtype]:
            return scaling  # and no value decodes to more than its norm
        top = 2**self.n_bits - 1
        levels = (largest * scales / (scaled_norms + (scaled_norms == 0)) * top // 1 + 1).clip(max=top)
        reach = float((levels / top * norms).max())
        if not reach <= LARGEST[dtype]:
            raise InputError(
                f"vector may decode to {reach:.3g}, which {dtype} cannot hold: "
                f"scale it down, pass a wider dtype, or use a larger n_bits or a smaller bucket_size"
            )
        return scaling


def elias_bits(message, code="omega", zeros="skip"):
    """Bits of the message if its levels are sent in an Elias code, norms included, header not.

    Args:
        message: a Message.
        code: "gamma", "delta" or "omega", the paper's.
        zeros: "skip" sends the number of levels that are not zero, the gaps before them, their signs and
            themselves: the paper's code for few levels. "code" sends every level plus one, and a sign after
            each that is not zero: the paper's for many.
    """
    zeros = as_choice(zeros, "zeros", ("skip", "code"))
    words, norms, fields = opened(message)
    packing = packing_for(words)
    codes = packing.unpack(words, fields.width, fields.n_codes, fields.layout, packing.codes_dtype(None, fields.width))
    if _rounding_for(words).wrong_signs(codes, fields):
        raise FormatError(WRONG_SIGN)
    codes = codes[: fields.n_values]
    levels = table_for(codes).to_host(codes & (2**message.n_bits - 1))
    places = levels.nonzero()[0]
    n_bits = len(places) + 64 * len(norms)
    if zeros == "code":
        return n_bits + int(elias_lengths(levels + 1, code).sum())
    gaps = places.copy()
    gaps[1:] -= places[:-1] + 1
    return n_bits + sum(int(elias_lengths(sent, code).sum()) for sent in ([len(places) + 1], gaps + 1, levels[places]))


def elias_bound(n_values, n_bits, zeros="skip"):
    """The paper's bound on the expected bits of n_values under one norm of 64 bits, for its omega code.

    It leaves out terms that vanish only for large numbers: a real stream may be longer, by a third where levels are
    in the tens.

    For zeros="skip" Theorem 3.2, for "code" the dense regime of Corollary 3.3: 2.8 bits a value where the number
    of levels is sqrt(n_values).
    """
    n, s = as_count(n_values, "n_values"), 2 ** as_count(n_bits, "n_bits", 1, MAX_BITS) - 1
    if as_choice(zeros, "zeros", ("skip", "code")) == "code":
        return (2 + math.log2(1 + (s * s + min(n, s * math.sqrt(n))) / n) / 2) * n + 64
    n_nonzero = s * (s + math.sqrt(n))
    return (3 + 1.5 * math.log2(2 * (s * s + n) / n_nonzero)) * n_nonzero + 64


def _rounding_for(array):
    """The loops that round: `kernels.rounding`, or its twin for tensors."""
    if is_numpy(array):
        from vqcore.kernels import rounding

        return rounding
    from vqcore.kernels import rounding_tensors

    return rounding_tensors
