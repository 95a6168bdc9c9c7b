"""The layer that learns a codebook: against closed forms, other libraries, and the exact assignment."""

import copy
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from libraries import LIBRARIES
from scipy.linalg import expm
from sklearn.cluster import MiniBatchKMeans
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

import vqcore as vq
from vqcore import kernels
from vqcore.layers import ESTIMATORS, UPDATES, VectorQuantize
from vqcore.view import LearningExplorer, draw_tiles, figure

DEVICES = [library.partition(":")[2] or "cpu" for library in LIBRARIES if library != "numpy"]
# Dynamo looks at the `.grad` of what is no leaf, and its own modules use what torch deprecates.
compiling = [pytest.mark.filterwarnings(f"ignore:{text}") for text in ("The .grad attribute", r"`torch.jit.\w+` is")]


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def layer_of(codebook, *args, **options):
    codebook = np.asarray(codebook)
    options = {"dtype": torch.float64, "start": codebook} | options
    return VectorQuantize(codebook.shape[1], len(codebook), *args, **options)


def gradient_of(value, *tensors):
    return torch.autograd.grad(value, tensors)


# What it answers


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_answers_are_those_of_assign_in_the_type_of_the_points(device, update, estimator, dtype):
    points = torch.tensor(normal(4, 5, 3), dtype=dtype, device=device)
    layer = VectorQuantize(3, 6, update, estimator, start=normal(6, 3, seed=1), device=device)
    codebook = layer.codebook.detach().clone()
    out = layer(points)
    wanted, sq_dists = vq.assign(points.reshape(-1, 3), codebook)
    assert torch.equal(out.codes, wanted.reshape(4, 5))
    assert out.points_hat.dtype == dtype and torch.equal(out.points_hat, codebook[out.codes].to(dtype))
    assert {tensor.device for tensor in out} == {points.device}
    share = layer.commitment + (update == "gradient")
    torch.testing.assert_close(out.loss.double(), share * sq_dists.mean(), rtol=1e-5, atol=0)
    counts = np.bincount(wanted.cpu(), minlength=6)
    np.testing.assert_allclose(out.perplexity.item(), 2 ** vq.rates.entropy(counts), rtol=1e-12)
    assert torch.equal(layer.decode(out.codes), layer.codebook[out.codes])


def test_a_tie_goes_to_the_lowest_index():
    layer = layer_of([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [-1.0, 0.0]])
    assert layer.encode(torch.tensor([[0.0, 0.0], [0.0, 2.0], [-1.0, 1.0]])).tolist() == [0, 1, 1]


def test_far_from_the_origin_nothing_is_lost():
    near = np.round(normal(500, 4) * 64) / 64
    far = torch.from_numpy((near + 2.0**17).astype(np.float32))
    book = near[:20]
    for update in UPDATES:
        here, there = (layer_of(book + shift, update, decay=0.9) for shift in (0.0, 2.0**17))
        first, second = here(torch.from_numpy(near)), there(far)
        assert torch.equal(first.codes, second.codes)
        np.testing.assert_allclose(second.loss.item(), first.loss.item(), rtol=1e-9)
        np.testing.assert_allclose(there.codebook.detach() - 2.0**17, here.codebook.detach(), atol=1e-9)
    assert (torch.cdist(far, there.codebook.float()).argmin(1) != second.codes).any()  # why it matters


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_autocast_changes_no_code(half):
    layer = layer_of(normal(300, 16), "average", "rotation", dtype=torch.float32)
    points = torch.from_numpy(normal(2000, 16, seed=1)).float()
    wanted = layer.encode(points)
    with torch.autocast("cpu", dtype=half):
        out = layer(points.requires_grad_())
        assert out.loss.dtype == out.points_hat.dtype == torch.float32
        assert layer.eval()(points.to(half)).points_hat.dtype == half
    assert torch.equal(out.codes, wanted)
    # In half precision, distances choose otherwise.
    book = torch.from_numpy(normal(300, 16)).to(half)
    assert (torch.cdist(points.detach().to(half), book).argmin(1) != wanted).any()


# The codebook by gradient


