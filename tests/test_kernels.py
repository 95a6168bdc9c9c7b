"""Every kernel table equals the readable reference; the reference equals exact arithmetic and SciPy."""

import ctypes
import itertools
import mmap
import os
import re
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from libraries import LIBRARIES, to_library
from scipy.spatial.distance import cdist
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

import vqcore
from vqcore import bits, kernels
from vqcore.kernels import compiled, conformance, halves, reference, shared, table_for, tensors

CASES = conformance.cases()
# Every table with a library it serves; `tensors` runs on the CPU here, and on CUDA where there is a device.
TABLES = {
    "reference": (reference, "numpy"),
    "compiled": (compiled, "numpy"),
    "shared": (shared, "torch"),
    "tensors": (tensors, "torch"),
} | {library: (tensors, library) for library in LIBRARIES if ":" in library}
FAST = [name for name in TABLES if name != "reference"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("name", TABLES)
def test_table_equals_the_reference(name, case):
    table, library = TABLES[name]
    assert conformance.faults(table, case, lambda array: to_library(array, library)) == []


def test_an_array_finds_its_table():
    assert table_for(np.zeros(3)) is table_for([1.0, 2.0]) is compiled
    assert table_for(torch.zeros(3)) is table_for(torch.nn.Parameter(torch.zeros(3))) is shared
    assert table_for(torch.zeros(3, device="meta")) is tensors


def test_every_table_has_the_same_ten_kernels():
    promised = re.findall(r"^    (\w+)\(", kernels.__doc__, flags=re.M)
    assert len(promised) == 10
    for table, _ in TABLES.values():
        assert all(callable(getattr(table, name)) for name in promised)


def test_conformance_sees_a_wrong_table():
    class Wrong:
        """The compiled table, but ties go to the highest index and a weight is lost."""

        def __getattr__(self, name):
            return getattr(compiled, name)

        def assign(self, points, codebook):
            codes, sq_dists = compiled.assign(points, codebook[::-1].copy())
            return len(codebook) - 1 - codes, sq_dists

        def accumulate(self, values, codes, n_codewords, sample_weight=None):
            sums, mass = compiled.accumulate(values, codes, n_codewords, sample_weight)
            return sums, mass * (np.arange(n_codewords) > 0)

    found = [sentence for case in CASES for sentence in conformance.faults(Wrong(), case)]
    assert any("codes differ" in sentence for sentence in found)
    assert any("accumulate: counts" in sentence for sentence in found)


def test_reference_is_exact_arithmetic():
    rng = np.random.default_rng(0)
    points, codebook = rng.integers(-4, 5, (60, 3)) / 4, rng.integers(-4, 5, (11, 3)) / 8
    codes, sq_dists = reference.assign(points, codebook)
    for point, code, sq_dist in zip(points, codes, sq_dists):
        exact = [sum((Fraction(a) - Fraction(b)) ** 2 for a, b in zip(point, codeword)) for codeword in codebook]
        assert code == exact.index(min(exact))
        assert sq_dist == float(min(exact))


def test_reference_equals_scipy():
    rng = np.random.default_rng(1)
    points, codebook = rng.standard_normal((300, 7)), rng.standard_normal((20, 7))
    codes, sq_dists = reference.assign(points, codebook)
    apart = cdist(points, codebook, "sqeuclidean")
    np.testing.assert_array_equal(codes, apart.argmin(axis=1))
    np.testing.assert_allclose(sq_dists, apart.min(axis=1), rtol=1e-12)


# Coarse values make ties and duplicates common.
_values = st.one_of(st.integers(-3, 3).map(float), st.floats(-1e3, 1e3, width=32))


@st.composite
def _problems(draw):
    dim, n, k = draw(st.integers(1, 5)), draw(st.integers(1, 70)), draw(st.integers(1, 9))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    points = draw(hnp.arrays(dtype, (n, dim), elements=_values))
    codebook = draw(hnp.arrays(np.float64, (k, dim), elements=_values))
    return conformance.Case("drawn", points, codebook)


@given(_problems())
@pytest.mark.parametrize("name", FAST)
def test_table_equals_the_reference_on_drawn_problems(name, case):
    table, library = TABLES[name]
    assert conformance.faults(table, case, lambda array: to_library(array, library)) == []


@given(st.data())
def test_intervals_of_any_ascending_codebook(data):
    values = data.draw(hnp.arrays(np.float64, st.integers(1, 200), elements=_values))
    codebook = np.sort(data.draw(hnp.arrays(np.float64, st.integers(1, 12), elements=_values)))
    edges = (codebook[1:] + codebook[:-1]) / 2
    want = reference.interval_moments(reference.sort(values), edges, codebook)
    for table, way_in in ((compiled, np.asarray), (tensors, torch.from_numpy)):
        got = table.interval_moments(table.sort(way_in(values)), edges, codebook)
        np.testing.assert_array_equal(got[0], want[0])
        np.testing.assert_allclose(got[1], want[1], rtol=1e-12, atol=1e-9)
        np.testing.assert_allclose(got[2], want[2], rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("dim", [2, 16, 128])
@pytest.mark.parametrize("offset", [0.0, 1e2, 1e3, 1e5, 1e6, "two blobs"])
def test_far_from_the_origin(name, dim, offset):
    """No peer that expands the square does this: at 1e6 they misplace 99 % of float32 points."""
    rng = np.random.default_rng(2)
    centers = np.where(np.arange(2000) % 2, 1e6, -1e6)[:, None] if offset == "two blobs" else offset
    points = (rng.standard_normal((2000, dim)) + centers).astype(np.float32)
    codebook = points[:64].astype(np.float64) + rng.standard_normal((64, dim)) / 8
    table, library = TABLES[name]
    codes = table.to_host(table.assign(to_library(points, library), codebook)[0])
    apart = cdist(points.astype(np.float64), codebook, "sqeuclidean")
    chosen = apart[np.arange(2000), codes]
    assert (chosen > apart.min(axis=1) * (1 + 1e-12)).sum() == 0


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_any_batch_gives_the_same_bits(name, dtype):
    rng = np.random.default_rng(3)
    points, codebook = (rng.standard_normal((700, 10)) + 1e4).astype(dtype), rng.standard_normal((50, 10)) + 1e4
    table, library = TABLES[name]
    theirs = to_library(points, library)
    codes, sq_dists = (table.to_host(array) for array in table.assign(theirs, codebook))
    for size in (1, 7, 64, 333):
        for start in range(0, 700, size):
            part = table.assign(theirs[start : start + size], codebook)
            np.testing.assert_array_equal(table.to_host(part[0]), codes[start : start + size])
            np.testing.assert_array_equal(table.to_host(part[1]), sq_dists[start : start + size])


@pytest.mark.parametrize("name", FAST)
def test_a_tiny_cluster_beside_an_outlier(name):
    """Products of 1e-22 vanish in float32: the outlier keeps the scale from telling, so the bound must."""
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.standard_normal((2000, 4)) * 1e-22, np.ones((1, 4))]).astype(np.float32)
    codebook = rng.standard_normal((16, 4)) * 1e-22
    table, library = TABLES[name]
    codes = table.to_host(table.assign(to_library(points, library), codebook)[0])
    # The outlier itself is equally far from all of them.
    np.testing.assert_array_equal(codes[:2000], reference.assign(points, codebook)[0][:2000])


