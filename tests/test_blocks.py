"""dask arrays: the answer of points in memory, whatever the chunks and the scheduler; lazy, small, and refused in words."""

import os
import pickle
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
from bad_input import CASES, FUNCTIONS, outcome
from dask.callbacks import Callback
from studies import wait_until

import vqcore as vq
from vqcore.kernels import blocks, compiled, conformance, one_block, passes

RNG = np.random.default_rng(0)
BASE = RNG.standard_normal((3000, 6))
FAR = (BASE + 1e6).astype(np.float32)  # mean 1e6, std 1: where a float32 has 4 bits behind the point
WEIGHTS = RNG.random(3000) * (RNG.random(3000) < 0.8)
SCHEDULERS = [dict(scheduler="synchronous"), dict(scheduler="threads", num_workers=3)]


def in_blocks(array, chunks=700):
    return da.from_array(array, chunks=(chunks,) + (-1,) * (array.ndim - 1) if isinstance(chunks, int) else chunks)


def assert_near(got, want, tolerance=1e-9):
    """Equal within 1e-9 of the largest entry."""
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * np.abs(want).max())


def assert_same_fit(got, want):
    assert isinstance(got.codes, da.Array) and got.codes.dtype == np.int64
    np.testing.assert_array_equal(got.codes.compute(), want.codes)
    assert_near(got.codebook, want.codebook)
    assert_near(got.weights, want.weights)
    assert_near(got.distortions, want.distortions)
    assert (got.n_steps, got.n_repairs, got.converged) == (want.n_steps, want.n_repairs, want.converged)
    assert [type(table) for table in (got.codebook, got.weights, *got.codebooks)] == [np.ndarray] * (2 + len(got.codebooks))


@contextmanager
def counted():
    """The keys of the tasks that run inside."""
    keys = []
    with Callback(pretask=lambda key, dsk, state: keys.append(key)):
        yield keys


# ---- equal to the reference, and to what is in memory


