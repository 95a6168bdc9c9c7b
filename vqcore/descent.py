"""Ways down to the optimal scalar quantizer of a law: Newton on a tridiagonal system, and the slower ones beside it.

The distortion D(c) = E|X - nearest codeword|^2 of ascending codewords c has the gradient
2 mass_i (c_i - mean_i), zero where every codeword is the mean of its cell, and a tridiagonal Hessian:
a codeword feels its two neighbours only, through the edges they share.
"""

from dataclasses import dataclass
from itertools import islice

import numpy as np

_EPS = np.finfo(np.float64).eps
# Relative differences of two distortions below this are rounding.
_ROUNDING = 16 * _EPS
_LARGEST_DAMPING = 1e12


@dataclass(frozen=True)
class State:
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
        following = State.of(law, state.codebook + state.shifts)
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
        following = State.of(law, state.codebook + rate * state.downhill)
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


def is_definite(law, state):
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
    following = State.of(law, codebook)
    # Close to the optimum the distortion is flat to rounding, and only the gradient still tells.
    falls = following.distortion < (1 - _ROUNDING) * state.distortion
    flat = following.distortion <= (1 + _ROUNDING) * state.distortion and following.lloyd_fall < state.lloyd_fall
    return following if falls or flat else None


def descend(state, states, n_steps, tol, story):
    """Tell the story what follows: the number of steps, and whether they settled, within tol or because nothing moves."""
    n_taken, converged = 0, False
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
    return n_taken, converged


def _moved(codebook, following):
    """Whether any codeword moved by more than rounding."""
    gaps = np.diff(codebook, append=codebook[-1] + 1.0)
    return bool((np.abs(following - codebook) > 4 * _EPS * np.maximum(np.abs(codebook), gaps)).any())


# What advances from one state to the next, and the steps that are taken by default.
WAYS = {
    "newton": (_newton, 200),
    "levenberg-marquardt": (_levenberg_marquardt, 200),
    "lloyd": (_lloyd, 10_000),
    "clvq": (_clvq, 10_000),
}
