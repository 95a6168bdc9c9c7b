"""What a file can hold: for each kind of thing its arrays and numbers, what they must be, and the way back."""

import math
from functools import cache
from typing import Any, Callable, NamedTuple

import numpy as np

from vqcore.bits import n_words_for, pack, unpack
from vqcore.em import EMFit
from vqcore.errors import FormatError, InputError
from vqcore.fit import Certificate, Fit
from vqcore.online import OnlineFit
from vqcore.product import ProductQuantizer
from vqcore.soft import SoftFit

INTEGERS, FLOAT64, WORDS = ("int64",), ("float64",), ("uint64", "int64")


class Kind(NamedTuple):
    """One kind of thing.

    Attributes:
        arrays: name -> (types, numbers of dimensions, whether it may be absent); None where any will do.
        attributes: name -> type, or tuple of types; lists hold numbers.
    """

    name: str
    type: type
    arrays: dict | None
    attributes: dict
    pack: Callable[[Any], tuple]
    unpack: Callable[[dict, dict, Callable], Any]
    agree: Callable[[dict, dict], bool] = lambda arrays, attributes: True

    def check(self, arrays, attributes, error):
        """Raise `error` unless exactly the right arrays and attributes are there, of the right types, and agree."""
        if self.arrays is not None:
            lacking = {name for name, (_, _, optional) in self.arrays.items() if not optional} - arrays.keys()
            if lacking or arrays.keys() - self.arrays.keys():
                raise error(f"a {self.name} with arrays {sorted(arrays)}: {sorted(self.arrays)} are expected")
        for name, array in arrays.items():
            dtypes, n_dims = (None, None) if self.arrays is None else self.arrays[name][:2]
            if dtypes is not None and (array.dtype.name not in dtypes or array.ndim not in n_dims):
                raise error(
                    f"{name} is {array.dtype} of shape {array.shape}: {dtypes} in {n_dims} dimensions is expected"
                )
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise error(f"{name} holds NaN or infinity")
        if not isinstance(attributes, dict) or attributes.keys() != self.attributes.keys():
            raise error(f"a {self.name} with other attributes than {sorted(self.attributes)}")
        for name, types in self.attributes.items():
            if type(attributes[name]) not in (types if isinstance(types, tuple) else (types,)):
                raise error(f"{name}={attributes[name]!r} is of another type")
            if type(attributes[name]) is float and not np.isfinite(attributes[name]):
                raise error(f"{name}={attributes[name]!r} is not finite")
        if not self.agree(arrays, attributes):
            raise error(f"the parts of this {self.name} do not fit each other")


def kind_of(thing):
    """The kind that holds things of this type."""
    for name in KINDS:
        # Told by name first: a fit need not load what messages and networks are made of.
        if _LATE.get(name) in (None, type(thing).__name__):
            if type(thing) is kind_named(name).type:
                return kind_named(name)
    raise InputError(
        f"a {type(thing).__name__} cannot be saved: pass a fit, a ProductQuantizer, a message, what "
        f"compress.extract(model) returns, or a dict of arrays"
    )


def kind_named(name):
    """The kind of this name, or None."""
    return KINDS[name]() if name in _LATE else KINDS.get(name)


_FIT_ARRAYS = {
    "codebook": (FLOAT64, (1, 2), False), "codes": (INTEGERS, (1,), True), "weights": (FLOAT64, (1,), False),
    "codebooks": (FLOAT64, (1, 2), False), "sizes": (INTEGERS, (1,), False), "distortions": (FLOAT64, (1,), False),
    "n_repairs": (INTEGERS, (1,), False),
}  # fmt: skip
_FIT_ATTRIBUTES = {"distortion": float, "n_steps": int, "converged": bool, "certificate": (list, type(None))}


