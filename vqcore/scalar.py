"""The optimal scalar quantizer of a law: Newton on a tridiagonal system, and the slower ways beside it.

The distortion D(c) = E|X - nearest codeword|^2 of ascending codewords c has the gradient
2 mass_i (c_i - mean_i), zero where every codeword is the mean of its cell, and a tridiagonal Hessian:
a codeword feels its two neighbours only, through the edges they share.
"""

import math
from dataclasses import dataclass
from itertools import islice

import numpy as np

from vqcore.checks import as_choice, as_count, as_real, as_table
from vqcore.errors import InputError
from vqcore.fit import Certificate, Fit
from vqcore.sources import as_law

_EPS = np.finfo(np.float64).eps
# Relative differences of two distortions below this are rounding.
_ROUNDING = 16 * _EPS
_LARGEST_DAMPING = 1e12
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
    method = as_choice(method, "method", tuple(_METHODS))
    advance, default_n_steps = _METHODS[method]
    n_steps = default_n_steps if n_steps is None else as_count(n_steps, "n_steps", low=0)
    tol = as_real(tol, "tol", low=0.0, high=1.0)
    # In the law's own units a codebook far from zero keeps all its digits until it is handed back.
    standard = law.standard
    start = _State.of(standard, _first(law, n_codewords) if start is None else _as_start(start, law, n_codewords))
    story, n_taken, converged = _descend(start, advance(standard, start), n_steps, tol)
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
    _check_mass(_State.of(standard, start), "start")
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
    state = _State.of(law, codebook)
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


@dataclass(frozen=True)
class _State:
    """A codebook and what it does to the law."""

    codebook: np.ndarray
    edges: np.ndarray
    mass: np.ndarray
    shifts: np.ndarray
    distortion: float

    @classmethod
    def of(cls, law, codebook):
        edges = codebook[:-1] + np.diff(codebook) / 2
        mass, shifts, sq_errors = law.cell_moments(edges, codebook)
        return cls(codebook, edges, mass, shifts, float(sq_errors.sum()))

    @property
    def downhill(self):
        """Half of minus the gradient of the distortion (n_codewords,)."""
        return self.mass * self.shifts

    @property
    def lloyd_fall(self):
        """What the distortion falls by, at least, when every codeword moves to the mean of its cell."""
        return float((self.downhill * self.shifts).sum())


def _lloyd(law, state):
    """Lloyd's algorithm with exact means: yields (following state, promised fall of the distortion)."""
    while True:
        following = _State.of(law, state.codebook + state.shifts)
        yield following, state.lloyd_fall
        state = following


def _clvq(law, state):
    """The mean field of competitive learning: downhill by steps a / (a + n), never longer than Lloyd's."""
    # A step of Lloyd shrinks the slowest error by about 1 - 2.4 / n_codewords^2, and a step here less where
    # cells of little mass lag behind: a decrease that did not wait would freeze them.
    patience = 1000 + 4 * len(state.codebook) ** 2
    n = 0
    while True:
        rate = patience / (patience + n) / state.mass.max()
        following = _State.of(law, state.codebook + rate * state.downhill)
        yield following, state.lloyd_fall
        state, n = following, n + 1


def _newton(law, state):
    """Newton's method, its steps shortened until they descend, and damped towards Lloyd's where it has none."""
    while True:
        direction, damping = _direction(law, state, 0.0), 0.1
        while direction is None and damping < _LARGEST_DAMPING:
            direction, damping = _direction(law, state, damping), 10 * damping
        if direction is None:
            direction = state.shifts
        promise = float((state.downhill * direction).sum())
        following = _shortened(law, state, direction)
        yield following, promise
        if following is None:
            return
        state = following


def _levenberg_marquardt(law, state):
    """Newton damped towards Lloyd's step: the damping falls tenfold where it helps and rises where it does not."""
    damping = 1.0
    while True:
        following, promise = None, state.lloyd_fall
        while following is None and damping < _LARGEST_DAMPING:
            direction = _direction(law, state, damping)
            if direction is not None:
                promise = float((state.downhill * direction).sum())
                following = _accepted(law, state, state.codebook + direction)
            damping *= 10 if following is None else 0.1
        yield following, promise
        if following is None:
            return
        state = following


