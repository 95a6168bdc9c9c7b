"""Optimal quantizers of laws against published tables, 50-digit arithmetic, identities and limits."""

import math

import mpmath
import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.special
from test_sources import antiderivative

from vqcore import scalar
from vqcore.errors import InputError
from vqcore.fit import Fit
from vqcore.scalar import companding, fit_lloyd_max, spectral_radius
from vqcore.sources import Exponential, Laplace, LogNormal, Normal, Uniform

FIVE_LAWS = [Normal(), Uniform(), Laplace(), Exponential(), LogNormal()]
METHODS = ["newton", "levenberg-marquardt", "lloyd", "clvq"]

# Newton on the exact gradient in 40-digit arithmetic: distortion, entropy of the codes in bits.
NORMAL = {
    1: (1.00000000000000, 0.0), 2: (0.363380227632419, 1.0), 3: (0.190174039247901, 1.5357893483),
    4: (0.117481847829329, 1.9110987662), 5: (0.0799411270882774, 2.2029164265), 6: (0.0579776537150730, 2.4427887946),
    7: (0.0440003824986234, 2.6469310910), 8: (0.0345477607885037, 2.8248652143), 9: (0.0278532609506944, 2.9826948990),
    10: (0.0229370529045015, 3.1245836042), 11: (0.0192195080313840, 3.2535062014),
    12: (0.0163396578824342, 3.3716662876),
    13: (0.0140630562728806, 3.4807438917), 14: (0.0122320001083862, 3.5820504849),
    15: (0.0107372105591903, 3.6766302256),
    16: (0.00950100800819189, 3.7653284725),
}  # fmt: skip
LAPLACE = {
    1: (1.0, 0.0), 2: (0.5, 1.0), 3: (0.264241117657115, 1.316909386), 4: (0.176194881054043, 1.728258199),
    5: (0.119806429207184, 1.946641375), 6: (0.0898683061131668, 2.207139244), 7: (0.0680875037125852, 2.374498697),
    8: (0.0544759879139498, 2.565399247),
}  # fmt: skip
EXPONENTIAL = {
    1: (1.0, 0.0), 2: (0.352389762108085, 0.7282581990), 3: (0.179736612226334, 1.207139244),
    4: (0.108951975827900, 1.565399247),
    5: (0.0730895385527179, 1.851921216), 6: (0.0524268214612907, 2.090755083), 7: (0.0394392676693498, 2.295556181),
    8: (0.0307450541197368, 2.474835557),
}  # fmt: skip
TABLES = [
    (law, n_codewords, *row)
    for law, table in ((Normal(), NORMAL), (Laplace(), LAPLACE), (Exponential(), EXPONENTIAL))
    for n_codewords, row in table.items()
]
# The codewords above the mean; the others are their mirror images, and an odd number has the mean besides.
UPPER_HALVES = [
    (Normal(), 2, [0.79788456080287]), (Normal(), 3, [1.2240063619250]),
    (Normal(), 4, [0.45278003463649, 1.5104176084991]),
    (Normal(), 5, [0.76456757116982, 1.7241474071612]),
    (Normal(), 6, [0.31771636929484, 1.0001060461975, 1.8935948116417]),
    (Normal(), 7, [0.56057688827381, 1.1881469530689, 2.0333691813002]),
    (Normal(), 8, [0.24509417894422, 0.75600528120588, 1.3439092785050, 2.1519457045370]),
    (Laplace(), 2, [math.sqrt(0.5)]), (Laplace(), 3, [math.sqrt(2)]),
    (Laplace(), 4, [0.41975573975115, 1.83396930212425]),
]  # fmt: skip
# Of the Jacobian of the Lloyd map at the optimum for the normal law.
RADII = {5: 0.924522, 10: 0.978833, 20: 0.994330, 48: 0.998969, 100: 0.999758}
EXPONENTIAL_LEVELS = [
    [1], [0.59362426004004, 2.59362426004004], [0.42395354960931, 1.61120206968939, 3.61120206968939],
    [0.33007874186002, 1.17798584107864, 2.36523436115872, 4.36523436115872],
]  # fmt: skip


@pytest.mark.parametrize(("law", "n_codewords", "distortion", "entropy"), TABLES)
def test_published_distortions_and_entropies(law, n_codewords, distortion, entropy):
    fit = fit_lloyd_max(law, n_codewords)
    assert isinstance(fit, Fit) and fit.converged and fit.codes is None
    np.testing.assert_allclose(fit.distortion, distortion, rtol=1e-13)
    assert abs(-(fit.weights * np.log2(fit.weights)).sum() - entropy) < 1e-9
    assert math.isclose(fit.weights.sum(), 1.0, rel_tol=1e-14)


