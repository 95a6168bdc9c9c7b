"""Rates: how many bits a coder really takes, how good the result is, and what theory says is possible.

Rates are bits per value, distortions E|X - X_hat|^2 per value.
"""

import math
from dataclasses import dataclass

import numpy as np

from vqcore import checks
from vqcore.errors import InputError
from vqcore.fit import Fit
from vqcore.kernels import table_for

PARTS = ("codes", "codebooks", "norms", "header", "padding")
# Shannon's lower bound D >= c 2^(-2R) at unit variance is c = exp(2 h) / (2 pi e), h being the entropy of the density.
SHANNON = {
    "normal": 1.0,
    "laplace": math.e / math.pi,
    "exponential": math.e / (2 * math.pi),
    "uniform": 6 / (math.pi * math.e),
}
# Panter and Dite's constant (integral of the density to the third)^3 / 12 at unit variance, the limit of N^2 D.
PANTER_DITE = {"normal": math.pi * math.sqrt(3) / 2, "laplace": 4.5, "exponential": 2.25, "uniform": 1.0}


@dataclass(frozen=True)
class Ledger:
    """Where the bits of a coded thing go.

    Attributes:
        codes: bits of the codes themselves.
        codebooks: bits of the tables that decoding needs, a rotation included.
        norms: bits of scales and norms.
        header: bits of sizes, options and checksums.
        padding: bits that carry nothing, up to the end of a word.
        n_values: numbers that were coded; the rate is relative to them.
    """

    codes: int = 0
    codebooks: int = 0
    norms: int = 0
    header: int = 0
    padding: int = 0
    n_values: int = 0

    @property
    def total(self):
        """All bits."""
        return sum(getattr(self, part) for part in PARTS)

    @property
    def bits_per_value(self):
        """All bits over the values, infinite where there are none."""
        return self.total / self.n_values if self.n_values else math.inf


def ledger(thing, *, n_points=None, float_bits=64, word_bits=1, header=0):
    """The Ledger of a fit with its codes, of a ProductQuantizer with the codes of n_points, of a message, or of parts.

    Args:
        thing: a Fit, a ProductQuantizer, a QSGD Message, or a dict from names of parts to whole numbers.
        n_points: points whose codes are counted; by default those of the fit. Messages and parts know their own.
        float_bits: bits of a number in a codebook.
        word_bits: codes are packed without gaps into words of so many bits; the last word is padded.
        header: bits to add for whatever carries the rest.
    """
    float_bits, word_bits = checks.as_count(float_bits, "float_bits"), checks.as_count(word_bits, "word_bits")
    header = checks.as_count(header, "header", low=0)
    n_points = None if n_points is None else checks.as_count(n_points, "n_points", low=0)
    if isinstance(thing, Fit):
        parts = _of_fit(thing, n_points, float_bits)
    elif hasattr(thing, "size_in_bits"):
        parts = thing.size_in_bits(n_points or 0, float_bits)
    elif n_points is not None:
        raise InputError(f"n_points={n_points} is for fits and quantizers: a {type(thing).__name__} knows its own")
    elif hasattr(thing, "n_bits_codes"):
        parts = {part: getattr(thing, f"n_bits_{part}", 0) for part in PARTS} | {"n_values": thing.n_values}
    elif isinstance(thing, dict):
        parts = dict(thing)
    else:
        raise InputError(
            f"thing is a {type(thing).__name__}: pass a fit, a ProductQuantizer, a message or a dict of parts"
        )
    if unknown := parts.keys() - {*PARTS, "n_values"}:
        raise InputError(f"thing has the parts {sorted(unknown)}: only {', '.join(PARTS)} and n_values are known")
    parts = {name: checks.as_count(bits, name, low=0) for name, bits in parts.items()}
    parts["padding"] = parts.get("padding", 0) + -(parts.get("codes", 0) + parts.get("padding", 0)) % word_bits
    parts["header"] = parts.get("header", 0) + header
    return Ledger(**parts)


def _of_fit(fit, n_points, float_bits):
    shape = tuple(fit.codebook.shape)
    if n_points is None:
        n_points = 0 if fit.codes is None else fit.codes.shape[0]
    return {
        "codes": n_points * (shape[0] - 1).bit_length(),
        "codebooks": math.prod(shape) * float_bits,
        "n_values": n_points * math.prod(shape[1:]),
    }


def entropy(weights):
    """Entropy in bits of cell probabilities (n_codewords,), or of counts: what an ideal coder spends on a code."""
    shares = checks.as_table(weights, "weights")
    if shares.min() < 0 or not shares.sum() > 0:
        raise InputError(
            f"weights reach down to {shares.min():g} and sum to {shares.sum():g}: allowed are shares >= 0, not all 0"
        )
    shares = shares[shares > 0] / shares.sum()
    return float(max(0.0, -(shares * np.log2(shares)).sum()))