def test_fewer_bits_in_a_matrix_product_change_no_code(monkeypatch):
    """Autocast, and the precisions that torch may be allowed, make the screen coarser, never the answer."""
    rng = np.random.default_rng(1)
    points, codebook = rng.standard_normal((3000, 32)).astype(np.float32), rng.standard_normal((256, 32))
    want = reference.assign(points, codebook)[0]
    with torch.autocast("cpu", torch.bfloat16):
        np.testing.assert_array_equal(tensors.assign(torch.from_numpy(points), codebook)[0], want)
    addmm = torch.addmm

    def coarse(bias, a, b, **more):
        return addmm(bias, a.bfloat16().float(), b.bfloat16().float(), **more)

    monkeypatch.setattr(torch, "addmm", coarse)
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")
    np.testing.assert_array_equal(tensors.assign(torch.from_numpy(points), codebook)[0], want)
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "highest")
    assert (tensors.assign(torch.from_numpy(points), codebook)[0].numpy() != want).any(), "the bound is not needed"


def test_blocks_of_any_size_give_the_same(monkeypatch):
    monkeypatch.setattr(tensors, "BLOCK_BYTES", 4096)
    for case in CASES:
        assert conformance.faults(tensors, case, lambda array: to_library(array, "torch")) == []


def test_counts_beyond_two_to_the_24():
    """float32 counters stop at 2**24: faiss and float32 k-means miss this mean by a quarter."""
    points = np.concatenate([np.zeros(2**24, np.float32), np.ones(4_000_000, np.float32)])
    codes = np.zeros(len(points), np.int64)
    sums, counts = compiled.accumulate(points, codes, 1)
    assert counts[0] == 2**24 + 4_000_000 and sums[0] == 4_000_000