@pytest.mark.parametrize("case", conformance.cases(), ids=lambda case: case.name)
def test_the_kernels_equal_the_reference(case):
    with dask.config.set(scheduler="synchronous"):
        for chunks in {len(case.points), max(1, len(case.points) // 3)}:
            assert conformance.faults(blocks, case, lambda array: in_blocks(np.asarray(array), chunks)) == []


@pytest.mark.parametrize("options", SCHEDULERS, ids=lambda options: options["scheduler"])
@pytest.mark.parametrize("points", [BASE, FAR, BASE.astype(np.float32), BASE[:, 0], BASE[:, :1], FAR[:, 0]],
                         ids=["float64", "mean 1e6, float32", "float32", "a line", "a line (n, 1)", "a far line"])  # fmt: skip
@pytest.mark.parametrize("start", ["k-means++", "random"])
def test_lloyd_equals_that_in_memory(points, start, options):
    for weights in (None, WEIGHTS):
        want = vq.fit_lloyd(points, 12, start=start, n_steps=12, sample_weight=weights, seed=3)
        with dask.config.set(options):
            for chunks in (3000, 701):
                assert_same_fit(vq.fit_lloyd(in_blocks(points, chunks), 12, start, 12, sample_weight=weights, seed=3), want)


@pytest.mark.parametrize("empty", ["split", "farthest", "drop", "keep"])
def test_empty_cells_are_repaired_as_in_memory(empty):
    """Whole numbers, so that many points are equally far; codewords that nobody chooses."""
    points = RNG.integers(-4, 5, (900, 2)).astype(np.float32)
    start = np.vstack([points[:5], np.full((3, 2), 50.0) + np.arange(3)[:, None]])
    want = vq.fit_lloyd(points, 8, start=start, empty=empty, seed=1)
    assert sum(want.n_repairs) > 0 or empty == "keep"
    for chunks in (900, 77):
        assert_same_fit(vq.fit_lloyd(in_blocks(points, chunks), 8, start=start, empty=empty, seed=1), want)
    with pytest.raises(vq.EmptyCellError):
        vq.fit_lloyd(in_blocks(points), 8, start=start, empty="error")


@pytest.mark.parametrize("chunks", [(1000, 2), ((0, 1, 0, 1999, 1000, 0), 6), (1000, 1)], ids=str)
def test_chunks_of_features_are_merged_and_empty_blocks_are_none(chunks):
    points = in_blocks(BASE, chunks)
    assert_same_fit(vq.fit_lloyd(points, 9, n_steps=5), vq.fit_lloyd(BASE, 9, n_steps=5))
    assert_same_fit(vq.fit_lloyd(points, 9, n_steps=5, empty="farthest"), vq.fit_lloyd(BASE, 9, n_steps=5, empty="farthest"))
    line = da.from_array(BASE[:, 0], chunks=(chunks[0],))
    assert_same_fit(vq.fit_lloyd(line, 9), vq.fit_lloyd(BASE[:, 0], 9))
    assert vq.distortion(points, BASE[:4]) == pytest.approx(vq.distortion(BASE, BASE[:4]), rel=1e-12)
    np.testing.assert_array_equal(vq.encode(points, BASE[:4]).compute(), vq.encode(BASE, BASE[:4]))


@pytest.mark.parametrize("dtype", ["float16", "float32", ">f4", "int8", "uint16", "int64", "float64"])
def test_any_number_type(dtype):
    points = (BASE * 20).astype(dtype) if dtype != "uint16" else np.abs(BASE * 20).astype(dtype)
    assert_same_fit(vq.fit_lloyd(in_blocks(points), 5, n_steps=4), vq.fit_lloyd(points, 5, n_steps=4))


def test_distances_kept_or_computed_anew_start_alike(monkeypatch):
    points, want = in_blocks(BASE), vq.fit_lloyd(BASE, 20, n_steps=0, sample_weight=WEIGHTS)
    assert_same_fit(vq.fit_lloyd(points, 20, n_steps=0, sample_weight=in_blocks(WEIGHTS, 450)), want)
    monkeypatch.setattr(blocks, "KEPT_BYTES", 0)
    assert_same_fit(vq.fit_lloyd(points, 20, n_steps=0, sample_weight=in_blocks(WEIGHTS, 450)), want)


def test_em_equals_that_in_memory():
    for start in ("random", "k-means++"):
        want = vq.fit_em(BASE.T, 40, 8, start=start, seed=2)
        for chunks in ((6, 3000), (6, 701), (4, 1000)):
            got = vq.fit_em(in_blocks(BASE.T, chunks), 40, 8, start=start, seed=2)
            assert_same_fit(got, want)
            assert_near(got.half_steps, want.half_steps)
    # A start with codewords that nobody chooses: cells are divided, then far columns taken.
    points, start = np.repeat(BASE[:50], 8, axis=0), np.vstack([BASE[:30], np.full((15, 6), 90.0)])
    assert_same_fit(vq.fit_em(in_blocks(points.T, (6, 90)), 45, start=start), vq.fit_em(points.T, 45, start=start))


@pytest.mark.parametrize("rotation", [None, np.linalg.qr(BASE[:6])[0]], ids=["plain", "rotated"])
@pytest.mark.parametrize(("n_codewords", "n_steps"), [(16, 4), (300, 1)])
def test_product_quantizer_equals_that_in_memory(rotation, n_codewords, n_steps):
    for points in (BASE, FAR):
        want = vq.ProductQuantizer(3, n_codewords, rotation=rotation).fit(points, n_steps=n_steps)
        there = in_blocks(points)
        got = vq.ProductQuantizer(3, n_codewords, rotation=rotation).fit(there, n_steps=n_steps)
        assert_near(got.codebooks, want.codebooks)
        assert_near(got.distortions, want.distortions)
        codes = want.encode(there)
        assert isinstance(codes, da.Array) and codes.dtype == want.encode(points).dtype and codes.shape == (3000, 3)
        np.testing.assert_array_equal(codes.compute(), want.encode(points))
        for dtype in ("float32", "float64"):
            decoded = want.decode(codes, dtype)
            assert isinstance(decoded, da.Array) and decoded.dtype == dtype and decoded.chunks == there.chunks
            np.testing.assert_array_equal(decoded.compute(), want.decode(want.encode(points), dtype))


def test_spare_codewords_of_a_constant_part():
    points = BASE.copy()
    points[:, 2:4] = 1.0
    want = vq.ProductQuantizer(3, 8).fit(points, n_steps=2)
    assert_near(vq.ProductQuantizer(3, 8).fit(in_blocks(points), n_steps=2).codebooks, want.codebooks)


@pytest.mark.parametrize("shape", [(40,), (40, 3), (8, 5, 2)])
@pytest.mark.parametrize("codebook", [BASE[:9], BASE[:9, 0], BASE[:9].astype(np.float32)], ids=["wide", "a line", "float32"])
def test_decode_codes_of_any_shape(shape, codebook):
    codes = RNG.integers(0, 9, shape)
    decoded = vq.decode(da.from_array(codes, chunks=3), codebook)
    assert isinstance(decoded, da.Array) and decoded.dtype == codebook.dtype
    np.testing.assert_array_equal(decoded.compute(), codebook[codes])
    np.testing.assert_array_equal(vq.decode(da.from_array(codes.astype(np.uint8), chunks=3), codebook).compute(), codebook[codes])


def test_workers_and_threads_change_no_bit():
    points, seen = in_blocks(FAR, 100), set()
    for options in (*SCHEDULERS, dict(scheduler="threads", num_workers=1), SCHEDULERS[1]):
        with dask.config.set(options):
            fit = vq.fit_lloyd(points, 15, n_steps=6, sample_weight=WEIGHTS, empty="farthest")
            seen.add((fit.codebook.tobytes(), fit.distortions, fit.codes.compute().tobytes(), fit.weights.tobytes()))
    assert len(seen) == 1


# ---- lazy, one pass at a time, little held


def test_nothing_is_computed_until_asked_for():
    points = in_blocks(BASE)
    quantizer = vq.ProductQuantizer(3, 8).fit(BASE)
    with counted() as keys:
        codes, sq_dists = vq.assign(points, BASE[:5])
        lazy = [codes, sq_dists, vq.encode(points, BASE[:5]), vq.decode(codes, BASE[:5]), quantizer.encode(points)]
        lazy.append(quantizer.decode(lazy[-1]))
        assert keys == []
        assert [array.shape for array in lazy] == [(3000,), (3000,), (3000,), (3000, 6), (3000, 3), (3000, 6)]
        values = dask.compute(*lazy)
        assert len(keys) > 0
    assert [array.dtype for array in lazy] == [value.dtype for value in values]
    assert isinstance(vq.distortion(points, BASE[:5]), float)


def test_one_block_of_one_block_is_computed():
    with counted() as keys:
        vq.encode(in_blocks(BASE, 100), BASE[:5])[250:300].compute()
    assert len(keys) <= 4  # of thirty blocks


def test_a_pass_is_one_task_per_block():
    """So that no scheduler can send a block anywhere, or hold it for later."""
    reads = []
    points = in_blocks(BASE, 100).map_blocks(lambda block: reads.append(1) or block, meta=np.empty((0, 0)))
    with dask.config.set(scheduler="synchronous"), counted() as keys:
        vq.distortion(points, BASE[:5])
        assert len(reads) == 30
        # Thirty rows, the codebook, and a tree that adds sixteen at a time.
        assert len(keys) <= 30 + 1 + 4, keys
        del reads[:], keys[:]
        vq.fit_lloyd(points, 5, start=BASE[:5], n_steps=3)
        assert len(reads) == 30 * (1 + 3), "the start and three steps"
        assert len(keys) <= 4 * (30 + 2 + 4), keys


def test_a_graph_does_not_grow_with_the_codewords_of_a_start(monkeypatch):
    monkeypatch.setattr(blocks, "KEPT_BYTES", 0)
    points = in_blocks(BASE, 1000)
    with dask.config.set(scheduler="synchronous"), counted() as keys:
        vq.fit_lloyd(points, 10, n_steps=0)
        few, _ = len(keys), keys.clear()
        vq.fit_lloyd(points, 40, n_steps=0)
    assert len(keys) < 5 * few


def test_slices_of_a_block_are_as_good_as_the_block(monkeypatch):
    want = vq.fit_lloyd(in_blocks(BASE), 8, n_steps=5), vq.fit_lloyd(in_blocks(BASE[:, 0]), 8, n_steps=5)
    monkeypatch.setattr(one_block, "SLICE", 64)
    for points, expected in zip((BASE, BASE[:, 0]), want):
        got = vq.fit_lloyd(in_blocks(points), 8, n_steps=5)
        assert_near(got.codebook, expected.codebook)
        np.testing.assert_array_equal(got.codes.compute(), expected.codes.compute())


def test_largest_is_the_same_in_blocks_and_in_memory():
    values = RNG.integers(0, 9, 400).astype(float)
    for m in (1, 7, 60, 400, 500):
        want = np.lexsort((np.arange(400), -values))[:m]
        for chunks in (400, 33, 1):
            positions, found = blocks.largest(da.from_array(values, chunks=chunks), m)
            np.testing.assert_array_equal(positions, want)
            np.testing.assert_array_equal(found, values[want])
        np.testing.assert_array_equal(passes.largest_of(np.arange(400), values, m)[0], want)


# ---- refused


REFUSED = {
    "points_1d": lambda: vq.fit_optimal(in_blocks(BASE[:, 0]), 3),
    "points_or_law": lambda: vq.fit_clvq(in_blocks(BASE), 3),
    "queries": lambda: vq.ProductQuantizer(2, 4).fit(BASE).search(in_blocks(BASE), np.zeros((9, 2), int)),
    "gram": lambda: vq.fit_em(in_blocks(BASE.T), 3, gram=np.eye(6)),
    "rotation": lambda: vq.ProductQuantizer(2, 4, rotation="optimized").fit(in_blocks(BASE)),
    "codebook": lambda: vq.assign(BASE, in_blocks(BASE)),
    "start": lambda: vq.fit_lloyd(BASE, 3000, start=in_blocks(BASE)),
    "vector": lambda: vq.QSGD(4).encode(in_blocks(BASE)),
    "codes is": lambda: vq.pack(in_blocks(np.arange(9)), 4),
    "codes": lambda: vq.ProductQuantizer(2, 4).fit(BASE).search(BASE, in_blocks(np.zeros((9, 2), int))),
    "codes cannot be stored": lambda: vq.save("never", vq.fit_lloyd(in_blocks(BASE), 3, n_steps=0)),
    "points": lambda: vq.fit_medians(in_blocks(BASE), 3),
    "points is": lambda: vq.fit_medoids(in_blocks(BASE), 3),
    "points is a": lambda: vq.fit_soft_em(in_blocks(BASE), 3),
    "points is a dask": lambda: vq.cells(in_blocks(BASE[:, 0]), [0.0]),
    "a dask Delayed": lambda: vq.fit_lloyd(dask.delayed(BASE) + 0, 3),
    "unknown|must be known": lambda: vq.fit_lloyd(in_blocks(BASE)[in_blocks(BASE)[:, 0] > 0], 3),
    "dtype object": lambda: vq.encode(in_blocks(BASE.astype(object)), BASE[:3]),
    "dtype bool": lambda: vq.encode(in_blocks(BASE > 0), BASE[:3]),
    "dtype complex": lambda: vq.encode(in_blocks(BASE.astype(complex)), BASE[:3]),
    "dtype <U": lambda: vq.encode(in_blocks(BASE.astype(str)), BASE[:3]),
    "codes has dtype": lambda: vq.decode(in_blocks(BASE), BASE[:3]),
    r"shape \(0, 6\)": lambda: vq.fit_lloyd(in_blocks(BASE)[:0], 3),
    r"shape \(\)": lambda: vq.decode(da.from_array(np.array(3)), BASE),
    r"\(5, 10, 60\)": lambda: vq.fit_lloyd(in_blocks(BASE)[:500].reshape(5, 10, 60), 3),
    "n_codewords=4000": lambda: vq.fit_lloyd(in_blocks(BASE), 4000),
    "2 distinct": lambda: vq.fit_lloyd(in_blocks(np.repeat(BASE[:2], 50, axis=0), 30), 3),
    "n_subspaces": lambda: vq.ProductQuantizer(4, 4).fit(in_blocks(BASE)),
    r"sample_weight has shape \(9,\)": lambda: vq.fit_lloyd(in_blocks(BASE), 3, sample_weight=in_blocks(WEIGHTS)[:9]),
    "sample_weight reaches": lambda: vq.fit_lloyd(in_blocks(BASE), 3, sample_weight=-in_blocks(WEIGHTS)),
    "sample_weight holds NaN": lambda: vq.fit_lloyd(in_blocks(BASE), 3, sample_weight=da.where(in_blocks(WEIGHTS) > 0.5, np.nan, 1.0)),
    "path='nowhere.npy'": lambda: vq.data.npy_file("nowhere.npy"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_blocks_cannot_do_is_refused_in_one_sentence(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(vq.InputError, match=name) as caught:
        REFUSED[name]()
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", SCHEDULERS, ids=lambda options: options["scheduler"])
@pytest.mark.parametrize(("value", "words"), [(np.nan, "NaN"), (-np.inf, "infinity"), (1e200, "1e\\+200")])
def test_a_bad_value_in_the_last_block_is_refused_when_it_is_met(value, words, options):
    bad = BASE.copy()
    bad[-1, -1] = value
    points = in_blocks(bad)
    codes, sq_dists = vq.assign(points, BASE[:4])
    calls = [codes.compute, sq_dists.compute, vq.ProductQuantizer(3, 4).fit(BASE).encode(points).compute]
    calls += [lambda: vq.distortion(points, BASE[:4]), lambda: vq.fit_lloyd(points, 4), lambda: vq.fit_lloyd(points, 4, "random")]
    calls += [lambda: vq.fit_em(points.T, 4), lambda: vq.ProductQuantizer(3, 4).fit(points), lambda: vq.fit_lloyd(points[:, -1], 4)]
    with dask.config.set(options):
        for call in calls:
            with pytest.raises(vq.InputError, match=words):
                call()
        np.testing.assert_array_equal(codes[:2000].compute(), vq.encode(BASE[:2000], BASE[:4]))  # the other blocks are good


def test_codes_out_of_range_are_refused_when_they_are_met():
    codes = da.from_array(np.array([0, 1, 2, 9]), chunks=2)
    decoded = vq.decode(codes, BASE[:5])
    np.testing.assert_array_equal(decoded[:2].compute(), BASE[:2])
    with pytest.raises(vq.InputError, match=r"codes reach from 2 to 9: with 5 codewords"):
        decoded.compute()


@pytest.mark.parametrize("name", [name for name, (points, *_) in CASES.items() if isinstance(points, np.ndarray) and points.ndim])
@pytest.mark.parametrize("function", ["fit_lloyd", "fit_lloyd random farthest", "fit_em", "assign", "distortion"])
def test_bad_and_odd_input_fares_as_in_memory(function, name):
    points, n_codewords, _ = CASES[name]
    want = outcome(function, name, "numpy")
    with dask.config.set(scheduler="synchronous"):
        try:
            result = FUNCTIONS[function](da.from_array(points, chunks=(67,) + points.shape[1:]), n_codewords)
            if not isinstance(result, float):
                result.codes.compute() if hasattr(result, "codes") else dask.compute(*result)
            got = "works"
        except vq.InputError as error:
            got = f"refused: {error}"
    assert got.partition(":")[0] == want.partition(":")[0], f"{got}, not {want}"


class BlockError(Exception):
    """What a block raises."""


def _raise(block):
    raise BlockError("the disk is gone")


@pytest.mark.parametrize("options", SCHEDULERS, ids=lambda options: options["scheduler"])
def test_an_error_of_a_block_is_the_callers(options):
    points = in_blocks(BASE).map_blocks(_raise, meta=np.empty((0, 0)))
    with dask.config.set(options):
        for call in (
            lambda: vq.fit_lloyd(points, 3), lambda: vq.fit_em(points.T, 3), lambda: vq.ProductQuantizer(2, 3).fit(points),
            lambda: vq.distortion(points, BASE[:3]), vq.encode(points, BASE[:3]).compute,
        ):  # fmt: skip
            with pytest.raises(BlockError, match="the disk is gone"):
                call()


def test_a_failed_fit_changes_no_quantizer():
    quantizer = vq.ProductQuantizer(3, 4).fit(BASE)
    before = quantizer.codebooks.copy(), quantizer.distortion
    with pytest.raises(BlockError):
        quantizer.fit(in_blocks(BASE).map_blocks(_raise, meta=np.empty((0, 0))))
    np.testing.assert_array_equal(quantizer.codebooks, before[0])
    assert quantizer.distortion == before[1]


@pytest.mark.parametrize(("lie", "words"), [
    (lambda block: block[:-1], r"block of shape \((699|199), 6\) where \((700|200), 6\)"),
    (lambda block: block[:, :5], r"block of shape \((700|200), 5\)"),
    (lambda block: block.astype(str), "dtype <U"),
    (lambda block: np.ma.masked_greater(block, 0), "masked"),
    (lambda block: [None], "dtype object"),
    (lambda block: block + 0j, "dtype complex"),
], ids=range(6))  # fmt: skip
def test_a_block_that_is_not_as_announced_is_refused(lie, words):
    points = in_blocks(BASE).map_blocks(lie, meta=np.empty((0, 0)))
    for call in (lambda: vq.fit_lloyd(points, 3), lambda: vq.distortion(points, BASE[:3]), vq.encode(points, BASE[:3]).compute):
        with pytest.raises(vq.InputError, match=words):
            call()


def test_a_block_of_another_float_type_is_what_was_announced():
    points = in_blocks(BASE.astype(np.float32)).map_blocks(lambda block: block.astype(np.float64), meta=np.empty((0, 0), np.float32))
    assert_same_fit(vq.fit_lloyd(points, 5, n_steps=3), vq.fit_lloyd(BASE.astype(np.float32), 5, n_steps=3))


def test_dask_is_imported_only_for_dask_arrays():
    code = "import sys, numpy as np, vqcore as vq; vq.fit_lloyd(np.arange(9.0), 2); print('dask' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"


# ---- files


def test_a_file_is_an_array_in_blocks(tmp_path):
    np.save(tmp_path / "points.npy", FAR)
    points = vq.data.npy_file(tmp_path / "points.npy", n_rows=700)
    assert points.chunks == ((700, 700, 700, 700, 200), (6,)) and points.dtype == np.float32
    np.testing.assert_array_equal(points.compute(), FAR)
    assert len(pickle.dumps(points)) < 5000, "the file itself is not in the graph"
    assert_same_fit(vq.fit_lloyd(points, 7, n_steps=5), vq.fit_lloyd(FAR, 7, n_steps=5))
    assert vq.data.npy_file(tmp_path / "points.npy").npartitions == 1
    for array in (BASE[:, 0], np.asfortranarray(BASE), np.arange(12, dtype=np.uint8).reshape(3, 2, 2), np.zeros((0, 3))):
        np.save(tmp_path / "other.npy", array)
        np.testing.assert_array_equal(vq.data.npy_file(str(tmp_path / "other.npy"), n_rows=2).compute(), array)


def test_a_file_that_is_none_is_refused(tmp_path):
    np.save(tmp_path / "scalar.npy", np.array(3.0))
    np.save(tmp_path / "objects.npy", np.array([None]), allow_pickle=bool(1))
    np.savez(tmp_path / "several.npz", BASE)
    (tmp_path / "text.npy").write_text("points")
    for path in [*tmp_path.iterdir(), tmp_path / "missing.npy", tmp_path, None]:
        with pytest.raises(vq.InputError, match="path"):
            vq.data.npy_file(path)
    np.save(tmp_path / "points.npy", BASE)
    with pytest.raises(vq.InputError, match="n_rows"):
        vq.data.npy_file(tmp_path / "points.npy", n_rows=0)


def test_the_example_of_the_readme_runs(root, tmp_path, monkeypatch):
    _, example = re.findall(r"```python\n(.*?)```", (root / "README.md").read_text(), re.S)
    monkeypatch.chdir(tmp_path)
    np.save("points.npy", BASE)
    found = {}
    exec(example, found)
    np.testing.assert_array_equal(da.from_npy_stack("codes").compute(), vq.encode(BASE, found["fit"].codebook))


# ---- threads


_TOGETHER = """
import numba, numpy as np, dask, dask.array as da, vqcore as vq
points = np.random.default_rng(0).standard_normal((60_000, 8))
with dask.config.set(scheduler="threads", num_workers=4):
    fit = vq.fit_lloyd(da.from_array(points, chunks=(3000, 8)), 30, n_steps=8)
    print(np.array_equal(fit.codes.compute(), vq.fit_lloyd(points, 30, n_steps=8).codes), numba.get_num_threads())
"""


@pytest.mark.parametrize("layer", ["workqueue", "default"])
def test_threads_of_dask_enter_the_loops_together(layer):
    """numba's own workqueue would end the process when two Python threads enter it at a time; nothing of it is used."""
    env = os.environ | {"NUMBA_THREADING_LAYER": layer, "NUMBA_NUM_THREADS": "2"}
    run = subprocess.run([sys.executable, "-c", _TOGETHER], capture_output=True, text=True, env=env)
    assert run.stdout.split() == ["True", "2"], run.stderr[-2000:]


# ---- a cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The address of a Dask scheduler with two workers: processes of their own, on the loopback, stopped at the end."""
    folder = tmp_path_factory.mktemp("cluster")
    dask_command, quiet = [sys.executable, "-m", "dask"], {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
    local = ["--host", "127.0.0.1", "--no-dashboard", "--dashboard-address", "127.0.0.1:0"]
    scheduler = [*dask_command, "scheduler", *local, "--port", "0", "--scheduler-file", folder / "address.json"]
    started = [subprocess.Popen(scheduler, **quiet)]
    try:
        assert wait_until(lambda: (folder / "address.json").exists() and (folder / "address.json").read_text(), 60)
        worker = [*dask_command, "worker", *local, "--scheduler-file", folder / "address.json", "--nthreads", "1", "--no-nanny"]
        started += [subprocess.Popen(worker, **quiet) for _ in range(2)]
        yield str(folder / "address.json")
    finally:
        for process in reversed(started):
            process.kill()  # they have nothing to put away
            process.wait()


@pytest.fixture
def client(cluster):
    from distributed import Client

    with Client(scheduler_file=cluster, timeout=60) as client:
        client.wait_for_workers(2, timeout=60)
        yield client


@pytest.fixture
def traffic(monkeypatch):
    """Bytes that this process sends and receives over Dask's connections."""
    from distributed.comm import tcp

    sent, received = [], []
    to_frames, from_frames = tcp.to_frames, tcp.from_frames

    async def counting(*arguments, **options):
        frames = await to_frames(*arguments, **options)
        sent.append(sum(memoryview(frame).nbytes for frame in frames))
        return frames

    async def counted_back(frames, *arguments, **options):
        received.append(sum(memoryview(frame).nbytes for frame in frames))
        return await from_frames(frames, *arguments, **options)

    monkeypatch.setattr(tcp, "to_frames", counting)
    monkeypatch.setattr(tcp, "from_frames", counted_back)
    return lambda: (sum(sent), sum(received))


def between_workers(client):
    """Bytes that the workers have sent each other so far."""
    return sum(client.run(lambda dask_worker: dask_worker.transfer_outgoing_bytes_total).values())


def test_on_a_cluster_the_answer_is_the_same_and_only_small_tables_travel(client, traffic, tmp_path):
    points = RNG.standard_normal((200_000, 16)).astype(np.float32)
    np.save(tmp_path / "points.npy", points)  # 12.8 MB, which the workers read for themselves
    there = vq.data.npy_file(tmp_path / "points.npy", n_rows=10_000)
    before, at_first = between_workers(client), traffic()
    fits = [vq.fit_lloyd(there, 32, start, n_steps=5, seed=1) for start in ("random", "k-means++")]
    moved = between_workers(client) - before
    sent, received = (now - then for now, then in zip(traffic(), at_first))
    print(f"{moved} bytes between the workers, {sent} sent by the caller and {received} to it, of {points.nbytes} of points")
    # The points are read more than forty times, the caller sends more than a hundred graphs.
    assert moved < points.nbytes / 4 and max(sent, received) < points.nbytes / 5
    for fit, start in zip(fits, ("random", "k-means++")):
        want = vq.fit_lloyd(points, 32, start, n_steps=5, seed=1)
        assert_near(fit.codebook, want.codebook)
        np.testing.assert_array_equal(fit.codes.compute(), want.codes)


def test_errors_reach_the_caller_from_a_cluster(client):
    bad = BASE.copy()
    bad[1234, 1] = np.nan
    with pytest.raises(vq.InputError, match="points holds NaN"):
        vq.fit_lloyd(in_blocks(bad), 4)
    quantizer = vq.ProductQuantizer(2, 16).fit(in_blocks(BASE), n_steps=1)
    assert_near(quantizer.codebooks, vq.ProductQuantizer(2, 16).fit(BASE, n_steps=1).codebooks)
    decoded = quantizer.decode(quantizer.encode(in_blocks(BASE))).compute()
    np.testing.assert_array_equal(decoded, quantizer.decode(quantizer.encode(BASE)))


# ---- memory


_OUT_OF_CORE = """
import sys, dask, numpy as np, vqcore as vq
dask.config.set(scheduler="threads", num_workers=2)
points = vq.data.npy_file(sys.argv[1])
fit = vq.fit_lloyd(points, 16, start=sys.argv[2], n_steps=4, seed=0)
shares = np.bincount(fit.codes.map_blocks(lambda codes: codes.astype(np.uint8)).compute(), minlength=16) / len(points)
print(fit.distortion, vq.distortion(points, fit.codebook), abs(shares - fit.weights).max())
"""


def anonymous_bytes(pid):
    """Memory of a process that no file stands behind; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


_GROWTH = """
import sys, threading, time, dask, numpy as np, vqcore as vq
from pathlib import Path

def anonymous():
    return sum(1024 * int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon:"))

dask.config.set(scheduler="threads", num_workers=2)
vq.fit_lloyd(vq.data.npy_file(sys.argv[1], n_rows=50_000)[:100_000], 8, n_steps=2)
before, peak = anonymous(), []
watch = threading.Thread(target=lambda: [(peak.append(anonymous()), time.sleep(0.002)) for _ in iter(lambda: done, True)])
done = False
watch.start()
for start in ("random", "k-means++"):
    vq.fit_lloyd(vq.data.npy_file(sys.argv[1], n_rows=50_000), 8, start, n_steps=4)
done = True
watch.join()
print(max(peak) - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_fit_holds_a_few_blocks(tmp_path):
    some = np.random.default_rng(1).standard_normal((50_000, 32), np.float32)
    np.save(tmp_path / "points.npy", np.tile(some, (15, 1)))  # 96 MB in blocks of 6.4 MB
    run = subprocess.run([sys.executable, "-c", _GROWTH, str(tmp_path / "points.npy")], capture_output=True, text=True, check=True)
    # Of squared distances, two times 8 bytes for each of 750,000 points are kept.
    assert int(run.stdout) < 12e6 + 4 * 6.4e6, f"{int(run.stdout) / 1e6:.0f} MB"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("start", ["random", "k-means++"])
def test_a_file_four_times_as_large_as_memory_may_be(tmp_path, start):
    """The process is killed where its anonymous memory passes the limit; pages of the file itself are not counted."""
    limit, dim, some = 200 * 10**6, 32, np.random.default_rng(1).standard_normal((50_000, 32), np.float32)
    n = 4 * limit // (4 * dim)
    points = np.lib.format.open_memmap(tmp_path / "points.npy", "w+", np.float32, (n, dim))
    for first in range(0, n, len(some)):
        points[first : first + len(some)] = some
    points.flush()
    del points
    command = [sys.executable, "-c", _OUT_OF_CORE, str(tmp_path / "points.npy"), start]
    # Compiling the loops takes memory of its own: that is done once, on a few points.
    np.save(tmp_path / "few.npy", some)
    subprocess.run([*command[:3], str(tmp_path / "few.npy"), start], check=True, capture_output=True)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    peak = 0
    while process.poll() is None:
        peak = max(peak, anonymous_bytes(process.pid))
        if peak > limit:
            process.kill()
        time.sleep(0.005)
    out, error = process.communicate()
    (tmp_path / "points.npy").unlink()
    assert process.returncode == 0, f"{peak / 1e6:.0f} MB of anonymous memory; {error[-1000:]}"
    distortion, again, apart = map(float, out.split())
    assert distortion == pytest.approx(again, rel=1e-12) and apart < 1e-12
    # Sixteen of the codewords a law of 32 dimensions would need: below its variance, above the bound of 4 bits.
    assert 32 * 2 ** (-2 * 4 / 32) < distortion < 32
    print(f"{n * dim * 4 / 1e6:.0f} MB of points, {peak / 1e6:.0f} MB of anonymous memory at most")


# ---- speed


def seconds(work):
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


@pytest.mark.slow
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="there is one core")
def test_two_workers_are_nearly_twice_as_fast():
    """Assignment-bound: 4096 codewords. Interleaved, the best of several; a busy machine is given more tries.

    Two plain threads with half of the points each tell whether there is a second core at all for the time being.
    """
    points, codebook = RNG.standard_normal((200_000, 32)).astype(np.float32), RNG.standard_normal((4096, 32))
    there = in_blocks(points, 10_000)

    def by_dask(n_workers):
        with dask.config.set(scheduler="threads", num_workers=n_workers):
            vq.distortion(there, codebook)

    def by_hand(n_workers):
        with ThreadPoolExecutor(n_workers) as pool:
            list(pool.map(lambda half: compiled.assign(half, codebook), (points[:100_000], points[100_000:])))

    runs = {(work, n_workers): np.inf for work in (by_dask, by_hand) for n_workers in (1, 2)}
    ratio = lambda work: runs[work, 1] / runs[work, 2]  # noqa: E731
    by_dask(2)
    for _ in range(40):
        for work, n_workers in runs:
            runs[work, n_workers] = min(runs[work, n_workers], seconds(lambda: work(n_workers)))
        if ratio(by_dask) >= 1.8 and ratio(by_hand) >= 1.8:
            break
    print(f"two workers are {ratio(by_dask):.2f} times as fast as one, two plain threads {ratio(by_hand):.2f} times")
    if ratio(by_hand) < 1.8 and ratio(by_dask) < 1.7:
        pytest.skip(f"others use the second core: two plain threads are {ratio(by_hand):.2f} times as fast as one")
    assert ratio(by_dask) >= 1.7


def test_equally_far_points_come_in_order():
    """Two points are equally far from their mean, whatever rounding says: the lower index comes first."""
    sq_dists = np.array([1.0, 0.25, 1.0 + 2e-16, 4.0, 1e-40 * (1 + 2e-16), 0.25 - 1e-16, 1e-40])
    ids, found = passes.farthest(compiled, sq_dists, 2)
    assert ids.tolist() == [3, 0, 2, 1, 5, 4, 6] and np.array_equal(found, sq_dists[ids])


def test_an_array_without_an_axis_is_refused_in_words():
    number = da.from_array(np.array(1.0))
    with pytest.raises(vq.InputError, match=r"points has shape \(\): it must be \(n,\) or \(n, dim\)"):
        vq.fit_lloyd(number, 1)
    with pytest.raises(vq.InputError, match=r"codes has shape \(\): in a dask array it must have an axis"):
        vq.decode(number.astype(int), np.zeros((2, 2)))
