"""Packed bits against numpy's packbits, faiss's stream of bits, Python's integers and printed codewords."""

import itertools

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from hypothesis.extra import numpy as hnp
from libraries import LIBRARIES, to_library, to_numpy

from vqcore import FormatError, InputError
from vqcore.bits import LAYOUTS, elias_lengths, n_words_for, pack, pack_elias, unpack, unpack_elias
from vqcore.kernels import lanes, packing, packing_tensors

DENSE_STREAMS = {3: "d1581f", 5: "410c52cc01", 11: "0110c000085000031c0000"}
DENSE_WORDS = [0x300500800C01001, 0x1802C0500901001C, 0x2003C0700D0]
# gamma, delta, omega, as printed in textbooks
ELIAS = {
    1: ("1", "1", "0"),
    2: ("010", "0100", "100"),
    3: ("011", "0101", "110"),
    4: ("00100", "01100", "101000"),
    7: ("00111", "01111", "101110"),
    8: ("0001000", "00100000", "1110000"),
    16: ("000010000", "001010000", "10100100000"),
    100: ("0000001100100", "00111100100", "1011011001000"),
}
NAMES = ("gamma", "delta", "omega")
INTEGERS = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"]


def random_codes(n_bits, n, seed=0):
    return np.random.default_rng((seed, n_bits, n)).integers(0, 2**n_bits - 1, n, np.uint64, endpoint=True)


def packbits(codes, n_bits):
    """The dense words by numpy alone: one row of bits per code, the rows in one line."""
    bits = (codes.astype(np.uint64)[:, None] >> np.arange(n_bits, dtype=np.uint64)) & np.uint64(1)
    stream = np.packbits(bits.astype(np.uint8).reshape(-1), bitorder="little")
    return np.pad(stream, (0, -len(stream) % 8)).view("<u8")


