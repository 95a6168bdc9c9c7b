"""Which layers of a network are meant, whether they can be compressed, and who shares a weight with them."""

import re
from dataclasses import dataclass

import torch

from vqcore import checks
from vqcore.compress.weights import Codewords, dense, is_noisy, part_of
from vqcore.errors import InputError

LAYERS = (torch.nn.Linear, torch.nn.Conv2d, torch.nn.Embedding)


@dataclass(frozen=True)
class Group:
    """Modules that share one weight, and how it is to be cut."""

    name: str
    modules: tuple
    block_size: int
    n_codewords: int


def as_model(model):
    """The model, or a refusal."""
    if not isinstance(model, torch.nn.Module):
        raise InputError(f"model is a {type(model).__name__}: pass a torch.nn.Module")
    return model


def chosen(model, layers, block_size, n_codewords):
    """The groups of modules whose names match, checked: from here on only their values can be at fault."""
    named = dict(as_model(model).named_modules(remove_duplicate=False))
    usable = {name: module for name, module in named.items() if isinstance(module, LAYERS)}
    rules = _as_rules(layers, (block_size, n_codewords))
    for pattern in rules:
        if not any(pattern.fullmatch(name) for name in usable):
            there = ", ".join(map(repr, usable)) or "no such layer"
            raise InputError(f"layers={pattern.pattern!r} matches none of Linear, Conv2d, Embedding here: {there}")
    groups = {}
    for name, module in usable.items():
        rule = next((rules[pattern] for pattern in rules if pattern.fullmatch(name)), None)
        if rule is not None:
            check_layer(name, module)
            group = Group(name, _sharing(model, usable, name), *rule)
            known = groups.setdefault(id(dense(module)), group)
            if rule != (known.block_size, known.n_codewords):
                raise InputError(f"layers {known.name!r} and {name!r} share a weight, but their rules differ")
            _check_blocks(group)
    return list(groups.values())


def _as_rules(layers, rule):
    """Compiled expression -> (block_size, n_codewords)."""
    rules, layers = {}, {layers: rule} if isinstance(layers, str) else layers
    if not isinstance(layers, dict) or not layers:
        raise InputError(f"layers={layers!r}: it must be a regular expression, or a dict from some to rules")
    for pattern, rule in layers.items():
        try:
            compiled = re.compile(pattern)
        except (TypeError, re.error) as error:
            raise InputError(f"layers={pattern!r} is no regular expression: {error}") from None
        if not isinstance(rule, (tuple, list)) or len(rule) != 2:
            raise InputError(f"layers[{pattern!r}]={rule!r}: it must be (block_size, n_codewords)")
        block_size = checks.as_count(rule[0], "block_size")
        rules[compiled] = block_size, checks.as_count(rule[1], "n_codewords", high=2**16)
    return rules


def check_layer(name, module):
    """Refuse what has no plain weight of its own to be cut."""
    if not isinstance(module, LAYERS):
        raise InputError(f"{name!r} is no Linear, Conv2d or Embedding here, but {type(module).__name__}")
    part, own = part_of(module), dict(module.named_parameters(recurse=False)).get("weight")
    if isinstance(part, Codewords):
        raise InputError(f"layer {name!r} is compressed already")
    if own is None and not is_noisy(module):
        raise InputError(f"layer {name!r} computes its weight from something else: remove that first")
    if torch.nn.parameter.is_lazy(own):
        raise InputError(f"layer {name!r} does not know its shape yet: run the model once")
    weight = dense(module)
    if weight.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64) or not weight.numel():
        raise InputError(f"layer {name!r} has a weight of {tuple(weight.shape)} {weight.dtype}: it must hold floats")
    if getattr(module, "sparse", False):
        raise InputError(f"layer {name!r} asks for sparse gradients, which a codebook has not: set sparse=False")


def _check_blocks(group):
    weight, wanted = dense(group.modules[0]), group.block_size
    length = weight.numel() // len(weight)
    if length % wanted:
        raise InputError(f"layer {group.name!r}: block_size={wanted} does not divide its rows of {length} values")
    n_blocks = weight.numel() // wanted
    if group.n_codewords > n_blocks:
        raise InputError(f"layer {group.name!r}: n_codewords={group.n_codewords}, but it has only {n_blocks} blocks")


def _sharing(model, usable, name):
    """The modules that share the weight of this one, each once; refused where something else has it too."""
    weight = dense(usable[name])
    owners = {other: module for other, module in usable.items() if part_of(module) is None or is_noisy(module)}
    owners = {other: module for other, module in owners.items() if dense(module) is weight}
    known = {f"{other}.{own}".lstrip(".") for other in owners for own in ("weight", "parametrizations.weight.original")}
    elsewhere = {own for own, value in model.named_parameters(remove_duplicate=False) if value is weight} - known
    if elsewhere:
        raise InputError(f"layer {name!r} shares its weight with {sorted(elsewhere)}, which cannot be compressed")
    return tuple({id(module): module for module in owners.values()}.values())
