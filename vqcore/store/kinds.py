"""What a file can hold: for each kind of thing its arrays and numbers, what they must be, and the way back."""

from functools import cache
from typing import Any, Callable, NamedTuple

import numpy as np

from vqcore.em import EMFit
from vqcore.errors import InputError
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
        # Told by name first: a fit need not load what messages are made of.
        if name != "message" or type(thing).__name__ == "Message":
            if type(thing) is kind_named(name).type:
                return kind_named(name)
    raise InputError(
        f"a {type(thing).__name__} cannot be saved: pass a fit, a ProductQuantizer, a message or a dict of arrays"
    )


def kind_named(name):
    """The kind of this name, or None."""
    return KINDS[name]() if name == "message" else KINDS.get(name)


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
        len(sizes) == len(arrays["distortions"]) > 0 and (sizes > 0).all() and sizes.sum() == len(arrays["codebooks"])
        and arrays["codebooks"].shape[1:] == arrays["codebook"].shape[1:] and len(arrays["weights"]) == n
        and ((0 <= codes) & (codes < n)).all()
        and (seal is None or [type(value) for value in seal] == [float, bool, bool])
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
        rotation.shape == (dim, dim) and bool(abs(rotation.T @ rotation - np.eye(dim)).max() < 1e-6)
    )


@cache
def _message():
    """The kind of QSGD's messages; they carry a checksum of their own, which `decode` compares."""
    from vqcore.qsgd import Message

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
}  # fmt: skip