def test_gradient_of_the_codebook_is_the_closed_form_on_points():
    points, book = normal(200, 3), normal(7, 3, seed=1)
    layer = layer_of(book, commitment=0.7)
    (gradient,) = gradient_of(layer(torch.from_numpy(points)).loss, layer.codebook)
    codes = vq.encode(points, book)
    for i in range(7):
        mine = points[codes == i]
        wanted = 2 * len(mine) / 200 * (book[i] - mine.mean(axis=0)) if len(mine) else np.zeros(3)
        np.testing.assert_allclose(gradient[i], wanted, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("law", [vq.Normal(), vq.Exponential(), vq.Laplace(1.0, 2.0)], ids=repr)
def test_gradient_of_the_codebook_is_the_closed_form_of_the_law(law):
    book = law.ppf(np.array([0.05, 0.3, 0.35, 0.8, 0.97]))
    cells = vq.cells(law, book)
    # The quantiles of equal shares stand for the law with an error of O(1/n), tails apart.
    n = 400_000
    layer = layer_of(book[:, None])
    (gradient,) = gradient_of(layer(torch.from_numpy(law.ppf((np.arange(n) + 0.5) / n))[:, None]).loss, layer.codebook)
    np.testing.assert_allclose(gradient[:, 0], 2 * cells.weights * (book - cells.means), atol=2e-5)


def test_a_gradient_step_is_a_step_of_clvq():
    """Batch 1, learning rate half the gain: `fit_clvq` on the same samples."""
    law, start, n = vq.Normal(), np.array([-1.5, -0.2, 0.1, 2.0]), 2_000
    a, b = 4.0, 0.3
    fit = vq.fit_clvq(law, 4, n_samples=n, seed=5, start=start, step=(a, b))
    layer = layer_of(start[:, None], commitment=0.0, revive_after=None)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    for i, sample in enumerate(law.sample(n, seed=5)):
        optimizer.param_groups[0]["lr"] = a / (a + b * (i + 1)) / 2
        optimizer.zero_grad()
        layer(torch.tensor([[sample]])).loss.backward()
        optimizer.step()
    np.testing.assert_allclose(np.sort(layer.codebook.detach()[:, 0]), fit.codebook, rtol=1e-12)


@pytest.mark.parametrize("update", UPDATES)
def test_a_learned_codebook_reaches_lloyd_max(update):
    law, optimum = vq.Normal(), 0.0345477607885037  # of 8 codewords, in 40 digits
    points = torch.from_numpy(law.sample(1_000_000, seed=1))[:, None]
    layer = VectorQuantize(1, 8, update, decay=0.9, dtype=torch.float64)
    for i, batch in enumerate(points.split(2_000)):
        loss = layer(batch).loss
        if update == "gradient":
            (gradient,) = gradient_of(loss, layer.codebook)
            with torch.no_grad():
                layer.codebook -= 1.5 / (1 + i / 100) * gradient
    distortion = vq.cells(law, np.sort(layer.codebook.detach()[:, 0])).distortion
    assert optimum <= distortion < 1.01 * optimum


def test_the_commitment_pulls_points_and_leaves_the_codebook():
    points = torch.from_numpy(normal(50, 3)).requires_grad_()
    for update in UPDATES:
        layer = layer_of(normal(5, 3, seed=1), update, commitment=0.3)
        codebook = layer.codebook.detach().clone()
        out = layer(points)
        (gradient,) = gradient_of(out.loss, points)
        torch.testing.assert_close(gradient, 0.6 / 50 * (points - codebook[out.codes]).detach())
    layer = layer_of(codebook, commitment=0.0)
    assert (gradient_of(layer(points).loss + 0 * points.sum(), points)[0] == 0).all()
    # What the network makes of the codewords is no concern of the codebook's.
    assert gradient_of(layer(points).points_hat.sum() + 0 * layer.codebook.sum(), layer.codebook)[0].abs().max() == 0


# Estimators


def test_straight_through_is_the_identity():
    points, seen = torch.from_numpy(normal(40, 6)).requires_grad_(), torch.from_numpy(normal(40, 6, seed=2))
    out = layer_of(normal(9, 6, seed=1))(points)
    assert torch.equal(gradient_of((out.points_hat * seen).sum(), points)[0], seen)


def linear_map(point, codeword):
    """The matrix that the gradient goes through, between one point and one codeword."""
    layer = layer_of(codeword[None], estimator="rotation", revive_after=None)
    return torch.autograd.functional.jacobian(lambda x: layer(x[None]).points_hat[0], torch.from_numpy(point)).numpy()


@given(st.integers(2, 12), st.integers(0, 10**6), st.floats(0.01, 100.0))
def test_rotation_is_the_rotation_in_the_plane_of_point_and_codeword(dim, seed, scale):
    point, codeword = normal(dim, seed=seed), scale * normal(dim, seed=seed + 1)
    jacobian = linear_map(point, codeword)
    ratio = np.linalg.norm(codeword) / np.linalg.norm(point)
    # By the matrix exponential: the generator of the plane, times the angle.
    a, b = point / np.linalg.norm(point), codeword / np.linalg.norm(codeword)
    c = b - (a @ b) * a
    c /= np.linalg.norm(c)
    angle = np.arctan2(b @ c, a @ b)
    np.testing.assert_allclose(jacobian, ratio * expm(angle * (np.outer(c, a) - np.outer(a, c))), atol=1e-9 * ratio)
    np.testing.assert_allclose(jacobian @ point, codeword, rtol=1e-9, atol=1e-9 * scale)
    np.testing.assert_allclose(np.linalg.det(jacobian / ratio), 1.0, rtol=1e-9)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_rotation_where_there_is_no_plane(dim):
    point = normal(dim)
    np.testing.assert_allclose(linear_map(point, 3 * point), 3 * np.eye(dim), atol=1e-12)
    for scale in (2.0, 3.0, 0.7):  # half a turn, exact and but for rounding: no plane is preferred
        against = linear_map(point, -scale * point)
        np.testing.assert_allclose(against @ point, -scale * point, rtol=1e-7)
        np.testing.assert_allclose(against @ against.T, scale**2 * np.eye(dim), atol=1e-6)
    assert (linear_map(np.zeros(dim), point) == np.eye(dim)).all()
    assert (linear_map(point, np.zeros(dim)) == 0).all()
    almost = linear_map(point, -2 * point + 1e-7)
    np.testing.assert_allclose(almost @ point, -2 * point, rtol=1e-5)


# The codebook by moving average


def passes(update="average", n=8, **options):
    batches = [normal(60, 3, seed=10 + i) for i in range(n)]
    start = np.concatenate([normal(5, 3, seed=1), [[50.0, 0.0, 0.0]]])  # the last one wins nothing
    return batches, start, layer_of(start, update, revive_after=None, **options)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99, 1.0])
