"""Layers for torch networks: a codebook that is learned while the network around it learns.

The choice of a codeword is a step function: its derivative is zero or does not exist. So the codebook and the
network learn from two different things. The codebook learns from the distortion of the points that reach it, by
gradient or by moving average; the network learns through an *estimator* of the missing derivative.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional

from vqcore import checks
from vqcore.errors import InputError
from vqcore.kernels import table_for
from vqcore.lloyd import fit_lloyd

UPDATES = ("gradient", "average")
STARTS = ("k-means++", "random")
ESTIMATORS = ("straight-through", "rotation")
BLANK = "the layer has no codebook yet: show it points in training mode, or pass start=..."


class Quantized(NamedTuple):
    """What the layer returns.

    Attributes:
        points_hat: (..., dim), the codewords in the points' own type; the gradient passes by the estimator.
        codes: (...) int64, the nearest codeword of every point.
        loss: what to add to the loss of the network: the distortion, weighted for the codebook and for the points.
        perplexity: 2 to the entropy of the codes in bits: as many equally frequent codewords would be as uncertain.
    """

    points_hat: torch.Tensor
    codes: torch.Tensor
    loss: torch.Tensor
    perplexity: torch.Tensor


class VectorQuantize(torch.nn.Module):
    """Replaces points (..., dim) by their nearest codewords, and learns the codebook (n_codewords, dim) on the way.

    Codes are those of `vqcore.assign`: exact far from the origin and under autocast, ties to the lowest index.
    A forward pass in training mode answers with the codebook as it was, then learns; one in evaluation mode
    changes nothing. The draws of pass n come from the seed and n alone, so a loaded state goes on with the same story.

    Args:
        dim: length of a point.
        n_codewords: entries of the codebook.
        update: "gradient": the codebook is a parameter, and the loss holds the distortion, whose gradient for
            codeword i is 2 P_i (x_i - mean of cell i): CLVQ. "average": a buffer; a codeword is the mean of all
            points it has won, those of n passes ago weighted by decay^n.
        estimator: "straight-through" hands the gradient of a codeword to its point as it is; "rotation" turns and
            scales it like the linear map that takes the point to the codeword.
        commitment: weight of the distortion as a loss of the points; None of it reaches the codebook.
        decay: of "average": 0 is a Lloyd step on every batch, 1 the plain mean of all points ever won (MacQueen).
        start: "k-means++" or "random" on the first batch in training mode, or the codewords.
        revive_after: passes without a point after which a codeword is moved to a point of the batch, drawn in
            proportion to its squared distance; None leaves it where it is.
        seed: of numpy's Generator, for the start and for revivals; torch's generators are not used.
        device, dtype: of the codebook; float32 by default.

    Raises:
        InputError: bad arguments; points of another length, device or kind, or not finite; fewer distinct points
            in the first batch than codewords.

    Source: van den Oord, Vinyals & Kavukcuoglu 2017, "Neural discrete representation learning" (straight-through,
    commitment, moving average; their squared errors are means over elements, ours sums over `dim`); Fifty et al.
    2024, "Restructuring vector quantization with the rotation trick"; Pages 2015 on CLVQ.
    """

    def __init__(
        self, dim, n_codewords, update="gradient", estimator="straight-through", *, commitment=0.25, decay=0.99,
        start="k-means++", revive_after=100, seed=0, device=None, dtype=torch.float32,
    ):  # fmt: skip
        super().__init__()
        self.dim, self.n_codewords = checks.as_count(dim, "dim"), checks.as_count(n_codewords, "n_codewords")
        self.update = checks.as_choice(update, "update", UPDATES)
        self.estimator = checks.as_choice(estimator, "estimator", ESTIMATORS)
        self.commitment = checks.as_real(commitment, "commitment", low=0.0)
        self.decay = checks.as_real(decay, "decay", low=0.0, high=1.0)
        self.revive_after = None if revive_after is None else checks.as_count(revive_after, "revive_after")
        self.seed = checks.as_count(seed, "seed", low=0)
        if dtype not in (torch.float32, torch.float64):
            raise InputError(f"dtype={dtype!r}: the codebook must be torch.float32 or torch.float64")
        # No codebook yet: NaN, which no kernel takes for a codeword.
        codebook, self.start = np.full((self.n_codewords, self.dim), np.nan), start
        if isinstance(start, str):
            checks.as_choice(start, "start", STARTS)
        else:
            codebook, self.start = checks.as_table(start, "start", (self.n_codewords, self.dim)), "given"
            if abs(codebook).max() > torch.finfo(dtype).max:
                raise InputError(f"start reaches {abs(codebook).max():g}, which {dtype} does not hold")
        codebook = torch.from_numpy(codebook).to(device, dtype)
        if update == "gradient":
            self.codebook = torch.nn.Parameter(codebook)
        else:
            self.register_buffer("codebook", codebook)
        # Of every codeword: the points it has won, recent ones counting most, and the passes since it won one.
        self.register_buffer("mass", torch.zeros(self.n_codewords, device=device, dtype=torch.float64))
        self.register_buffer("idle", torch.zeros(self.n_codewords, device=device, dtype=torch.int64))
        self.register_buffer("n_passes", torch.zeros((), device=device, dtype=torch.int64))

    def forward(self, points):
        """Codewords, codes, loss and perplexity of points (..., dim), as a `Quantized`."""
        codes = self._choose(points, begin=self.training)
        # Half precision would round what the estimator cancels, and the loss.
        with torch.autocast(points.device.type, enabled=False):
            working = _working_type(points, self.codebook)
            exact = points.to(working)
            codewords = functional.embedding(codes, self.codebook.to(working))
            loss = self.commitment * _distortion(exact, codewords.detach())
            if self.update == "gradient":
                loss = loss + _distortion(exact.detach(), codewords)
            points_hat = _with_gradient(exact, codewords.detach(), self.estimator).to(points.dtype)
            perplexity = self._perplexity(codes)
        if self.training:
            self._learn(points, codes)
        return Quantized(points_hat, codes, loss, perplexity)

    def encode(self, points):
        """Code (...) int64 of the codeword nearest to each of points (..., dim); nothing is learned."""
        return self._choose(points, begin=False)

    def decode(self, codes):
        """The codewords (..., dim) of codes (...); the gradient goes to the codebook."""
        return functional.embedding(self._checked(codes), self.codebook)

    def extra_repr(self):
        """The arguments, as printing a network shows them."""
        return f"{self.dim}, {self.n_codewords}, update={self.update!r}, estimator={self.estimator!r}"

    # The kernels are compiled already: torch.compile goes around them.
    @torch.compiler.disable
    @torch.no_grad()
    def _choose(self, points, begin):
        """Codes (...); where there is no codebook yet it comes from these points, or they are refused."""
        table, rows = self._rows(points)
        codebook = self._on_host(table)
        if self._is_blank(table, codebook):
            if not begin:
                raise InputError(BLANK)
            fit = fit_lloyd(rows, self.n_codewords, start=self.start, n_steps=0, seed=self.seed, progress=False)
            self.codebook.copy_(fit.codebook)
            codebook = self._on_host(table)
        return table.assign(rows, checks.as_table(codebook, "codebook"))[0].reshape(points.shape[:-1])

    @torch.compiler.disable
    @torch.no_grad()
    def _checked(self, codes):
        """Codes (...) of codewords that are there, or a refusal."""
        if not isinstance(codes, torch.Tensor):
            raise InputError(f"codes is a {type(codes).__name__}: a layer takes a torch tensor")
        table, codes = checks.as_codes(codes, self.n_codewords)
        if self._is_blank(table, self._on_host(table)):
            raise InputError(BLANK)
        return codes

    def _is_blank(self, table, codebook):
        return np.isnan(codebook).all() and not table.to_host(self.n_passes)

    def _rows(self, points):
        """The kernel table and the points as (n, dim) without their history, or a refusal."""
        if not isinstance(points, torch.Tensor):
            raise InputError(f"points is a {type(points).__name__}: a layer takes a torch tensor")
        shape, dtype = tuple(points.shape), points.dtype
        if not points.is_floating_point() or not shape or shape[-1] != self.dim:
            raise InputError(f"points has shape {shape} and dtype {dtype}: it must be (..., {self.dim}) of floats")
        if points.device != self.codebook.device:
            raise InputError(f"points lie on {points.device}, the codebook on {self.codebook.device}: move one of them")
        rows = table_for(points).to_points(points).reshape(-1, self.dim)
        table, rows = checks.as_points(rows)
        largest = max(map(abs, table.extent(rows)))
        working = _working_type(points, self.codebook)
        if largest > (torch.finfo(working).max / (16 * self.dim)) ** 0.5:
            raise InputError(f"points reaches {largest:g}: squared distances leave the range of {working}")
        return table, rows

    @torch.compiler.disable
    @torch.no_grad()
    def _learn(self, points, codes):
        """Take note of who won what; move codewords by their averages; revive those that win nothing."""
        table = table_for(points)
        rows = table.to_points(points).reshape(-1, self.dim)
        sums, counts = table.accumulate(rows, codes.reshape(-1), self.n_codewords)
        mass = self.decay * table.to_host(self.mass) + counts
        idle = np.where(counts > 0, 0, table.to_host(self.idle) + 1)
        if self.update == "average":
            codebook, won = self._on_host(table), counts > 0
            # The mean of all points won, as a step from the mean so far: nothing cancels far from the origin.
            share = (counts[won] / mass[won])[:, None]
            codebook[won] += share * (sums[won] / counts[won, None] - codebook[won])
            self.codebook.copy_(table.from_host(codebook, rows))
        if self.revive_after is not None and (idle >= self.revive_after).any():
            self._revive(table, rows, mass, idle)
        self.mass.copy_(table.from_host(mass, rows))
        self.idle.copy_(table.from_host(idle, rows))
        self.n_passes.add_(1)

    def _revive(self, table, rows, mass, idle):
        """Idle codewords go to points drawn in proportion to their squared distance, one after another: k-means++."""
        dead = np.flatnonzero(idle >= self.revive_after)
        codebook = self._on_host(table)
        living = np.delete(codebook, dead, axis=0)
        sq_dists = table.assign(rows, living)[1]
        rng = np.random.default_rng([self.seed, int(table.to_host(self.n_passes))])
        for code, uniform in zip(dead, rng.random(len(dead))):
            drawn = table.draw(sq_dists, [uniform])
            if not table.to_host(sq_dists[drawn])[0] > 0:
                break  # every point lies on a codeword already
            codebook[code] = table.to_host(rows[drawn])[0]
            mass[code], idle[code] = 0.0, 0
            sq_dists = table.nearer(rows, codebook[code : code + 1], sq_dists)
        self.codebook.copy_(table.from_host(codebook, rows))

    def _on_host(self, table):
        # In float64 on the way, since numpy has no bfloat16.
        return np.array(table.to_host(self.codebook.detach().double()))

    def _perplexity(self, codes):
        counts = torch.zeros(self.n_codewords, dtype=torch.float64, device=codes.device)
        counts.index_add_(0, codes.reshape(-1), torch.ones_like(codes.reshape(-1), dtype=torch.float64))
        return torch.special.entr(counts / counts.sum()).sum().exp()

    def _apply(self, fn, recurse=True):
        # `.half()` on a network would turn the mass of a thousand batches into infinity.
        mass = self.mass
        super()._apply(fn, recurse)
        if self.mass.dtype != torch.float64:
            self.mass = mass.to(self.mass.device)
        return self


def _working_type(points, codebook):
    """The finer type of the two, and at least float32: half precision holds neither codes nor a loss."""
    return torch.promote_types(torch.promote_types(points.dtype, codebook.dtype), torch.float32)


def _distortion(points, codewords):
    """Mean of the squared distances between rows."""
    return (points - codewords).square().sum(-1).mean()


def _with_gradient(points, codewords, estimator):
    """The codewords to the bit, with the gradient of a linear map of the points."""
    moved = points if estimator == "straight-through" else _rotated(points, codewords)
    return codewords + (moved - moved.detach())


def _rotated(points, codewords):
    """Each point under the fixed linear map, a rotation times a scale, that takes it to its codeword.

    The rotation from unit vector a to b in their plane is I - 2 r r' + 2 b a', with r in the direction of a + b.
    Of opposite vectors that sum is no direction; without its term a reflection is left that takes a to b as well.
    A point at the origin has no direction at all: its gradient passes straight through.
    """
    with torch.no_grad():
        length, wanted = points.norm(dim=-1, keepdim=True), codewords.norm(dim=-1, keepdim=True)
        tiny = torch.finfo(points.dtype).tiny
        here, there = points / length.clamp(min=tiny), codewords / wanted.clamp(min=tiny)
        middle = here + there
        size = middle.norm(dim=-1, keepdim=True)
        middle = torch.where(size > math.sqrt(torch.finfo(points.dtype).eps), middle / size.clamp(min=tiny), 0.0)
        scale = wanted / length.clamp(min=tiny)
    turned = points - 2 * middle * (middle * points).sum(-1, keepdim=True)
    turned = turned + 2 * there * (here * points).sum(-1, keepdim=True)
    return torch.where(length > 0, scale * turned, points)
