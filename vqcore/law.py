"""What a law of a real random variable is: its functions, and moments of cells by quadrature that keep their digits."""

import functools

import numpy as np

from vqcore.checks import LARGEST, SMALLEST, as_count, as_generator, as_real
from vqcore.errors import InputError

# exp(-745) is the smallest number above zero: beyond, a density is zero in float64.
_LARGEST_EXPONENT = 745.0
# A panel spans at most 12 units of the exponent of the density: there 16 Gauss-Legendre nodes are exact to rounding.
_PANEL_EXPONENT, _N_NODES, _N_NODES_NARROW, _NARROW = 12.0, 16, 6, 1 / 32
# Below this mass the sums of a cell lose digits to underflow, and the cell counts as empty.
_LEAST_MASS = 1e-300
_ROWS_AT_ONCE = 1 << 14


class Law:
    """A law of one real variable: what `Normal`, `Uniform`, `Laplace`, `Exponential` and `LogNormal` share.

    X = location + scale * Z, where Z follows `standard`, the same law in its own units.
    """

    is_symmetric = False  # about its location

    def sample(self, n, seed=0):
        """A float64 sample (n,), always the same numbers for a seed; a numpy Generator is drawn from as it stands."""
        return self._draw(as_generator(seed), as_count(n, "n", high=2**40))

    def pdf(self, x):
        """Density at x, of the shape of x."""
        x = _as_reals(x, "x")
        low, high = self.support
        density = self._density(self._to_standard(np.clip(x, low, high))) / self.scale
        return _like_input(np.where((x >= low) & (x <= high), density, 0.0))

    def cdf(self, x):
        """Probability of (-inf, x], of the shape of x."""
        return _like_input(self._cdf(self._to_standard(_as_reals(x, "x"))))

    def ppf(self, p):
        """The point below which the probability is p, for p in [0, 1]: the ends give the ends of the support."""
        return _like_input(self._from_standard(self._ppf(_as_probabilities(p))))

    def companding_ppf(self, p):
        """As `ppf` for the density proportional to pdf^(1/3): there, many optimal codewords are equally likely.

        Source: Panter and Dite 1951.
        """
        return _like_input(self._from_standard(self._companding_ppf(_as_probabilities(p))))

    def interval_moments(self, edges, codebook):
        """Mass, mean and squared error about the codeword, (n_codewords,) each, of the cells between the edges.

        Args:
            edges: (n_codewords - 1,) ascending; the outer cells reach to the ends of the support.
            codebook: (n_codewords,), one point of reference per cell.

        Returns:
            mass P(cell), means E[X | cell] (the codeword, where the mass is zero or underflows), and
            sq_errors, the integral of (x - codeword)^2 pdf(x) over the cell.
        """
        edges, codebook = _as_cells(edges, codebook)
        mass, shifts, sq_errors = self.cell_moments(edges, codebook)
        return mass, codebook + shifts, sq_errors

    def cell_moments(self, edges, codebook):
        """As `interval_moments`, with means - codebook in place of the means, and without a door.

        Near an optimum the difference is small, and here it has all its digits.
        """
        lows, highs, cell, panel_width = _cut(edges, self._panels)
        sums = np.zeros((3, len(codebook)))
        narrow = highs - lows < _NARROW * panel_width
        for rows, n_nodes in ((narrow, _N_NODES_NARROW), (~narrow, _N_NODES)):
            rows = np.flatnonzero(rows)
            for first in range(0, len(rows), _ROWS_AT_ONCE):
                some = rows[first : first + _ROWS_AT_ONCE]
                parts = self._integrate(lows[some], highs[some], codebook[cell[some]], n_nodes)
                for total, part in zip(sums, parts):
                    total += np.bincount(cell[some], weights=part, minlength=len(codebook))
        mass, first_moments, second_moments = sums
        shifts = np.divide(first_moments, mass, out=np.zeros_like(mass), where=mass > _LEAST_MASS)
        return mass, self.scale * shifts, self.scale**2 * second_moments

    def _integrate(self, lows, highs, codewords, n_nodes):
        """Integrals of 1, z - codeword and its square times the density, over each [low, high]: a tuple of (n,)."""
        nodes, weights = _gauss_legendre(n_nodes)
        # Distances to the codeword are differences of what was passed in, so a narrow cell at 1e6 loses nothing.
        half = (highs - lows) / (2 * self.scale)
        middle = ((lows - codewords) + (highs - codewords)) / (2 * self.scale)
        z_middle = ((lows - self.location) + (highs - self.location)) / (2 * self.scale)
        from_middle = half[:, None] * nodes
        density = self._density(z_middle[:, None] + from_middle) * (half[:, None] * weights)
        apart = middle[:, None] + from_middle
        weighted = density * apart
        return density.sum(axis=1), weighted.sum(axis=1), (weighted * apart).sum(axis=1)

    def _to_standard(self, x):
        # So far out every density is zero, and what is squared later does not overflow.
        with np.errstate(over="ignore"):
            return np.clip((x - self.location) / self.scale, -LARGEST, LARGEST)

    def _from_standard(self, z):
        return self.location + self.scale * z

    # What each law adds: `_density`, `_cdf`, `_ppf` and `_companding_ppf` of Z; `_panels`, the ends of the
    # stretches of x on which the density is smooth and positive; `_draw`.