def _pack_fit(fit):
    # Codebooks of all steps lie in one array, since a policy may drop codewords on the way.
    books = [_host(book) for book in fit.codebooks]
    arrays = {
        "codebook": fit.codebook, "weights": fit.weights, "codebooks": np.concatenate(books),
        "sizes": np.array([len(book) for book in books], np.int64), "distortions": np.array(fit.distortions, float),
        "n_repairs": np.array(fit.n_repairs, np.int64),
    }  # fmt: skip
    if fit.codes is not None:
        arrays["codes"] = fit.codes
    seal = None
    if fit.certificate is not None:
        seal = [float(fit.certificate.gradient_norm), bool(fit.certificate.definite), bool(fit.certificate.unique)]
    numbers = {"distortion": float(fit.distortion), "n_steps": int(fit.n_steps), "converged": bool(fit.converged)}
    return arrays, {**numbers, "certificate": seal}


def _fit_parts(arrays, attributes, given):
    ends = np.cumsum(arrays["sizes"])
    seal = attributes["certificate"]
    return dict(
        codebook=given(arrays["codebook"]),
        codes=given(arrays["codes"]) if "codes" in arrays else None,
        weights=given(arrays["weights"]),
        distortion=attributes["distortion"],
        codebooks=tuple(given(book) for book in np.split(arrays["codebooks"], ends[:-1])),
        distortions=tuple(arrays["distortions"].tolist()),
        n_steps=attributes["n_steps"],
        converged=attributes["converged"],
        n_repairs=tuple(arrays["n_repairs"].tolist()),
        certificate=None if seal is None else Certificate(*seal),
    )


def _fit_agrees(arrays, attributes):
    sizes, n = arrays["sizes"], len(arrays["codebook"])
    seal, codes = attributes["certificate"], arrays.get("codes", np.zeros(0, np.int64))
    return bool(
        len(sizes) == len(arrays["distortions"]) > 0 and attributes["n_steps"] >= 0
        # Each by itself as well: a sum of large ones wraps around.
        and ((0 < sizes) & (sizes <= len(arrays["codebooks"]))).all() and sizes.sum() == len(arrays["codebooks"])
        and arrays["codebooks"].shape[1:] == arrays["codebook"].shape[1:] and len(arrays["weights"]) == n
        and ((0 <= codes) & (codes < n)).all()
        and (seal is None or [type(value) for value in seal] == [float, bool, bool] and math.isfinite(seal[0]))
    )  # fmt: skip


def _pack_online(fit):
    arrays, attributes = _pack_fit(fit)
    arrays |= {"n_samples": np.array(fit.n_samples, np.int64), "running_weights": fit.running_weights}
    return arrays, {**attributes, "running_distortion": float(fit.running_distortion)}


def _unpack_online(arrays, attributes, given):
    return OnlineFit(
        **_fit_parts(arrays, attributes, given),
        n_samples=tuple(arrays["n_samples"].tolist()),
        running_weights=given(arrays["running_weights"]),
        running_distortion=attributes["running_distortion"],
    )


def _pack_em(fit):
    arrays, attributes = _pack_fit(fit)
    return arrays | {"half_steps": np.array(fit.half_steps, float)}, attributes


def _unpack_em(arrays, attributes, given):
    return EMFit(**_fit_parts(arrays, attributes, given), half_steps=tuple(arrays["half_steps"].tolist()))


def _em_agrees(arrays, attributes):
    # Every second half-step ends a step.
    return _fit_agrees(arrays, attributes) and np.array_equal(arrays["half_steps"][::2], arrays["distortions"])


def _pack_soft(fit):
    arrays, attributes = _pack_fit(fit)
    arrays |= {"free_energies": np.array(fit.free_energies, float)}
    return arrays, {**attributes, "temperature": float(fit.temperature)}


def _unpack_soft(arrays, attributes, given):
    free_energies = tuple(arrays["free_energies"].tolist())
    parts = _fit_parts(arrays, attributes, given)
    return SoftFit(**parts, free_energies=free_energies, temperature=attributes["temperature"])


def _soft_agrees(arrays, attributes):
    return _fit_agrees(arrays, attributes) and len(arrays["free_energies"]) == len(arrays["distortions"])


