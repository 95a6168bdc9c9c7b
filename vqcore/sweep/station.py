"""A process that has imported what runs need, and forks them: most of a run is otherwise starting and importing.

A run is forked from it, and at once forks the process that will be its kernel. The station only imports: it
computes nothing and starts no thread, so that nothing is shared between runs and a fork is safe. It exits when
its supervisor does, and when there is nothing to do.
"""

import atexit
import gc
import importlib
import json
import os
import select
import signal
import sys
from pathlib import Path

from vqcore.sweep.ending import adopt_orphans, end_children

IDLE_SECONDS = 120
# What runs and kernels need themselves; the notebook's own imports come on top.
NEEDED = (
    "papermill", "nbclient", "vqcore.sweep.kernels", "tornado.platform.asyncio", "psutil",
    "ipykernel.kernelapp", "ipykernel.zmqshell", "ipykernel.debugger", "IPython.core.debugger", "IPython.core.oinspect",
    "IPython.core.completerlib", "IPython.extensions.storemagic",
)  # fmt: skip


def main(life, modules):
    """Serve runs, one at a time: a line with the folder of its sockets comes in, its pid and its end go out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Read when matplotlib is imported, which in a kernel happens after this is set.
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    # Registered first, and so called last: after a kernel's own farewells it spares the interpreter's, half a second.
    atexit.register(os._exit, 0)
    adopt_orphans()
    for name in (*NEEDED, *modules):
        try:
            import_name(name)
        except Exception:
            # The notebook will say so, in the cell that needs it.
            continue
    warm_up()
    # What is imported stays: no collection in a run need look at it, which would also copy its memory.
    gc.collect()
    gc.freeze()
    _reply({"ready": n_threads() == 1})
    while select.select([0], [], [], IDLE_SECONDS)[0]:
        line = _line()
        if not line:
            return
        pid = os.fork()
        if pid == 0:
            # Whichever process comes back from there ends as any other: by returning.
            _become_run(life, Path(line))
            return
        _reply({"begun": pid})
        _, status = os.waitpid(pid, 0)
        # Of a run that was killed, what it would have ended itself.
        end_children()
        _reply({"ended": os.waitstatus_to_exitcode(status)})


def import_name(name):
    """Import a module, or what a module has under that name."""
    parent, _, last = name.rpartition(".")
    if not parent or not hasattr(importlib.import_module(parent), last):
        importlib.import_module(name)


def warm_up():
    """Compile the schema of notebooks, which every run would do again."""
    import nbformat

    nbformat.validate(nbformat.v4.new_notebook())


def n_threads():
    """Threads of this process, those of libraries included, where the system tells; else 1."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return 1


def _become_run(life, sockets):
    from vqcore.sweep import runner
    from vqcore.sweep.forking import fork_kernel

    os.setsid()
    null, log = os.open(os.devnull, os.O_RDONLY), os.open(sockets / "runner.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    # Replaced, because the station's pipes must close with the station.
    for old, new in ((null, 0), (log, 1), (log, 2)):
        os.dup2(old, new)
    # Forked first: from here on there are threads.
    waiting = fork_kernel(life)
    if waiting is not None:
        runner.end_with(life, sockets)
        runner.main(sockets, waiting)
        # Nothing here needs the interpreter's last rites, which take a tenth of a second.
        os._exit(0)


def _line():
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            return ""
        line += byte
    return line.decode().rstrip("\n")


def _reply(message):
    os.write(1, (json.dumps(message) + "\n").encode())


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
