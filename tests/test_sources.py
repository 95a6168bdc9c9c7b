"""Laws: cells against closed forms in 50 digits, distribution functions against SciPy, samples against both."""

import math

import mpmath
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from vqcore.errors import InputError
from vqcore.sources import Exponential, Laplace, Law, LogNormal, Normal, Uniform, as_law

LAWS = [
    Normal(), Normal(1e6, 1.0), Normal(-3.0, 0.01), Uniform(), Uniform(-2.0, 5.0), Laplace(), Laplace(1e6, 2.0),
    Exponential(), Exponential(1e3), LogNormal(), LogNormal(1.0, 0.25), LogNormal(-2.0, 3.0),
]  # fmt: skip
PEERS = {
    Normal: lambda law: scipy.stats.norm(law.mean, law.std),
    Uniform: lambda law: scipy.stats.uniform(law.low, law.high - law.low),
    Laplace: lambda law: scipy.stats.laplace(law.mean, law.std / math.sqrt(2)),
    Exponential: lambda law: scipy.stats.expon(scale=1 / law.rate),
    LogNormal: lambda law: scipy.stats.lognorm(law.sigma, scale=math.exp(law.mean)),
}


def exact_moment(law, order, low, high):
    """The integral of x^order pdf over [low, high] from a closed form in mpmath, for the law moved to location 0."""
    mp = mpmath.mp
    low, high = max(low, mp.mpf(law.support[0] - law.location)), min(high, mp.mpf(law.support[1] - law.location))
    if high <= low:
        return mp.mpf(0)
    return antiderivative(law, order, high) - antiderivative(law, order, low)


def antiderivative(law, k, x):
    mp = mpmath.mp
    infinite = mp.isinf(x)
    if isinstance(law, Normal):
        std, z = mp.mpf(law.std), x / mp.mpf(law.std)
        density = mp.mpf(0) if infinite else mp.npdf(z)
        edge = [mp.mpf(0), density, mp.mpf(0) if infinite else z * density][k]
        return std**k * ((0 if k == 1 else mp.ncdf(z)) - edge)
    if isinstance(law, Uniform):
        return x ** (k + 1) / (k + 1) / (mp.mpf(law.high) - mp.mpf(law.low))
    if isinstance(law, Exponential):
        return -mp.gammainc(k + 1, mp.mpf(law.rate) * x) / mp.mpf(law.rate) ** k
    if isinstance(law, Laplace):
        scale = mp.mpf(law.std) / mp.sqrt(2)
        above = mp.gamma(k + 1) - mp.gammainc(k + 1, abs(x) / scale)
        return scale**k * above / 2 * (1 if x > 0 else -1) ** (k + 1)
    if isinstance(law, LogNormal):
        mean, sigma = mp.mpf(law.mean), mp.mpf(law.sigma)
        if x <= 0:
            return mp.mpf(0)
        whole = mp.exp(k * mean + k**2 * sigma**2 / 2)
        return whole * (mp.mpf(1) if infinite else mp.ncdf((mp.log(x) - mean - k * sigma**2) / sigma))
    raise NotImplementedError(law)


def exact_cell(law, low, high, codeword):
    """Mass, mean minus codeword and squared error of one cell, of the very floats that are passed."""
    with mpmath.workdps(420):
        apart = mpmath.mpf(codeword) - mpmath.mpf(law.location)
        ends = [mpmath.mpf(end) - mpmath.mpf(law.location) for end in (low, high)]
        moments = [exact_moment(law, order, *ends) for order in range(3)]
        mass = moments[0]
        sq_error = moments[2] - 2 * apart * moments[1] + apart**2 * mass
        return float(mass), float(moments[1] / mass - apart), float(sq_error)


def check_cells(law, edges, codebook, cells, rtol=1e-12):
    bounds = np.concatenate([[-np.inf], edges, [np.inf]])
    mass, means, sq_errors = law.interval_moments(edges, codebook)
    shifts = law.cell_moments(edges, codebook)[1]
    for cell in cells:
        want = exact_cell(law, bounds[cell], bounds[cell + 1], codebook[cell])
        if want[0] < 1e-300:
            assert mass[cell] < 2e-300 and means[cell] == codebook[cell]
            continue
        # A mean is as exact as the spread it is taken over: near an optimum mean - codeword is zero.
        spread = math.sqrt(want[2] / want[0])
        np.testing.assert_allclose(mass[cell], want[0], rtol=rtol)
        np.testing.assert_allclose(shifts[cell], want[1], rtol=rtol, atol=rtol * spread)
        np.testing.assert_allclose(means[cell], codebook[cell] + want[1], rtol=1e-15, atol=rtol * spread)
        np.testing.assert_allclose(sq_errors[cell], want[2], rtol=rtol)


