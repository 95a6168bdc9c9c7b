"""What a fit hands back: the codebook, what it does to the data, and the whole story of how it was found."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Certificate:
    """What is proven about a scalar quantizer of a law.

    Attributes:
        gradient_norm: largest absolute partial derivative of the distortion, over the standard
            deviation of the law: 0 at a stationary point.
        definite: whether the Hessian is positive definite: then the codebook is a strict local optimum.
        unique: whether the law is log-concave: then a stationary codebook is the only one and the
            global optimum (Kieffer 1983, "Uniqueness of locally optimal quantizer for log-concave density").
    """

    gradient_norm: float
    definite: bool
    unique: bool


@dataclass(frozen=True)
class Fit:
    """A codebook with its codes, weights and distortion, and every step that led to it.

    The points' own kind of array throughout: numpy gives numpy, a tensor gives tensors on its device. Of a dask array
    the codes are a dask array that is computed when asked for, and all that is small is numpy; to store such a fit,
    `dataclasses.replace(fit, codes=fit.codes.compute())`.

    Attributes:
        codebook: (n_codewords, dim), or (n_codewords,) ascending for one-dimensional points; float64.
        codes: (n,) int64, the nearest codeword of every point in *this* codebook; None for a law.
        weights: (n_codewords,) float64, the probability of every cell; sums to 1.
        distortion: mean of the squared distance between a point and its codeword; `fit_medians` and `fit_medoids`
            tell their own distance, to which their codes belong as well.
        codebooks: the codebook at every step, the start included (online fits keep at most 100 checkpoints).
        distortions: the distortion of each of those codebooks.
        n_steps: steps taken.
        converged: whether the stopping rule was met before the steps ran out.
        n_repairs: empty cells repaired, per step.
        certificate: what is proven, for the fits of a law; else None.
    """

    codebook: Any
    codes: Any
    weights: Any
    distortion: float
    codebooks: tuple
    distortions: tuple
    n_steps: int
    converged: bool
    n_repairs: tuple = ()
    certificate: Certificate | None = None

    def __repr__(self):
        kind = "converged" if self.converged else "not converged"
        return (
            f"Fit({self.codebook.shape[0]} codewords, distortion {self.distortion:.6g}, "
            f"{self.n_steps} steps, {kind}, {sum(self.n_repairs)} empty cells repaired)"
        )
