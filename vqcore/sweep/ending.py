"""How a run's processes are ended: the kernel by its own process group, whose number it left beside its sockets, and
what the notebook detached from that group as the orphans that it becomes."""

import os
import signal
import sys
import time
from pathlib import Path

LOG = "vqcore-run.log"  # what a run and its kernel write to stderr, in their folder; no name that a notebook would choose


def end_kernel(sockets):
    """Kill the kernel whose sockets are in this folder, with whatever the notebook started in its group."""
    mark = sockets / "kernel"
    try:
        group = int(mark.read_text())
        mark.unlink()
        if hasattr(os, "killpg"):
            os.killpg(group, signal.SIGKILL)
        else:
            os.kill(group, signal.SIGTERM)
    except (OSError, ValueError):
        return


def adopt_orphans():
    """On Linux, have what processes below this one leave behind become children of this one, wherever they hide."""
    if sys.platform == "linux":
        import ctypes

        become_reaper = 36
        ctypes.CDLL(None).prctl(become_reaper, 1, 0, 0, 0)


def end_children(seconds=5.0):
    """Kill the children of this process, and those that it inherits from them, where the system tells who they are.

    Nobody else can be hit: the number of a child is not given away before its parent has waited for it.
    """
    end = time.monotonic() + seconds
    while (children := _children()) and time.monotonic() < end:
        for pid in children:
            try:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, os.WNOHANG)
            except OSError:
                # Another thread has waited for it; or it has become somebody else's, and may not be killed.
                continue
        time.sleep(0.002)


def _children():
    found = []
    for task in Path("/proc/self/task").glob("*/children"):
        try:
            found += map(int, task.read_text().split())
        except OSError:
            # A thread that has ended.
            continue
    return found
