"""Files of fits, quantizers, messages, compressed networks and arrays that cannot run code and cannot lie."""

import os
import re

import numpy as np

from vqcore import checks
from vqcore.data import LIBRARIES, to_library
from vqcore.errors import FormatError, InputError
from vqcore.kernels import table_for
from vqcore.store.container import NAMES, TYPES, read, serialized
from vqcore.store.kinds import KINDS, kind_named, kind_of
from vqcore.writing import write_whole

__all__ = ["save", "load"]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,127}")


def save(path, thing):
    """Write a fit, a ProductQuantizer, a QSGD message, a CompressedNetwork or a dict of arrays to a file, whole or not.

    Whatever goes wrong, an older file of this name stays as it was. Tensors are stored as the arrays they hold.

    Raises:
        InputError: another thing, names or types that a file cannot hold, values that are not finite.
    """
    kind = kind_of(thing)
    arrays, attributes = kind.pack(thing)
    arrays = {name: _as_host(name, array) for name, array in arrays.items()}
    # What could not be loaded is never written.
    kind.check(arrays, attributes, InputError)
    write_whole(path, *serialized(kind.name, arrays, attributes))


def load(path, library="numpy"):
    """What `save` wrote to a file, as arrays of the library of this name, whichever it was saved from.

    Args:
        library: "numpy", "torch" or "torch:cuda".

    Raises:
        FileNotFoundError: there is no such file.
        FormatError: a damaged file, one of another format, or of a later version of this one.
    """
    checks.as_choice(library, "library", LIBRARIES)
    try:
        name, arrays, attributes = read(path)
        kind = kind_named(name)
        if kind is None:
            raise FormatError(f"kind {name[:20]!r} is none of {', '.join(KINDS)}")
        kind.check(arrays, attributes, FormatError)
        return kind.unpack(arrays, attributes, lambda array: to_library(array, library))
    except FormatError as error:
        raise FormatError(f"{os.fspath(path)}: {error}") from None


def _as_host(name, array):
    """A contiguous little-endian numpy array, of a type that files hold."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InputError(f"name {name!r}: it must be 1 to 128 letters, digits, dots, hyphens or underscores")
    if np.ma.is_masked(array):
        raise InputError(f"{name} is a masked array with masked entries: fill or drop them first")
    try:
        host = np.asarray(table_for(array, name).to_host(array))
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} cannot be stored: {error}") from None
    little = host.dtype.newbyteorder("<")
    if little not in NAMES:
        allowed = ", ".join(np.dtype(dtype).name for dtype in TYPES.values())
        raise InputError(f"{name} has dtype {host.dtype}: a file holds {allowed}")
    return np.asarray(host, dtype=little, order="C")
