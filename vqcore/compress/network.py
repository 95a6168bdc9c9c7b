"""A compressed network as numbers: what it weighs, and how it is taken out of a model and put into another."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from vqcore import checks, rates
from vqcore.compress.selection import as_model, check_layer
from vqcore.compress.weights import Codewords, install, is_noisy, part_of
from vqcore.errors import InputError

WORD_BITS = 64  # codes are packed into words of so many bits


@dataclass(frozen=True)
class NetworkLedger:
    """Where the bits of a network go.

    Attributes:
        layers: name -> the `Ledger` of a compressed weight; one that several layers share counts once.
        rest: bits of all parameters and persistent buffers that are not compressed.
        before: bits of the same network with nothing compressed.
    """

    layers: dict
    rest: int
    before: int

    @property
    def codes(self):
        """Bits of all codes, with what fills their last words."""
        return sum(part.codes + part.padding for part in self.layers.values())

    @property
    def codebooks(self):
        """Bits of all codebooks."""
        return sum(part.codebooks for part in self.layers.values())

    @property
    def n_bytes(self):
        """Bytes of it all: those of a file less its header."""
        return (self.codes + self.codebooks + self.rest) // 8

    @property
    def ratio(self):
        """How many times smaller the network has become."""
        return self.before / (8 * self.n_bytes)


def ledger(model):
    """The `NetworkLedger` of a network, as `extract` would store it."""
    groups, rest = parts_of(model)
    before = n_rest = 8 * sum(value.numel() * value.element_size() for _, value in rest)
    layers = {}
    for names, part, codebook in groups:
        n_codes, n_values = len(part.codes), part.codes.numel() * codebook.shape[1]
        sizes = {"codes": n_codes * part.n_bits, "codebooks": codebook.numel() * part.float_bits, "n_values": n_values}
        layers[names[0]] = rates.ledger(sizes, word_bits=WORD_BITS)
        before += 8 * n_values * codebook.element_size()
    return NetworkLedger(layers, n_rest, before)


@dataclass(frozen=True)
class CompressedLayer:
    """A weight of this shape: the blocks codebook[codes], row by row, in all layers of these names."""

    names: tuple
    shape: tuple
    codebook: Any
    codes: Any


@dataclass(frozen=True)
class CompressedNetwork:
    """All numbers of a compressed network, to be saved: its layers, and (names, array) of what is not compressed."""

    layers: tuple
    rest: tuple


def extract(model):
    """The `CompressedNetwork` of a network: what `save` writes and `restore` puts into another one.

    It holds numbers, not the architecture: that stays in the program that builds the network. What is left of a
    network in bfloat16, which numpy has not, can be restored but not saved: call `.float()` on the network first.
    """
    groups, rest = parts_of(model)
    layers = []
    for names, part, codebook in groups:
        stored = part.rounded(codebook).clone()
        layers.append(CompressedLayer(names, part.shape, stored, part.codes.to(torch.int64)))
    return CompressedNetwork(tuple(layers), tuple((names, value.detach().clone()) for names, value in rest))


def restore(model, network):
    """Put a `CompressedNetwork` into a fresh network of the same architecture, in place; returns the network.

    Raises:
        InputError: names, shapes, types or shared weights are not those of the network that was stored, or it is
            compressed already. Nothing is changed then.
    """
    if not isinstance(network, CompressedNetwork):
        raise InputError(f"network is a {type(network).__name__}: pass what `load` or `extract` returned")
    found = dict(as_model(model).named_modules(remove_duplicate=False))
    state, taken = model.state_dict(keep_vars=True), set()
    for layer in network.layers:
        for name in layer.names:
            check_layer(name, found.get(name))
            if is_noisy(found[name]) or tuple(found[name].weight.shape) != tuple(layer.shape):
                raise InputError(f"layer {name!r}: its weight is noisy, or not {layer.shape} as in what was stored")
        checks.as_codes(layer.codes, len(layer.codebook))
        if len(layer.codes) * layer.codebook.shape[1] != math.prod(layer.shape):
            raise InputError(f"layer {layer.names[0]!r}: {len(layer.codes)} codes do not fill {tuple(layer.shape)}")
        taken |= {f"{name}.weight".lstrip(".") for name in layer.names}
    rest = {name: torch.as_tensor(value) for names, value in network.rest for name in names}
    differ = rest.keys() ^ (state.keys() - taken)
    differ |= {name for name in rest.keys() - differ if not _alike(rest[name], state[name])}
    if differ:
        raise InputError(f"not the network that was stored: {', '.join(sorted(differ)[:8])} differ")
    _check_shared(state, [{f"{name}.weight".lstrip(".") for name in layer.names} for layer in network.layers]
                  + [set(names) for names, _ in network.rest])  # fmt: skip
    for layer in network.layers:
        modules = tuple({id(found[name]): found[name] for name in layer.names}.values())
        codes, codebook = (torch.as_tensor(array) for array in (layer.codes, layer.codebook))
        codes = codes.to(modules[0].weight.device)
        part = Codewords(codes, len(codebook), layer.shape, 8 * codebook.element_size())
        install(modules, part, codebook)
    with torch.no_grad():
        for name, value in rest.items():
            state[name].copy_(value)
    return model


def _alike(value, other):
    return isinstance(other, torch.Tensor) and (value.shape, value.dtype) == (other.shape, other.dtype)


def _check_shared(state, stored):
    """Refuse parameters that are one here and were several in what was stored: one of them would win."""
    here = {}
    for name, value in state.items():
        here.setdefault(id(value), set()).add(name)
    for names in here.values():
        if not any(names <= together for together in stored):
            raise InputError(f"{', '.join(sorted(names))} are one here, but not in what was stored")


def parts_of(model):
    """(names, part, codebook) of every compressed weight, and (names, value) of the rest of the state."""
    groups, inside = {}, []
    for name, module in as_model(model).named_modules(remove_duplicate=False):
        if is_noisy(module):
            raise InputError(f"layer {name!r} still has noise: call remove_noise(model) first")
        if isinstance(part_of(module), Codewords):
            found = module.parametrizations["weight"]
            groups.setdefault(id(found), ([], found[0], found.original))[0].append(name)
            inside.append(f"{name}.parametrizations.weight.".lstrip("."))
    rest = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if not isinstance(value, torch.Tensor):
            raise InputError(f"{name} is a {type(value).__name__}: only tensors can be stored")
        if not name.startswith(tuple(inside)):
            rest.setdefault(id(value), ([], value))[0].append(name)
    whole = [(tuple(names), part, codebook) for names, part, codebook in groups.values()]
    return whole, [(tuple(names), value) for names, value in rest.values()]