def test_average_is_the_weighted_mean_of_all_points_won(decay):
    batches, start, layer = passes(decay=decay)
    won = []
    for t, batch in enumerate(batches):
        before = layer.codebook.numpy().copy()
        out = layer(torch.from_numpy(batch))
        assert np.array_equal(out.points_hat.numpy(), before[out.codes])
        won.append(out.codes.numpy())
        for i in range(6):
            # From the first pass on in which it won anything, or from the start.
            mass = sum(decay ** (t - s) * (codes == i).sum() for s, codes in enumerate(won))
            total = sum(decay ** (t - s) * batches[s][codes == i].sum(axis=0) for s, codes in enumerate(won))
            if any((codes == i).any() for codes in won) and mass > 1e-12:
                np.testing.assert_allclose(layer.codebook[i], total / mass, rtol=1e-9)
            elif i == 5:
                assert (layer.codebook[i].numpy() == start[i]).all()


def test_decay_one_is_the_minibatch_kmeans_of_scikit_learn():
    batches, start, layer = passes(decay=1.0)
    other = MiniBatchKMeans(6, init=start, n_init=1, reassignment_ratio=0.0, batch_size=60)
    for batch in batches:
        layer(torch.from_numpy(batch))
        other.partial_fit(batch)
        np.testing.assert_allclose(layer.codebook, other.cluster_centers_, rtol=1e-9)


def test_decay_zero_is_a_lloyd_step_on_the_batch():
    batches, start, layer = passes(decay=0.0)
    for batch in batches:
        wanted = vq.fit_lloyd(batch, 6, start=layer.codebook.numpy().copy(), n_steps=1, empty="keep").codebook
        layer(torch.from_numpy(batch))
        np.testing.assert_allclose(layer.codebook, wanted, rtol=1e-12)