def entropy_coded_bits(codes, n_codewords=None):
    """Bits of codes (n,), or (n, n_subspaces) each column by itself, under an ideal coder that knows frequencies.

    No coder of single codes does better, and an arithmetic coder comes within two bits per column; the
    frequencies themselves are not counted.
    """
    n_codewords = 2**53 if n_codewords is None else checks.as_count(n_codewords, "n_codewords")
    table, codes = checks.as_codes(codes, n_codewords)
    if len(codes.shape) not in (1, 2):
        raise InputError(f"codes has shape {tuple(codes.shape)}: it must be (n,) or (n, n_subspaces)")
    columns = np.asarray(table.to_host(codes)).reshape(codes.shape[0], math.prod(codes.shape[1:]))
    return float(
        sum(len(column) * entropy(np.unique(column, return_counts=True)[1]) for column in columns.T if len(column))
    )


def psnr(image, other, peak=1.0):
    """Peak signal-to-noise ratio in dB between two arrays of one shape; infinite where they are equal.

    Args:
        peak: largest value a pixel may have: 1.0, or 255.
    """
    first, second = checks.as_table(image, "image"), checks.as_table(other, "other")
    if first.shape != second.shape:
        raise InputError(f"image has shape {first.shape} but other has {second.shape}: they must be equal")
    peak = checks.as_real(peak, "peak", low=0.0, open_low=True)
    error = float(((first - second) ** 2).mean())
    return math.inf if error == 0 else 20 * math.log10(peak) - 10 * math.log10(error)


def recall(found_ids, true_ids):
    """Share of the true neighbours (n_queries, n_true) that are among those found (n_queries, n_found)."""
    found, true = (_as_ids(ids, name) for ids, name in ((found_ids, "found_ids"), (true_ids, "true_ids")))
    if len(found) != len(true):
        raise InputError(f"found_ids has {len(found)} rows but true_ids has {len(true)}: one row per query in both")
    return float(np.mean([np.isin(want, got).mean() for got, want in zip(found, true)]))


def shannon_lower_bound(law, rate, variance=1.0):
    """Distortion that no coder of this many bits per value can beat, for independent values of a law.

    Args:
        law: "normal" (where it can be reached), "laplace", "exponential" or "uniform".
        rate: bits per value, a number or an array of them.
    """
    return _bound(SHANNON, law, rate, variance)


def panter_dite(law, rate, variance=1.0):
    """Distortion of the best scalar quantizer of 2^rate codewords, in the limit of many (Panter and Dite 1951)."""
    return _bound(PANTER_DITE, law, rate, variance)


def zador(rate, dim, second_moment=None, variance=1.0):
    """Distortion per value of the best quantizer of dim normal values at once, 2^(rate dim) codewords, many of them.

    Args:
        second_moment: normalized, of the cells; by default that of a ball, which bounds every quantizer from below.
            For dim=1 it is 1/12; for dim=2 the regular hexagon has 5 / (36 sqrt 3), which is the best.

    Source: Zador 1982, "Asymptotic quantization error of continuous signals and the quantization dimension".
    """
    dim = checks.as_count(dim, "dim")
    if second_moment is None:
        second_moment = math.exp(2 / dim * math.lgamma(dim / 2 + 1)) / ((dim + 2) * math.pi)
    moment = checks.as_real(second_moment, "second_moment", low=0.0, open_low=True)
    # The norm of order dim / (dim + 2) of the density of dim independent normal values.
    density = 2 * math.pi * ((dim + 2) / dim) ** ((dim + 2) / 2)
    return _bound({"normal": moment * density}, "normal", rate, variance)


def _bound(constants, law, rate, variance):
    constant = constants[checks.as_choice(law, "law", tuple(constants))]
    rates = checks.as_table(rate, "rate")
    if rates.min() < 0:
        raise InputError(f"rate reaches down to {rates.min():g}: bits per value are not negative")
    bound = constant * checks.as_real(variance, "variance", low=0.0, open_low=True) * 2.0 ** (-2 * rates)
    return float(bound) if bound.ndim == 0 else bound


def _as_ids(ids, name):
    table = table_for(ids, name)
    host = np.asarray(table.to_host(table.to_points(ids, name, integers=True)))
    if host.ndim != 2 or 0 in host.shape:
        raise InputError(f"{name} has shape {host.shape}: it must be (n_queries, n_neighbors)")
    return host
