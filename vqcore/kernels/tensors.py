"""torch tensors on any device: points and codes never leave it, tables come to the host."""

from typing import NamedTuple

import numpy as np
import torch

from vqcore.errors import InputError

LEAF = 64  # points in a leaf of the moment tree
BLOCK_BYTES = 64 * 2**20  # of scores held at a time


def to_points(values, name="points", integers=False):
    """A dense tensor of float32 or float64 (or, with `integers`, of integers), detached from autograd."""
    if values.device.type == "meta":
        raise InputError(f"{name} is a tensor on the meta device, which holds no values")
    if values.layout != torch.strided or values.is_quantized:
        raise InputError(f"{name} is a sparse or quantized tensor: pass {name}.to_dense()")
    tensor = values.detach().resolve_conj().resolve_neg()
    if tensor.is_complex() or tensor.dtype == torch.bool or (integers and tensor.is_floating_point()):
        wanted = "integers" if integers else f"real numbers, for example {name}.double()"
        raise InputError(f"{name} has dtype {tensor.dtype}: it must be {wanted}")
    if integers:
        # int64, because torch reads a uint8 index as a mask.
        return tensor.long()
    if tensor.dtype in (torch.float32, torch.float64):
        return tensor
    if tensor.is_floating_point():
        return tensor.float()
    # Compared as float64, since torch has no minimum of its larger unsigned types; 2**53 + 1 rounds to 2**53.
    values = tensor.double()
    if tensor.numel() and values.abs().max() >= 2**53:
        raise InputError(f"{name} holds integers of 2**53 and beyond, which float64 cannot keep")
    return values


def from_host(table, like):
    """A numpy array as a tensor on the device of `like`."""
    return torch.from_numpy(np.array(table)).to(like.device)


def to_host(array):
    """A tensor as a numpy array; the one place where a device waits for the host."""
    return array.detach().cpu().numpy()


def extent(points):
    """Smallest and largest value; NaN if any value is NaN."""
    low, high = torch.aminmax(points)
    return low.item(), high.item()


