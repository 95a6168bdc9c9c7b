"""What computes the weight of a layer: codewords, or the weight itself with noise; and how it gets there."""

import numpy as np
import torch
from torch.nn import functional
from torch.nn.utils import parametrize

STORED = {16: torch.float16, 32: torch.float32, 64: torch.float64}


class Codewords(torch.nn.Module):
    """The weight of a layer as codewords: its blocks, row by row, are codebook[codes].

    The codebook is the parameter, in the type of the weight. Its values are rounded to `float_bits` on the way, as a
    file holds them, so that the network never computes with anything else. The gradient of a codeword is the mean
    of the gradients of its blocks (Stock et al. 2020, section 3.3), and passes the rounding as it is.
    """

    def __init__(self, codes, n_codewords, shape, float_bits):
        super().__init__()
        self.n_codewords, self.shape, self.float_bits = n_codewords, tuple(shape), float_bits
        counts = torch.zeros(n_codewords, dtype=torch.int64, device=codes.device)
        counts.index_add_(0, codes.long(), torch.ones_like(codes, dtype=torch.int64))
        self.register_buffer("codes", codes.to(torch.int32))
        self.register_buffer("counts", counts)

    @property
    def n_bits(self):
        """Bits of a code in a file."""
        return max(1, (self.n_codewords - 1).bit_length())

    def rounded(self, codebook):
        """The codebook as a file holds it."""
        return codebook.detach().to(STORED[self.float_bits])

    def forward(self, codebook):
        """The weight of a codebook (n_codewords, block_size)."""
        # The gradient sums over all blocks of a codeword, of which half precision would lose most.
        exact = codebook.to(torch.promote_types(codebook.dtype, torch.float32))
        share = self.counts.clamp(min=1).unsqueeze(1).to(exact.dtype)
        # Adding and subtracting the same leaves the rounded values as they are, and the gradient to the last term.
        learned = self.rounded(codebook).to(exact.dtype) + (exact - exact.detach()) / share
        return functional.embedding(self.codes, learned).to(codebook.dtype).reshape(self.shape)

    def right_inverse(self, weight):
        """The codebook nearest to a weight with these codes: the means of its blocks."""
        blocks = weight.detach().reshape(len(self.codes), -1).double()
        sums = torch.zeros(self.n_codewords, blocks.shape[1], dtype=torch.float64, device=blocks.device)
        sums.index_add_(0, self.codes.long(), blocks)
        return (sums / self.counts.clamp(min=1).unsqueeze(1)).to(weight.dtype)

    def extra_repr(self):
        """What printing a network shows."""
        return f"{len(self.codes)} codes, {self.n_codewords} codewords of {self.float_bits}-bit floats"


class QuantNoise(torch.nn.Module):
    """In training, zeros in the place of blocks of a weight drawn anew in every pass; the others grow to make up.

    The gradient passes straight through, to all blocks alike. Draws come from the seed and the number of the pass:
    a loaded state goes on with the same story, and torch's generators are not used.
    """

    def __init__(self, block_size, share, seed, device):
        super().__init__()
        self.block_size, self.share, self.seed = block_size, share, seed
        self.register_buffer("n_passes", torch.zeros((), dtype=torch.int64, device=device))

    def forward(self, weight):
        """The weight itself in evaluation mode, a noisy one in training."""
        if not self.training:
            return weight
        rng = np.random.default_rng([*self.seed, int(self.n_passes)])
        with torch.no_grad():
            self.n_passes += 1
            kept = torch.from_numpy(rng.random(weight.numel() // self.block_size) >= self.share).to(weight)
            noisy = weight.reshape(len(kept), -1) * (kept.unsqueeze(1) / (1 - self.share))
        return noisy.reshape(weight.shape) + (weight - weight.detach())

    def extra_repr(self):
        """What printing a network shows."""
        return f"block_size={self.block_size}, share={self.share}"


def part_of(module):
    """What computes the weight of a module: Codewords, QuantNoise, something else, or None."""
    return module.parametrizations["weight"][0] if parametrize.is_parametrized(module, "weight") else None


def dense(module):
    """The weight as a parameter, without its noise."""
    return module.weight if part_of(module) is None else module.parametrizations["weight"].original


def is_noisy(module):
    """Whether the weight of a module has noise."""
    return isinstance(part_of(module), QuantNoise)


def release(module):
    """Take away what computes the weight of a module: the parameter that it is computed from is the weight again."""
    if len(module.parametrizations) > 1:
        parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)
        return
    # The call above deletes `weight` from the class, which copies of the module share: here they are left whole.
    original = module.parametrizations["weight"].original
    del module.parametrizations
    module.__class__ = type(module).__bases__[0]
    module.register_parameter("weight", original)


def install(modules, part, codebook=None):
    """Let a part compute the weight of these modules; with a codebook, that is what it computes it from."""
    for module in modules:
        if part_of(module) is not None:
            release(module)
        if codebook is not None:
            # torch will turn this parameter into the codebook; the old one may be in somebody's hands.
            old = module.weight
            module.weight = torch.nn.Parameter(old.detach(), requires_grad=old.requires_grad)
        parametrize.register_parametrization(module, "weight", part, unsafe=True)
        module.parametrizations["weight"] = modules[0].parametrizations["weight"]
    if codebook is not None:
        original = modules[0].parametrizations["weight"].original
        with torch.no_grad():
            original.copy_(torch.as_tensor(codebook))
