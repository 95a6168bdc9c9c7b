"""Threads that share the runs of a loop: whoever is free takes the next one, so nobody waits for a thread that sleeps.

numba's own parallel loops deal out equal parts before they begin. Where a second thread has gone to sleep, or a BLAS
still spins on its core, a loop of a millisecond then takes eight; here the first thread does the work meanwhile. What is
shared are calls of loops that hold no lock of Python's, so these are plain threads, and a forked process starts its own.
"""

import os
import threading
from collections import deque
from queue import SimpleQueue

import numba

SMALL = 2**19  # operations that one thread does sooner than another wakes up
TURNS = 4  # runs for every thread: one that comes late leaves the others little to wait for


def share(loop, n, operations, *args, grain=1):
    """What loop(first, last, *args) returns for runs that make up range(n), in their order; nothing may depend on the runs.

    As many threads as numba was told to use, but one for a small piece of work.

    Args:
        operations: about how many there are in all.
        grain: runs start at multiples of this.
    """
    n_threads = numba.get_num_threads() if operations >= SMALL else 1
    if n_threads == 1:
        return [loop(0, n, *args)]
    n_runs = max(n_threads, min(TURNS * n_threads, operations // SMALL))
    size = -(-n // (n_runs * grain)) * grain
    task = _Task(loop, [(first, min(first + size, n)) for first in range(0, n, size)], args)
    errands = [_Errand(task) for _ in range(min(n_threads, len(task.found)) - 1)]
    _send(errands)
    try:
        task.work()
    finally:
        errors = [error for errand in errands if (error := errand.end()) is not None]
    if errors:
        raise errors[0]
    return task.found


class _Task:
    def __init__(self, loop, runs, args):
        self.loop, self.args, self.runs, self.found = loop, args, deque(enumerate(runs)), [None] * len(runs)

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
        self.task, self.error, self.begun, self.done = task, None, threading.Lock(), threading.Lock()
        self.done.acquire()

    def run(self):
        if self.begun.acquire(blocking=False):
            try:
                self.task.work()
            except BaseException as error:
                self.error = error
            finally:
                self.done.release()

    def end(self):
        """Wait for the helper, if there is one; the error that it met, or None."""
        if not self.begun.acquire(blocking=False):
            self.done.acquire()
        return self.error


class _Helpers:
    def __init__(self):
        self.lock, self.n, self.errands = threading.Lock(), 0, SimpleQueue()

    def send(self, errands):
        if self.n < len(errands):
            with self.lock:
                for _ in range(self.n, len(errands)):
                    threading.Thread(target=_help, args=(self.errands,), name="vqcore", daemon=True).start()
                    self.n += 1
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
