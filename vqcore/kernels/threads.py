"""Threads that share the runs of a loop: whoever is free takes the next one, so nobody waits for a thread that sleeps.

numba's own parallel loops deal out equal parts before they begin. Where a second thread has gone to sleep, or a BLAS
still spins on its core, a loop of a millisecond then takes eight; here the first thread does the work meanwhile. What is
shared are calls of loops that hold no lock of Python's, so these are plain threads, and a forked process starts its own.
"""

import os
import threading
from collections import deque
from contextlib import contextmanager
from queue import SimpleQueue

import numba
from numba.np.ufunc import parallel

SMALL = 2**22  # operations, some tenths of a millisecond, that one thread does before another is of any help
LEAST = 2**20  # operations in a run, so that handing them out costs little
TURNS = 4  # runs for every thread: one that comes late leaves the others little to wait for


def share(loop, n, operations, *args, grain=1):
    """What loop(first, last, *args) returns for runs that make up range(n), in their order; nothing may depend on the runs.

    As many threads as numba was told to use, but one for a small piece of work.

    Args:
        operations: about how many there are in all.
        grain: runs start at multiples of this.
    """
    n_threads = threads_for(operations)
    if n_threads == 1 or n == 0:
        return [loop(0, n, *args)]
    n_runs = max(n_threads, min(TURNS * n_threads, operations // LEAST))
    size = -(-n // (n_runs * grain)) * grain
    task = _Task(loop, [(first, min(first + size, n)) for first in range(0, n, size)], args)
    errands = [_Errand(task) for _ in range(min(n_threads, len(task.found)) - 1)]
    try:
        _send(errands)
        task.work()
    finally:
        # What is left after an error, or Ctrl-C, is left to nobody.
        task.runs.clear()
        for errand in errands:
            errand.end()
    if task.errors:
        raise task.errors.pop()
    return task.found


def threads_for(operations):
    """How many share so much work on this thread."""
    return 1 if operations < SMALL or getattr(_own, "alone", False) else _n_threads()


@contextmanager
def alone():
    """Whatever this thread shares meanwhile stays with it: others of its kind run beside it."""
    before, _own.alone = getattr(_own, "alone", False), True
    try:
        yield
    finally:
        _own.alone = before


_own = threading.local()


def _n_threads():
    """As many as numba was told to use.

    Not by `numba.get_num_threads`: it starts threads of its own that nobody needs, and takes a lock that a forked
    process may leave locked for its parent.
    """
    told = getattr(parallel, "_get_num_threads", None)  # there once somebody has told numba
    return numba.config.NUMBA_NUM_THREADS if told is None else told()


class _Task:
    def __init__(self, loop, runs, args):
        self.loop, self.args, self.runs = loop, args, deque(enumerate(runs))
        self.found, self.errors = [None] * len(runs), []

    def work(self):
        while self.runs:
            try:
                number, run = self.runs.popleft()
            except IndexError:  # another thread was quicker
                return
            self.found[number] = self.loop(*run, *self.args)


class _Errand:
    """Somebody's help with a task: begun by one helper at most, or by none if the task is done before."""

    def __init__(self, task):
        self.task, self.begun, self.done = task, threading.Lock(), threading.Lock()
        self.done.acquire()

    def run(self):
        if self.begun.acquire(blocking=False):
            try:
                self.task.work()
            except BaseException as error:
                self.task.runs.clear()
                self.task.errors.append(error)
            finally:
                self.done.release()

    def end(self):
        """Wait for the helper, if there is one."""
        if not self.begun.acquire(blocking=False):
            self.done.acquire()
        self.task = None  # helpers that are busy will come upon this errand later, and must not keep its arrays until then


class _Helpers:
    def __init__(self):
        self.lock, self.n, self.errands = threading.Lock(), 0, SimpleQueue()

    def send(self, errands):
        # Whoever finds the lock taken, by a signal's handler too, goes on with the helpers that there are.
        if self.n < len(errands) and self.lock.acquire(blocking=False):
            try:
                while self.n < len(errands):
                    threading.Thread(target=_help, args=(self.errands,), name="vqcore", daemon=True).start()
                    self.n += 1
            except RuntimeError:  # no thread can start: the caller can do all the work
                pass
            finally:
                self.lock.release()
        for errand in errands:
            self.errands.put(errand)


def _help(errands):
    while True:
        errands.get().run()  # held by no name, so that no array outlives its task


def _begin():
    """Nobody helps yet; nor do those of a parent in a forked process."""
    global _send
    _send = _Helpers().send


_begin()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin)
