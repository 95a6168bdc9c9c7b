"""Vector quantization to understand, play with and measure: one name per idea, numpy in, numpy out, torch in, torch out."""

from importlib import import_module

_HOME = {
    "assign": "coding", "encode": "coding", "decode": "coding", "distortion": "coding",
    "Normal": "sources", "Uniform": "sources", "Laplace": "sources", "Exponential": "sources", "LogNormal": "sources",
    "Cells": "voronoi", "cells": "voronoi",
    "fit_lloyd": "lloyd", "fit_lloyd_max": "scalar", "fit_optimal": "optimal", "fit_clvq": "online", "OnlineFit": "online",
    "fit_medians": "medians", "fit_medoids": "medians",
    "fit_em": "em", "EMFit": "em", "fit_soft_em": "soft", "SoftFit": "soft",
    "Fit": "fit", "Certificate": "fit",
    "InputError": "errors", "FormatError": "errors", "EmptyCellError": "errors",
    "ProductQuantizer": "product", "pack": "bits", "unpack": "bits", "QSGD": "qsgd", "Message": "messages",
    "save": "store", "load": "store",
    "record": "sweep",
    "data": None, "rates": None, "layers": None, "compress": None, "view": None, "sweep": None,
}  # fmt: skip

__all__ = list(_HOME)
__version__ = "0.1.0"


def __getattr__(name):
    if name not in _HOME:
        raise AttributeError(f"module 'vqcore' has no attribute {name!r}")
    home = _HOME[name]
    value = import_module(f"vqcore.{name}") if home is None else getattr(import_module(f"vqcore.{home}"), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted(__all__)