def test_evaluation_changes_nothing():
    for update in UPDATES:
        batches, _, layer = passes(update)
        before = copy.deepcopy(layer.eval().state_dict())
        layer(torch.from_numpy(batches[0]))
        layer.train().encode(torch.from_numpy(batches[0]))
        assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


# Codewords that win nothing


@pytest.mark.parametrize("update", UPDATES)
def test_revival_moves_the_idle_and_only_them(update):
    start = np.concatenate([normal(4, 2), 100 + normal(4, 2)])  # the last four win nothing
    layer = layer_of(start, update, decay=1.0, revive_after=3)
    for n in range(1, 4):
        batch = torch.from_numpy(normal(50, 2, seed=n))
        before, codes = layer.codebook.detach().clone(), layer.encode(batch)
        layer(batch)
        assert set(codes.tolist()) == {0, 1, 2, 3}
        if update == "gradient":
            assert torch.equal(layer.codebook[:4], before[:4])
        else:
            wanted = torch.stack([batch[codes == i].mean(0) for i in range(4)]) if n == 1 else layer.codebook[:4]
            torch.testing.assert_close(layer.codebook[:4], wanted)
        if n < 3:
            assert torch.equal(layer.codebook[4:], before[4:]) and layer.idle.tolist() == [0] * 4 + [n] * 4
    revived = layer.codebook[4:].detach()
    assert (torch.cdist(revived, batch).min(1).values == 0).all() and len(revived.unique(dim=0)) == 4
    assert (layer.idle == 0).all() and (layer.mass[4:] == 0).all()
    assert len(layer.eval().encode(batch).unique()) == 8


def test_revival_leaves_codewords_that_have_won_anything_lately():
    """Whatever the data: a codeword moves by revival only after so many passes without a point."""
    layer, idle = layer_of(normal(40, 2), "gradient", revive_after=4), np.zeros(40, int)
    for n in range(30):
        batch = torch.from_numpy(normal(12, 2, seed=n))
        before = layer.codebook.detach().clone()
        codes = layer(batch).codes
        idle = np.where(np.bincount(codes, minlength=40) > 0, 0, idle + 1)
        moved = (layer.codebook != before).any(1).numpy()
        assert not moved[idle < 4].any() and moved[idle >= 4].all()
        idle[idle >= 4] = 0


def test_a_revived_codeword_forgets_what_it_won():
    layer = layer_of([[0.0], [10.0]], "average", decay=1.0, revive_after=2)
    for _ in range(50):
        layer(torch.tensor([[0.0], [10.0]], dtype=torch.float64))
    left = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
    for _ in range(2):
        layer(left)
    assert layer.mass[1] == 0 and layer.codebook[1] in left
    before = layer.codebook.clone()
    mine = left[layer(left).codes == 1]
    assert layer.codebook[1] == mine.mean() and not torch.equal(before, layer.codebook)


def test_each_pass_draws_anew():
    found = set()
    for n in range(10):
        layer = layer_of([[0.0, 0.0], [90.0, 0.0]], revive_after=1)
        layer.n_passes.fill_(n)
        layer(torch.from_numpy(normal(40, 2)))
        found.add(layer.codebook[1, 0].item())
    assert len(found) > 3