def assign(points, codebook):
    """Code (n,) and squared distance (n,) of the nearest codeword; ties go to the lowest index."""
    n = len(points)
    if points.numel() == n:
        return _assign_on_line(points.reshape(-1), codebook)
    exact = from_host(codebook, points)
    shift, shifted, half_norms, slack = _screen(points, exact)
    codes = torch.empty(n, dtype=torch.int64, device=points.device)
    sq_dists = torch.empty(n, dtype=torch.float64, device=points.device)
    size = max(1, BLOCK_BYTES // (8 * max(codebook.shape)))
    for start in range(0, n, size):
        block = points[start : start + size]
        mine = _assign_block(block, exact, shift, shifted, half_norms, slack)
        codes[start : start + size] = mine
        sq_dists[start : start + size] = (block.double() - exact[mine]).square().sum(1)
    return codes, sq_dists


def accumulate(values, codes, n_codewords, sample_weight=None):
    """Sum of the values (n_codewords, dim) or (n_codewords,), and number or weight (n_codewords,), per cell."""
    rows = values.reshape(len(values), -1)
    sums = torch.zeros((n_codewords, rows.shape[1]), dtype=torch.float64, device=values.device)
    dtype = torch.int64 if sample_weight is None else torch.float64
    mass = torch.zeros(n_codewords, dtype=dtype, device=values.device)
    size = max(1, BLOCK_BYTES // (8 * rows.shape[1]))
    for start in range(0, len(rows), size):
        block, mine = rows[start : start + size].double(), codes[start : start + size].long()
        if sample_weight is None:
            share = torch.ones_like(mine)
        else:
            share = sample_weight[start : start + size]
            block = block * share[:, None]
        sums.index_add_(0, mine, block)
        mass.index_add_(0, mine, share)
    return to_host(sums).reshape((n_codewords,) + tuple(values.shape[1:])), to_host(mass)


class Ordered(NamedTuple):
    """Sorted points under a tree of moments: mass, mean and squared error of 64, 128, 256 ... points, a level each.

    Means are kept relative to the median point, so that they lose no digits far from the origin.
    """

    values: torch.Tensor
    weights: torch.Tensor | None
    levels: tuple


def sort(points, sample_weight=None):
    """One-dimensional points ascending, with a tree of moments over them: O(n log n) once, n / 32 nodes."""
    values, order = torch.sort(points.double(), stable=True)
    weights = None if sample_weight is None else sample_weight[order]
    padding = -len(values) % LEAF
    leaves = torch.nn.functional.pad(values, (0, padding), value=0.0).reshape(-1, LEAF)
    share = torch.ones_like(values) if weights is None else weights
    share = torch.nn.functional.pad(share, (0, padding), value=0.0).reshape(-1, LEAF)
    mass, start = share.sum(1), leaves[:, 0]
    apart = (share * (leaves - start[:, None])).sum(1) / mass.clamp(min=torch.finfo(torch.float64).tiny)
    sq_errors = (share * (leaves - (start + apart)[:, None]).square()).sum(1)
    levels = [(mass, (start - values[len(values) // 2]) + apart, sq_errors)]
    while len(levels[-1][0]) > 1:
        levels.append(_merge(*levels[-1]))
    return Ordered(values, weights, tuple(levels))


def interval_moments(ordered, edges, codebook):
    """Mass, mean and squared error about the codeword, (n_codewords,) each, of the cells between the edges.

    A cell is the union of at most 2 log2(n) nodes and 128 single points, all added, so nothing cancels.
    """
    values, weights, levels = ordered
    n, center = len(values), values[len(values) // 2]
    table = from_host(np.stack([codebook, np.append(edges, np.inf)]), values)
    codewords, upper = table[0], table[1]
    end = torch.searchsorted(values, upper, right=True)
    end = torch.cummax(end, 0).values
    begin = torch.nn.functional.pad(end[:-1], (1, 0))
    first, last = (begin + LEAF - 1) // LEAF, end // LEAF
    sums = torch.zeros((3, len(codewords)), dtype=torch.float64, device=values.device)
    inner = torch.minimum(first * LEAF, end)
    size = max(1, BLOCK_BYTES // (32 * LEAF))
    for low, high in ((begin, inner), (torch.maximum(last * LEAF, inner), end)):
        for cell in range(0, len(codewords), size):
            some = slice(cell, cell + size)
            at = low[some, None] + torch.arange(LEAF, device=values.device)
            inside = at < high[some, None]
            at = at.clamp(max=n - 1)
            share = inside.double() if weights is None else inside * weights[at]
            apart = values[at] - codewords[some, None]
            sums[:, some] += torch.stack([share, share * (values[at] - center), share * apart.square()]).sum(2)
    for mass, means, sq_errors in levels:
        more = first < last
        for side in ("first", "last"):
            taken = (first < last) & ((first if side == "first" else last) % 2 == 1)
            last = last - taken.long() if side == "last" else last
            node = (first if side == "first" else last).clamp(0, len(mass) - 1)
            first = first + taken.long() if side == "first" else first
            here, apart = mass[node], means[node] - (codewords - center)
            sums += taken * torch.stack([here, here * means[node], sq_errors[node] + here * apart.square()])
        first, last = first // 2, last // 2
    mass, total, sq_error = to_host(sums)
    filled = mass > 0
    means = codebook.copy()
    means[filled] = to_host(center) + total[filled] / mass[filled]
    return (mass.astype(np.int64) if weights is None else mass), means, sq_error


def nearer(points, codewords, sq_dists):
    """The smaller (n,) of `sq_dists` and the squared distance to the nearest of a few codewords."""
    columns = points.reshape(len(points), -1)
    result = torch.empty_like(sq_dists, dtype=torch.float64)
    table = from_host(codewords.reshape(-1, columns.shape[1]), points)
    size = max(1, BLOCK_BYTES // (8 * columns.shape[1]))
    for start in range(0, len(columns), size):
        block, lowest = columns[start : start + size].double(), sq_dists[start : start + size].double()
        for codeword in table:
            lowest = torch.minimum(lowest, (block - codeword).square().sum(1))
        result[start : start + size] = lowest
    return result


def draw(weights, uniforms):
    """For each uniform number in [0, 1) the position at which the running sum of the weights passes that share."""
    running = torch.cumsum(weights.double(), 0)
    wanted = from_host(np.asarray(uniforms, dtype=np.float64), weights) * running[-1]
    return torch.searchsorted(running, wanted, right=True).clamp(max=len(weights) - 1)


def _screen(points, exact):
    """What scores need: the shift, the shifted codewords, their half norms, and the rounding bound of a score."""
    low, high = torch.aminmax(points)
    reach = torch.maximum(torch.maximum(low.abs(), high.abs()).double(), exact.abs().max())
    # Whether float32 has the range is decided on the device, by making the bound infinite, without a wait.
    work = points.dtype
    shift = exact.mean(0).to(work)
    moved = exact - shift
    half_norms = moved.square().sum(1) / 2
    # Higham 2002, section 3.1; the two working precisions of a matrix product are torch's to choose.
    slack = 2 * (exact.shape[1] + 6) * _unit_roundoff(points) * (2 * half_norms.max()).sqrt()
    if work == torch.float32:
        slack = torch.where((reach > 1e-12) & (reach < 1e15), slack, torch.inf)
    return shift, moved.to(work), half_norms.to(work), slack


def _assign_block(block, exact, shift, shifted, half_norms, slack):
    """Codes by scores where the two best are clearly apart, by exact distances where they are not."""
    moved = block - shift
    # A training loop's autocast would multiply in fewer bits than the bound allows for.
    with torch.autocast(block.device.type, enabled=False):
        scores = torch.addmm(half_norms, moved, shifted.T, alpha=-1)
    best, codes = scores.min(1)
    if len(exact) == 1:
        return codes
    scores.scatter_(1, codes[:, None], torch.inf)
    gap = (scores.amin(1) - best).double()
    largest = (2 * half_norms.max()).sqrt().double()
    # Products below the normal range lose all digits: so much more may a score err.
    floor = 4 * (exact.shape[1] + 6) * torch.finfo(scores.dtype).tiny
    bound = floor + slack * (largest + 2.01 * moved.double().square().sum(1).sqrt())
    # A comparison with NaN is false: overflowed scores are doubtful as well.
    doubtful = torch.nonzero((gap > bound).logical_not()).squeeze(1)
    codes[doubtful] = _decide(block[doubtful].double(), exact)
    return codes


def _decide(block, exact):
    """The nearest codeword by the direct form in float64; a tie goes to the lowest index."""
    codes = torch.zeros(block.shape[0], dtype=torch.int64, device=block.device)
    lowest = torch.full((block.shape[0],), torch.inf, dtype=torch.float64, device=block.device)
    for code, codeword in enumerate(exact):
        sq_dists = (block - codeword).square().sum(1)
        closer = sq_dists < lowest
        codes = torch.where(closer, code, codes)
        lowest = torch.where(closer, sq_dists, lowest)
    return codes


def _assign_on_line(points, codebook):
    """One dimension: the codewords on either side of a point, found by bisection, then the nearer of the two."""
    ascending, index = np.unique(codebook, return_index=True)
    ascending, index = from_host(ascending, points), from_host(index, points)
    values, last = points.double(), len(ascending) - 1
    above = torch.searchsorted(ascending, values)
    below = (above - 1).clamp(min=0)
    above = above.clamp(max=last)
    # Differences, not squares: those of a far point round to the same value. Outside, both sides are one codeword.
    to_below, to_above = (values - ascending[below]).abs(), (ascending[above] - values).abs()
    lower = (to_below < to_above) | ((to_below == to_above) & (index[below] < index[above]))
    at = torch.where(lower, below, above)
    return index[at], (values - ascending[at]).square()


def _unit_roundoff(points):
    """Of a matrix product of these points: torch may be allowed TF32 (10 bits) or bfloat16 (8 bits)."""
    if points.dtype == torch.float64:
        return 2.0**-53
    precision = torch.get_float32_matmul_precision()
    return {"highest": 2.0**-24, "high": 2.0**-11}.get(precision, 2.0**-8)


def _merge(mass, means, sq_errors):
    """The next level of the tree: neighbours in pairs; a last one without a partner stays alone."""
    padding = len(mass) % 2
    mass, means, sq_errors = (torch.nn.functional.pad(t, (0, padding)).reshape(-1, 2) for t in (mass, means, sq_errors))
    here = mass.sum(1)
    share = torch.where(here > 0, mass[:, 1] / here, 0.0)
    apart = torch.where(mass[:, 1] > 0, means[:, 1] - means[:, 0], 0.0)
    return here, means[:, 0] + share * apart, sq_errors.sum(1) + mass[:, 0] * share * apart.square()
