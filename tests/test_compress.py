"""Compressed networks: weights against their codebooks, gradients against autograd, sizes against files."""

import copy
import dataclasses
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from libraries import LIBRARIES
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode

import vqcore as vq
from vqcore import compress
from vqcore.compress import quantizing
from vqcore.compress.weights import Codewords, QuantNoise

DEVICES = [library.partition(":")[2] or "cpu" for library in LIBRARIES if library != "numpy"]


def filled(model, seed=0, scale=0.3):
    """The model with normal numbers of a seed in all its parameters."""
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(torch.from_numpy(rng.normal(0, scale, tuple(value.shape))))
    return model


def tensor(*shape, seed=1, dtype=torch.float32):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).to(dtype)


def mixed():
    """Convolution, normalization and linear layers in one network."""
    return filled(torch.nn.Sequential(
        torch.nn.Conv2d(4, 8, 3, padding=1), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.Flatten(),
        torch.nn.Linear(8 * 16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10),
    ))  # fmt: skip


class Tied(torch.nn.Module):
    """An embedding whose weight is that of the output as well."""

    def __init__(self):
        super().__init__()
        self.table, self.out = torch.nn.Embedding(20, 8), torch.nn.Linear(8, 20)
        self.out.weight = self.table.weight

    def forward(self, ids):
        return self.out(self.table(ids))


LAYERS = {
    "linear": (lambda: torch.nn.Linear(12, 10), (5, 12)),
    "one value": (lambda: torch.nn.Linear(1, 40), (3, 1)),
    "conv": (lambda: torch.nn.Conv2d(4, 6, 3, stride=2, padding=1, padding_mode="reflect"), (2, 4, 9, 8)),
    "grouped": (lambda: torch.nn.Conv2d(4, 8, (3, 2), groups=2, dilation=2, bias=False), (2, 4, 9, 8)),
    "embedding": (lambda: torch.nn.Embedding(30, 6, padding_idx=0), (7,)),
}  # fmt: skip
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def inputs_for(name, dtype=torch.float32):
    shape = LAYERS[name][1]
    return torch.arange(7) * 4 if name == "embedding" else tensor(*shape, dtype=dtype)


def blocks_by_loop(weight, block_size):
    """The blocks of a weight, row by row, value by value."""
    blocks, places = [], itertools.product(*map(range, weight.shape))
    for place in places:
        if not blocks or len(blocks[-1]) == block_size:
            blocks.append([])
        blocks[-1].append(weight[place].item())
    return np.array(blocks)