@pytest.mark.parametrize(("law", "n_codewords", "upper"), UPPER_HALVES)
def test_published_levels_of_symmetric_laws(law, n_codewords, upper):
    lower = [-level for level in reversed(upper)]
    want = lower + [0.0] * (n_codewords % 2) + upper
    np.testing.assert_allclose(fit_lloyd_max(law, n_codewords).codebook, want, atol=2e-13)


@pytest.mark.parametrize("levels", EXPONENTIAL_LEVELS)
def test_published_levels_of_the_exponential_law(levels):
    np.testing.assert_allclose(fit_lloyd_max(Exponential(), len(levels)).codebook, levels, atol=2e-13)


def test_published_weights_and_edges_of_the_normal_law():
    np.testing.assert_allclose(fit_lloyd_max(Normal(), 4).weights[2:], [0.336851235860, 0.163148764139], atol=1e-12)
    eight = fit_lloyd_max(Normal(), 8)
    want = [0.191655975566, 0.161475147239, 0.106630585328, 0.040238291865]
    np.testing.assert_allclose(eight.weights[4:], want, atol=1e-12)
    edges = (eight.codebook[1:] + eight.codebook[:-1]) / 2
    np.testing.assert_allclose(edges[3:], [0, 0.50054973007504, 1.0499572798554, 1.7479274915210], atol=1e-13)


@pytest.mark.parametrize("n_codewords", [1, 2, 7, 100, 1000])
def test_uniform_law_is_exact(n_codewords):
    fit = fit_lloyd_max(Uniform(-2.0, 5.0), n_codewords)
    places = (2 * np.arange(n_codewords) + 1) / (2 * n_codewords)
    np.testing.assert_allclose(fit.codebook, -2 + 7 * places, atol=2e-15)
    np.testing.assert_allclose(fit.distortion, 49 / (12 * n_codewords**2), rtol=1e-13)
    np.testing.assert_allclose(fit.weights, 1 / n_codewords, rtol=1e-12)


@pytest.mark.parametrize("n_codewords", [1, 2, 5, 50, 333, 500])
def test_laplace_is_two_exponentials(n_codewords):
    two, one = fit_lloyd_max(Laplace(), 2 * n_codewords), fit_lloyd_max(Exponential(), n_codewords)
    np.testing.assert_allclose(two.distortion, one.distortion / 2, rtol=1e-13)
    np.testing.assert_allclose(two.codebook[n_codewords:], one.codebook / math.sqrt(2), rtol=1e-10)
    np.testing.assert_allclose(2 * two.weights[n_codewords:], one.weights, rtol=1e-10)


@pytest.mark.parametrize("n_codewords", [2, 10, 1000])
def test_the_exponential_law_has_no_memory(n_codewords):
    longer, shorter = (fit_lloyd_max(Exponential(), n).codebook for n in (n_codewords, n_codewords - 1))
    np.testing.assert_allclose(longer[1:] - longer[1], shorter - shorter[0], rtol=1e-10, atol=1e-12)


def exact_optimum(law, codebook):
    """The distortion of the optimum next to this codebook, by closed forms in 60 digits and a step of Newton."""
    codewords = [mpmath.mpf(value) for value in codebook]
    edges = [(a + b) / 2 for a, b in zip(codewords, codewords[1:])]
    ends = [mpmath.mpf(law.support[0]), *edges, mpmath.mpf(law.support[1])]
    primitives = [[antiderivative(law, order, end) for end in ends] for order in range(3)]
    mass, first, second = ([b - a for a, b in zip(row, row[1:])] for row in primitives)
    distortion = sum(s - 2 * c * f + c**2 * m for c, m, f, s in zip(codewords, mass, first, second))
    gradient = [2 * (c * m - f) for c, m, f in zip(codewords, mass, first)]
    # A derivative of the mass by the edge: the density in as many digits as all the rest.
    across = [exact_density(law, edge) * (b - a) / 2 for edge, a, b in zip(edges, codewords, codewords[1:])]
    diagonal = [2 * m - above - below for m, above, below in zip(mass, [*across, 0], [0, *across])]
    # Thomas: the fall that Newton's quadratic model promises is half the sum of squares over pivots.
    fall, pivot, right = mpmath.mpf(0), diagonal[0], gradient[0]
    for i in range(len(codewords)):
        if i:
            pivot, right = diagonal[i] - across[i - 1] ** 2 / pivot, gradient[i] + across[i - 1] * right / pivot
        assert pivot > 0
        fall += right**2 / pivot / 2
    return distortion - fall, fall


