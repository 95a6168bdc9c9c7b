"""How the compiled loops come to run: how many threads, where they are kept between processes, what a user is told."""

import atexit
import hashlib
import os
import shutil
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numba
import numpy as np
from numba import prange  # noqa: F401 - the loops take it from here, so that what is set up here holds for all
from numba.core import event

_SOURCES = hashlib.blake2b(b"".join(p.read_bytes() for p in sorted(Path(__file__).parent.glob("*.py")))).hexdigest()
SMALL = 2**19  # operations that one thread does sooner than others wake up


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
    compiled = numba.njit(**options)(*function)
    if options.get("cache"):
        compiled._cache._cache_file._source_stamp = _SOURCES
    return compiled


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

_used = _forked = False


def _after_fork():
    global _forked
    _forked = _used


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def threads_for(operations):
    """One thread for a small piece of work. No result depends on it: where others are busy, waking is what costs."""
    n_threads = numba.get_num_threads()
    numba.set_num_threads(n_threads if operations >= SMALL else 1)
    try:
        yield
    finally:
        numba.set_num_threads(n_threads)


def frozen(array):
    """A read-only view: numba compiles read-only and writable arrays apart, so all come as one."""
    global _used
    if _forked:
        # The threads did not survive the fork, and GNU OpenMP would end the process without a word.
        raise RuntimeError(
            "this process was forked after vqcore had started its threads: start workers by 'spawn' or 'forkserver', "
            "or fork before the first use of vqcore"
        )
    _used = True
    view = np.asarray(array).view()
    view.flags.writeable = False
    return view
