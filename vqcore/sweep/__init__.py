"""Studies: a notebook run over a grid of parameters, by papermill on Dask, that survives what machines do.

`vqcore.sweep.sweep(...)` runs a study, from a notebook or by the command `vqcore sweep`; `record` hands over the results
of a run.
"""

from importlib import import_module

_HOME = {"sweep": "study", "Study": "study", "record": "recording"}

__all__ = list(_HOME)


def __getattr__(name):
    if name not in _HOME:
        raise AttributeError(f"module 'vqcore.sweep' has no attribute {name!r}")
    return getattr(import_module(f"vqcore.sweep.{_HOME[name]}"), name)