def exact_density(law, x):
    return {
        Normal: lambda: mpmath.npdf(x),
        Uniform: lambda: mpmath.mpf(1),
        Laplace: lambda: mpmath.exp(-mpmath.sqrt(2) * abs(x)) / mpmath.sqrt(2),
        Exponential: lambda: mpmath.exp(-x),
        LogNormal: lambda: mpmath.npdf(mpmath.log(x), 0, law.sigma if isinstance(law, LogNormal) else 1) / x,
    }[type(law)]()


@pytest.mark.parametrize("law", [*FIVE_LAWS, LogNormal(0.0, 2.0)], ids=repr)
@pytest.mark.parametrize("n_codewords", [1, 3, 51, 1000])
def test_distortion_is_optimal_to_twelve_digits(law, n_codewords):
    # An even Laplace has a singular Hessian, and is two exponentials by the identity above.
    n_codewords -= isinstance(law, Laplace) and n_codewords % 2 == 0
    fit = fit_lloyd_max(law, n_codewords)
    with mpmath.workdps(60):
        optimum, fall = exact_optimum(law, fit.codebook)
        assert abs(fit.distortion / optimum - 1) < 1e-13
        assert fall / optimum < 1e-15
    assert fit.converged and fit.n_steps < 30


@pytest.mark.parametrize("law", FIVE_LAWS, ids=repr)
@pytest.mark.parametrize("n_codewords", [2, 17, 400])
def test_identities_of_a_stationary_codebook(law, n_codewords):
    fit = fit_lloyd_max(law, n_codewords)
    np.testing.assert_allclose(fit.weights @ fit.codebook, law.mean_value, atol=1e-13)
    second_moment = law.variance + law.mean_value**2
    np.testing.assert_allclose(fit.distortion + fit.weights @ fit.codebook**2, second_moment, rtol=1e-13)
    assert (np.diff(fit.codebook) > 0).all() and fit.codebook[0] > law.support[0] and fit.codebook[-1] < law.support[1]


def stationary_codebooks(law, n_codewords, firsts):
    """Every stationary codebook whose first codeword lies within `firsts`, by shooting: no method of the library.

    A first codeword fixes the edge above it (the cell must have it as its mean), that edge the second
    codeword, and so on; the codebook is stationary where the last cell reaches the end of the support.
    """

    def shoot(first):
        codebook, low = [first], law.support[0]
        for _ in range(n_codewords - 1):
            high = scipy.optimize.brentq(lambda end: cell_mean(low, end) - codebook[-1], codebook[-1], 1e9)
            codebook.append(2 * high - codebook[-1])
            low = high
        return cell_mean(low, math.inf) - codebook[-1], codebook

    def cell_mean(low, high):
        shifted = [scipy.special.ndtr((math.log(end) if end > 0 else -math.inf) / law.sigma - law.sigma * k)
                   for k in (0, 1) for end in (low, high)]  # fmt: skip
        mass, first = shifted[1] - shifted[0], shifted[3] - shifted[2]
        return math.exp(law.sigma**2 / 2) * first / mass if mass > 1e-14 else low

    def signed(first):
        try:
            return shoot(first)[0]
        except ValueError:
            # The law has no mass left to give such a codeword a cell: it started too far up.
            return -1.0

    values = np.array([signed(first) for first in firsts])
    crossings = np.flatnonzero(np.sign(values[1:]) != np.sign(values[:-1]))
    return [shoot(scipy.optimize.brentq(signed, firsts[i], firsts[i + 1], xtol=1e-14) - 1e-13)[1] for i in crossings]


@pytest.mark.parametrize("sigma", [0.3, 1.0])
@pytest.mark.parametrize("n_codewords", [2, 3, 4])
def test_lognormal_has_this_one_optimum(sigma, n_codewords):
    """Nothing is proven, as the law is not log-concave; but a scan of all first codewords finds no other."""
    law = LogNormal(0.0, sigma)
    fit = fit_lloyd_max(law, n_codewords)
    found = stationary_codebooks(law, n_codewords, np.linspace(0.05, 0.999, 150) * law.mean_value)
    assert len(found) == 1
    np.testing.assert_allclose(found[0], fit.codebook, rtol=1e-5)
    assert not fit.certificate.unique and fit.certificate.definite


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("law", [*FIVE_LAWS[:4], LogNormal(0.0, 0.5)], ids=repr)
@pytest.mark.parametrize("n_codewords", [1, 2, 4])
def test_all_methods_find_the_same_optimum(law, n_codewords, method):
    fit, newton = fit_lloyd_max(law, n_codewords, method=method), fit_lloyd_max(law, n_codewords)
    assert fit.converged
    np.testing.assert_allclose(fit.distortion, newton.distortion, rtol=1e-12)
    np.testing.assert_allclose(fit.codebook, newton.codebook, atol=3e-6)