def one_by_one(codes, n_bits, layout):
    """The words in Python's own integers."""
    per_word = 64 // n_bits
    words = [0] * -(-len(codes) // per_word)
    for i, code in enumerate(codes.tolist()):
        aligned, in_sections = divmod(i, per_word), (i % len(words), per_word - 1 - i // len(words))
        word, place = aligned if layout == "aligned" else in_sections
        words[word] |= code << place * n_bits
    return np.array(words, np.uint64)


@pytest.mark.parametrize("library", LIBRARIES)
def test_printed_words(library):
    for n_bits, stream in DENSE_STREAMS.items():
        words = pack(to_library([1, 2, 3, 4, 5, 6, 7, 0], library), n_bits)
        assert to_numpy(words).tobytes().hex() == stream + "0" * (16 * len(words) - len(stream))
    words = pack(to_library(np.arange(1, 17), library), 11)
    assert [int(w) % 2**64 for w in words] == DENSE_WORDS
    # Two bits of sign above three of level: +7, -1, 0, +3 and eight times nothing; then the levels 0...7, 0...5.
    fields = to_library([0b10111, 0b00001, 0b01000, 0b10011] + 8 * [0b01000], library)
    assert [int(w) for w in pack(fields, 5, "sections")] == [0xB85134210842108]
    fields = to_library([0b10000 + i % 8 for i in range(14)] + 10 * [0b01000], library)
    assert [int(w) for w in pack(fields, 5, "sections")] == [0x84A9684A8842108, 0x8CEB78CEA842108]


@pytest.mark.parametrize("n_bits", range(1, 65))
def test_every_width_and_length_survives(n_bits):
    for n in range(258):
        codes = random_codes(n_bits, n)
        words = pack(codes, n_bits)
        np.testing.assert_array_equal(words, packbits(codes, n_bits))
        np.testing.assert_array_equal(unpack(words, n_bits, n).astype(np.uint64), codes)


@pytest.mark.parametrize("layout", ["aligned", "sections"])
@pytest.mark.parametrize("n_bits", [*range(1, 23), 31, 32, 33, 63, 64])
def test_layouts_where_no_code_crosses_a_word(n_bits, layout):
    for n in (0, 1, 2, 5, 13, 14, 63, 64, 65, 129, 5000):
        codes = random_codes(n_bits, n)
        words = pack(codes, n_bits, layout)
        np.testing.assert_array_equal(words, one_by_one(codes, n_bits, layout))
        np.testing.assert_array_equal(unpack(words, n_bits, n, layout).astype(np.uint64), codes)


@pytest.mark.parametrize("n_bits", [*range(1, 14), 16, 17, 20, 31])
def test_dense_is_the_stream_of_faiss(n_bits):
    codes = random_codes(n_bits, 1001)
    stream = np.zeros((1001 * n_bits + 7) // 8, np.uint8)
    writer = faiss.BitstringWriter(faiss.swig_ptr(stream), len(stream))
    for code in codes.tolist():
        writer.write(code, n_bits)
    np.testing.assert_array_equal(pack(codes, n_bits).view(np.uint8)[: len(stream)], stream)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_torch_has_the_same_bits_on_the_cpu_and_in_the_code_for_devices(layout):
    for n_bits, n in itertools.product([1, 3, 7, 8, 11, 16, 21, 31, 32, 33, 40, 63, 64], [0, 1, 13, 64, 300]):
        codes = random_codes(n_bits, n)
        words = pack(codes, n_bits, layout).view(np.int64)
        tensor = torch.from_numpy(codes.view(np.int64))
        on_device = packing_tensors.pack_on_device(tensor, n_bits, layout, len(words))
        for packed in (pack(tensor, n_bits, layout), on_device):
            assert packed.dtype == torch.int64
            np.testing.assert_array_equal(packed.numpy(), words)
        read = torch.from_numpy(words)
        assert torch.equal(unpack(read, n_bits, n, layout), tensor)
        assert torch.equal(packing_tensors.unpack_on_device(read, n_bits, n, layout), tensor)
        assert not packing_tensors.spare_bits_on_device(read, n_bits, n, layout)
        if 64 * len(words) > n * n_bits:
            assert packing_tensors.spare_bits_on_device(~read, n_bits, n, layout)


@settings(max_examples=60)
@given(st.data())
def test_any_codes_survive(data):
    layout, n_bits = data.draw(st.sampled_from(LAYOUTS)), data.draw(st.integers(1, 63))
    codes = data.draw(hnp.arrays(np.int64, st.integers(0, 300), elements=st.integers(0, 2**n_bits - 1)))
    words = pack(codes, n_bits, layout)
    assert len(words) == n_words_for(len(codes), n_bits, layout)
    np.testing.assert_array_equal(unpack(words, n_bits, len(codes), layout), codes)
    if len(codes):
        wrong = codes.copy()
        wrong[data.draw(st.integers(0, len(codes) - 1))] = data.draw(st.sampled_from([2**63 - 1, -1, -(2**63)]))
        if wrong.max() >= 2**n_bits or wrong.min() < 0:
            with pytest.raises(InputError, match="n_bits"):
                pack(wrong, n_bits, layout)


@pytest.mark.parametrize("dtype", ["int8", "uint8", ">i2", "uint16", "int32", "uint32", "int64", "uint64", ">u8"])
def test_every_integer_dtype_and_stride(dtype):
    codes = (np.arange(120) % 100).astype(dtype)
    wanted = pack(np.arange(120) % 100, 7)
    codes.setflags(write=False)
    np.testing.assert_array_equal(pack(codes, 7), wanted)
    np.testing.assert_array_equal(pack(codes.reshape(10, 12), 7), wanted)
    np.testing.assert_array_equal(pack(np.repeat(codes, 3)[::3], 7), wanted)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("library", LIBRARIES)
def test_codes_come_in_every_dtype_that_holds_them_and_in_no_other(library, layout):
    for n_bits, n in itertools.product([1, 4, 5, 7, 8, 10, 12, 15, 16, 20, 31, 32, 40, 63, 64], [0, 1, 77, 9001]):
        codes = random_codes(n_bits, n)
        words = to_library(pack(codes, n_bits, layout).view("uint64" if library == "numpy" else "int64"), library)
        for name in INTEGERS:
            for dtype in [name, np.dtype(name)] + [np.dtype(name).newbyteorder(">"), getattr(torch, name)]:
                foreign = library == "numpy" and isinstance(dtype, torch.dtype)
                if foreign or n_bits > np.iinfo(name).max.bit_length():
                    with pytest.raises(InputError, match="dtype"):
                        unpack(words, n_bits, n, layout, dtype)
                    continue
                back = unpack(words, n_bits, n, layout, dtype)
                assert type(back) is type(words) and getattr(back, "device", None) == getattr(words, "device", None)
                assert back.dtype == (np.dtype(dtype) if library == "numpy" else getattr(torch, name))
                np.testing.assert_array_equal(to_numpy(back).astype(np.uint64), codes)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.int64])
def test_one_code_that_does_not_fit_is_found_wherever_it_is(dtype, layout):
    """In a vector or behind the last one, by its highest bit alone; numpy's loops look at many codes at once."""
    most, rng = np.iinfo(dtype), np.random.default_rng(3)
    for n_bits in range(1, most.bits):
        codes = rng.integers(0, 2 ** min(n_bits, most.bits - 1), 5000).astype(dtype)
        pack(codes, n_bits, layout)
        for at in (0, 63, 2047, 4095, 4999, *rng.integers(0, 5000, 3)):
            for bit in {n_bits, most.bits - 1}:
                wrong = codes.copy()
                wrong[at] |= np.array(1, np.uint64).astype(dtype) << dtype(bit)
                with pytest.raises(InputError, match=f"{n_bits}"):
                    pack(wrong, n_bits, layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "uint64", "int64"])