def as_law(value, name="law"):
    """The law itself, or an InputError."""
    if not isinstance(value, Law):
        raise InputError(f"{name} is a {type(value).__name__}: it must be a law such as Normal(mean=0, std=1)")
    return value


def _cut(edges, panels):
    """The cells cut at the ends of the panels: lows, highs, cell and width of the panel of every part, ascending."""
    inner = np.clip(edges, panels[0], panels[-1])
    ends = np.sort(np.concatenate([inner, panels]), kind="stable")
    lows, highs = ends[:-1], ends[1:]
    positive = highs > lows
    lows, highs = lows[positive], highs[positive]
    panel = np.searchsorted(panels, lows, side="right") - 1
    return lows, highs, np.searchsorted(inner, lows, side="right"), np.diff(panels)[panel]


@functools.cache
def _gauss_legendre(n_nodes):
    return np.polynomial.legendre.leggauss(n_nodes)


def normal_panels(widest):
    """Ends of panels on z >= 0 over which z^2 / 2 grows by a bounded amount, as far as the density is positive."""
    ends = [0.0]
    while ends[-1] ** 2 < 2 * _LARGEST_EXPONENT:
        ends.append(ends[-1] + min(widest, _PANEL_EXPONENT / (1 + ends[-1])))
    return np.array(ends)


def exponential_panels():
    """Ends of panels on z >= 0 of equal width, as far as exp(-z) is positive."""
    return np.arange(0.0, _LARGEST_EXPONENT + _PANEL_EXPONENT, _PANEL_EXPONENT)


def both_sides(ends):
    """The panels on z >= 0 and their mirror images."""
    return np.concatenate([-ends[:0:-1], ends])


def set_once(law, **values):
    """Give a frozen law its checked parameters."""
    for name, value in values.items():
        object.__setattr__(law, name, value)


def as_location(value, name="mean"):
    """A finite float."""
    return as_real(value, name, -LARGEST, LARGEST)


def as_scale(value, name):
    """A positive finite float."""
    return as_real(value, name, SMALLEST, LARGEST)


def _as_reals(values, name):
    """A float64 array of real numbers, infinity allowed."""
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise InputError(f"{name} is not a rectangular array: {error}") from error
    if array.dtype.kind not in "iuf":
        raise InputError(f"{name} holds {array.dtype}: it must be a real number or an array of them")
    array = array.astype(np.float64)
    if np.isnan(array).any():
        raise InputError(f"{name} holds NaN: remove or replace such values first")
    return array


def _as_probabilities(p):
    p = _as_reals(p, "p")
    if p.size and (p.min() < 0 or p.max() > 1):
        raise InputError(f"p reaches from {p.min():g} to {p.max():g}: a probability lies in [0, 1]")
    return p


def _as_cells(edges, codebook):
    edges, codebook = _as_reals(edges, "edges"), _as_reals(codebook, "codebook")
    if codebook.ndim != 1 or len(codebook) == 0 or edges.shape != (len(codebook) - 1,):
        raise InputError(
            f"edges has shape {edges.shape} and codebook {codebook.shape}: "
            "they must be (n_codewords - 1,) and (n_codewords,)"
        )
    if np.isinf(codebook).any():
        raise InputError("codebook holds infinity: every codeword must be finite")
    if (edges[1:] < edges[:-1]).any():
        raise InputError("edges must ascend: sort the codebook first")
    return edges, codebook


def _like_input(array):
    """A float for a scalar, else the array."""
    return float(array) if array.ndim == 0 else array