@pytest.mark.parametrize("law", [*FIVE_LAWS[:4], Normal(1e6, 2.0), Laplace(-50.0, 3.0)], ids=repr)
@pytest.mark.parametrize("n_codewords", [1, 2, 7, 12, 50])
def test_newton_finds_the_optimum_from_wherever_it_starts(law, n_codewords):
    """These laws are log-concave, so there is one stationary codebook (Kieffer 1983)."""
    best = fit_lloyd_max(law, n_codewords)
    scale = law.variance**0.5
    starts = [law.ppf(np.linspace(0.55, 0.65, n_codewords)), np.sort(law.sample(n_codewords, seed=3)),
              companding(law, n_codewords), law.ppf(np.linspace(0.001, 0.01, n_codewords))]  # fmt: skip
    for start in starts:
        fit = fit_lloyd_max(law, n_codewords, start=start)
        np.testing.assert_allclose(fit.codebooks[0], start, rtol=0, atol=1e-9 * scale)
        assert fit.converged and (np.diff(fit.distortions) <= 1e-14 * fit.distortions[0]).all()
        assert fit.distortion == pytest.approx(best.distortion, rel=1e-12) and fit.n_steps < 60
        np.testing.assert_allclose(fit.codebook, best.codebook, rtol=0, atol=1e-5 * scale)


def test_a_start_is_where_every_method_begins():
    start = np.array([-0.1, 0.3, 0.4])
    law = Normal()
    edges = np.array([-np.inf, 0.1, 0.35, np.inf])
    means = -np.diff(law.pdf(edges)) / np.diff(law.cdf(edges))
    np.testing.assert_allclose(fit_lloyd_max(law, 3, "lloyd", n_steps=1, start=start).codebook, means, rtol=1e-12)
    for method in METHODS:
        fit = fit_lloyd_max(law, 3, method, n_steps=0, start=start.tolist())
        np.testing.assert_allclose(fit.codebook, start, rtol=1e-15)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("law", FIVE_LAWS, ids=repr)
def test_the_story_is_whole_and_never_rises(law, method):
    fit = fit_lloyd_max(law, 12, method=method, n_steps=60)
    assert len(fit.codebooks) == len(fit.distortions) == fit.n_steps + 1 and len(fit.n_repairs) == fit.n_steps
    np.testing.assert_allclose(fit.codebooks[0], companding(law, 12), rtol=1e-14, atol=1e-15)
    np.testing.assert_array_equal(fit.codebooks[-1], fit.codebook)
    assert fit.distortions[-1] == fit.distortion
    assert (np.diff(fit.distortions) <= 1e-14 * fit.distortions[0]).all()
    for codebook, distortion in zip(fit.codebooks[::20], fit.distortions[::20]):
        edges = (codebook[1:] + codebook[:-1]) / 2
        np.testing.assert_allclose(law.interval_moments(edges, codebook)[2].sum(), distortion, rtol=1e-12)


def test_a_long_story_is_thinned(monkeypatch):
    whole = fit_lloyd_max(Normal(), 10, method="lloyd", tol=0.0, n_steps=333)
    monkeypatch.setattr(scalar, "_N_VALUES_KEPT", 0)
    thin = fit_lloyd_max(Normal(), 10, method="lloyd", tol=0.0, n_steps=333)
    assert thin.n_steps == 333 and 40 <= len(thin.codebooks) == len(thin.distortions) <= 100
    np.testing.assert_array_equal(thin.codebooks[0], whole.codebooks[0])
    np.testing.assert_array_equal(thin.codebook, whole.codebook)
    assert set(thin.distortions) <= set(whole.distortions)


@pytest.mark.parametrize(("n_codewords", "radius"), RADII.items())
def test_published_spectral_radii(n_codewords, radius):
    assert abs(spectral_radius(Normal(), fit_lloyd_max(Normal(), n_codewords).codebook) - radius) < 1e-6