def _pack_quantizer(pq):
    pq._check_fitted()
    arrays = {"codebooks": pq.codebooks, "distortions": np.array(pq.distortions, float)}
    if pq.rotation is not None:
        arrays["rotation"] = pq.rotation
    return arrays, {
        "distortion": float(pq.distortion),
        "optimized": pq._wanted is not None and isinstance(pq._wanted, str),
    }


def _unpack_quantizer(arrays, attributes, given):
    n_subspaces, n_codewords, _ = arrays["codebooks"].shape
    pq = ProductQuantizer(n_subspaces, n_codewords, "optimized" if attributes["optimized"] else arrays.get("rotation"))
    pq.codebooks, pq.rotation, pq.distortion = arrays["codebooks"], arrays.get("rotation"), attributes["distortion"]
    pq.distortions = tuple(arrays["distortions"].tolist())
    return pq


def _quantizer_agrees(arrays, attributes):
    n_subspaces, n_codewords, width = arrays["codebooks"].shape
    dim, rotation = n_subspaces * width, arrays.get("rotation")
    if not 0 < n_codewords <= 65536 or dim == 0 or (rotation is None and attributes["optimized"]):
        return False
    return rotation is None or (
        # Values beyond 1 are no part of a rotation, and their products may overflow.
        rotation.shape == (dim, dim) and bool(abs(rotation).max() < 1.1)
        and bool(abs(rotation.T @ rotation - np.eye(dim)).max() < 1e-6)
    )  # fmt: skip


@cache
def _message():
    """The kind of QSGD's messages; they carry a checksum of their own, which `decode` compares."""
    from vqcore.messages import Message

    def pack(message):
        words = _host(message.words)
        attributes = {name: getattr(message, name) for name in fields}
        arrays = {"words": words.view(np.uint64), "norms": message.norms}
        return arrays, {**attributes, "shape": [int(n) for n in message.shape]}

    def unpack(arrays, attributes, given):
        # torch computes with no uint64: its words are int64 of the same bits.
        words, tensor = arrays["words"], type(given(np.zeros(1))).__module__ != "numpy"
        shape = tuple(attributes["shape"])
        words = given(words.view(np.int64) if tensor else words)
        return Message(words=words, norms=given(arrays["norms"]), **{**attributes, "shape": shape})

    fields = {
        "shape": list,
        "dtype": str,
        "n_bits": int,
        "bucket_size": int,
        "layout": str,
        "norm": str,
        "checksum": int,
    }
    arrays = {"words": (WORDS, (1,), False), "norms": (FLOAT64, (1,), False)}
    return Kind(
        "message", Message, arrays, fields, pack, unpack,
        lambda _, attributes: all(type(n) is int and 0 <= n < 2**48 for n in attributes["shape"]),
    )  # fmt: skip


@cache
def _network():
    """The kind of compressed networks: codes as packed words, codebooks as they are rounded, names as attributes."""
    from vqcore.compress import CompressedLayer, CompressedNetwork

    def pack_network(network):
        arrays, layers = {}, []
        for i, layer in enumerate(network.layers):
            codes, codebook = _host(layer.codes), _host(layer.codebook)
            arrays |= {f"words.{i}": pack(codes, _code_bits(codebook)), f"codebook.{i}": codebook}
            layers.append([list(layer.names), [int(extent) for extent in layer.shape]])
        arrays |= {f"rest.{i}": array for i, (_, array) in enumerate(network.rest)}
        return arrays, {"layers": layers, "rest": [list(names) for names, _ in network.rest]}

    def unpack_network(arrays, attributes, given):
        layers = []
        for i, (names, shape) in enumerate(attributes["layers"]):
            codes, codebook = _layer_codes(arrays, i, shape), given(arrays[f"codebook.{i}"])
            layers.append(CompressedLayer(tuple(names), tuple(shape), codebook, given(codes)))
        rest = [(tuple(names), given(arrays[f"rest.{i}"])) for i, names in enumerate(attributes["rest"])]
        return CompressedNetwork(tuple(layers), tuple(rest))

    attributes = {"layers": list, "rest": list}
    return Kind("network", CompressedNetwork, None, attributes, pack_network, unpack_network, _network_agrees)