def test_nothing_that_lay_in_memory_is_left_in_words(monkeypatch, dtype, layout):
    rng, empty = np.random.default_rng(5), np.empty
    for n_bits in range(1, np.iinfo(dtype).bits + (dtype[0] == "u")):
        for n in (1, 3, 64, 65, 4099):
            codes = rng.integers(0, 2 ** min(n_bits, np.iinfo(dtype).bits - 1), n).astype(dtype)
            pack(codes, n_bits, layout)  # whatever has to be compiled is compiled as usual
            with monkeypatch.context() as m:
                m.setattr(np, "empty", lambda *args: np.invert(np.zeros(*args)) if args[-1] == "<u8" else empty(*args))
                words = pack(codes, n_bits, layout)
            np.testing.assert_array_equal(unpack(words, n_bits, n, layout, dtype), codes)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int64"])
def test_runs_of_threads_do_not_touch_each_other(monkeypatch, dtype, layout):
    """Blocks are done from the last to the first: nothing that one writes beyond its end may stay."""

    def backwards(loop, n, operations, *args, grain=1):
        return [loop(i, i + 1, *args) for i in reversed(range(n))]

    rng = np.random.default_rng(4)
    for n_bits in range(1, np.iinfo(dtype).bits):
        codes = rng.integers(0, 2**n_bits, 140_000, dtype=np.uint64).astype(dtype)
        words = pack(codes, n_bits, layout)
        with monkeypatch.context() as m:
            m.setattr(packing, "share", backwards)
            np.testing.assert_array_equal(pack(codes, n_bits, layout), words)
            np.testing.assert_array_equal(unpack(words, n_bits, len(codes), layout, dtype), codes)


@njit
def moved(item, moves):
    """Fields of the item, together and apart: at once, and by steps."""
    together = lanes.together(item, moves), lanes.together_by_steps(item, moves)
    return together, (lanes.apart(item, moves), lanes.apart_by_steps(item, moves))


@pytest.mark.parametrize("n_bits", range(1, 65))
def test_an_instruction_moves_fields_as_the_steps_do(n_bits):
    lane, moves = lanes.lanes_for(n_bits)
    per_item, moves, mask = 8 // lane.itemsize, tuple(moves), np.uint64(2**n_bits - 1)
    for item in random_codes(64, 50, n_bits):
        fields = np.array([item]).view(lane.dtype).astype(np.uint64) & mask
        joined = sum(int(field) << n_bits * i for i, field in enumerate(fields))
        apart = np.array([joined >> n_bits * i & int(mask) for i in range(per_item)]).astype(lane.dtype).view(np.uint64)
        above = np.uint64(0 if n_bits * per_item == 64 else int(item) << n_bits * per_item & 2**64 - 1)
        assert moved(item, moves)[0] == (joined, joined)
        assert moved(np.uint64(joined) | above, moves)[1] == (apart[0], apart[0])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("library", LIBRARIES)
