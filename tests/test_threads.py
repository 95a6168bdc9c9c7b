"""Threads that share the runs of a loop: every run once, whoever is busy, whatever fails, and in a forked process."""

import os
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqcore.kernels import compiled, nearest, threads
from vqcore.kernels.threads import LEAST, SMALL, TURNS, share

MUCH = 100 * SMALL


@pytest.fixture
def four(monkeypatch):
    """Four threads, however many the process was given."""
    monkeypatch.setattr(threads, "_n_threads", lambda: 4)


def run_of(first, last):
    return first, last


@given(n=st.integers(0, 3000), operations=st.integers(0, 40 * SMALL), grain=st.integers(1, 200), n_threads=st.integers(1, 9))
def test_runs_make_up_the_range(n, operations, grain, n_threads):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "_n_threads", lambda: n_threads)
        runs = share(run_of, n, operations, grain=grain)
    firsts, lasts = map(list, zip(*runs)) if runs else ([0], [n])
    assert [0, *lasts] == [*firsts, n]
    assert all(first % grain == 0 and first < last for first, last in runs) or n == 0
    assert len(runs) <= max(1, min(TURNS * n_threads, operations // LEAST), n_threads if operations >= SMALL else 1)


def test_runs_are_taken_by_threads_at_the_same_time(four):
    """Each of four runs waits until all four have begun."""
    together = threading.Barrier(4)
    assert share(lambda first, last: together.wait(timeout=60), 4, MUCH) and not together.broken


def test_small_work_stays_on_its_thread(four):
    assert share(lambda first, last: threading.current_thread(), 4, SMALL - 1) == [threading.current_thread()]


def test_nobody_waits_for_helpers_that_are_busy(four):
    """While others hold all three helpers, a caller does all of its own work."""
    free, begun = threading.Event(), threading.Barrier(5)

    def hold(first, last):
        begun.wait(timeout=60)
        return free.wait(timeout=60)

    other = threading.Thread(target=share, args=(hold, 4, MUCH))
    other.start()
    begun.wait(timeout=60)
    try:
        by = share(lambda first, last: threading.current_thread(), 64, MUCH)
    finally:
        free.set()
        other.join()
    assert len(by) == 4 * TURNS and set(by) == {threading.current_thread()}


def test_many_callers_at_once(four):
    """Twelve threads, each with runs of its own: nobody gets what belongs to another."""

    def call(seed):
        values = np.random.default_rng(seed).random(64)
        parts = share(lambda first, last: values[first:last].copy(), len(values), MUCH)
        return np.array_equal(np.concatenate(parts), values)

    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(call, range(2000)))


@pytest.mark.parametrize("thread", ["own", "helper"])
def test_an_error_on_any_thread_is_raised_and_the_next_call_works(four, thread):
    together = threading.Barrier(4)

    def fail(first, last):
        together.wait(timeout=60)
        if (threading.current_thread() is threading.main_thread()) == (thread == "own"):
            raise MemoryError(f"no room for {first}")

    with pytest.raises(MemoryError, match="no room"):
        share(fail, 4, MUCH)
    assert share(run_of, 4, MUCH) == [(i, i + 1) for i in range(4)]


@pytest.mark.parametrize("thread", ["own", "helper"])
def test_an_error_ends_the_work_of_all(four, thread):
    """Of 16 runs four have begun when one of them fails; the others are left undone."""
    together, failed, n_runs = threading.Barrier(4), threading.Event(), []

    def fail(first, last):
        n_runs.append(first)
        if len(n_runs) <= 4:
            together.wait(timeout=60)
            if (threading.current_thread() is threading.main_thread()) == (thread == "own") and not failed.is_set():
                failed.set()
                raise MemoryError
            failed.wait(timeout=60)
            threading.Event().wait(0.2)  # what raised is on its way

    with pytest.raises(MemoryError):
        share(fail, 4 * TURNS, MUCH)
    assert len(n_runs) < 4 * TURNS - 4


def test_no_array_outlives_its_call(four):
    """A helper that waits for its next task holds nothing of the last one."""
    together, points = threading.Barrier(4), np.zeros(1000)
    gone = weakref.ref(points)
    share(lambda first, last, points: together.wait(timeout=60), 4, MUCH, points)
    del points
    for _ in range(100):  # a helper may be on its way out of the task
        if gone() is None:
            break
        threading.Event().wait(0.05)
    assert gone() is None


def test_helpers_that_are_busy_keep_no_array_of_others(four):
    free, begun = threading.Event(), threading.Barrier(5)
    hold = lambda first, last: (begun.wait(timeout=60), free.wait(timeout=60))  # noqa: E731
    other = threading.Thread(target=share, args=(hold, 4, MUCH))
    other.start()
    begun.wait(timeout=60)
    points = np.zeros(1000)
    gone = weakref.ref(points)
    try:
        share(lambda first, last, points: None, 64, MUCH, points)
        del points
        assert gone() is None
    finally:
        free.set()
        other.join()


def test_where_no_thread_can_start_the_caller_does_all(four, monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threads, "_send", threads._Helpers().send)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert share(run_of, 4, MUCH) == [(i, i + 1) for i in range(4)]


def test_a_block_keeps_to_its_thread_and_others_do_not(four):
    with threads.alone(), threads.alone():
        pass
    with threads.alone():
        assert share(run_of, 4, MUCH) == [(0, 4)]
    assert len(share(run_of, 4, MUCH)) == 4


_TOLD = """
import numba, threading, numpy as np, vqcore as vq
points = np.random.default_rng(0).standard_normal((40_000, 16))
if SET: numba.set_num_threads(1)
vq.assign(points, points[:64])
print("vqcore" in [thread.name for thread in threading.enumerate()])
"""


@pytest.mark.parametrize("layer", ["default", "workqueue", "tbb"])
def test_numba_says_how_many(layer):
    """By its variable or its function; whichever threads it has itself, or could not have."""
    environment = os.environ | {"OMP_NUM_THREADS": "2", "NUMBA_NUM_THREADS": "2", "NUMBA_THREADING_LAYER": layer}
    for code, helped in (("SET = False", "True"), ("SET = True", "False"))[: 1 if layer == "tbb" else 2]:
        run = subprocess.run([sys.executable, "-c", code + _TOLD], capture_output=True, text=True, env=environment, timeout=120)
        assert run.stdout.strip() == helped, run.stderr[-2000:]


_FORKED = """
import os, threading, numba, numpy as np, vqcore as vq
points = np.random.default_rng(0).standard_normal((40_000, 16))
before = vq.assign(points, points[:64])
assert numba.config.NUMBA_NUM_THREADS == 2 and "vqcore" in [thread.name for thread in threading.enumerate()]
child = os.fork()
if child == 0:
    after = vq.assign(points, points[:64])
    helped = "vqcore" in [thread.name for thread in threading.enumerate()]
    os._exit(7 if helped and all(map(np.array_equal, before, after)) else 8)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


_FORKED_AMONG_THREADS = """
import os, threading, time, numpy as np, vqcore as vq
points = np.random.default_rng(0).standard_normal((40_000, 16))
expected, end = vq.encode(points, points[:64]), time.monotonic() + 5
wrong = []
def call():
    while time.monotonic() < end:
        wrong.extend([] if np.array_equal(vq.encode(points, points[:64]), expected) else [1])
threads = [threading.Thread(target=call) for _ in range(4)]
for thread in threads: thread.start()
n_forks = 0
while time.monotonic() < end:
    child = os.fork()
    if child == 0:
        os._exit(7 if np.array_equal(vq.encode(points, points[:64]), expected) else 8)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    n_forks += 1
for thread in threads: thread.join()
print(n_forks > 3 and not wrong)
"""


# A lock that several processes share would be lost with a child, and its parent would wait for ever.
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
@pytest.mark.parametrize("program, said", [(_FORKED, "7"), (_FORKED_AMONG_THREADS, "True")], ids=["alone", "amid calls"])
def test_a_forked_process_has_threads_of_its_own_and_holds_nobody_up(program, said):
    environment = os.environ | {"OMP_NUM_THREADS": "2", "NUMBA_NUM_THREADS": "2"}
    command = [sys.executable, "-W", "ignore", "-c", program]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert run.stdout.strip() == said, run.stderr[-2000:]


def test_helpers_are_started_once(four):
    def count():
        return sum(thread.name == "vqcore" for thread in threading.enumerate())

    share(run_of, 4, MUCH)
    before = count()
    for _ in range(50):
        share(run_of, 4, MUCH)
    assert count() == before >= 3


def test_a_loop_that_is_only_compiled_into_others_refuses_python():
    """It has no way in for Python: without a word to say so, a call would end the process."""
    point = np.ones((1, 2))
    for _ in range(2):
        with pytest.raises(TypeError, match="compiles"):
            nearest.sq_dist(point, 0, point, 0)
    compiled.assign(point, point)
    with pytest.raises(TypeError, match="compiles"):
        nearest.sq_dist(point, 0, point, 0)