@pytest.mark.parametrize("law", [Normal(), Exponential(2.0), LogNormal(1.0, 0.5), Laplace(3.0, 2.0)], ids=repr)
def test_spectral_radius_is_that_of_finite_differences(law):
    codebook = fit_lloyd_max(law, 7).codebook

    def lloyd(codebook):
        return law.interval_moments((codebook[1:] + codebook[:-1]) / 2, codebook)[1]

    step = 1e-5 * math.sqrt(law.variance)
    jacobian = np.stack([(lloyd(codebook + step * e) - lloyd(codebook - step * e)) / (2 * step) for e in np.eye(7)])
    # One slope of the Laplace density jumps at its mean, which a codeword and no edge sits on here.
    np.testing.assert_allclose(spectral_radius(law, codebook), np.abs(np.linalg.eigvals(jacobian)).max(), rtol=1e-7)


def test_an_even_laplace_codebook_drifts_freely():
    """Each half, exponential, has no memory and follows the middle edge: Lloyd's slowest factor is exactly 1."""
    fit = fit_lloyd_max(Laplace(), 6)
    assert abs(spectral_radius(Laplace(), fit.codebook) - 1) < 1e-14
    assert not fit.certificate.definite and fit.certificate.unique and fit.certificate.gradient_norm < 1e-14


def test_spectral_radius_of_one_and_of_thousands():
    assert spectral_radius(Normal(), [0.0]) == 0.0
    radii = [spectral_radius(Normal(), fit_lloyd_max(Normal(), n).codebook) for n in (1000, 3000)]
    # The gap closes like 1 / n_codewords^2.
    assert 8 < (1 - radii[0]) / (1 - radii[1]) < 9.5


@pytest.mark.parametrize(("n_codewords", "n_steps"), [(5, 19), (10, 76), (20, 293)])
def test_published_iterations_of_lloyd_from_quantiles(n_codewords, n_steps):
    law, optimum = Normal(), fit_lloyd_max(Normal(), n_codewords).distortion
    codebook = law.ppf((np.arange(n_codewords) + 0.5) / n_codewords)
    excess = []
    while not excess or excess[-1] > 1e-6:
        _, means, sq_errors = law.interval_moments((codebook[1:] + codebook[:-1]) / 2, codebook)
        excess.append(sq_errors.sum() / optimum - 1)
        codebook = means
    assert abs(len(excess) - 1 - n_steps) <= 1


@pytest.mark.parametrize(
    ("n_codewords", "start", "after_twenty"),
    [(10, 1.110303, 1.00147), (20, 1.058544, 1.00551), (50, 1.024608, 1.00389), (100, 1.012612, 1.00228),
     (200, 1.006421, 1.00124), (500, 1.002614, 1.00053)],
)  # fmt: skip
def test_published_excess_of_companding(n_codewords, start, after_twenty):
    lloyd = fit_lloyd_max(Normal(), n_codewords, method="lloyd", n_steps=20)
    optimum = fit_lloyd_max(Normal(), n_codewords).distortion
    assert abs(lloyd.distortions[0] / optimum - start) < 1e-6
    assert abs(lloyd.distortions[20] / optimum - after_twenty) < 1e-5 and not lloyd.converged


@pytest.mark.parametrize(
    ("law", "limit"),
    [(Normal(), math.pi * math.sqrt(3) / 2), (Laplace(), 9 / 2), (Exponential(), 9 / 4),
    (Uniform(0, math.sqrt(12)), 1.0),
     (LogNormal(0.0, 0.5), None)],
)  # fmt: skip
def test_panter_and_dite_is_approached_from_below(law, limit):
    if limit is None:
        # The cube root of the density, over the logarithm of x.
        root = scipy.integrate.quad(lambda u: law.pdf(math.exp(u)) ** (1 / 3) * math.exp(u), -8, 12, epsabs=1e-13)[0]
        limit = root**3 / 12
    ratios = [n**2 * fit_lloyd_max(law, n).distortion / limit for n in (10, 100, 1000)]
    assert all(a <= b + 1e-13 for a, b in zip(ratios, ratios[1:])) and 0.997 < ratios[-1] <= 1 + 1e-12


@pytest.mark.parametrize("law", [Normal(), LogNormal(0.0, 2.0)], ids=repr)
def test_a_hundred_thousand_codewords(law):
    fit = fit_lloyd_max(law, 100_000)
    assert fit.converged and fit.certificate.definite and fit.n_steps < 30
    assert fit.certificate.gradient_norm < 1e-18 and (np.diff(fit.codebook) > 0).all()
    if isinstance(law, Normal):
        assert 2e-5 < 1 - 1e10 * fit.distortion / (math.pi * math.sqrt(3) / 2) < 2.5e-5


