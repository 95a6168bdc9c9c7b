"""The optimal scalar quantizer of a law, to machine precision and with a certificate; and how fast Lloyd comes near it."""

import math

import numpy as np

from vqcore.checks import as_choice, as_count, as_real, as_table
from vqcore.descent import WAYS, State, descend, is_definite
from vqcore.errors import InputError
from vqcore.fit import Certificate, Fit
from vqcore.sources import as_law

_MOST_CODEWORDS = 10_000_000
# All codebooks of a fit are kept up to 32 MB of them, or 100 of them: beyond, evenly spaced ones.
_N_KEPT, _N_VALUES_KEPT = 100, 1 << 22


def fit_lloyd_max(law, n_codewords, method="newton", n_steps=None, tol=1e-14, *, start=None):
    """The optimal scalar quantizer (n_codewords,) of a law, as a Fit without codes and with a certificate.

    Args:
        law: a law of `vqcore.sources`.
        n_codewords: number of codewords.
        method: "newton", to machine precision in about seven steps; or, to watch, "levenberg-marquardt"
            (Newton damped towards Lloyd), "lloyd" (every codeword to the mean of its cell), "clvq" (the mean
            field of competitive learning: down the gradient by decreasing steps).
        n_steps: most steps taken; by default 200 for the first two and 10,000 for the others.
        tol: the relative fall of the distortion promised by a step, after which the fit stops; with 0 it stops
            when nothing moves.
        start: a codebook (n_codewords,) to start from, ascending inside the support of the law; by default
            `companding`.

    Raises:
        InputError: an argument is not of its kind, or the codewords cannot be told apart in float64.

    Source: Max 1960 and Lloyd 1982 for the conditions; Kieffer 1983 for uniqueness; Pages and Printems 2003,
    "Optimal quadratic quantization for numerics: the Gaussian case", for Newton's method.
    """
    law, n_codewords = as_law(law), _as_n_codewords(n_codewords)
    method = as_choice(method, "method", tuple(WAYS))
    advance, default_n_steps = WAYS[method]
    n_steps = default_n_steps if n_steps is None else as_count(n_steps, "n_steps", low=0)
    tol = as_real(tol, "tol", low=0.0, high=1.0)
    # In the law's own units a codebook far from zero keeps all its digits until it is handed back.
    standard = law.standard
    start = State.of(standard, _first(law, n_codewords) if start is None else _as_start(start, law, n_codewords))
    story = _Story(start)
    n_taken, converged = descend(start, advance(standard, start), n_steps, tol, story)
    return _as_fit(law, story, n_taken, converged)


def _first(law, n_codewords):
    """The codebook of `companding` (n_codewords,) in the law's own units, exactly symmetric if the law is."""
    codebook = companding(law.standard, n_codewords)
    return (codebook - codebook[::-1]) / 2 if law.is_symmetric else codebook


def _as_start(values, law, n_codewords):
    """A caller's codebook (n_codewords,) in the law's own units, every cell of it with mass."""
    start, standard = (as_table(values, "start", (n_codewords,)) - law.location) / law.scale, law.standard
    # In the law's units a symmetric codebook has lost its last digits, and with them what Newton makes of symmetry.
    slack = 1e-12 * (np.abs(start).max() + abs(law.location) / law.scale)
    if law.is_symmetric and (np.abs(start + start[::-1]) <= slack).all():
        start = (start - start[::-1]) / 2
    low, high = standard.support
    if not (start[0] > low and start[-1] < high and (np.diff(start) > 0).all()):
        raise InputError(f"start must ascend strictly inside the support of law={law}: sort it, drop repeated codewords")
    _check_mass(State.of(standard, start), "start")
    return start


def _check_mass(state, name):
    if not (state.mass > 0).all():
        raise InputError(f"cell {int(np.argmin(state.mass))} of {name} has no mass: its mean is not defined")


def companding(law, n_codewords):
    """Quantiles (n_codewords,) of the density proportional to pdf^(1/3): nearly optimal for many codewords.

    Source: Bennett 1948; Panter and Dite 1951.
    """
    n_codewords = _as_n_codewords(n_codewords)
    return as_law(law).companding_ppf((np.arange(n_codewords) + 0.5) / n_codewords)


def spectral_radius(law, codebook):
    """Factor by which a step of Lloyd shrinks the slowest error near this stationary codebook (n_codewords,).

    It is the largest eigenvalue of the Jacobian of the map codebook -> means of its cells, which is
    tridiagonal, not negative, and similar to a symmetric matrix.

    Raises:
        InputError: the codebook does not ascend, or a cell of it has no mass.
    """
    from scipy.linalg import eigvalsh_tridiagonal

    law, codebook = as_law(law), as_table(codebook, "codebook", (None,))
    if not (np.diff(codebook) > 0).all():
        raise InputError("codebook must ascend strictly: sort it, and drop repeated codewords")
    state = State.of(law, codebook)
    _check_mass(state, "the codebook")
    if len(codebook) == 1:
        return 0.0
    means = codebook + state.shifts
    density = law.pdf(state.edges) / 2
    # How a mean follows the edge above it and the edge below it.
    to_above = density * (state.edges - means[:-1]) / state.mass[:-1]
    to_below = density * (means[1:] - state.edges) / state.mass[1:]
    diagonal = np.append(to_above, 0.0) + np.append(0.0, to_below)
    last = len(codebook) - 1
    top = eigvalsh_tridiagonal(diagonal, np.sqrt(to_above * to_below), select="i", select_range=(last, last))
    return float(top[0])


class _Story:
    """Codebooks and distortions of a fit, every second one dropped whenever they grow too many; both ends stay."""

    def __init__(self, start):
        self.last = (start.codebook, start.distortion)
        self.kept = [self.last]
        self.limit = max(_N_KEPT - 1, _N_VALUES_KEPT // len(start.codebook))
        self.stride, self.n_seen = 1, 0

    def add(self, state):
        self.last, self.n_seen = (state.codebook, state.distortion), self.n_seen + 1
        if self.n_seen % self.stride == 0:
            self.kept.append(self.last)
        if len(self.kept) > self.limit:
            self.kept, self.stride = self.kept[::2], 2 * self.stride

    def columns(self):
        """All kept codebooks, and all their distortions."""
        whole = self.kept if self.kept[-1] is self.last else [*self.kept, self.last]
        return tuple(zip(*whole))


def _as_fit(law, story, n_steps, converged):
    """The story in the units of the law; the end is measured again on the codebook that is handed back."""
    codebooks, distortions = story.columns()
    codebooks = tuple(law.location + law.scale * codebook for codebook in codebooks)
    if not (np.diff(codebooks[-1]) > 0).all():
        raise InputError(
            f"law={law} with n_codewords={len(codebooks[-1])}: so close together, so far from zero, codewords "
            "are the same in float64; shift the law towards zero or ask for fewer"
        )
    end = State.of(law, codebooks[-1])
    certificate = Certificate(
        gradient_norm=float(np.abs(2 * end.downhill).max()) / math.sqrt(law.variance),
        definite=is_definite(law, end),
        unique=law.is_log_concave,
    )
    return Fit(
        codebook=end.codebook,
        codes=None,
        weights=end.mass,
        distortion=end.distortion,
        codebooks=codebooks,
        distortions=(*(law.scale**2 * distortion for distortion in distortions[:-1]), end.distortion),
        n_steps=n_steps,
        converged=converged,
        n_repairs=(0,) * n_steps,
        certificate=certificate,
    )


def _as_n_codewords(value):
    return as_count(value, "n_codewords", high=_MOST_CODEWORDS)
