"""How the kernel of a run is ended: by its own process group, whose number it left beside its sockets."""

import os
import signal

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
