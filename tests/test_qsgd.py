"""QSGD against the paper's bounds, exact fractions, printed words, its own twin for devices, and damaged messages."""

import dataclasses
import math
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from libraries import LIBRARIES, to_library, to_numpy

from vqcore import FormatError, InputError
from vqcore.bits import LAYOUTS, elias_lengths, pack, pack_elias, unpack, unpack_elias
from vqcore.kernels import packing_tensors, rounding, rounding_tensors
from vqcore.messages import Message, checksum_of, code_width, fields_for, hash_of, header_of
from vqcore.qsgd import QSGD, elias_bits, elias_bound

GOLDEN = [3.0, -4.0, 0.0, 12.0]  # norm 13


def source_encode(vector, n_bits, uniforms):
    """The gradient notebook that the sections come from, in vectorised numpy, its rounding turned the right way."""
    n_levels, norm = 2**n_bits - 1, np.linalg.norm(vector)
    share = np.abs(vector) / norm * n_levels
    below = np.floor(share)
    levels = (below + (uniforms < share - below)).astype(np.uint64)
    fields = ((np.sign(vector) + 1).astype(np.uint64) << np.uint64(n_bits)) | levels
    per_word = 64 // (n_bits + 2)
    n_words = -(-len(vector) // per_word)
    fields = np.pad(fields, (0, per_word * n_words - len(vector)), constant_values=1 << n_bits)
    words = np.zeros(n_words, np.uint64)
    for section in fields.reshape(per_word, n_words):
        words = (words << np.uint64(n_bits + 2)) | section
    return words, norm


def splitmix(key, n):
    """The first n numbers of splitmix64 after this state, as 53-bit fractions, in Python's integers."""
    uniforms = []
    for i in range(n):
        word = (key + (i + 1) * 0x9E3779B97F4A7C15) % 2**64
        word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        word = (word ^ (word >> 27)) * 0x94D049BB133111EB % 2**64
        uniforms.append(((word ^ (word >> 31)) >> 11) / 2**53)
    return np.array(uniforms)


def exact_variance(vector, n_bits, norm):
    """(norm / s)**2 * sum p (1 - p) in exact fractions; the norm of these vectors is rational."""
    s = 2**n_bits - 1
    shares = [abs(Fraction(x)) / norm * s for x in vector]
    fractions = [share - share // 1 for share in shares]
    return float(Fraction(norm) ** 2 / s**2 * sum(p * (1 - p) for p in fractions))


def test_the_golden_vector():
    for n_bits, printed in ((1, 78.0), (2, 8.666667), (3, 2.122449)):
        assert QSGD(n_bits).variance(GOLDEN) == pytest.approx(printed, abs=5e-7)
        assert QSGD(n_bits).variance(GOLDEN) == pytest.approx(exact_variance(GOLDEN, n_bits, 13), rel=1e-13)
    # TernGrad: largest magnitude times sum of magnitudes, less the sum of squares.
    assert QSGD(1, norm="max").variance(GOLDEN) == pytest.approx(59, rel=1e-14)
    # Shares at 7 levels: 1.615385, 2.153846, 0, 6.461538.
    seen = np.array([np.round(QSGD(3).decode(QSGD(3).encode(GOLDEN, seed)) * 7 / 13, 12) for seed in range(200)])
    assert [sorted(set(column)) for column in seen.T] == [[1, 2], [-3, -2], [0], [6, 7]]


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_words_of_the_source_layout(library):
    """12 fields of 5 bits in a word: the signs and levels that were drawn, section after section."""
    vector = np.random.default_rng(3).standard_normal(14)
    vector[4] = 0
    message = QSGD(3, layout="sections").encode(to_library(vector, library), seed=1)
    levels = np.round(to_numpy(QSGD(3).decode(message)) / np.linalg.norm(vector) * 7).astype(int)
    fields = (np.sign(vector).astype(int) + 1 << 3) | abs(levels)
    words = []
    for j in range(2):
        section = [fields[i * 2 + j] if i * 2 + j < 14 else 8 for i in range(12)]
        words.append(int("".join(f"{field:05b}" for field in section), 2))
    assert [int(word) for word in message.words] == words


@pytest.mark.parametrize("n_bits", [1, 3, 4, 9])
@pytest.mark.parametrize("n", [1, 14, 1000, 5000])
def test_with_the_same_dice_the_source_writes_the_same_words(n_bits, n):
    vector = np.random.default_rng(n).standard_normal(n)
    message = QSGD(n_bits, layout="sections").encode(vector, seed=6)
    words, norm = source_encode(vector, n_bits, splitmix(hash_of(6), n))
    np.testing.assert_array_equal(message.words, words)
    assert message.norms[0] == pytest.approx(norm, rel=1e-14)


@pytest.mark.parametrize("n_bits", [1, 2, 3, 4, 5, 8, 13, 20, 24, 31, 40, 52])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_value_is_off_by_more_than_a_step(n_bits, layout):
    rng = np.random.default_rng(n_bits)
    kinds = [rng.standard_normal(n) * scale for n in (1, 2, 5, 64, 129) for scale in (1, 1e200, 1e-200)]
    kinds += [np.eye(1, n, n // 2)[0] * -3 for n in range(1, 130, 16)] + [np.full(7, 2.5), np.zeros(9), np.array([3.0])]
    for vector in kinds:
        for norm in ("l2", "max"):
            coder = QSGD(n_bits, layout=layout, norm=norm)
            decoded = coder.decode(coder.encode(vector, seed=n_bits))
            scale = abs(vector).max() or 1
            size = np.linalg.norm(vector / scale) if norm == "l2" else 1
            errors = abs(decoded / scale - vector / scale)
            assert errors.max() <= size * (1 / (2**n_bits - 1) + 8 * np.finfo(float).eps)
            assert (decoded * np.sign(vector) >= 0).all() and not decoded[vector == 0].any()


@pytest.mark.parametrize("n_bits", range(1, 53))
def test_a_lone_value_and_zeros_come_back(n_bits):
    for vector in ([3.0], [0.0, -5.0, 0.0], [0.0], np.zeros(100), [1e200, 0], [-5e-324, 0]):
        np.testing.assert_allclose(QSGD(n_bits).decode(QSGD(n_bits).encode(vector)), vector, rtol=2.0 ** (2 - n_bits))
        assert n_bits > 45 or (QSGD(n_bits).decode(QSGD(n_bits).encode(vector)) == vector).all()


@pytest.mark.parametrize("n_bits", [1, 2, 4, 8])
@pytest.mark.parametrize("drawn_by", ["seed", "bucket"])
def test_unbiased_with_the_exact_variance(n_bits, drawn_by):
    vector, n_draws = np.random.default_rng(0).standard_normal(64), 2000
    if drawn_by == "seed":
        coder = QSGD(n_bits)
        draws = np.array([coder.decode(coder.encode(vector, seed)) for seed in range(n_draws)])
    else:
        coder = QSGD(n_bits, bucket_size=64)
        draws = coder.decode(coder.encode(np.tile(vector, (n_draws, 1)), seed=0))
    step = np.linalg.norm(vector) / (2**n_bits - 1)
    fractions = abs(vector) / step % 1
    spread = step * np.sqrt(fractions * (1 - fractions) / n_draws)
    assert (abs(draws.mean(0) - vector) / spread).max() <= 4.5
    errors = ((draws - vector) ** 2).sum(1)
    assert ((draws - vector) ** 2).mean() <= 0.25 * step**2
    assert abs(errors.mean() - QSGD(n_bits).variance(vector)) <= 4.5 * errors.std() / math.sqrt(n_draws)
    # No two values share their dice.
    up = (abs(draws) > abs(vector)).astype(float)
    assert abs(np.corrcoef(up[:, fractions > 1e-3].T) - np.eye((fractions > 1e-3).sum())).max() < 5 / math.sqrt(n_draws)


@pytest.mark.parametrize(("n", "n_bits", "printed"), [(1024, 3, 2.636), (1024, 5, None), (1024, 8, 0.002655)])
def test_lemma_3_1(n, n_bits, printed):
    """Variance and number of values that are not zero, for Gaussian vectors."""
    s, draws = 2**n_bits - 1, []
    for seed in range(20):
        vector = np.random.default_rng(seed).standard_normal(n)
        draws.append(QSGD(n_bits).variance(vector) / (vector**2).sum())
        assert draws[-1] <= min(n / s**2, math.sqrt(n) / s) and draws[-1] <= n / (4 * s**2)
    assert printed is None or np.mean(draws) == pytest.approx(printed, rel=0.05)
    coder = QSGD(n_bits)
    n_nonzero = np.mean([np.count_nonzero(coder.decode(coder.encode(vector, seed))) for seed in range(50)])
    assert n_nonzero <= s * (s + math.sqrt(n))


@settings(max_examples=80)
@given(
    hnp.arrays(np.float64, hnp.array_shapes(max_dims=3, max_side=40), elements=st.floats(-1e3, 1e3, width=32)),
    st.integers(1, 20),
    st.one_of(st.none(), st.integers(1, 50)),
    st.sampled_from(LAYOUTS),
    st.integers(0, 2**64),
)
def test_properties(vector, n_bits, bucket_size, layout, seed):
    coder = QSGD(n_bits, bucket_size, layout)
    message = coder.encode(vector, seed)
    decoded = coder.decode(message)
    assert decoded.shape == vector.shape and decoded.dtype == vector.dtype
    assert (decoded * np.sign(vector) >= 0).all() and np.isfinite(decoded).all()
    again = coder.encode(vector.copy(), seed)
    assert again.checksum == message.checksum and again.words.tobytes() == message.words.tobytes()
    # A power of two scales the answer and changes no code.
    large = coder.encode(vector * 2.0**300, seed)
    assert large.words.tobytes() == message.words.tobytes()
    np.testing.assert_array_equal(coder.decode(large), decoded * 2.0**300)
    # The sum of the buckets' variances.
    flat, size = vector.reshape(-1), bucket_size or vector.size
    whole = sum(QSGD(n_bits).variance(flat[i : i + size]) for i in range(0, flat.size, size))
    assert coder.variance(vector) == pytest.approx(whole, rel=1e-9, abs=1e-18)
    total = message.n_bits_codes + message.n_bits_padding + message.n_bits_norms + message.n_bits_header
    assert message.n_bits_total == total and message.n_bits_codes == vector.size * code_width(n_bits, layout)
    assert 64 * len(message.words) == message.n_bits_codes + message.n_bits_padding


@pytest.mark.parametrize("decades", [0, 30, 250])
@pytest.mark.parametrize("norm", ["l2", "max"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_seed_gives_the_same_bits_in_every_library_and_in_the_code_for_devices(dtype, norm, decades):
    """Down to squares that vanish in float64, if they are not scaled first."""
    for n, bucket_size in ((1, None), (5, 1), (1000, None), (1025, 7), (1025, 1024), (5000, 2000), (5000, None)):
        rng = np.random.default_rng(n)
        vector = (rng.standard_normal(n) * 10 ** -rng.uniform(0, decades, n)).astype(dtype)
        tensor, size = torch.from_numpy(vector), min(bucket_size or n, n)
        scaling = rounding.bucket_scales(vector, size, norm)
        on_device = rounding_tensors.bucket_scales_on_device(tensor, size, norm)
        for ours, theirs in zip(scaling, on_device, strict=True):
            np.testing.assert_array_equal(theirs.numpy(), ours)
        for n_bits, layout in ((1, "dense"), (4, "sections"), (13, "aligned"), (40, "aligned"), (52, "sections")):
            fields = fields_for(n, n_bits, layout)
            words = rounding.write(vector, size, scaling, 2**64 - 5, fields)
            theirs = rounding_tensors.draw_codes_on_device(tensor, size, on_device, 2**64 - 5, fields)
            packed = packing_tensors.pack_on_device(theirs, fields.width, layout, fields.n_words)
            np.testing.assert_array_equal(packed.numpy().view(np.uint64), words)
            np.testing.assert_array_equal(unpack(words, fields.width, fields.n_codes, layout), theirs.numpy())
            values = rounding.read(words, size, scaling[3], fields, "float64")
            theirs = rounding_tensors.values_of_on_device(theirs[:n], size, on_device[3], fields)
            assert theirs.numpy().tobytes() == values.tobytes()  # the sign of a zero included
        for library in LIBRARIES:
            coder = QSGD(4, bucket_size, norm=norm)
            mine, message = coder.encode(to_library(vector, library), 9), coder.encode(vector, 9)
            assert to_numpy(mine.words).tobytes() == message.words.tobytes() and mine.checksum == message.checksum
            np.testing.assert_array_equal(to_numpy(coder.decode(mine)), coder.decode(message))
            assert coder.variance(to_library(vector, library)) == pytest.approx(coder.variance(vector), rel=1e-9)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,), (20, 1), (4, 5, 6)])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
def test_shape_dtype_and_device_are_kept(shape, dtype, library):
    vector = to_library(np.random.default_rng(1).standard_normal(shape), library)
    if library == "numpy":
        if dtype == "bfloat16":
            return
        vector = np.asarray(vector).astype(dtype)
    else:
        vector = vector.to(getattr(torch, dtype)).requires_grad_()
    for layout in LAYOUTS:
        coder = QSGD(7, 8, layout)
        decoded = coder.decode(coder.encode(vector))
        assert type(decoded) is type(vector) and tuple(decoded.shape) == shape and decoded.dtype == vector.dtype
        assert getattr(decoded, "device", None) == getattr(vector, "device", None)
        exact = to_numpy(vector.double() if library != "numpy" else vector).astype(float)
        errors = abs(to_numpy(decoded.double() if library != "numpy" else decoded) - exact)
        assert (errors <= np.linalg.norm(exact) / 127 + abs(exact) * 2**-7).all()


@pytest.mark.parametrize("library", LIBRARIES)
def test_extreme_scales(library):
    """Nothing infinite comes out: what a dtype might not hold after decoding is refused beforehand."""
    vector = np.random.default_rng(2).standard_normal(1000)
    for scale, dtype in ((1e200, float), (1e-200, float), (1e-310, float), (1e37, "f4"), (1e-40, "f4"), (1e4, "f2")):
        scaled = to_library((vector * scale).astype(dtype), library)
        coder = QSGD(6, bucket_size=100)
        decoded = to_numpy(coder.decode(coder.encode(scaled))).astype(float) / scale
        assert np.isfinite(decoded).all() and abs(decoded - vector).max() <= np.linalg.norm(vector) / 63
    for scaled in (np.full(1000, 6e4, "f2"), np.full(1000, 3e38, "f4"), np.full(1000, 1e308)):
        with pytest.raises(InputError, match="cannot hold"):
            QSGD(1).encode(to_library(scaled, library))
        message = QSGD(1, norm="max").encode(to_library(scaled, library))
        np.testing.assert_array_equal(to_numpy(QSGD().decode(message)), scaled)
    with pytest.raises(InputError, match="variance"):
        QSGD(2).variance(to_library(vector * 1e200, library))


def test_bad_arguments_are_refused():
    for bad in ({"n_bits": 0}, {"n_bits": 53}, {"n_bits": 2.5}, {"n_bits": True}, {"n_bits": "4"}, {"n_bits": None}):
        with pytest.raises(InputError, match="n_bits"):
            QSGD(**bad)
    for bad in (0, -1, 2.0, "512"):
        with pytest.raises(InputError, match="bucket_size"):
            QSGD(bucket_size=bad)
    with pytest.raises(InputError, match="layout"):
        QSGD(layout="sparse")
    with pytest.raises(InputError, match="norm"):
        QSGD(norm="l1")
    for vector in ([1, math.nan], [math.inf], np.array([True]), np.array([1j]), np.array(["1"]), None, [[1], [2, 3]]):
        with pytest.raises(InputError, match="vector"):
            QSGD().encode(vector)
        with pytest.raises(InputError, match="vector"):
            QSGD().variance(vector)
    for seed in (-1, 1.0, None, True):
        with pytest.raises(InputError, match="seed"):
            QSGD().encode([1.0], seed)
    for thing in (None, {}, np.zeros(3)):
        with pytest.raises(InputError, match="message"):
            QSGD().decode(thing)
    # numpy's integers are whole numbers too
    assert QSGD(np.int64(4), np.uint8(5)).encode([1.0, 2.0]).n_bits == 4


def signed(message, **changes):
    """The message with other contents and a checksum that agrees with them: not damage but a lie."""
    changed = dataclasses.replace(message, **changes)
    return dataclasses.replace(changed, checksum=checksum_of(changed.words, changed.norms, header_of(changed)))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("library", LIBRARIES)
def test_damaged_messages_are_refused(library, layout):
    vector = to_library(np.random.default_rng(4).standard_normal((10, 100)), library)
    coder = QSGD(4, 300, layout)
    message = coder.encode(vector)
    words, norms = message.words, message.norms
    assert isinstance(message, Message)
    double = to_library(np.tile(to_numpy(words), 2), library)
    lies = [
        {"words": words[:-1]}, {"words": words[:1]}, {"words": words[:0]}, {"words": double[: len(words) + 1]},
        {"words": double}, {"words": words[None]}, {"words": norms}, {"words": None}, {"words": [1, 2]},
        {"norms": norms[:-1]}, {"norms": norms * math.nan}, {"norms": -norms}, {"norms": norms * math.inf},
        {"norms": None}, {"norms": words}, {"norms": norms[:, None]},
        {"shape": (10,)}, {"shape": (-1,)}, {"shape": (2**60,)}, {"shape": (2**31, 2**31)}, {"shape": 1000},
        {"shape": (10, 100.0)}, {"shape": None}, {"shape": [10, 100]},
        {"dtype": "int64"}, {"dtype": None}, {"dtype": "object"}, {"n_bits": 0}, {"n_bits": 53}, {"n_bits": 2.0},
        {"bucket_size": 0}, {"bucket_size": 2**60}, {"bucket_size": 100}, {"layout": "sparse"}, {"norm": "l1"},
    ]  # fmt: skip
    for lie in lies:
        with pytest.raises(FormatError):
            coder.decode(dataclasses.replace(message, **lie))
        try:
            lying = signed(message, **lie)
        except Exception:
            continue  # not even a checksum can be made
        with pytest.raises(FormatError):
            coder.decode(lying)
    # What would decode to something else, were it not for the checksum.
    for change in ({"shape": (100, 10)}, {"dtype": "float32"}, {"norm": "max"}, {"checksum": 0}, {"norms": norms * 2}):
        with pytest.raises(FormatError, match="checksum"):
            coder.decode(dataclasses.replace(message, **change))
    bits = to_numpy(words).view(np.uint64)
    for bit in range(0, 64 * len(words), 7):
        flipped = bits.copy()
        flipped[bit // 64] ^= np.uint64(1) << np.uint64(bit % 64)
        flipped = to_library(flipped.view(to_numpy(words).dtype), library)
        with pytest.raises(FormatError, match="checksum"):
            coder.decode(dataclasses.replace(message, words=flipped))


@pytest.mark.parametrize("order", [">", "<"])
def test_arrays_are_read_as_they_lie(order):
    vector = np.random.default_rng(5).standard_normal(600)
    for layout in LAYOUTS:
        coder = QSGD(4, 100, layout)
        message = coder.encode(vector)
        for values in (np.repeat(vector, 2)[::2], vector.astype(order + "f8"), torch.from_numpy(np.repeat(vector, 2))[::2]):
            again = coder.encode(values)
            np.testing.assert_array_equal(to_numpy(again.words).view(np.uint64), message.words)
        words, norms = message.words.astype(order + "u8"), message.norms.astype(order + "f8")
        for lies in ((words, norms), (np.repeat(words, 2)[::2], np.repeat(norms, 2)[::2])):
            again = dataclasses.replace(message, words=lies[0], norms=lies[1])
            np.testing.assert_array_equal(coder.decode(again), coder.decode(message))


@pytest.mark.parametrize("library", LIBRARIES)
def test_signs_that_no_value_has_are_refused(library):
    message = QSGD(4).encode(to_library(np.arange(1.0, 11.0), library))
    codes = to_numpy(unpack(message.words, 5, 10))
    codes[3] = 16
    with pytest.raises(FormatError, match="sign"):
        QSGD().decode(signed(message, words=pack(to_library(codes, library), 5)))
    message = QSGD(4, layout="sections").encode(to_library(np.arange(1.0, 12.0), library))
    for place, code in ((0, 0b111111), (0, 0b110000), (0, 0b010001), (19, 0b100001), (19, 0)):
        codes = to_numpy(unpack(message.words, 6, 20, "sections"))
        codes[place] = code
        with pytest.raises(FormatError, match="sign"):
            QSGD().decode(signed(message, words=pack(to_library(codes, library), 6, "sections")))
    with pytest.raises(FormatError, match="too large"):
        QSGD().decode(signed(message, norms=message.norms * 1e300, dtype="float16"))


def test_lies_about_the_length_reserve_nothing():
    message = QSGD().encode(np.ones(1000))
    for lie in ({"shape": (2**60,)}, {"shape": (2**20, 2**20)}, {"bucket_size": 2**60}, {"n_bits": 52}):
        for lying in (dataclasses.replace(message, **lie), signed(message, **lie)):
            tracemalloc.start()
            with pytest.raises(FormatError):
                QSGD().decode(lying)
            assert tracemalloc.get_traced_memory()[1] < 2**16
            tracemalloc.stop()


def test_no_global_generator_is_touched():
    np.random.seed(0)
    before = np.random.get_state()[1].tolist(), torch.random.get_rng_state().tolist()
    QSGD().encode(torch.randn(0)), QSGD().encode(GOLDEN)
    assert before == (np.random.get_state()[1].tolist(), torch.random.get_rng_state().tolist())


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("zeros", ["skip", "code"])
def test_the_elias_size_is_that_of_a_stream_that_can_be_read(zeros, library):
    """The stream is written, read and decoded again, and is as long as is said."""
    n, n_bits = 1024, 5 if zeros == "code" else 1
    vector = to_library(np.random.default_rng(0).standard_normal(n), library)
    message = QSGD(n_bits).encode(vector)
    decoded = to_numpy(QSGD().decode(message))
    levels = np.round(abs(decoded) / float(message.norms[0]) * (2**n_bits - 1)).astype(int)
    for code in ("gamma", "delta", "omega"):
        n_signs = np.count_nonzero(decoded)
        if zeros == "code":
            np.testing.assert_array_equal(unpack_elias(pack_elias(levels + 1, code), n, code) - 1, levels)
            n_sent = int(elias_lengths(levels + 1, code).sum())
        else:
            sent = np.concatenate([[n_signs + 1], np.diff(np.flatnonzero(levels), prepend=-1), levels[levels > 0]])
            read = unpack_elias(pack_elias(sent, code), len(sent), code)
            again = np.zeros(n, int)
            again[np.cumsum(read[1 : read[0]]) - 1] = read[read[0] :]
            np.testing.assert_array_equal(again, levels)
            n_sent = int(elias_lengths(sent, code).sum())
        assert elias_bits(message, code, zeros) == n_sent + n_signs + 64
    # The bound leaves out what vanishes for large numbers; these are small.
    assert 0.5 < elias_bits(message, "omega", zeros) / elias_bound(n, n_bits, zeros) < 1.1


def test_the_bound_is_the_one_of_the_paper():
    # Corollary 3.3: at sqrt(n) levels 2 + log2(3) / 2 = 2.792 bits a value.
    assert elias_bound((2**5 - 1) ** 2, 5, "code") - 64 == pytest.approx(2.792 * 31**2, rel=5e-4)
    assert elias_bits(QSGD(3).encode(np.zeros(0))) == 1
    assert elias_bits(QSGD(3).encode(np.zeros(5)), zeros="code") == 64 + 5
