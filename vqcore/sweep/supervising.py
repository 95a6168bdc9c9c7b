"""What a Dask worker does for one run: start its process, wait for the outcome, end what does not end by itself."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from vqcore.sweep import folder as store
from vqcore.sweep.ending import end_kernel
from vqcore.sweep.preloading import station

# Another try may mend these; an exception in a cell, or a full disk, would only come again.
WORTH_ANOTHER_TRY = {"timeout", "kernel died", "interrupted", "broken", "killed", "files"}
THREAD_LIMITS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


class RunFailed(RuntimeError):
    """A run failed in a way that another try may mend."""


def supervise(task):
    """The outcome of one run: a dict whose "status" is "done", "earlier", "elsewhere" or "failed".

    Raises:
        RunFailed: another try may help; its text is the outcome as JSON.
    """
    with tempfile.TemporaryDirectory(prefix="vq-", ignore_cleanup_errors=True) as sockets:
        sockets = Path(sockets)
        (sockets / "task.json").write_text(json.dumps(task))
        limit = task["timeout"] * (task["n_cells"] + 1) + 180
        env = environment(task["threads"])
        forks = station(task["sweep"], task["preload"], env)
        if forks is None:
            _run_anew(sockets, env, limit)
        else:
            _run_forked(forks, sockets, limit)
        outcome = _outcome(task, sockets)
    if outcome["status"] == "failed" and outcome["kind"] in WORTH_ANOTHER_TRY:
        raise RunFailed(json.dumps(outcome))
    return outcome


def environment(n_threads):
    """The environment of a run: runs side by side must not fight for the cores."""
    return os.environ | {name: str(n_threads) for name in THREAD_LIMITS} | {"PYDEVD_DISABLE_FILE_VALIDATION": "1"}


def _run_forked(forks, sockets, limit):
    whole = False
    try:
        whole = forks.run(sockets, limit)
    finally:
        end_kernel(sockets)
        if not whole:
            # With the station goes whatever it runs.
            forks.close()


def _run_anew(sockets, env, limit):
    command = [sys.executable, "-m", "vqcore.sweep.runner", str(sockets)]
    with open(sockets / "runner.log", "wb") as log:
        # Its stdin is a pipe that closes when this process dies.
        runner = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=env, start_new_session=True)
    try:
        runner.wait(limit)
    except subprocess.TimeoutExpired:
        pass
    finally:
        end_kernel(sockets)
        # Only a process that has not been waited for is sure to own its number still.
        if runner.poll() is None:
            runner.kill()
            runner.wait()
        runner.stdin.close()


def _outcome(task, sockets):
    folder, key = Path(task["folder"]), task["key"]
    try:
        outcome = json.loads((sockets / "outcome.json").read_text())
    except (OSError, ValueError):
        said = (sockets / "runner.log").read_text(errors="replace").strip().splitlines()[-1:]
        outcome = {"status": "failed", "kind": "killed", "sentence": f"the process of this run was killed{': '.join(['', *said])}"}
        with store.locked(folder, key) as held:
            if held:
                store.clear_leftovers(folder, key)
    return outcome
