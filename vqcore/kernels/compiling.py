"""How loops are compiled: where they are kept between processes, and what a user is told meanwhile."""

import atexit
import hashlib
import shutil
import sys
import tempfile
from pathlib import Path

import numba
import numpy as np
from numba.core import event

_SOURCES = hashlib.blake2b(b"".join(p.read_bytes() for p in sorted(Path(__file__).parent.glob("*.py")))).hexdigest()


def _keep_somewhere():
    """Where neither the package's folder nor the user's cache can be written, compiled loops last for the process."""
    try:
        numba.njit(cache=True)(_keep_somewhere)
    except RuntimeError:
        numba.config.CACHE_DIR = tempfile.mkdtemp(prefix="vqcore-")
        atexit.register(shutil.rmtree, numba.config.CACHE_DIR, ignore_errors=True)


def njit(*function, **options):
    """numba's own, but what it kept is only used again while *no* source of a loop has changed.

    numba looks at the file of the function alone, though the functions that this one calls are compiled into it.
    """
    if not function:
        return lambda function: njit(function, **options)
    if options.get("cache"):
        compiled = numba.njit(**options)(*function)
        compiled._cache._cache_file._source_stamp = _SOURCES
        return compiled
    # Only called by other loops: the ways in for Python would take a fifth of the compiling.
    compiled = numba.njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, **options)(*function)
    compiled._insert, compiled._compile_for_args = _leave_out, _refuse
    return compiled


def _leave_out(*_):
    """No entry for calls from Python: it would lead nowhere."""


def _refuse(*_, **__):
    raise TypeError("this loop is only compiled into others: call it from a function that numba compiles")


class _Word(event.Listener):
    """Tells whoever waits at a terminal, once, what takes the seconds of a first call."""

    told = False

    def on_start(self, compilation):
        ours = compilation.data["dispatcher"].py_func.__module__.startswith("vqcore.")
        if ours and not self.told and sys.stderr.isatty():
            self.told = True
            print("vqcore: compiling its loops for this processor; kept for later runs", file=sys.stderr)

    def on_end(self, compilation):
        pass


_keep_somewhere()
event.register("numba:compile", _Word())


def frozen(array):
    """A read-only view: numba compiles read-only and writable arrays apart, so all come as one."""
    view = np.asarray(array).view()
    view.flags.writeable = False
    return view
