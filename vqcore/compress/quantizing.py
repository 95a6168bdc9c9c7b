"""Codes and codebooks in the place of weights, and noise that prepares for them."""

import torch
from torch.nn import functional

from vqcore import checks
from vqcore.compress.selection import as_model, chosen
from vqcore.compress.weights import STORED, Codewords, QuantNoise, dense, install, is_noisy, part_of, release
from vqcore.em import fit_em
from vqcore.errors import EmptyCellError, InputError

STEPS = 25


def quantize(
    model, layers=".*", block_size=8, n_codewords=256, *,
    float_bits=16, inputs=None, start="k-means++", n_steps=STEPS, seed=0,
):  # fmt: skip
    """Put codes and codebooks in the place of weights of a network, in place; returns name -> EMFit of its blocks.

    The weight of a Linear, Conv2d or Embedding is read row by row (a row is all that belongs to one output, or one
    entry) and cut into blocks of block_size values: 1 is a scalar quantizer, a whole row plain vector quantization.
    The layers stay what they are, only `weight` is computed from the codebook, which is the parameter from now on:
    make a new optimizer. Noise of `add_noise` on these layers ends. Layers that share a weight go on sharing it.
    The entry at `padding_idx` is a row like all others: it comes out of the codebook, and need not stay zero.

    Args:
        layers: a regular expression that names of modules match in full, or a dict from such expressions to
            (block_size, n_codewords); the first that matches counts.
        block_size, n_codewords: where `layers` does not say; block_size must divide the length of a row.
        float_bits: 16, 32 or 64, the floats of a stored codebook; the network computes with what they can hold.
        inputs: arguments of the model (a tensor or a tuple) on which it is run once. What is made small is then the
            error of each layer's output on them, in the metric of its blocks' inputs; not for Embedding.
        start, n_steps, seed: as in `fit_em`.

    Raises:
        InputError: no layer of that name, a layer that cannot be compressed or has fewer distinct blocks than
            codewords. Nothing is changed then.
        EmptyCellError: as in `fit_em`, with the name of the layer; nothing is changed.
    """
    groups = chosen(model, layers, block_size, n_codewords)
    if checks.as_count(float_bits, "float_bits") not in STORED:
        raise InputError(f"float_bits={float_bits}: it must be one of {', '.join(map(str, STORED))}")
    metrics = {} if inputs is None else _grams(model, groups, inputs)
    fits = {}
    for group in groups:
        blocks = dense(group.modules[0]).detach().reshape(-1, group.block_size)
        try:
            options = {"start": start, "gram": metrics.get(group.name), "seed": seed, "progress": False}
            fit = fit_em(blocks.T, group.n_codewords, n_steps, **options)
            _check_rounding(fit.codebook, float_bits)
        except (InputError, EmptyCellError) as error:
            raise type(error)(f"layer {group.name!r}: {error}") from None
        fits[group.name] = fit
    for group in groups:
        fit, shape = fits[group.name], dense(group.modules[0]).shape
        install(group.modules, Codewords(fit.codes, group.n_codewords, shape, float_bits), fit.codebook)
    return fits


def add_noise(model, layers=".*", block_size=8, share=0.1, *, seed=0):
    """Quant-Noise on the weights of a network, in place: prepares for `quantize` while it trains.

    In every pass in training mode a share of the blocks is zero and the rest is divided by 1 - share; in evaluation
    mode nothing is changed. Fan et al. 2021, the proxy of product quantization.

    Args:
        layers, block_size: as in `quantize`; the n_codewords of a dict play no part.
        share: of the blocks, from 0 to less than 1.

    Raises:
        InputError: as `quantize`; noise is there already. Nothing is changed then.
    """
    groups = chosen(model, layers, block_size, 1)
    share, seed = checks.as_real(share, "share", low=0.0, high=0.99), checks.as_count(seed, "seed", low=0)
    for group in groups:
        if part_of(group.modules[0]) is not None:
            raise InputError(f"layer {group.name!r} has noise already: call remove_noise(model) first")
    for i, group in enumerate(groups):
        weight = group.modules[0].weight
        install(group.modules, QuantNoise(group.block_size, share, (seed, i), weight.device))


def remove_noise(model):
    """Take all noise of `add_noise` off a network, in place; its parameters stay the same objects."""
    for module in list(as_model(model).modules()):
        if is_noisy(module):
            release(module)


def _check_rounding(codebook, float_bits):
    exact = torch.as_tensor(codebook).double()
    largest, lost = exact.abs().max(), (exact.to(STORED[float_bits]).double() - exact).abs().max()
    if not lost <= largest * 2.0**-10:  # infinity minus a number is none
        raise InputError(f"codewords reach {largest:g}, which {float_bits}-bit floats do not hold: raise float_bits")


def _grams(model, groups, inputs):
    """Name -> sum of the outer products of the inputs that the blocks of a layer are multiplied with."""
    sums, handles, modes = {}, [], {module: module.training for module in model.modules()}
    for group in groups:
        for module in group.modules:
            if not isinstance(module, torch.nn.Embedding):
                handles.append(module.register_forward_pre_hook(_watcher(sums, group), with_kwargs=True))
                sums.setdefault(group.name, 0)
    model.train(False)
    try:
        with torch.no_grad():
            model(*(inputs if isinstance(inputs, tuple) else (inputs,)))
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
    for name, gram in sums.items():
        if not isinstance(gram, torch.Tensor):
            raise InputError(f"layer {name!r} saw nothing of inputs: leave it out of layers, or pass others")
    return sums


def _watcher(sums, group):
    def watch(module, args, named):
        rows = args[0] if args else named["input"]
        if isinstance(module, torch.nn.Conv2d):
            mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
            rows = functional.pad(rows, module._reversed_padding_repeated_twice, mode=mode)
            rows = rows if rows.ndim == 4 else rows[None]
            rows = functional.unfold(rows, module.kernel_size, module.dilation, 0, module.stride).transpose(1, 2)
        # In float64, where sums of many squares lose nothing.
        rows = rows.reshape(-1, group.block_size).double()
        sums[group.name] = sums[group.name] + rows.T @ rows

    return watch