def test_sums_keep_the_digits_of_many_far_points():
    points = np.full((300_000, 1), 1e6 + 1 / 16, np.float32)
    for table, theirs in ((compiled, points), (tensors, torch.from_numpy(points))):
        sums, counts = table.accumulate(theirs, table.assign(theirs, points[:1].astype(float))[0], 1)
        np.testing.assert_allclose(sums[0, 0] / counts[0], float(points[0, 0]), rtol=1e-14)


_BITS = """
import hashlib, numpy as np, torch
from vqcore.kernels import compiled, tensors
torch.set_num_threads({threads})
rng = np.random.default_rng(0)
points, codebook = rng.standard_normal((30_000, 9)).astype(np.float32), rng.standard_normal((40, 9))
digest = hashlib.sha256()
for table, theirs in ((compiled, points), (tensors, torch.from_numpy(points))):
    codes, sq_dists = table.assign(theirs, codebook)
    first = theirs[:, 0]
    drawn = table.draw(sq_dists, rng.random(9))
    edges = (codebook[1:] + codebook[:-1]) / 2
    book = np.sort(codebook[:, 0])
    moments = table.interval_moments(table.sort(first), book[:-1] + np.diff(book) / 2, book)
    for array in (codes, sq_dists, *table.accumulate(theirs, codes, 40), drawn, *moments):
        digest.update(np.ascontiguousarray(np.asarray(array)).tobytes())
print(digest.hexdigest())
"""


def test_threads_change_no_bit():
    """The same sums in another process, with one, two and four threads."""
    seen = set()
    for threads in (1, 2, 4):
        run = subprocess.run(
            [sys.executable, "-c", _BITS.format(threads=threads)],
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "NUMBA_NUM_THREADS": str(threads)},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        seen.add(run.stdout)
    assert len(seen) == 1


