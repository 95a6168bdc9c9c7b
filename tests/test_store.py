"""Files: what comes back is what went in, old files load for ever, and no damage goes unseen."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from libraries import LIBRARIES, to_library, to_numpy
from safetensors import safe_open
from safetensors.numpy import save_file

import vqcore as vq
from vqcore.compress import CompressedLayer, CompressedNetwork
from vqcore.product import ProductQuantizer
from vqcore.messages import Message, checksum_of
from vqcore.store import container, load, save

GOLDEN = Path(__file__).parent / "golden"
KINDS = ["fit", "line", "law", "online", "quantizer", "turned", "arrays", "network"]


def normal(n=300, dim=4):
    return np.random.default_rng(0).standard_normal((n, dim))


def thing(kind, library="numpy"):
    points = to_library(normal(), library)
    return {
        "fit": lambda: vq.fit_lloyd(points, 6, n_steps=5),
        "line": lambda: vq.fit_lloyd(points[:, 0], 9, n_steps=3),
        "law": lambda: vq.fit_lloyd_max(vq.Normal(), 5),
        "online": lambda: vq.fit_clvq(points, 5, n_samples=500),
        "quantizer": lambda: ProductQuantizer(2, 8).fit(points),
        "turned": lambda: ProductQuantizer(2, 8, "optimized").fit(points, n_rotations=2),
        "arrays": lambda: {"codes": points[:, 0] > 0, "0.weight": points[:3], "none": points[:0]},
        "network": lambda: network(library),
    }[kind]()


def network(library="numpy"):
    """A weight of 2 x 6 that two layers share, in blocks of 2, and what is not compressed, one of it shared."""
    book = np.arange(10, dtype=np.float16).reshape(5, 2) / 8
    numbers = book, np.array([4, 0, 1, 2, 3, 4]), np.arange(3.0), np.array(7)
    codebook, codes, bias, count = (to_library(array, library) for array in numbers)
    return CompressedNetwork(
        (CompressedLayer(("embed", "layers.0._out"), (2, 6), codebook, codes),),
        ((("bias", "other.bias"), bias), (("norm.n",), count)),
    )


def same(one, other):
    """Whether two things hold the same bits in the same places."""
    if type(one) is not type(other):
        return False
    if isinstance(one, (np.ndarray, torch.Tensor)):
        first, second = to_numpy(one), to_numpy(other)
        return one.dtype == other.dtype and first.shape == second.shape and first.tobytes() == second.tobytes()
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return same(vars(one), vars(other)) if hasattr(one, "__dict__") else one == other


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("library", LIBRARIES)
def test_what_went_in_comes_back(tmp_path, kind, library):
    before, path = thing(kind, library), tmp_path / "thing.vq"
    save(path, before)
    after = load(str(path), "numpy" if kind == "law" else library)
    assert same(after, before)
    again = tmp_path / "again.vq"
    save(again, after)
    assert again.read_bytes() == path.read_bytes() and sorted(os.listdir(tmp_path)) == ["again.vq", "thing.vq"]
    if kind in ("fit", "line", "online"):
        assert isinstance(load(path).codebook, np.ndarray)
    # Other tools read the same arrays.
    with safe_open(path, framework="np") as opened:
        assert opened.metadata()["version"] == "1" and len(list(opened.keys())) > 0


def test_a_quantizer_that_comes_back_works(tmp_path):
    pq = thing("turned")
    save(tmp_path / "pq.vq", pq)
    again = load(tmp_path / "pq.vq")
    np.testing.assert_array_equal(again.encode(normal()), pq.encode(normal()))
    np.testing.assert_array_equal(again.fit(normal(), n_rotations=2).codebooks, pq.codebooks)


def test_a_message_comes_back(tmp_path):
    qsgd = pytest.importorskip("vqcore.qsgd")
    coder = qsgd.QSGD(n_bits=3, bucket_size=50)
    for library in LIBRARIES:
        message = coder.encode(to_library(normal(), library), seed=1)
        save(tmp_path / "message.vq", message)
        after = load(tmp_path / "message.vq", library)
        np.testing.assert_array_equal(to_numpy(coder.decode(after)), to_numpy(coder.decode(message)))


DTYPES = st.sampled_from([np.dtype(d) for d in container.TYPES.values()] + [np.dtype(">f4"), np.dtype(">i8")])


@settings(max_examples=60)
@given(st.dictionaries(st.from_regex(r"[A-Za-z0-9][\w.\-]{0,9}", fullmatch=True).filter(str.isascii),
                       hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
                                  elements=None, fill=st.nothing()), max_size=4))  # fmt: skip
def test_any_arrays(tmp_path_factory, arrays):
    path = tmp_path_factory.mktemp("arrays") / "a.vq"
    arrays = {
        name: np.nan_to_num(array, nan=0, posinf=1, neginf=-1) if array.dtype.kind == "f" else array
        for name, array in arrays.items()
    }
    save(path, arrays)
    after = load(path)
    assert after.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(after[name], array)
        assert after[name].dtype == array.dtype.newbyteorder("=") and after[name].shape == array.shape
        assert after[name].flags.writeable


GOLDEN_CONTENTS = {
    "fit": vq.Fit(
        codebook=np.array([[0.0, 1.0], [-2.5, 1e-300]]), codes=np.array([0, 1, 1]),
        weights=np.array([1 / 3, 2 / 3]),
        distortion=0.1, codebooks=(np.array([[7.0, 1.0]]), np.array([[0.0, 1.0], [-2.5, 1e-300]])),
        distortions=(0.5, 0.1),
        n_steps=1, converged=True, n_repairs=(2,), certificate=vq.Certificate(1e-17, True, False),
    ),
    "arrays": {"one": np.arange(6, dtype=np.uint16).reshape(2, 3),
               "two": np.array([0.1, -0.0]), "three": np.array(True)},
}  # fmt: skip


def golden_message():
    """Four values in one word of the gradient notebook: signs +, -, 0, + and levels 7, 1, 0, 3 of 7, norm 13."""
    words, norms = np.array([0xB85134210842108], "<u8"), np.array([13.0])
    header = ((4, 1), "float32", 3, 4, "sections", "l2")
    return Message(words, norms, *header, checksum=checksum_of(words, norms, header))


GOLDEN_CONTENTS |= {"message": golden_message(), "network": network()}


@pytest.mark.parametrize("name", ["fit", "arrays", "quantizer", "message", "network"])
def test_golden_files_load_for_ever(name, tmp_path):
    path = GOLDEN / f"{name}-1.vq"
    if name == "quantizer":
        pq = load(path)
        np.testing.assert_array_equal(pq.codebooks, np.arange(24.0).reshape(2, 4, 3) / 10)
        np.testing.assert_array_equal(pq.rotation, np.eye(6)[::-1])
        assert (
            pq.distortions == (0.75, 0.25)
            and pq.distortion == 0.25
            and pq.encode(np.zeros((1, 6))).tolist() == [[0, 0]]
        )
    else:
        assert same(load(path), GOLDEN_CONTENTS[name])
        # This version still writes what it wrote: a change of the format needs a new number, and new golden files.
        save(tmp_path / "now.vq", GOLDEN_CONTENTS[name])
        assert (tmp_path / "now.vq").read_bytes() == path.read_bytes()
    if name == "message":
        # The checksum in the file is still the one that this version would give.
        decoded = vq.QSGD().decode(load(path))
        np.testing.assert_array_equal(decoded, np.float32([[13], [-13 / 7], [0], [39 / 7]]))


def damaged(blob, rng):
    """A bit or byte changed, the end cut off, or 1 to 64 bytes zeroed, cut out or put in."""
    blob, at, size = bytearray(blob), int(rng.integers(len(blob))), int(rng.integers(1, 65))
    match int(rng.integers(6)):
        case 0:
            blob[at] ^= 1 << int(rng.integers(8))
        case 1:
            blob[at] = int(rng.integers(256))
        case 2:
            del blob[at:]
        case 3:
            blob[at : at + size] = bytes(len(blob[at : at + size]))
        case 4:
            del blob[at : at + size]
        case 5:
            blob[at:at] = rng.bytes(size)
    return bytes(blob)


def check_damage_is_refused(tmp_path, times):
    rng, path = np.random.default_rng(0), tmp_path / "damaged.vq"
    for kind in ("fit", "turned", "online", "arrays", "network"):
        save(path, thing(kind))
        whole = path.read_bytes()
        for _ in range(times // 5):
            blob = damaged(whole, rng)
            if blob != whole:
                path.write_bytes(blob)
                with pytest.raises(vq.FormatError, match="damaged.vq: "):
                    load(path)


def test_no_damage_goes_unseen(tmp_path):
    check_damage_is_refused(tmp_path, 500)


@pytest.mark.slow
def test_no_damage_goes_unseen_ten_thousand_times(tmp_path):
    check_damage_is_refused(tmp_path, 10_000)


def test_every_bit_of_the_header(tmp_path):
    path = tmp_path / "thing.vq"
    save(path, {"a": np.arange(3.0)})
    whole = path.read_bytes()
    for at in range(8 + int.from_bytes(whole[:8], "little")):
        for bit in range(8):
            blob = bytearray(whole)
            blob[at] ^= 1 << bit
            path.write_bytes(blob)
            with pytest.raises(vq.FormatError):
                load(path)


def forged(path, header, data=b"", pad=True):
    """A file with a right digest over a header of our making."""
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    pieces = [len(text).to_bytes(8, "little"), text, data]
    digits = container._digest(pieces).encode()
    text = text.replace(b"0" * 64, digits, 1)
    path.write_bytes(pieces[0] + text + data)


def header(kind="arrays", attributes="{}", version="1", **entries):
    metadata = {"blake2b": "0" * 64, "version": version, "kind": kind, "attributes": attributes}
    return {"__metadata__": metadata, **entries}


def entry(dtype="F64", shape=(1,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_a_right_forgery_loads(tmp_path):
    forged(tmp_path / "a.vq", header(a=entry()), bytes(8))
    assert load(tmp_path / "a.vq")["a"] == [0.0]


def test_a_right_forgery_of_a_network_loads(tmp_path):
    parts = {"words.0": entry("U64", (1,), (0, 8)), "codebook.0": entry("F16", (3, 2), (8, 20))}
    forged(tmp_path / "a.vq", header("network", '{"layers":[[["a"],[1,4]]],"rest":[]}', **parts), bytes(20))
    assert load(tmp_path / "a.vq").layers[0].codes.tolist() == [0, 0]


def fit_of(sizes, n_steps=1, certificate="null"):
    """Header and data of a fit of one codeword, 0, its codebooks of these sizes."""
    parts = {"sizes": np.array(sizes), "distortions": np.zeros(len(sizes)), "n_repairs": np.zeros(0, np.int64)}
    parts |= {"codebook": np.zeros((1, 1)), "weights": np.ones(1), "codebooks": np.zeros((1, 1))}
    ends = np.cumsum([array.nbytes for array in parts.values()]).tolist()
    entries = {
        name: entry("I64" if array.dtype.kind == "i" else "F64", array.shape, (end - array.nbytes, end))
        for end, (name, array) in zip(ends, parts.items())
    }
    attributes = f'{{"distortion":0.5,"n_steps":{n_steps},"converged":true,"certificate":{certificate}}}'
    return header("fit", attributes, **entries), b"".join(array.tobytes() for array in parts.values())


def test_a_right_forgery_of_a_fit_loads(tmp_path):
    forged(tmp_path / "a.vq", *fit_of([1], certificate="[0.5,true,true]"))
    assert load(tmp_path / "a.vq").codebooks[0].tolist() == [[0.0]]


OPEN, ONE = json.dumps(header()).replace(" ", "")[:-1].encode(), json.dumps(entry()).encode()
NAN = np.array([np.nan]).tobytes()
HOSTILE = {
    "2^60 numbers": (header(a=entry(shape=(2**60,), offsets=(0, 2**63))), b""),
    "a product that overflows": (header(a=entry(shape=(2**40, 2**40), offsets=(0, 0))), b""),
    "nothing times 2^60": (header(a=entry(shape=(0, 2**60), offsets=(0, 0))), b""),
    "offsets past the end": (header(a=entry(shape=(2,), offsets=(0, 16))), bytes(8)),
    "a hole": (header(a=entry(offsets=(8, 16))), bytes(16)),
    "an overlap": (header(a=entry(), b=entry()), bytes(8)),
    "trailing bytes": (header(a=entry()), bytes(9)),
    "a negative size": (header(a=entry(shape=(-1,), offsets=(0, -8))), b""),
    "a size that is true": (header(a=entry(shape=(True,))), bytes(8)),
    "a size of 1.0": (header(a=entry(shape=(1.0,))), bytes(8)),
    "an unknown type": (header(a=entry("F8")), bytes(8)),
    "an object": (header(a=entry("O")), bytes(8)),
    "no shape": (header(a={"dtype": "F64", "data_offsets": [0, 8]}), bytes(8)),
    "a list for an array": (header(a=[]), b""),
    "99 dimensions": (header(a=entry(shape=(1,) * 99)), bytes(8)),
    "NaN": (header(a=entry()), NAN),
    "an unknown kind": (header(kind="os.system"), b""),
    "a later version": (header(version="2"), b""),
    "attributes for none": (header(attributes='{"a":1}'), b""),
    "attributes that are no dict": (header(attributes="[]"), b""),
    "a fit without arrays": (header(kind="fit"), b""),
    "a quantizer of the wrong type": (
        header("product quantizer", '{"distortion":0.5,"optimized":false}',
               codebooks=entry("F32", (1, 1, 1), (0, 4)), distortions=entry("F32", (1,), (4, 8))), bytes(8)),
    "a quantizer of no width": (
        header("product quantizer", '{"distortion":0.5,"optimized":false}',
               codebooks=entry(shape=(1, 1, 0), offsets=(0, 0)), distortions=entry()), bytes(8)),
    "an infinite distortion": (
        header("product quantizer", '{"distortion":Infinity,"optimized":false}',
               codebooks=entry(shape=(1, 1, 1)), distortions=entry(offsets=(8, 16))), bytes(16)),
    "nothing times 2^94": (header(a=entry(shape=(0, 2**47, 2**47), offsets=(0, 0))), b""),
    "a rotation whose products overflow": (
        header("product quantizer", '{"distortion":0.5,"optimized":true}', codebooks=entry(shape=(1, 1, 1)),
               rotation=entry(shape=(1, 1), offsets=(8, 16)), distortions=entry(offsets=(16, 24))),
        bytes(8) + np.array([1e200]).tobytes() + bytes(8)),
    "sizes of codebooks whose sum wraps around": fit_of([2**62] * 4 + [1]),
    "a certificate of NaN": fit_of([1], certificate="[NaN,true,true]"),
    "a fit of -1 steps": fit_of([1], n_steps=-1),
    "a network of nothing it says": (header("network", '{"layers":[],"rest":[["a"]]}'), b""),
    "a network without lists": (header("network", '{"layers":3,"rest":[]}'), b""),
    "a network whose layers are numbers": (header("network", '{"layers":[3],"rest":[]}'), b""),
    "a network of a codeword that is not there": (
        header("network", '{"layers":[[["a"],[1,4]]],"rest":[]}',
               **{"words.0": entry("U64", (1,), (0, 8)), "codebook.0": entry("F16", (3, 2), (8, 20))}),
        (3).to_bytes(8, "little") + bytes(12)),
    "a network with a bit too many": (
        header("network", '{"layers":[[["a"],[1,4]]],"rest":[]}',
               **{"words.0": entry("U64", (1,), (0, 8)), "codebook.0": entry("F16", (3, 2), (8, 20))}),
        (16).to_bytes(8, "little") + bytes(12)),
    "a network of another shape": (
        header("network", '{"layers":[[["a"],[1,5]]],"rest":[]}',
               **{"words.0": entry("U64", (1,), (0, 8)), "codebook.0": entry("F16", (3, 2), (8, 20))}), bytes(20)),
    "a network of one name twice": (
        header("network", '{"layers":[[["a","a"],[1,4]]],"rest":[]}',
               **{"words.0": entry("U64", (1,), (0, 8)), "codebook.0": entry("F16", (3, 2), (8, 20))}), bytes(20)),
    "a name twice": (OPEN + b',"a":' + ONE + b',"a":' + ONE + b"}", bytes(8)),
    "deep nesting": (OPEN + b',"a":' + b"[" * 10**5 + b"]" * 10**5 + b"}", b""),
    "a long number": (OPEN + b',"a":' + b"9" * 10**5 + b"}", b""),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_headers_are_refused(tmp_path, case):
    forged(tmp_path / "a.vq", *HOSTILE[case])
    with pytest.raises(vq.FormatError):
        load(tmp_path / "a.vq")


@pytest.mark.parametrize("blob", [b"", b"1234567", bytes(8), b"\xff" * 8,
                                  (2**63).to_bytes(8, "little") + b"{}", bytes(range(256)),
                                  (2).to_bytes(8, "little") + b"{}"])  # fmt: skip
def test_what_is_no_file_of_ours_is_refused(tmp_path, blob):
    (tmp_path / "a.vq").write_bytes(blob)
    with pytest.raises(vq.FormatError):
        load(tmp_path / "a.vq")


def test_a_plain_safetensors_file_is_refused(tmp_path):
    save_file({"a": np.zeros(3)}, tmp_path / "a.safetensors")
    with pytest.raises(vq.FormatError, match="not a file of vqcore"):
        load(tmp_path / "a.safetensors")


@pytest.mark.skipif(sys.platform != "linux", reason="memory limits are Linux's here")
def test_claims_cost_no_memory(tmp_path):
    """Under a limit 200 MB above what importing takes, a claim of 16 GiB is refused, not attempted."""
    forged(tmp_path / "a.vq", header(a=entry(shape=(2**31,), offsets=(0, 2**34))), bytes(64))
    code = (
        "import resource, sys; from vqcore.store import load; from vqcore.errors import FormatError\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2 * 10**8,) * 2)\n"
        "try: load(sys.argv[1])\nexcept FormatError: print('refused')"
    )
    run = subprocess.run([sys.executable, "-c", code, tmp_path / "a.vq"], capture_output=True, text=True, timeout=120)
    assert run.stdout.strip() == "refused", run.stderr


def test_a_name_as_long_as_a_file_may_have(tmp_path):
    name = "\u6c49" * 85  # 255 bytes
    save(tmp_path / name, {"a": np.zeros(3)})
    assert os.listdir(tmp_path) == [name] and load(tmp_path / name)["a"].tolist() == [0, 0, 0]


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.vq")
    with pytest.raises(FileNotFoundError):
        save(tmp_path / "no folder" / "a.vq", {"a": np.zeros(3)})


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_an_older_file_survives_a_failure(tmp_path, monkeypatch, broken):
    path = tmp_path / "a.vq"
    save(path, {"a": np.zeros(3)})
    whole = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, broken, full)
    with pytest.raises(OSError, match="No space"):
        save(path, {"a": np.ones(5)})
    assert path.read_bytes() == whole and os.listdir(tmp_path) == ["a.vq"]


@pytest.mark.parametrize(
    "what",
    [3, None, np.zeros(3), [np.zeros(3)], {"a": np.array(["x"])}, {"a": np.array([object()])}, {"a": 1j * np.zeros(2)},
     {"a": np.array([np.nan])},
     {"../a": np.zeros(1)}, {"": np.zeros(1)}, {3: np.zeros(1)}, {"__metadata__": np.zeros(1)},
     {"a" * 200: np.zeros(1)},
     {"a": torch.zeros(2, dtype=torch.bfloat16)}, {"a": np.ma.masked_array([1.0, 2.0], [True, False])},
     ProductQuantizer(2, 4)],
    ids=lambda what: str(what)[:30],
)  # fmt: skip
def test_what_a_file_cannot_hold_is_refused(tmp_path, what):
    with pytest.raises(vq.InputError):
        save(tmp_path / "a.vq", what)
    assert os.listdir(tmp_path) == []


def test_the_library_must_be_known(tmp_path):
    with pytest.raises(vq.InputError, match="library='jax'"):
        load(tmp_path / "a.vq", "jax")