def test_words_that_cannot_be_right_are_refused(library, layout):
    words = pack(to_library(np.arange(30), library), 5, layout)
    for n_codes in (29 - 12, 30 + 13, 2**31, 2**60):
        with pytest.raises(FormatError):
            unpack(words, 5, n_codes, layout)
    with pytest.raises(FormatError):
        unpack(words[:-1], 5, 30, layout)
    # Each spare bit is seen.
    seen = 0
    for bit in range(64 * len(words)):
        flipped = to_numpy(words).view(np.uint64).copy()
        flipped[bit // 64] ^= np.uint64(1) << np.uint64(bit % 64)
        try:
            codes = unpack(to_library(flipped.view(to_numpy(words).dtype), library), 5, 30, layout)
            assert (to_numpy(codes) != np.arange(30)).any()
        except FormatError:
            seen += 1
    assert seen == 64 * len(words) - 150


def test_bad_arguments_are_refused():
    good = np.arange(8)
    for codes in (good / 2, good > 3, [1.5], ["1"], None, [2**70], np.array([], float), torch.ones(3), [[1], [2, 3]]):
        with pytest.raises(InputError, match="codes"):
            pack(codes, 4)
    for n_bits in (0, 65, -1, 2.0, True, None, "4"):
        with pytest.raises(InputError, match="n_bits"):
            pack(good, n_bits)
    for n_codes in (-1, 8.0, True, None):
        with pytest.raises(InputError, match="n_codes"):
            unpack(pack(good, 4), 4, n_codes)
    for words in (good, good.astype(float), pack(good, 4)[:, None], torch.ones(1), [1], None):
        with pytest.raises(InputError, match="words"):
            unpack(words, 4, 8)
    with pytest.raises(InputError, match="layout"):
        pack(good, 4, "sparse")
    for words in (pack(good, 4), pack(torch.from_numpy(good), 4)):
        none = torch.float32, torch.bool
        for dtype in (float, "float32", bool, complex, object, "U4", "i4, i4", "sparse", 8, [1], {"names": 1}, *none):
            with pytest.raises(InputError, match="dtype"):
                unpack(words, 4, 8, dtype=dtype)


@pytest.mark.parametrize("code", NAMES)
def test_elias_codewords_as_printed(code):
    for value, words in ELIAS.items():
        codeword = words[NAMES.index(code)]
        stream = np.unpackbits(pack_elias([value], code).view(np.uint8), bitorder="little")
        assert "".join(map(str, stream[: len(codeword)])) == codeword and not stream[len(codeword) :].any()
        assert elias_lengths([value], code)[0] == len(codeword)
    assert elias_lengths([1000], code)[0] == {"gamma": 19, "delta": 16, "omega": 17}[code]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("code", NAMES)
def test_elias_streams_survive(code, library):
    rng = np.random.default_rng(0)
    large = [2 ** rng.integers(0, 63, 200), rng.integers(1, 2**63 - 1, 99), [2**63 - 1]]
    values = np.concatenate([np.arange(1, 300), *large])
    words = pack_elias(to_library(values, library), code)
    assert len(words) == -(-int(elias_lengths(values, code).sum()) // 64)
    np.testing.assert_array_equal(to_numpy(unpack_elias(words, len(values), code)), values)
    for wrong, n in ((words, len(values) + 70), (words, len(values) - 5), (words[:-1], len(values)), (words, 2**60)):
        with pytest.raises(FormatError):
            unpack_elias(wrong, n, code)
    for bad in ([0], [-1], [1.5], np.array([2**63], np.uint64)):
        with pytest.raises(InputError, match="values"):
            pack_elias(bad, code)


@pytest.mark.parametrize("code", NAMES)
def test_elias_reads_any_words_without_harm(code):
    rng = np.random.default_rng(1)
    for n in range(300):
        words = rng.integers(0, 2**64 - 1, n % 4, np.uint64) >> np.uint64(rng.integers(0, 64))
        try:
            values = unpack_elias(words, n % 9, code)
        except FormatError:
            continue
        # What can be read is what would be written.
        np.testing.assert_array_equal(pack_elias(values, code), words)