_METHODS = {
    "newton": (_newton, 200),
    "levenberg-marquardt": (_levenberg_marquardt, 200),
    "lloyd": (_lloyd, 10_000),
    "clvq": (_clvq, 10_000),
}


def _hessian(law, state):
    """Half the Hessian of the distortion as (2, n_codewords): the part above the diagonal, then the diagonal."""
    across = np.diff(state.codebook) / 4 * law.pdf(state.edges)
    return np.stack([np.append(0.0, -across), state.mass - np.append(across, 0.0) - np.append(0.0, across)])


def _direction(law, state, damping):
    """The step (n_codewords,) to the least value of the damped quadratic model, or None where it has none."""
    hessian, downhill = _hessian(law, state), state.downhill
    hessian[1] += damping * state.mass
    if not law.is_symmetric or (state.codebook != -state.codebook[::-1]).any():
        return _solved(hessian, downhill)
    # A symmetric law keeps its codebook symmetric, so half of it is enough. For the Laplace law and an even
    # number the whole Hessian is singular: memoryless halves follow the middle edge wherever it drifts.
    half = len(downhill) // 2
    upper = hessian[:, len(downhill) - half :].copy()
    if len(downhill) % 2 == 0:
        upper[1, 0] -= upper[0, 0]
    upper_step = _solved(upper, downhill[len(downhill) - half :])
    if upper_step is None:
        return None
    return np.concatenate([-upper_step[::-1], np.zeros(len(downhill) % 2), upper_step])


def _solved(hessian, downhill):
    """The step x with hessian x = downhill, or None where the tridiagonal (2, n) hessian is not positive definite."""
    from scipy.linalg import LinAlgError, solveh_banded

    if len(downhill) < 2:
        return downhill / hessian[1] if (hessian[1] > 0).all() else None
    try:
        return solveh_banded(hessian, downhill)
    except LinAlgError:
        return None


def _is_definite(law, state):
    """Whether the Hessian is positive definite, by more than rounding when its entries are scaled to 1."""
    scale = np.sqrt(state.mass)
    if not (scale > 0).all():
        return False
    hessian = _hessian(law, state)
    hessian[1] = hessian[1] / state.mass - 32 * _EPS
    hessian[0, 1:] /= scale[1:] * scale[:-1]
    return _solved(hessian, state.downhill) is not None


def _shortened(law, state, direction):
    """The state reached along the direction by the longest of the steps 1, 1/2, 1/4, ... that descends, or None."""
    for halvings in range(40):
        following = _accepted(law, state, state.codebook + direction / 2**halvings)
        if following is not None:
            return following
    return None


def _accepted(law, state, codebook):
    """The state of this codebook if it ascends inside the support and is better than `state`, else None."""
    low, high = law.support
    if not (codebook[0] > low and codebook[-1] < high and (np.diff(codebook) > 0).all()):
        return None
    following = _State.of(law, codebook)
    # Close to the optimum the distortion is flat to rounding, and only the gradient still tells.
    falls = following.distortion < (1 - _ROUNDING) * state.distortion
    flat = following.distortion <= (1 + _ROUNDING) * state.distortion and following.lloyd_fall < state.lloyd_fall
    return following if falls or flat else None


def _descend(state, states, n_steps, tol):
    """The story of the states, the number of steps and whether they settled, within tol or because nothing moves."""
    story, n_taken, converged = _Story(state), 0, False
    for following, promise in islice(states, n_steps):
        if following is None or not _moved(state.codebook, following.codebook):
            converged = promise <= 1e-12 * state.distortion
            break
        story.add(following)
        n_taken, settled = n_taken + 1, promise <= tol * state.distortion
        state = following
        if settled:
            converged = True
            break
    return story, n_taken, converged


def _moved(codebook, following):
    """Whether any codeword moved by more than rounding."""
    gaps = np.diff(codebook, append=codebook[-1] + 1.0)
    return bool((np.abs(following - codebook) > 4 * _EPS * np.maximum(np.abs(codebook), gaps)).any())


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
    end = _State.of(law, codebooks[-1])
    certificate = Certificate(
        gradient_norm=float(np.abs(2 * end.downhill).max()) / math.sqrt(law.variance),
        definite=_is_definite(law, end),
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
