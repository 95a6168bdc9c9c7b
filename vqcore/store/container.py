"""Files that cannot run code and cannot lie: safetensors with a digest of every byte, checked to the last field.

A file is a safetensors file, which other tools read as well: eight bytes with the length of a JSON header, the
header, the arrays. Its metadata hold the format's version, the kind of thing, its numbers and names, and a BLAKE2b
digest of the whole file (the digest's own digits counted as zeros), so that no bit can change unseen.
"""

import hashlib
import json
import math
import os
import re

import numpy as np

from vqcore.errors import FormatError, InputError

VERSION = 1
TYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "U64": "<u8", "I32": "<i4", "U32": "<u4",
    "I16": "<i2", "U16": "<u2", "I8": "|i1", "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip
NAMES = {np.dtype(dtype): name for name, dtype in TYPES.items()}
_PREFIX = b'{"__metadata__":{"blake2b":"'
_DIGITS = 64
_LONGEST_HEADER = 2**24


def serialized(kind, arrays, attributes):
    """The file in pieces: length, header with its digest, arrays with the widest types first, so that all align."""
    metadata = {"blake2b": "0" * _DIGITS, "version": str(VERSION), "kind": kind}
    metadata["attributes"] = json.dumps(attributes, allow_nan=False)
    header, position, ordered = {"__metadata__": metadata}, 0, sorted(arrays, key=lambda n: -arrays[n].dtype.itemsize)
    for name in ordered:
        array = arrays[name]
        entry = {"dtype": NAMES[array.dtype], "shape": list(array.shape)}
        header[name] = {**entry, "data_offsets": [position, position + array.nbytes]}
        position += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > _LONGEST_HEADER:
        raise InputError(f"names and numbers take {len(text)} bytes: a header holds at most {_LONGEST_HEADER}")
    pieces = [
        len(text).to_bytes(8, "little"),
        text,
        *(arrays[name].data.cast("B") if arrays[name].size else b"" for name in ordered),
    ]
    digits = _digest(pieces).encode()
    pieces[1] = _PREFIX + digits + text[len(_PREFIX) + _DIGITS :]
    return pieces


def _digest(pieces):
    """Hexadecimal BLAKE2b of 32 bytes."""
    digest = hashlib.blake2b(digest_size=_DIGITS // 2)
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def read(path):
    """Kind, arrays and attributes of a file: every claim is compared with its size, every byte with the digest."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = file.read(8)
        n_header = int.from_bytes(length, "little")
        if len(length) < 8 or n_header > min(size - 8, _LONGEST_HEADER):
            raise FormatError(
                f"{size} bytes cannot hold a header of {n_header}: this is not a file of vqcore, or it is cut off"
            )
        text = file.read(n_header)
        metadata, entries = _parsed(text, size - 8 - n_header)
        data = bytearray(size - 8 - n_header)
        if len(text) < n_header or file.readinto(data) < len(data) or file.read(1):
            raise FormatError("the file changed while it was read")
    zeroed = _PREFIX + b"0" * _DIGITS + text[len(_PREFIX) + _DIGITS :]
    if _digest([length, zeroed, data]) != text[len(_PREFIX) : len(_PREFIX) + _DIGITS].decode():
        raise FormatError("the digest does not match: the file is damaged")
    if metadata["version"] != str(VERSION):
        raise FormatError(
            f"version {metadata['version'][:20]!r}, but this vqcore reads version {VERSION}: install a later one"
        )
    arrays = {}
    for name, dtype, shape, begin, end in entries:
        array = np.frombuffer(data, dtype, math.prod(shape), begin).reshape(shape)
        arrays[name] = array.astype(array.dtype.newbyteorder("="), copy=False)
    return metadata["kind"], arrays, json.loads(metadata["attributes"])


def _parsed(text, n_data):
    """Metadata, and (name, dtype, shape, begin, end) of arrays that fill n_data bytes exactly."""
    if not text.startswith(_PREFIX) or not re.fullmatch(rb"[0-9a-f]{64}", text[len(_PREFIX) : len(_PREFIX) + _DIGITS]):
        raise FormatError("there is no digest where one must be: this is not a file of vqcore, or it is damaged")
    try:
        header = json.loads(text, object_pairs_hook=_without_repetition)
        metadata, position, entries = header.pop("__metadata__"), 0, []
        if metadata.keys() != {"blake2b", "version", "kind", "attributes"}:
            raise FormatError("the metadata have other fields")
        if not all(isinstance(value, str) for value in metadata.values()):
            raise FormatError("the metadata are not strings")
        json.loads(metadata["attributes"], object_pairs_hook=_without_repetition)
        for name, entry in header.items():
            entries.append((name, *_entry(entry, position)))
            position = entries[-1][-1]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise FormatError(f"the header cannot be read: {error}") from None
    if position != n_data:
        raise FormatError(f"the header speaks of {position} bytes of arrays, but there are {n_data}")
    return metadata, entries


def _entry(entry, position):
    """Type, shape, begin and end of one array that begins at this position."""
    shape, (begin, end) = entry["shape"], entry["data_offsets"]
    if entry.keys() != {"dtype", "shape", "data_offsets"} or entry["dtype"] not in TYPES or len(shape) > 32:
        raise FormatError("an array has other fields, an unknown type or too many dimensions")
    if any(type(n) is not int or not 0 <= n < 2**48 for n in (*shape, begin, end)):
        raise FormatError("a size is not a whole number, or an impossible one")
    dtype = np.dtype(TYPES[entry["dtype"]])
    # numpy refuses such extents even where one of them is 0.
    if math.prod(max(n, 1) for n in shape) * dtype.itemsize >= 2**63:
        raise FormatError(f"no array can have the shape {tuple(shape)}")
    if begin != position or end - begin != math.prod(shape) * dtype.itemsize:
        raise FormatError("arrays overlap, leave a hole, or are not as long as their shape")
    return dtype, tuple(shape), begin, end


def _without_repetition(pairs):
    """The dict of a JSON object that names nothing twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise FormatError("a name comes twice")
    return found