class _WithoutCuda(TorchFunctionMode):
    """Four operations that torch's CPU build does not run on fake CUDA tensors, by shape, type and device alone."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.Tensor.__getitem__:
            tensor, index = args
            parts = index if isinstance(index, tuple) else (index,)
            assert all(part.device == tensor.device for part in parts if isinstance(part, torch.Tensor))
            on_host = tuple(part.cpu() if isinstance(part, torch.Tensor) else part for part in parts)
            return torch.empty_like(torch.empty(tensor.shape, dtype=tensor.dtype)[on_host], device=tensor.device)
        if function is torch.Tensor.__setitem__:
            tensor, index, value = args
            assert not isinstance(value, torch.Tensor) or value.device == tensor.device
            return None
        if function is torch.searchsorted:
            assert args[0].device == args[1].device
            return torch.empty_like(args[1], dtype=torch.int64)
        if function is torch.nonzero:
            # As if seventeen had been found.
            return torch.empty((17, args[0].dim()), dtype=torch.int64, device=args[0].device)
        return function(*args, **(kwargs or {}))


@pytest.fixture
def fake_cuda(monkeypatch):
    """CUDA tensors without a device: shapes, types and devices are real, and any mix of devices raises."""

    def leaves_the_device(array):
        assert array.device.type == "cuda"
        return np.zeros(tuple(array.shape), {torch.float64: np.float64, torch.int64: np.int64}[array.dtype])

    def goes_to_the_device(table, like):
        dtype = {"f": torch.float64, "i": torch.int64}[table.dtype.kind]
        return torch.empty(table.shape, dtype=dtype, device=like.device)

    monkeypatch.setattr(tensors, "to_host", leaves_the_device)
    monkeypatch.setattr(tensors, "from_host", goes_to_the_device)
    with FakeTensorMode(), _WithoutCuda():
        yield


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [1, 2, 40])
def test_kernels_on_a_fake_cuda_device(fake_cuda, dtype, dim):
    points = tensors.to_points(torch.empty((5000, dim), dtype=dtype, device="cuda"))
    codebook = np.arange(30.0 * dim).reshape(30, dim)
    codes, sq_dists = tensors.assign(points, codebook)
    assert codes.shape == sq_dists.shape == (5000,)
    assert codes.dtype == torch.int64 and sq_dists.dtype == torch.float64
    assert codes.device.type == sq_dists.device.type == "cuda"
    weights = torch.empty(5000, dtype=torch.float64, device="cuda")
    for sample_weight in (None, weights):
        sums, mass = tensors.accumulate(points, codes, 30, sample_weight)
        assert sums.shape == (30, dim) and mass.shape == (30,)
        ordered = tensors.sort(points[:, 0], sample_weight)
        moments = tensors.interval_moments(ordered, np.arange(29.0), np.arange(30.0))
        assert [table.shape for table in moments] == [(30,)] * 3
    assert tensors.nearer(points, codebook[:2], sq_dists).device.type == "cuda"
    assert tensors.draw(sq_dists, np.array([0.5])).device.type == "cuda"


def test_fake_cuda_catches_a_mix_of_devices(fake_cuda):
    points = torch.empty((50, 3), device="cuda")
    with pytest.raises(RuntimeError, match="device"):
        tensors.nearer(points, np.zeros((1, 3)), torch.empty(50, dtype=torch.float64))


def test_check_is_a_command():
    run = subprocess.run([sys.executable, "-m", "vqcore", "check", "--device", "cpu"], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert f"{len(CASES)} of {len(CASES)} cases equal the reference on cpu" in run.stdout
    if not torch.cuda.is_available():
        run = subprocess.run([sys.executable, "-m", "vqcore", "check", "--device", "cuda"], capture_output=True, text=True)
        assert run.returncode == 2 and "no device 'cuda'" in run.stderr


@pytest.mark.slow
def test_check_goes_over_blocks():
    run = subprocess.run([sys.executable, "-m", "vqcore", "check", "--device", "dask"], capture_output=True, text=True)
    assert run.returncode == 0 and re.search(r"(\d+) of \1 cases equal the reference on dask", run.stdout), run.stdout + run.stderr


def test_a_changed_loop_is_compiled_anew_wherever_it_is_called(tmp_path):
    """numba alone would go on with the old one in every caller whose own file is as it was."""
    shutil.copytree(Path(vqcore.__file__).parent, tmp_path / "vqcore", ignore=shutil.ignore_patterns("__pycache__"))
    code = (
        "import numpy as np; from vqcore.kernels.bounds import Steps; "
        "print(Steps(np.ones((3, 2))).moments(np.zeros((1, 2)))[1].tolist())"
    )

    def said():
        environment = os.environ | {"PYTHONPATH": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path / "kept")}
        return subprocess.run(
            [sys.executable, "-P", "-c", code], env=environment, capture_output=True, text=True, timeout=200, check=True
        ).stdout

    assert said() == said() == "[2.0, 2.0, 2.0]\n"
    called = tmp_path / "vqcore" / "kernels" / "nearest.py"
    source = called.read_text()
    assert source.count("total += apart * apart") == 1
    called.write_text(source.replace("total += apart * apart", "total += 2 * apart * apart"))
    assert said() == "[4.0, 4.0, 4.0]\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    "cpu, features",
    [
        ("skylake-avx512", "+sse4.2,+avx,+avx2,+fma,+avx512f,+avx512vl,+avx512bw,+avx512dq,+avx512cd"),
        ("haswell", "+sse4.2,+avx,+avx2,+fma"), ("x86-64", "+sse2"), ("generic", None),
    ],
)  # fmt: skip
def test_narrower_processors(cpu, features, tmp_path):
    """The kernels compiled for processors without products of halves, wide vectors, or fused products, are as right."""
    if os.uname().machine != "x86_64":
        pytest.skip("names of x86-64 processors")
    target = {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": features, "NUMBA_CACHE_DIR": str(tmp_path)}
    target = {name: value for name, value in target.items() if value is not None}
    bits = (
        "import numpy as np, vqcore as vq; codes = np.arange(5000) % 29; q = vq.QSGD(3); x = np.sin(codes);"
        "assert all((vq.unpack(vq.pack(codes, 5, to), 5, 5000, to) == codes).all() for to in ('dense', 'aligned', 'sections'));"
        "assert abs(q.decode(q.encode(x, seed=0)) - x).max() <= np.linalg.norm(x) / 7"
    )
    for what in (["-m", "vqcore", "check"], ["-c", bits]):
        done = subprocess.run(
            [sys.executable, *what], env=os.environ | target, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def at_the_edge():
    """A way to put an array where the memory behind its last byte must not be touched."""
    libc, kept = ctypes.CDLL(None, use_errno=True), []

    def put(array):
        page, size = mmap.PAGESIZE, -(-max(array.nbytes, 1) // mmap.PAGESIZE) * mmap.PAGESIZE
        room = mmap.mmap(-1, size + page)
        kept.append(room)
        begin = ctypes.addressof(ctypes.c_char.from_buffer(room))
        assert libc.mprotect(ctypes.c_void_p(begin + size), ctypes.c_size_t(page), 0) == 0
        there = np.frombuffer(room, array.dtype, array.size, size - array.nbytes).reshape(array.shape)
        there[...] = array
        return there

    yield put


@pytest.mark.skipif(sys.platform == "win32", reason="pages are guarded in another way there")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("dim", [2, 3, 8, 15, 16, 17, 33, 40])
def test_nothing_is_read_beyond_the_points(at_the_edge, monkeypatch, dim, dtype):
    """Vectors are loaded whole: behind the last row lies a page that ends the process when it is read."""
    monkeypatch.setattr(halves, "WORTH", 0)
    rng = np.random.default_rng(dim)
    points, codebook = rng.standard_normal((130, dim)).astype(dtype), rng.standard_normal((70, dim))
    there, book = at_the_edge(points), at_the_edge(codebook)
    codes, sq_dists = compiled.assign(points, codebook)
    for found in (compiled.assign(there, book), compiled.follow(there)(book)):
        np.testing.assert_array_equal(found[0], codes)
        np.testing.assert_array_equal(found[1], sq_dists)


@pytest.mark.skipif(sys.platform == "win32", reason="pages are guarded in another way there")
@pytest.mark.parametrize("layout", bits.LAYOUTS)
@pytest.mark.parametrize("n_bits", range(1, 64))
def test_nothing_is_touched_beyond_codes_and_words(at_the_edge, monkeypatch, n_bits, layout):
    rng, empty = np.random.default_rng(n_bits), np.empty
    narrow = next(dtype for dtype in (np.uint8, np.uint16, np.uint32, np.uint64) if np.iinfo(dtype).bits >= n_bits)
    for n, dtype in itertools.product((1, 63, 64, 130, 2500), {narrow, np.uint64}):
        codes = rng.integers(0, 2**n_bits, n, dtype=np.uint64).astype(dtype)
        words = bits.pack(codes, n_bits, layout)
        np.testing.assert_array_equal(bits.unpack(words, n_bits, n, layout, dtype), codes)
        with monkeypatch.context() as m:
            # Their results lie at the edge as well.
            m.setattr(np, "empty", lambda *given: at_the_edge(empty(*given)))
            np.testing.assert_array_equal(bits.pack(at_the_edge(codes), n_bits, layout), words)
            np.testing.assert_array_equal(bits.unpack(at_the_edge(words), n_bits, n, layout, dtype), codes)