# What the weight is


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("block_size", [1, 2, "row"])
def test_the_weight_is_made_of_nearest_codewords_and_the_forward_is_that_of_a_plain_layer(device, name, block_size):
    plain = filled(LAYERS[name][0]()).to(device)
    row = plain.weight[0].numel()
    block_size = row if block_size == "row" else block_size
    if row % block_size:
        return
    n_codewords = min(7, plain.weight.numel() // block_size)
    layer = copy.deepcopy(plain)
    (fit,) = compress.quantize(layer, block_size=block_size, n_codewords=n_codewords, float_bits=64).values()
    codebook, blocks = fit.codebook.cpu().float().numpy(), blocks_by_loop(plain.weight, block_size)
    np.testing.assert_array_equal(blocks_by_loop(layer.weight, block_size), codebook[fit.codes.cpu()])
    apart = ((blocks[:, None] - fit.codebook.cpu().numpy()) ** 2).sum(-1)
    np.testing.assert_allclose(apart[np.arange(len(blocks)), fit.codes.cpu()], apart.min(1), rtol=1e-9)
    np.testing.assert_allclose(fit.distortion, apart.min(1).mean(), rtol=1e-9)
    assert type(plain) in type(layer).__mro__ and layer.weight.device == plain.weight.device
    with torch.no_grad():
        plain.weight.copy_(layer.weight)
    x = inputs_for(name).to(device)
    assert torch.equal(layer(x), plain(x))


def test_a_row_of_a_convolution_is_all_that_makes_one_output():
    """A block of nine values is one kernel of 3 x 3 between one input and one output channel."""
    layer = filled(torch.nn.Conv2d(5, 7, 3))
    kernels = np.array([[layer.weight[o, i].detach().numpy().ravel() for i in range(5)] for o in range(7)])
    before = layer.weight.detach().clone()
    (fit,) = compress.quantize(layer, block_size=9, n_codewords=35, float_bits=32).values()
    np.testing.assert_array_equal(fit.codebook[fit.codes].float().reshape(7, 5, 9), kernels)
    assert fit.distortion == 0 and torch.equal(layer.weight, before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LAYERS)
def test_types_stay(name, dtype):
    layer = filled(LAYERS[name][0]()).to(dtype)
    out = layer(inputs_for(name, dtype))
    compress.quantize(layer, block_size=1, n_codewords=5)
    after = layer(inputs_for(name, dtype))
    assert layer.weight.dtype == after.dtype == dtype and after.shape == out.shape
    # One page of 16-bit floats is all that the weight is made of.
    held = layer.weight.detach().double().unique()
    assert len(held) <= 5 and (dtype == torch.bfloat16 or torch.equal(held.half().double(), held))


@pytest.mark.parametrize("scale", [2.0**-40, 1.0, 2.0**40])
def test_any_scale_with_floats_that_hold_it(scale):
    layer = filled(torch.nn.Linear(8, 64), scale=scale)
    before, held = layer.weight.detach().clone(), layer.weight
    if scale != 1:
        with pytest.raises(vq.InputError, match="float_bits"):
            compress.quantize(layer, n_codewords=16, block_size=4)
        assert layer.weight is held and torch.equal(held, before)
    compress.quantize(layer, n_codewords=16, block_size=4, float_bits=32)
    assert (layer.weight - before).square().mean() < before.square().mean()


def test_the_metric_of_the_inputs_lowers_the_error_of_the_output():
    model, wide = mixed(), tensor(64, 4, 4, 4) * torch.tensor([3.0, 0.1, 1.0, 0.3])
    model[1].running_mean.add_(0.3)
    state, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    plain, aware = copy.deepcopy(model), copy.deepcopy(model)
    layers = {"0": (4, 16), "4": (8, 64)}
    compress.quantize(plain, layers)
    compress.quantize(aware, layers, inputs=wide)
    assert [module.training for module in aware.modules()][: len(modes)] and aware.training
    assert torch.equal(aware.state_dict()["1.running_mean"], state["1.running_mean"])
    wanted, errors = model.eval()(wide), []
    for done in (plain, aware):
        errors.append((done.eval()(wide) - wanted).square().mean().item())
    assert errors[1] < errors[0]


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "embedding"])
def test_the_gram_matrix_is_that_of_all_that_blocks_are_multiplied_with(name):
    """The distortion in the metric is the squared error of the output, if all blocks but one are exact."""
    layer, x = filled(LAYERS[name][0]()).double(), inputs_for(name, torch.float64)
    block_size = 1 if name == "one value" else 2
    (group,) = quantizing.chosen(layer, "", block_size, 1)
    gram = quantizing._grams(layer, [group], x)[""]
    total = 0.0
    for i in range(layer.weight[0].numel() // block_size):
        blank = copy.deepcopy(layer)
        with torch.no_grad():
            rows = blank.weight.reshape(len(blank.weight), -1)
            rows.zero_()
            rows[:, i * block_size : (i + 1) * block_size] = torch.arange(1.0, block_size + 1, dtype=torch.float64)
            blank.bias = None
        total += blank(x).square().sum().item()
    probe = torch.arange(1.0, block_size + 1, dtype=torch.float64)
    groups = getattr(layer, "groups", 1)
    # Every output channel of a group sees the same inputs.
    np.testing.assert_allclose(total * groups / len(layer.weight), (probe @ gram @ probe).item(), rtol=1e-9)


def test_inputs_that_a_layer_is_given_by_name_count_alike():
    plain, named = (filled(torch.nn.Linear(12, 10)) for _ in range(2))
    wrapped = torch.nn.Module()
    wrapped.inner, wrapped.forward = named, lambda x: named(input=x)
    x = tensor(30, 12)
    by_place = compress.quantize(plain, block_size=4, n_codewords=6, inputs=x)[""]
    by_name = compress.quantize(wrapped, block_size=4, n_codewords=6, inputs=x)["inner"]
    assert torch.equal(by_place.codes, by_name.codes) and by_place.distortion == by_name.distortion


# How it learns


def test_the_gradient_of_a_codeword_is_the_mean_over_its_blocks():
    layer, x = filled(torch.nn.Linear(6, 9)).double(), tensor(5, 6, dtype=torch.float64)
    (fit,) = compress.quantize(layer, block_size=3, n_codewords=4, float_bits=64).values()
    layer(x).square().sum().backward()
    codebook = fit.codebook.clone().requires_grad_()
    weight = codebook[fit.codes].reshape(9, 6)
    (x @ weight.T + layer.bias.detach()).square().sum().backward()
    counts = torch.bincount(fit.codes, minlength=4)[:, None]
    torch.testing.assert_close(layer.parametrizations.weight.original.grad, codebook.grad / counts, rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_half_precision_loses_no_gradient_of_many_blocks(dtype):
    """70,000 blocks in one cell: float16 has no such number, and neither half type adds so many ones."""
    layer = torch.nn.Linear(1_000, 280, bias=False).to(dtype)
    torch.nn.init.constant_(layer.weight, 0.25)
    compress.quantize(layer, block_size=4, n_codewords=1)
    layer.weight.backward(torch.ones_like(layer.weight))
    grad = layer.parametrizations.weight.original.grad
    assert grad.dtype == dtype
    torch.testing.assert_close(grad.double(), torch.ones(1, 4, dtype=torch.float64), rtol=1e-5, atol=0)


@pytest.mark.parametrize("float_bits", [16, 32])
def test_training_lowers_the_loss_and_codes_stay(float_bits):
    points, labels = map(torch.from_numpy, vq.data.digits())
    rng = np.random.default_rng(0)
    model = filled(torch.nn.Sequential(torch.nn.Linear(64, 48), torch.nn.ReLU(), torch.nn.Linear(48, 10)).double())

    def train(n_steps, rate):
        optimizer = torch.optim.Adam(model.parameters(), lr=rate)
        for _ in range(n_steps):
            batch = torch.from_numpy(rng.choice(len(points), 128, replace=False))
            loss = torch.nn.functional.cross_entropy(model(points[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return torch.nn.functional.cross_entropy(model(points), labels).item()

    dense = train(200, 3e-3)
    compress.quantize(model, {"0": (8, 16), "2": (4, 16)}, float_bits=float_bits)
    codes = model[0].parametrizations.weight[0].codes.clone()
    before = torch.nn.functional.cross_entropy(model(points), labels).item()
    after = train(150, 3e-3)
    assert dense < before and after < 0.5 * before
    assert torch.equal(model[0].parametrizations.weight[0].codes, codes)
    # What is stored is what computed, to the bit.
    again = torch.nn.Sequential(torch.nn.Linear(64, 48), torch.nn.ReLU(), torch.nn.Linear(48, 10)).double()
    assert torch.equal(compress.restore(again, compress.extract(model))(points), model(points))


def test_frozen_stays_frozen_and_the_old_parameter_whole():
    layer = filled(torch.nn.Linear(8, 8))
    held, before = layer.weight, layer.weight.detach().clone()
    layer.weight.requires_grad_(False)
    compress.quantize(layer, block_size=4, n_codewords=4)
    assert not layer.parametrizations.weight.original.requires_grad
    assert torch.equal(held, before) and held.shape == (8, 8)


def test_a_weight_that_is_assigned_is_taken_as_the_means_of_its_blocks():
    layer, new = filled(torch.nn.Linear(8, 8)), tensor(8, 8)
    (fit,) = compress.quantize(layer, block_size=2, n_codewords=5, float_bits=32).values()
    layer.weight = new
    blocks = new.reshape(-1, 2)
    means = torch.stack([blocks[fit.codes == i].mean(0) for i in range(5)])
    torch.testing.assert_close(layer.weight, means[fit.codes].reshape(8, 8))


# Noise


def test_noise_drops_blocks_of_its_share_and_keeps_the_mean():
    layer, x = filled(torch.nn.Linear(40, 50)), tensor(3, 40)
    plain, held = layer.weight.detach().clone(), layer.weight
    compress.add_noise(layer, block_size=4, share=0.25, seed=3)
    noisy = layer.weight.detach()
    dropped = (noisy == 0).reshape(-1, 4)
    assert torch.equal(dropped.all(1), dropped.any(1))
    assert abs(dropped[:, 0].double().mean() - 0.25) < 0.08
    torch.testing.assert_close(noisy[noisy != 0], plain[noisy != 0] / 0.75)
    assert not torch.equal(layer.weight == 0, noisy == 0)
    torch.testing.assert_close(torch.stack([layer.weight for _ in range(800)]).mean(0), plain, rtol=0, atol=0.12)
    layer(x).sum().backward()
    torch.testing.assert_close(layer.parametrizations.weight.original.grad, x.sum(0).expand(50, 40))
    layer.eval()
    assert torch.equal(layer.weight, plain)
    compress.remove_noise(layer)
    assert layer.weight is held and type(layer) is torch.nn.Linear and torch.equal(held, plain)


def test_noise_is_a_matter_of_its_seed_and_its_pass():
    def story(seed):
        layer = filled(torch.nn.Linear(16, 16))
        compress.add_noise(layer, share=0.5, seed=seed)
        return [layer.weight.detach().clone() for _ in range(3)]

    first, again, other = story(0), story(0), story(1)
    assert all(map(torch.equal, first, again)) and not any(map(torch.equal, first, other))


def test_no_global_generator_is_touched():
    model, x = mixed(), tensor(6, 4, 4, 4)
    state, of_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()
    compress.add_noise(model, "4")
    model(x)
    compress.quantize(model, "4", inputs=x)
    assert torch.equal(torch.get_rng_state(), state) and np.array_equal(np.random.get_state()[1], of_numpy)


def test_quantizing_ends_the_noise():
    model = mixed()
    compress.add_noise(model, {"0": (9, 1), "4": (8, 1)}, share=0.3)
    clean = copy.deepcopy(model)
    compress.remove_noise(clean)
    with pytest.raises(vq.InputError, match="'0' still has noise"):
        compress.ledger(model)
    with pytest.raises(vq.InputError, match="'0' has noise already"):
        compress.add_noise(model, "0|6", 2)
    for one in (model, clean):
        compress.quantize(one, {"0": (9, 8), "4": (8, 32)})
    assert torch.equal(model[0].weight, clean[0].weight) and torch.equal(model[4].weight, clean[4].weight)
    assert not any(isinstance(module, QuantNoise) for module in model.modules())


# Which layers


def test_patterns_name_layers_and_the_first_that_matches_counts():
    model = mixed()
    fits = compress.quantize(model, {"4": (16, 4), "[0-4]": (9, 8)})
    assert list(fits) == ["0", "4"] and fits["4"].codebook.shape == (4, 16) and fits["0"].codebook.shape == (8, 9)
    assert not hasattr(model[6], "parametrizations")
    assert list(compress.quantize(model, "6", 2, 4)) == ["6"]
    assert list(compress.ledger(model).layers) == ["0", "4", "6"]


def test_tied_weights_stay_tied(tmp_path):
    model = filled(Tied())
    ids = torch.arange(5)
    assert list(compress.quantize(model, "out", 4, 6)) == ["out"]
    assert model.table.parametrizations["weight"] is model.out.parametrizations["weight"]
    assert len(list(model.parameters())) == 2
    assert torch.equal(model.table(ids), model.out.weight[ids])
    model(ids).sum().backward()
    assert model.table.parametrizations.weight.original.grad.abs().sum() > 0
    copied = copy.deepcopy(model)
    assert copied.table.parametrizations["weight"] is copied.out.parametrizations["weight"]
    sizes = compress.ledger(model)
    assert sizes.before == 32 * (160 + 20) and sizes.rest == 32 * 20 and len(sizes.layers) == 1
    vq.save(tmp_path / "tied.vq", compress.extract(model))
    again = compress.restore(Tied(), vq.load(tmp_path / "tied.vq"))
    assert again.table.parametrizations["weight"] is again.out.parametrizations["weight"]
    assert torch.equal(again(ids), model(ids))


def bad_models():
    tied = Tied()
    tied.raw = tied.table.weight
    done = filled(torch.nn.Linear(8, 8))
    compress.quantize(done, n_codewords=3)
    normed = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(8, 8))
    return {
        "no model": (3, {}, "int"),
        "no layer": (torch.nn.ReLU(), {}, "matches none"),
        "no such name": (mixed(), {"layers": "fc"}, "'fc' matches none"),
        "no expression": (mixed(), {"layers": "("}, "no regular expression"),
        "a list": (mixed(), {"layers": ["0"]}, "layers="),
        "an empty dict": (mixed(), {"layers": {}}, "layers="),
        "half a rule": (mixed(), {"layers": {"0": 9}}, r"\(block_size, n_codewords\)"),
        "a half block": (mixed(), {"layers": {"0": (1.5, 8)}}, "block_size=1.5"),
        "no block": (mixed(), {"layers": "0", "block_size": 0}, "block_size=0"),
        "no divisor": (mixed(), {"layers": "0", "block_size": 8}, "layer '0': block_size=8 does not divide .* 36"),
        "too many": (mixed(), {"layers": "0", "block_size": 9, "n_codewords": 33}, "layer '0': .* only 32 blocks"),
        "equal blocks": (torch.nn.LayerNorm(8), {}, "matches none"),
        "seven bits": (mixed(), {"layers": "6", "n_codewords": 9, "float_bits": 7}, "float_bits=7"),
        "done already": (done, {}, "compressed already"),
        "a norm": (normed, {"block_size": 2}, "something else"),
        "lazy": (torch.nn.LazyLinear(4), {}, "shape yet"),
        "sparse": (torch.nn.Embedding(9, 8, sparse=True), {"n_codewords": 3}, "sparse"),
        "tied to what is no layer": (tied, {"layers": "out"}, "'raw'"),
        "two rules for one": (Tied(), {"layers": {"out": (4, 3), "table": (2, 3)}}, "rules differ"),
        "unused": (torch.nn.Sequential(Tied(), torch.nn.Linear(20, 8)), {"layers": "1", "inputs": None}, ""),
    }


@pytest.mark.parametrize("case", bad_models())
def test_what_cannot_be_compressed_is_refused_and_nothing_changes(case):
    model, options, message = bad_models()[case]
    if case == "unused":
        model.forward = lambda x: x
        options = {"layers": "1", "block_size": 4, "n_codewords": 4, "inputs": torch.zeros(1)}
        message = "saw nothing"
    before = repr(model)
    with pytest.raises(vq.InputError, match=message):
        compress.quantize(model, **options)
    assert repr(model) == before


@pytest.mark.parametrize("value", [np.nan, 0.5])
def test_bad_values_are_refused_with_the_name_of_the_layer_before_anything_changes(value):
    model = mixed()
    with torch.no_grad():
        model[6].weight[3] = value
        model[6].weight[:, 8:] = value
    before, shown = copy.deepcopy(model.state_dict()), repr(model)
    # The first layers are sound, the last is not.
    with pytest.raises(vq.InputError, match="layer '6': (n_codewords=64 but only|.*NaN)"):
        compress.quantize(model, {"0|4": (4, 16), "6": (4, 64)})
    assert repr(model) == shown
    for name, held in model.state_dict().items():
        assert torch.equal(held.nan_to_num(7), before[name].nan_to_num(7)), name


# What it weighs


def test_the_published_size():
    """1024 x 1024 in blocks of 8 with 256 codewords in float16: 131,072 + 4,096 bytes, 31.03 times under float32."""
    layer = filled(torch.nn.Linear(1024, 1024, bias=False))
    compress.quantize(layer, block_size=8, n_codewords=256, n_steps=0, start="random")
    sizes = compress.ledger(layer)
    assert (sizes.codes, sizes.codebooks, sizes.rest) == (8 * 131_072, 8 * 4_096, 0)
    assert sizes.n_bytes == 135_168 and round(sizes.ratio, 2) == 31.03
    assert sizes.layers[""].bits_per_value == 1.03125


def data_bytes(path):
    whole = path.read_bytes()
    return len(whole) - 8 - int.from_bytes(whole[:8], "little")


@pytest.mark.parametrize("float_bits", [16, 32, 64])
@pytest.mark.parametrize("n_codewords", [1, 2, 5, 8, 32])
def test_the_ledger_is_the_file_less_its_header(tmp_path, float_bits, n_codewords):
    model = mixed()
    plain = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    assert compress.ledger(model).n_bytes == plain and compress.ledger(model).ratio == 1
    compress.quantize(model, {"0": (9, n_codewords), "4": (16, n_codewords)}, float_bits=float_bits)
    sizes = compress.ledger(model)
    vq.save(tmp_path / "model.vq", compress.extract(model))
    assert data_bytes(tmp_path / "model.vq") == sizes.n_bytes and sizes.before == 8 * plain
    words = sum(-(-n_blocks * max(1, (n_codewords - 1).bit_length()) // 64) for n_blocks in (32, 256))
    assert sizes.codes == 64 * words and sizes.codebooks == n_codewords * 25 * float_bits


# Files


@pytest.mark.parametrize("library", LIBRARIES)
def test_what_is_stored_comes_back(tmp_path, library):
    model, x = mixed(), tensor(6, 4, 4, 4)
    model(x)  # the running statistics move
    compress.quantize(model, {"0": (9, 11), "4": (16, 40)})
    network = compress.extract(model)
    vq.save(tmp_path / "model.vq", network)
    loaded = vq.load(tmp_path / "model.vq", library)
    vq.save(tmp_path / "again.vq", loaded)
    assert (tmp_path / "again.vq").read_bytes() == (tmp_path / "model.vq").read_bytes()
    fresh = filled(mixed(), seed=5)
    assert compress.restore(fresh, loaded) is fresh
    assert torch.equal(fresh.eval()(x), model.eval()(x))
    assert fresh.state_dict().keys() == model.state_dict().keys()
    assert repr(compress.ledger(fresh)) == repr(compress.ledger(model))
    # What was extracted is a copy.
    with torch.no_grad():
        model[1].bias += 1
    assert torch.equal(compress.restore(mixed(), network)[1].bias, fresh[1].bias)


def test_a_restored_network_learns_like_the_one_that_was_stored():
    model, x = mixed(), tensor(6, 4, 4, 4)
    compress.quantize(model, {"4": (16, 40)}, float_bits=32)
    fresh = compress.restore(mixed(), compress.extract(model))
    for one in (model, fresh):
        one(x).square().sum().backward()
    for value, other in zip(model.parameters(), fresh.parameters()):
        assert torch.equal(value.grad, other.grad)


def other_architectures():
    short = torch.nn.Sequential(*list(mixed())[:5])
    wide, double, noisy, done = mixed(), mixed(), mixed(), mixed()
    wide[4] = torch.nn.Linear(128, 64)
    double[6].double()
    compress.add_noise(noisy, "4")
    compress.quantize(done, "4", 8, 8)
    no_bias, other = mixed(), mixed()
    no_bias[6].bias, other[4] = None, torch.nn.Identity()
    tied = mixed()
    tied[1].bias = tied[0].bias
    extended = mixed().append(torch.nn.Linear(10, 2))
    return {"short": short, "wide": wide, "double": double, "noisy": noisy, "done": done, "no bias": no_bias,
            "another layer": other, "tied": tied, "extended": extended, "no model": 3}  # fmt: skip


@pytest.mark.parametrize("case", other_architectures())
def test_another_architecture_is_refused_and_stays_as_it_is(case):
    model, fresh = mixed(), other_architectures()[case]
    compress.quantize(model, {"0": (9, 11), "4": (16, 40)})
    before = copy.deepcopy(fresh.state_dict()) if case != "no model" else {}
    with pytest.raises(vq.InputError):
        compress.restore(fresh, compress.extract(model))
    for name, value in before.items():
        assert torch.equal(fresh.state_dict()[name], value)
    with pytest.raises(vq.InputError, match="network is a"):
        compress.restore(mixed(), {"a": np.zeros(3)})


@pytest.mark.parametrize("codes", [torch.full((16,), 4), torch.full((16,), -1), torch.zeros(16), torch.zeros(15).long()])
def test_codes_that_were_forged_are_refused_before_anything_changes(codes):
    layer, fresh = filled(torch.nn.Linear(8, 8)), filled(torch.nn.Linear(8, 8), seed=1)
    compress.quantize(layer, block_size=4, n_codewords=4)
    network, before = compress.extract(layer), copy.deepcopy(fresh.state_dict())
    network = dataclasses.replace(network, layers=(dataclasses.replace(network.layers[0], codes=codes),))
    with pytest.raises(vq.InputError, match="codes"):
        compress.restore(fresh, network)
    assert all(torch.equal(value, before[name]) for name, value in fresh.state_dict().items())


def test_what_computes_a_bias_is_left_in_its_place():
    layer = filled(torch.nn.Linear(8, 8))
    parametrize.register_parametrization(layer, "bias", torch.nn.Tanh())
    weight, bias = layer.weight, layer.bias.detach().clone()
    compress.add_noise(layer, block_size=4)
    compress.remove_noise(layer)
    assert layer.weight is weight and parametrize.is_parametrized(layer, "bias") and torch.equal(layer.bias, bias)


def test_a_state_goes_into_a_network_that_is_compressed_alike():
    """torch's own state_dict, as checkpoints in training use it."""
    model, other, x = mixed(), filled(mixed(), seed=7), tensor(6, 4, 4, 4)
    for one in (model, other):
        compress.quantize(one, {"4": (16, 40)})
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.eval()(x), model.eval()(x))


# Elsewhere


def test_inside_a_transformer_layer():
    """Modules that read the weights of others, as torch's attention does, find them."""
    layer = filled(torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)).eval()
    x = tensor(2, 5, 16)
    compress.quantize(layer, block_size=4, n_codewords=20, float_bits=32)
    plain = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    for name, value in plain.named_parameters():
        module, _, own = name.rpartition(".")
        with torch.no_grad():
            value.copy_(getattr(layer.get_submodule(module), own))
    torch.testing.assert_close(layer(x), plain(x), rtol=1e-5, atol=1e-6)
    assert set(compress.ledger(layer).layers) == {"self_attn.out_proj", "linear1", "linear2"}


class _WithoutCuda(TorchFunctionMode):
    """What torch's CPU build does not run on fake CUDA tensors, by shape, type and device alone."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.Tensor.copy_:
            assert args[0].device == args[1].device and args[0].shape == args[1].shape
            return args[0]
        if function is torch.nn.functional.embedding:
            codes, codebook = args[:2]
            assert codes.device == codebook.device and codes.dtype in (torch.int32, torch.int64)
            return torch.empty((*codes.shape, *codebook.shape[1:]), dtype=codebook.dtype, device=codebook.device)
        if function is torch.Tensor.to and isinstance(args[1], torch.Tensor):
            return torch.empty(args[0].shape, dtype=args[1].dtype, device=args[1].device)
        if function in (torch.Tensor.index_add_, torch.Tensor.set_):
            assert all(arg.device == args[0].device for arg in args if isinstance(arg, torch.Tensor))
            return args[0].set_(args[1]) if function is torch.Tensor.set_ else args[0]
        if function is torch.Tensor.__int__:
            return 0
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["linear", "conv", "embedding"])
def test_on_a_fake_cuda_device(monkeypatch, name):
    """Shapes, types and devices without a device: any mix of devices raises."""

    def fitted(matrix, n_codewords, *_, **__):
        assert matrix.device.type == "cuda"
        codes = torch.empty(matrix.shape[1], dtype=torch.int64, device="cuda")
        codebook = torch.empty((n_codewords, matrix.shape[0]), dtype=torch.float64, device="cuda")
        return SimpleNamespace(codes=codes, codebook=codebook)

    monkeypatch.setattr(quantizing, "fit_em", fitted)
    monkeypatch.setattr(quantizing, "_check_rounding", lambda *_: None)

    def made():
        layer = LAYERS[name][0]()
        for own, value in list(layer.named_parameters()):
            setattr(layer, own, torch.nn.Parameter(torch.empty(value.shape, device="cuda")))
        return layer

    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True), _WithoutCuda():
        layer, x = made(), torch.empty(LAYERS[name][1], device="cuda")
        x = torch.empty(7, dtype=torch.int64, device="cuda") if name == "embedding" else x
        compress.add_noise(layer, block_size=2)
        assert layer(x).device.type == "cuda"
        compress.quantize(layer, block_size=2, n_codewords=5)
        assert isinstance(layer.parametrizations["weight"][0], Codewords)
        assert {value.device.type for value in (layer(x), layer.weight, *layer.state_dict().values())} == {"cuda"}
        network = compress.extract(layer)
        assert network.layers[0].codebook.dtype == torch.float16
        monkeypatch.setattr(compress.network.checks, "as_codes", lambda *_: None)
        again = compress.restore(made(), network)
        assert {value.device.type for value in again.state_dict().values()} == {"cuda"}