@pytest.mark.parametrize("n_codewords", [1, 2, 33, 1000])
def test_shift_and_scale_carry_over(n_codewords):
    pairs = [
        (Normal(), Normal(1e6, 1.0)), (Normal(), Normal(-2.0, 1e-3)), (Laplace(), Laplace(1e6, 8.0)),
        (Exponential(), Exponential(1e-5)),
        (LogNormal(), LogNormal(5.0, 1.0)), (Uniform(), Uniform(1e6, 1e6 + 1)), (Normal(), Normal(0.0, 1e100)),
    ]  # fmt: skip
    for standard, law in pairs:
        a, b = fit_lloyd_max(standard, n_codewords), fit_lloyd_max(law, n_codewords)
        np.testing.assert_allclose(b.codebook, law.location + law.scale * a.codebook, 1e-14, 1e-13 * law.scale)
        np.testing.assert_allclose(b.distortion, law.scale**2 * a.distortion, rtol=1e-12)
        np.testing.assert_allclose(b.weights.sum(), 1.0, rtol=1e-13)
        assert b.converged


def test_the_certificate_tells_a_start_from_an_optimum():
    start = fit_lloyd_max(Normal(), 50, n_steps=0)
    assert not start.converged and start.n_steps == 0 and len(start.codebooks) == 1
    np.testing.assert_allclose(start.codebook, companding(Normal(), 50), atol=1e-15)
    end = fit_lloyd_max(Normal(), 50)
    assert start.certificate.gradient_norm > 1e-5 and end.certificate.gradient_norm < 1e-16
    assert end.certificate.definite and end.certificate.unique


@pytest.mark.parametrize("law", FIVE_LAWS, ids=repr)
@pytest.mark.parametrize("method", ["newton", "levenberg-marquardt", "lloyd"])
def test_tolerance_zero_stops_when_nothing_moves(law, method):
    fit = fit_lloyd_max(law, 5, method=method, tol=0.0)
    assert fit.converged and fit.certificate.gradient_norm < 1e-14
    assert fit_lloyd_max(law, 5, method=method, tol=1e-3).n_steps <= fit.n_steps


@pytest.mark.parametrize(
    "call",
    [
        *[lambda n=n: fit_lloyd_max(Normal(), n) for n in (0, -3, 2.5, True, "3", None, math.nan, 10**9, [3])],
        *[lambda n=n: companding(Normal(), n) for n in (0, -3, 2.5, True, "3")],
        *[lambda law=law: fit_lloyd_max(law, 3) for law in ("normal", None, Normal, np.zeros(5))],
        lambda: companding(3, 3), lambda: spectral_radius(None, [0.0]),
        *[lambda m=m: fit_lloyd_max(Normal(), 3, method=m) for m in ("gauss", None, 3)],
        *[lambda n=n: fit_lloyd_max(Normal(), 3, n_steps=n) for n in (-1, 2.5, True, "3")],
        *[lambda t=t: fit_lloyd_max(Normal(), 3, tol=t) for t in (-1e-9, math.nan, math.inf, "0", True, None)],
        *[lambda c=c: spectral_radius(Normal(), c) for c in ([], [1.0, 0.0], [0.0, 0.0], [math.nan], [[0.0]])],
        *[lambda c=c: spectral_radius(Normal(), c) for c in (["a"], [50.0, 60.0], 0.0, None)],
        *[lambda s=s: fit_lloyd_max(Normal(), 2, start=s) for s in ([1.0, 0.0], [0.0, 0.0], [0.0], [math.nan, 1.0])],
        *[lambda s=s: fit_lloyd_max(Normal(), 2, start=s) for s in ([[0.0], [1.0]], "companding", [80.0, 90.0], [])],
        *[lambda s=s: fit_lloyd_max(Uniform(0.0, 1.0), 2, start=s) for s in ([0.0, 0.5], [0.5, 1.5])],
        lambda: fit_lloyd_max(Normal(math.nan), 3), lambda: fit_lloyd_max(Laplace(0, -1), 3),
        lambda: fit_lloyd_max(Normal(1e6, 1e-9), 100),
    ],
)  # fmt: skip
def test_bad_input_is_refused(call):
    with pytest.raises(InputError):
        call()
