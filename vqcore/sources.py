"""Five laws of a real random variable, with cells that keep their digits: narrow, far out or far from zero."""

import functools
import math
from dataclasses import dataclass

import numpy as np

from vqcore.checks import LARGEST, SMALLEST, as_real
from vqcore.law import Law, as_law, as_location, as_scale, both_sides, exponential_panels, normal_panels, set_once

__all__ = ["Law", "Normal", "Uniform", "Laplace", "Exponential", "LogNormal", "as_law"]


@dataclass(frozen=True)
class _MeanAndStd(Law):
    """A symmetric, log-concave law on the whole line, given by its mean and standard deviation."""

    mean: float = 0.0
    std: float = 1.0
    is_log_concave = is_symmetric = True
    support = (-math.inf, math.inf)

    def __post_init__(self):
        set_once(self, mean=as_location(self.mean), std=as_scale(self.std, "std"))

    location = property(lambda self: self.mean)
    scale = property(lambda self: self.std)
    mean_value = property(lambda self: self.mean)
    variance = property(lambda self: self.std**2)
    standard = property(lambda self: type(self)())


@dataclass(frozen=True)
class Normal(_MeanAndStd):
    """The normal law of a mean and a standard deviation."""

    @functools.cached_property
    def _panels(self):
        return self._from_standard(both_sides(normal_panels(2.0)))

    def _density(self, z):
        return np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)

    def _cdf(self, z):
        from scipy.special import ndtr

        return ndtr(z)

    def _ppf(self, p):
        from scipy.special import ndtri

        return ndtri(p)

    def _companding_ppf(self, p):
        return math.sqrt(3) * self._ppf(p)

    def _draw(self, generator, n):
        return self._from_standard(generator.standard_normal(n))


@dataclass(frozen=True)
class Uniform(Law):
    """The uniform law between two ends."""

    low: float = 0.0
    high: float = 1.0
    is_log_concave = True

    def __post_init__(self):
        low, high = as_location(self.low, "low"), as_location(self.high, "high")
        as_real(high - low, "high - low", SMALLEST, LARGEST)
        set_once(self, low=low, high=high)

    support = property(lambda self: (self.low, self.high))
    location = property(lambda self: self.low)
    scale = property(lambda self: self.high - self.low)
    mean_value = property(lambda self: self.low + self.scale / 2)
    variance = property(lambda self: self.scale**2 / 12)
    standard = property(lambda self: Uniform())

    @functools.cached_property
    def _panels(self):
        return np.array([self.low, self.high])

    def _density(self, z):
        return np.ones_like(z)

    def _cdf(self, z):
        return np.clip(z, 0.0, 1.0)

    def _ppf(self, p):
        return p

    _companding_ppf = _ppf

    def _from_standard(self, z):
        # Rounding must not carry a point past the upper end.
        return np.minimum(super()._from_standard(z), self.high)

    def _draw(self, generator, n):
        return self._from_standard(generator.random(n))


@dataclass(frozen=True)
class Laplace(_MeanAndStd):
    """The two-sided exponential law of a mean and a standard deviation."""

    @functools.cached_property
    def _panels(self):
        return self._from_standard(both_sides(exponential_panels() / math.sqrt(2)))

    def _density(self, z):
        return np.exp(-math.sqrt(2) * np.abs(z)) / math.sqrt(2)

    def _cdf(self, z):
        tail = 0.5 * np.exp(-math.sqrt(2) * np.abs(z))
        return np.where(z < 0, tail, 1 - tail)

    def _ppf(self, p):
        # 1 - p is exact above one half, so either tail is read from its own side.
        with np.errstate(divide="ignore"):
            return np.copysign(np.log(2 * np.minimum(p, 1 - p)) / math.sqrt(2), p - 0.5)

    def _companding_ppf(self, p):
        return 3 * self._ppf(p)

    def _draw(self, generator, n):
        return self._from_standard(generator.laplace(0.0, 1 / math.sqrt(2), n))


@dataclass(frozen=True)
class Exponential(Law):
    """The exponential law of a rate: mean and standard deviation are 1 / rate."""

    rate: float = 1.0
    is_log_concave = True
    support = (0.0, math.inf)
    location = 0.0

    def __post_init__(self):
        set_once(self, rate=as_scale(self.rate, "rate"))

    scale = property(lambda self: 1 / self.rate)
    mean_value = property(lambda self: 1 / self.rate)
    variance = property(lambda self: 1 / self.rate**2)
    standard = property(lambda self: Exponential())

    @functools.cached_property
    def _panels(self):
        return self._from_standard(exponential_panels())

    def _density(self, z):
        return np.exp(-z)

    def _cdf(self, z):
        return -np.expm1(-np.maximum(z, 0.0))

    def _ppf(self, p):
        with np.errstate(divide="ignore"):
            return -np.log1p(-p)

    def _companding_ppf(self, p):
        return 3 * self._ppf(p)

    def _draw(self, generator, n):
        return self._from_standard(generator.standard_exponential(n))


@dataclass(frozen=True)
class LogNormal(Law):
    """The law of exp(Y) for a normal Y of this mean and standard deviation sigma; heavy-tailed, not log-concave."""

    mean: float = 0.0
    sigma: float = 1.0
    is_log_concave = False
    support = (0.0, math.inf)
    location = 0.0

    def __post_init__(self):
        # Within these bounds the second moment, exp(2 mean + 2 sigma^2), and its tail stay in float64.
        set_once(self, mean=as_real(self.mean, "mean", -150.0, 150.0), sigma=as_real(self.sigma, "sigma", 1e-5, 4.0))

    scale = property(lambda self: math.exp(self.mean))
    mean_value = property(lambda self: math.exp(self.mean + self.sigma**2 / 2))
    variance = property(lambda self: math.expm1(self.sigma**2) * math.exp(2 * self.mean + self.sigma**2))
    standard = property(lambda self: LogNormal(0.0, self.sigma))

    @functools.cached_property
    def _panels(self):
        # A panel may at most double x: the density is not smooth at zero.
        return self._from_standard(np.exp(self.sigma * both_sides(normal_panels(min(2.0, 0.7 / self.sigma)))))

    def _density(self, z):
        log = np.log(np.maximum(z, np.finfo(float).tiny))
        return np.exp(-log * (1 + log / (2 * self.sigma**2))) / (self.sigma * math.sqrt(2 * math.pi))

    def _cdf(self, z):
        from scipy.special import ndtr

        with np.errstate(divide="ignore"):
            return ndtr(np.log(np.maximum(z, 0.0)) / self.sigma)

    def _ppf(self, p):
        from scipy.special import ndtri

        return np.exp(self.sigma * ndtri(p))

    def _companding_ppf(self, p):
        # pdf^(1/3) is again a log-normal density: of mean 2 sigma^2 and standard deviation sqrt(3) sigma.
        from scipy.special import ndtri

        return np.exp(2 * self.sigma**2 + math.sqrt(3) * self.sigma * ndtri(p))

    def _draw(self, generator, n):
        return self._from_standard(np.exp(self.sigma * generator.standard_normal(n)))