@pytest.mark.parametrize("law", LAWS, ids=repr)
@pytest.mark.parametrize("n_codewords", [1, 2, 3, 10, 100_000])
def test_cells_of_a_companded_codebook_equal_the_closed_form(law, n_codewords):
    codebook = law.companding_ppf((np.arange(n_codewords) + 0.5) / n_codewords)
    edges = (codebook[1:] + codebook[:-1]) / 2
    some = {0, 1, n_codewords // 3, n_codewords // 2, n_codewords - 2, n_codewords - 1} & set(range(n_codewords))
    check_cells(law, edges, codebook, sorted(some))


@pytest.mark.parametrize("law", [law for law in LAWS if not isinstance(law, Uniform)], ids=repr)
@pytest.mark.parametrize("width", [1e-9, 1e-3, 1.0, 5.0])
def test_cells_in_the_far_tails(law, width):
    for far in (-30.0, -12.0, -8.0, 8.0, 12.0, 30.0):
        if isinstance(law, LogNormal):
            low = math.exp(law.mean + law.sigma * far)
            width_here = width * low
        else:
            low, width_here = law.location + law.scale * far, width * law.scale
        if low < law.support[0]:
            continue
        # The cells below and above are the two tails: everything beyond the edge.
        edges = np.array([low, low + width_here])
        codebook = np.array([low - 0.3 * width_here, low + 0.4 * width_here, low + 1.5 * width_here])
        inner = [1] if far < 0 else [1, 2]
        check_cells(law, edges, codebook, inner + ([0] if far < 0 else []))


@settings(max_examples=60)
@given(
    law=st.sampled_from(LAWS),
    probabilities=st.lists(st.floats(1e-9, 1 - 1e-9), min_size=2, max_size=2, unique=True),
    place=st.floats(-0.5, 1.5),
)
def test_any_cell_and_any_codeword(law, probabilities, place):
    low, high = law.ppf(np.sort(probabilities))
    if not high - low > 1e-9 * law.scale:
        return
    codeword = low + place * (high - low)
    check_cells(law, np.array([low, high]), np.full(3, codeword), [0, 1, 2])


def test_a_cell_without_mass_keeps_its_codeword():
    all_edges = {Uniform(): [-2.0, -1.0, 3.0], Exponential(): [-2.0, -1.0, 1e4], Normal(): [-60.0, 50.0, 60.0]}
    for law, edges in all_edges.items():
        codebook = np.array([-70.0, -1.5, 55.0, 70.0])
        mass, means, sq_errors = law.interval_moments(np.array(edges), codebook)
        empty = mass == 0
        assert empty.sum() >= 2 and np.isfinite(sq_errors).all() and math.isclose(mass.sum(), 1.0, rel_tol=1e-14)
        np.testing.assert_array_equal(means[empty], codebook[empty])
        np.testing.assert_array_equal(sq_errors[empty], 0)


def test_repeated_edges_and_edges_at_infinity_bound_empty_cells():
    codebook = np.array([-1.0, -1.0, 1.0, 1.0])
    mass, means, _ = Normal().interval_moments(np.array([0.0, 0.0, np.inf]), codebook)
    np.testing.assert_allclose(mass, [0.5, 0, 0.5, 0], rtol=1e-15)
    np.testing.assert_array_equal(means[[1, 3]], codebook[[1, 3]])


@pytest.mark.parametrize("law", LAWS, ids=repr)
def test_distribution_equals_scipy(law):
    peer = PEERS[type(law)](law)
    p = np.concatenate([[1e-300, 1e-100, 1e-16, 1e-8], np.linspace(0.01, 0.99, 41), [1 - 1e-8, 1 - 2.0**-52]])
    np.testing.assert_allclose(law.ppf(p), peer.ppf(p), rtol=1e-12)
    x = law.ppf(p[p > 1e-20])
    np.testing.assert_allclose(law.pdf(x), peer.pdf(x), rtol=1e-9 if abs(law.location) > 1e5 else 1e-12)
    np.testing.assert_allclose(law.cdf(x), peer.cdf(x), rtol=1e-9 if abs(law.location) > 1e5 else 1e-12)
    assert (law.ppf(0.0), law.ppf(1.0)) == law.support
    assert (law.cdf(-np.inf), law.cdf(np.inf), law.pdf(-np.inf), law.pdf(np.inf)) == (0, 1, 0, 0)
    np.testing.assert_allclose([law.mean_value, law.variance], peer.stats("mv"), rtol=1e-12)
    assert law.support == pytest.approx(peer.support())


@pytest.mark.parametrize("law", LAWS, ids=repr)
def test_outside_of_the_support_there_is_nothing(law):
    below, above = law.support[0] - 1, law.support[1] + 1
    if math.isfinite(below):
        assert law.pdf(below) == law.cdf(below) == 0
    if math.isfinite(above):
        assert law.pdf(above) == 0 and law.cdf(above) == 1


@pytest.mark.parametrize("law", LAWS, ids=repr)
def test_companding_density_is_the_cube_root(law):
    """Between equally likely companded points the integral of pdf^(1/3) is the same everywhere."""
    points = law.companding_ppf(np.linspace(0.2, 0.8, 7))
    shares = [scipy.integrate.quad(lambda x: law.pdf(x) ** (1 / 3), *ends)[0] for ends in zip(points, points[1:])]
    np.testing.assert_allclose(shares, shares[0], rtol=1e-7)


@pytest.mark.parametrize("law", LAWS, ids=repr)
def test_samples_follow_the_law_and_the_seed(law):
    sample = law.sample(20_000, seed=3)
    assert sample.dtype == np.float64 and sample.shape == (20_000,)
    assert scipy.stats.kstest(sample, law.cdf).pvalue > 1e-3
    np.testing.assert_array_equal(sample, law.sample(20_000, seed=np.random.default_rng(3)))
    assert (sample != law.sample(20_000, seed=4)).all()
    state = np.random.get_state()[1].copy()
    law.sample(5)
    np.testing.assert_array_equal(state, np.random.get_state()[1])


def test_a_number_gives_a_number_and_an_array_its_shape():
    assert type(Normal().pdf(0)) is type(Laplace().cdf(1.0)) is type(Uniform().ppf(0.5)) is float
    assert Normal().pdf(np.zeros((2, 3), dtype=np.float32)).shape == (2, 3)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("law", LAWS, ids=repr)
def test_nothing_warns_at_the_ends_of_float64(law):
    x = np.array([-np.inf, -1.7e308, -1e300, -1e-300, 0.0, 5e-324, 1e300, 1.7e308, np.inf])
    assert np.isfinite(law.pdf(x)).all() and (np.diff(law.cdf(x)) >= 0).all()
    law.ppf([0.0, 5e-324, 1.0]), law.companding_ppf([0.0, 1.0])


def test_laws_are_values():
    assert Normal() == Normal(0, 1) and hash(Normal()) == hash(Normal(0, 1)) and Normal() != Normal(1)
    assert isinstance(Normal().mean, float) and isinstance(as_law(Laplace()), Law)
    with pytest.raises(AttributeError):
        Normal().mean = 3


@pytest.mark.parametrize(
    "build",
    [
        lambda: Normal(math.nan), lambda: Normal(std=0), lambda: Normal(std=-1), lambda: Normal(std=math.inf),
        lambda: Normal("3"), lambda: Normal(True), lambda: Normal(None), lambda: Normal(1e200),
        lambda: Normal(std=1e-200),
        lambda: Uniform(1, 1), lambda: Uniform(2, 1), lambda: Uniform(0, math.inf), lambda: Laplace(std=math.nan),
        lambda: Exponential(0), lambda: Exponential(-2), lambda: LogNormal(sigma=0), lambda: LogNormal(sigma=50),
        lambda: LogNormal(mean=1e4), lambda: Normal(1j), lambda: Normal([0.0]),
        lambda: Normal().sample(0), lambda: Normal().sample(2.5), lambda: Normal().sample(True),
        lambda: Normal().sample(3, seed=-1),
        lambda: Normal().sample(3, seed="a"), lambda: Normal().pdf("3"), lambda: Normal().cdf([0, math.nan]),
        lambda: Normal().ppf(1.5), lambda: Normal().ppf(-0.1), lambda: Normal().ppf(math.nan),
        lambda: Normal().ppf(True),
        lambda: Normal().pdf(None), lambda: Normal().pdf([1j]), lambda: Normal().pdf([[1], [1, 2]]),
        lambda: Normal().interval_moments([0.0], [1.0]), lambda: Normal().interval_moments([1.0, 0.0], [1.0, 2.0, 3.0]),
        lambda: Normal().interval_moments([], []), lambda: Normal().interval_moments([0.0], [math.nan, 1.0]),
        lambda: Normal().interval_moments([0.0], [-math.inf, 1.0]),
        lambda: Normal().interval_moments([math.nan], [0.0, 1.0]),
        lambda: as_law("normal"), lambda: as_law(None), lambda: as_law(Normal), lambda: as_law(scipy.stats.norm()),
    ],
)  # fmt: skip
def test_bad_input_is_refused(build):
    with pytest.raises(InputError):
        build()