def test_where_every_point_lies_on_a_codeword_nobody_is_revived():
    start = np.array([[0.0, 0.0], [1.0, 1.0], [5.0, 5.0]])
    layer = layer_of(start, revive_after=1)
    layer(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    assert (layer.codebook.detach().numpy() == start).all() and layer.idle.tolist() == [0, 0, 1]


def test_without_revival_the_idle_stay():
    batches, start, layer = passes(n=5)
    for batch in batches:
        layer(torch.from_numpy(batch))
    assert (layer.codebook[5].numpy() == start[5]).all() and layer.idle[5] == 5


# One seed, one story


def story(layer, first, last):
    for n in range(first, last):
        layer(torch.from_numpy(normal(30, 2, seed=n)).to(layer.codebook.dtype))
    return layer.codebook.detach().clone()


@pytest.mark.parametrize("start", ["k-means++", "random"])
@pytest.mark.parametrize("update", UPDATES)
def test_one_seed_one_story(update, start):
    def made(seed):
        return VectorQuantize(2, 20, update, start=start, revive_after=2, seed=seed)

    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    whole = story(made(3), 0, 8)
    assert torch.equal(before[0], torch.get_rng_state()) and before[1] == np.random.get_state()[1].tolist()
    assert torch.equal(whole, story(made(3), 0, 8)) and not torch.equal(whole, story(made(4), 0, 8))
    # A state that was loaded goes on with the same story.
    half, other = made(3), made(3)
    story(half, 0, 4)
    assert other.load_state_dict(half.state_dict()).missing_keys == []
    assert torch.equal(whole, story(other, 4, 8)) and torch.equal(whole, story(copy.deepcopy(half), 4, 8))


def test_the_start_is_that_of_fit_lloyd():
    points = torch.from_numpy(normal(200, 3))
    layer = VectorQuantize(3, 10, seed=7, dtype=torch.float64)
    assert layer.codebook.isnan().all()
    layer(points.reshape(10, 20, 3))
    assert torch.equal(layer.codebook.detach(), vq.fit_lloyd(points, 10, seed=7, n_steps=0).codebook)


def test_a_network_moves_to_another_type_with_it():
    layer = layer_of(normal(8, 2), "average", decay=1.0)
    for _ in range(2):
        layer(torch.zeros(100_000, 2) + 0.1)
    layer.half()
    assert layer.codebook.dtype == torch.float16 and layer.mass.dtype == torch.float64 and layer.mass.max() == 200_000
    out = layer(torch.zeros(10, 2, dtype=torch.float16))
    assert out.points_hat.dtype == torch.float16 and out.loss.isfinite()
    assert list(layer.double().parameters()) == [] and len(list(layer_of(normal(8, 2)).parameters())) == 1


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("update", UPDATES)
def test_a_codebook_in_half_precision_learns(update, half):
    points, start = torch.from_numpy(normal(4_000, 2)).to(half), normal(8, 2)
    layer, exact = (layer_of(start, update, decay=0.0, commitment=0.0) for _ in range(2))
    layer.to(half)
    exact.load_state_dict(layer.double().state_dict())
    layer.to(half)
    for each in (layer, exact):
        out = each(points)
        if update == "gradient":
            out.loss.backward()
    learned, wanted = (each.codebook.grad if update == "gradient" else each.codebook for each in (layer, exact))
    assert learned.dtype == half and torch.equal(layer.encode(points), layer.eval()(points).codes)
    torch.testing.assert_close(learned.double(), wanted.double(), rtol=0, atol=wanted.abs().max().item() * 2.0**-7)


# Around it


@pytest.mark.parametrize("arguments", [
    dict(dim=0), dict(dim=2.0), dict(n_codewords=0), dict(n_codewords="8"), dict(update="ema"), dict(update=None),
    dict(estimator="gumbel"), dict(commitment=-1.0), dict(commitment=float("nan")), dict(decay=1.5), dict(decay=None),
    dict(start="zeros"), dict(start=normal(3, 2)), dict(start=np.full((4, 2), np.nan)), dict(start=None),
    dict(start=np.full((4, 2), 1e39)),
    dict(revive_after=0), dict(revive_after=True), dict(seed=-1), dict(seed=None), dict(dtype=torch.float16),
    dict(dtype="float32"),
], ids=str)  # fmt: skip
def test_bad_arguments_are_refused(arguments):
    with pytest.raises(vq.InputError, match=next(iter(arguments))):
        VectorQuantize(**({"dim": 2, "n_codewords": 4} | arguments))


@pytest.mark.parametrize("points", [
    normal(5, 2), [[1.0, 2.0]], None, torch.zeros(5, 3), torch.zeros(5), torch.tensor(1.0), torch.zeros(0, 2),
    torch.zeros(5, 2, dtype=torch.int64), torch.zeros(5, 2, dtype=torch.complex64), torch.zeros(5, 2, device="meta"),
    torch.full((5, 2), torch.nan), torch.tensor([[0.0, torch.inf]]), torch.full((5, 2), 1e30),
    torch.full((5, 2), 1e200, dtype=torch.float64),
    torch.eye(2).to_sparse(),
], ids=range(15))  # fmt: skip
def test_bad_points_are_refused_and_nothing_changes(points):
    layer = layer_of(normal(4, 2), "average", dtype=torch.float32)
    before = copy.deepcopy(layer.state_dict())
    for call in (layer, layer.encode):
        with pytest.raises(vq.InputError, match="points"):
            call(points)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


def test_more_that_is_refused():
    layer = VectorQuantize(2, 4)
    with pytest.raises(vq.InputError, match="no codebook yet"):
        layer.encode(torch.zeros(5, 2))
    with pytest.raises(vq.InputError, match="no codebook yet"):
        layer.eval()(torch.zeros(5, 2))
    with pytest.raises(vq.InputError, match="no codebook yet"):
        layer.decode(torch.tensor([0]))
    for batch in (torch.zeros(5, 2), torch.rand(3, 2)):
        with pytest.raises(vq.InputError, match="n_codewords=4"):
            layer.train()(batch)
        assert layer.codebook.isnan().all() and layer.n_passes == 0
    layer(torch.rand(9, 2))
    with pytest.raises(vq.InputError, match="codes"):
        layer.decode(torch.tensor([4]))
    with pytest.raises(vq.InputError, match="codes is a ndarray"):
        layer.decode(np.array([0]))
    with torch.no_grad():
        layer.codebook.fill_(torch.nan)  # as a learning rate too large leaves it
    with pytest.raises(vq.InputError, match="codebook holds NaN"):
        layer(torch.rand(9, 2))


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("backend", ["eager", "aot_eager", pytest.param("inductor", marks=pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler"))])  # fmt: skip
@compiling[0]
@compiling[1]
def test_compiled_it_answers_and_learns_the_same(update, backend):
    torch._dynamo.reset()
    plain, other = (VectorQuantize(4, 8, update, "rotation", revive_after=1, seed=2) for _ in range(2))
    compiled = torch.compile(other, backend=backend)
    for n in range(3):
        points = torch.from_numpy(normal(40, 4, seed=n)).float()
        gradients = []
        for run in (plain, compiled):
            points = points.detach().requires_grad_()
            out = run(points)
            gradients.append((out.codes, *gradient_of(out.points_hat.square().sum() + out.loss, points)))
        assert torch.equal(gradients[0][0], gradients[1][0])
        torch.testing.assert_close(gradients[0][1], gradients[1][1])
        torch.testing.assert_close(plain.codebook, other.codebook)


class _WithoutCuda(TorchFunctionMode):
    """What torch's CPU build does not run on fake CUDA tensors, by shape, type and device alone."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.Tensor.copy_:
            assert args[0].device == args[1].device and args[0].shape == args[1].shape
            return args[0]
        if function is torch.Tensor.to and args[1:2] == ("cuda",):
            return torch.empty(args[0].shape, dtype=args[2], device="cuda")
        if function is torch.Tensor.__getitem__ and isinstance(args[1], torch.Tensor):
            assert args[0].device == args[1].device
            return torch.empty((len(args[1]), *args[0].shape[1:]), dtype=args[0].dtype, device=args[0].device)
        if function is torch.nn.functional.embedding:
            codes, codebook = args
            assert codes.device == codebook.device and codes.dtype == torch.int64
            return torch.empty((*codes.shape, *codebook.shape[1:]), dtype=codebook.dtype, device=codebook.device)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("update", UPDATES)
def test_on_a_fake_cuda_device(monkeypatch, update):
    """Shapes, types and devices without a device: any mix of devices raises."""
    from vqcore.kernels import tensors

    def chosen(points, codebook):
        return tuple(torch.empty(len(points), dtype=dtype, device="cuda") for dtype in (torch.int64, torch.float64))

    # The kernels have tests of their own; here they are shapes, and only the first codeword wins anything.
    monkeypatch.setattr(tensors, "to_host", lambda array: np.ones(tuple(array.shape)))
    monkeypatch.setattr(tensors, "from_host", lambda table, like: torch.empty(table.shape, device=like.device))
    monkeypatch.setattr(tensors, "extent", lambda points: (0.0, 1.0))
    monkeypatch.setattr(tensors, "assign", chosen)
    monkeypatch.setattr(tensors, "accumulate", lambda points, codes, n: (np.ones((n, 3)), np.eye(n)[0]))
    monkeypatch.setattr(tensors, "draw", lambda weights, _: torch.empty(1, dtype=torch.int64, device=weights.device))
    monkeypatch.setattr(tensors, "nearer", lambda points, codewords, sq_dists: sq_dists)
    with FakeTensorMode(allow_non_fake_inputs=True), _WithoutCuda():
        assert kernels.table_for(torch.empty(3, device="cuda")) is tensors
        layer = VectorQuantize(3, 6, update, "rotation", start=normal(6, 3), revive_after=1, device="cuda")
        out = layer(torch.empty((4, 5, 3), dtype=torch.bfloat16, device="cuda"))
        assert out.points_hat.dtype == torch.bfloat16 and out.points_hat.shape == (4, 5, 3)
        assert {tensor.device.type for tensor in (*out, *layer.state_dict().values())} == {"cuda"}
        with pytest.raises(vq.InputError, match="cpu"):
            layer(torch.empty(5, 3))


# In a network


def test_a_network_with_it_learns_the_digits():
    """Eight codes of six bits per digit: a fifth of the variance is left, and nearly every codeword is in use."""
    points = torch.from_numpy(vq.data.digits()[0])
    rng = np.random.default_rng(0)
    order = rng.permutation(len(points))
    seen, unseen = points[order[:1497]], points[order[1497:]]

    def linear(n_in, n_out):
        made = torch.nn.utils.skip_init(torch.nn.Linear, n_in, n_out, dtype=torch.float64)
        made.weight.data = torch.from_numpy(rng.normal(0, (2 / n_in) ** 0.5, (n_out, n_in)))
        made.bias.data.zero_()
        return made

    encoder = torch.nn.Sequential(linear(64, 128), torch.nn.ReLU(), linear(128, 16), torch.nn.Unflatten(1, (8, 2)))
    decoder = torch.nn.Sequential(torch.nn.Flatten(), linear(16, 128), torch.nn.ReLU(), linear(128, 64))
    layer = VectorQuantize(2, 64, "average", "rotation", revive_after=20, dtype=torch.float64)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=5e-3)
    for _ in range(1000):
        batch = seen[rng.choice(len(seen), 128, replace=False)]
        out = layer(encoder(batch))
        loss = (decoder(out.points_hat) - batch).square().sum(1).mean() + out.loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    out = layer.eval()(encoder(unseen))
    assert (decoder(out.points_hat) - unseen).square().mean() < 0.2 * (unseen - seen.mean(0)).square().mean()
    assert len(layer.encode(encoder(seen)).unique()) > 0.9 * 64


# Its pictures


def test_the_explorer_of_learning_tells_the_distortions_of_its_stories():
    points = normal(300, 2)
    story = vq.fit_lloyd(points, 5, n_steps=4, start="random").codebooks
    explorer = LearningExplorer(points, {"one": story, "other": story[::-1]}, level=0.1)
    wanted = [vq.distortion(points, codebook) for codebook in story]
    frames = set()
    for epoch in range(len(story)):
        explorer.set(epoch=epoch)
        frames.add(bytes(explorer.picture.value))
        told = f"one {wanted[epoch]:.4f}, other {wanted[-1 - epoch]:.4f}; best known 0.1000"
        assert explorer.summary() == f"Distortion after epoch {epoch}: {told}"
    assert len(frames) == len(story)
    for bad in ({"one": story}, {"one": story, "other": story[:2]}, {"one": [], "other": []}):
        with pytest.raises(vq.InputError, match="stories"):
            LearningExplorer(points, bad)


def test_tiles_stand_in_rows_and_columns_with_gaps_between():
    ax = figure()[1]
    draw_tiles(ax, torch.arange(6.0).reshape(2, 3, 1, 1) / 10)
    sheet = 1 - ax.images[0].get_array()
    assert sheet.shape == (3, 5)
    np.testing.assert_allclose(sheet[::2, ::2], np.arange(6).reshape(2, 3) / 10, atol=1e-7)
    assert (sheet[1] == 0).all() and (sheet[:, 1::2] == 0).all()