def _code_bits(codebook):
    return max(1, (len(codebook) - 1).bit_length())


def _layer_codes(arrays, i, shape):
    """The codes of a layer of this shape, or None where its arrays do not fit it."""
    codebook, words = arrays[f"codebook.{i}"], arrays[f"words.{i}"]
    n_values = math.prod(shape)
    if codebook.dtype.kind != "f" or codebook.ndim != 2 or 0 in codebook.shape or len(codebook) > 2**16:
        return None
    n_codes, n_bits = n_values // codebook.shape[1], _code_bits(codebook)
    if n_values % codebook.shape[1] or words.dtype != np.uint64 or words.shape != (n_words_for(n_codes, n_bits),):
        return None
    try:
        codes = unpack(words, n_bits, n_codes)
    except FormatError:
        return None
    return codes if n_codes and codes.max() < len(codebook) else None


def _network_agrees(arrays, attributes):
    layers, rest = attributes["layers"], attributes["rest"]
    wanted = {f"{part}.{i}" for i in range(len(layers)) for part in ("words", "codebook")}
    if arrays.keys() != wanted | {f"rest.{i}" for i in range(len(rest))}:
        return False
    if not all(type(layer) is list and len(layer) == 2 and type(layer[1]) is list for layer in layers):
        return False
    names = [own for own, _ in layers], rest
    shapes = [extent for _, shape in layers for extent in shape]
    return bool(
        all(type(own) is list and own and all(type(name) is str for name in own) for part in names for own in part)
        and all(len({name for own in part for name in own}) == sum(map(len, part)) for part in names)
        and all(type(extent) is int and 0 < extent < 2**48 for extent in shapes)
        and all(_layer_codes(arrays, i, shape) is not None for i, (_, shape) in enumerate(layers))
    )


def _host(array):
    from vqcore.kernels import table_for

    return np.asarray(table_for(array).to_host(array))


KINDS = {
    "fit": Kind(
        "fit", Fit, _FIT_ARRAYS, _FIT_ATTRIBUTES, _pack_fit, lambda *parts: Fit(**_fit_parts(*parts)), _fit_agrees
    ),
    "online fit": Kind(
        "online fit", OnlineFit,
        {**_FIT_ARRAYS, "n_samples": (INTEGERS, (1,), False), "running_weights": (FLOAT64, (1,), False)},
        {**_FIT_ATTRIBUTES, "running_distortion": float}, _pack_online, _unpack_online, _fit_agrees,
    ),
    "EM fit": Kind(
        "EM fit", EMFit, {**_FIT_ARRAYS, "half_steps": (FLOAT64, (1,), False)}, _FIT_ATTRIBUTES,
        _pack_em, _unpack_em, _em_agrees,
    ),
    "soft EM fit": Kind(
        "soft EM fit", SoftFit, {**_FIT_ARRAYS, "free_energies": (FLOAT64, (1,), False)},
        {**_FIT_ATTRIBUTES, "temperature": float}, _pack_soft, _unpack_soft, _soft_agrees,
    ),
    "product quantizer": Kind(
        "product quantizer", ProductQuantizer,
        {"codebooks": (FLOAT64, (3,), False), "rotation": (FLOAT64, (2,), True), "distortions": (FLOAT64, (1,), False)},
        {"distortion": float, "optimized": bool}, _pack_quantizer, _unpack_quantizer, _quantizer_agrees,
    ),
    "arrays": Kind(
        "arrays", dict, None, {}, lambda thing: (thing, {}),
        lambda arrays, _, given: {name: given(array) for name, array in arrays.items()},
    ),
    "message": _message,
    "network": _network,
}  # fmt: skip
# What takes long to import is made a kind when it is first met: kind -> name of its type.
_LATE = {"message": "Message", "network": "CompressedNetwork"}
