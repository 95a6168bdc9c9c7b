"""One run, in a process of its own: it holds the lock, runs the notebook in a private folder, writes the record last.

The process that supervises it passes a folder for the kernel's sockets, with `task.json` in it, and finds
`outcome.json` there; no other word of this process counts. It ends when its supervisor does.
"""

import errno
import json
import math
import os
import platform
import shutil
import signal
import sys
import threading
import time
from importlib import metadata
from pathlib import Path

from vqcore.sweep import folder as store
from vqcore.sweep.ending import LOG, adopt_orphans, end_children, end_kernel
from vqcore.sweep.recording import recorded

NEEDED_BYTES = 4_000_000
VERSIONS = ("vqcore", "numpy", "numba", "scipy", "torch", "papermill", "ipykernel")


class Failed(Exception):
    """A run did not succeed: of which kind the failure is, and a sentence."""

    def __init__(self, kind, sentence):
        super().__init__(sentence)
        self.kind, self.sentence = kind, sentence


def main(sockets, waiting=None):
    """Run the task in `sockets`; `waiting` is a forked process that will be the kernel, or None."""
    adopt_orphans()
    sockets = Path(sockets)
    task = json.loads((sockets / "task.json").read_text())
    folder, key = Path(task["folder"]), task["key"]
    try:
        with store.locked(folder, key, math.inf if task["wait"] else 0.0) as held:
            outcome = _locked_run(task, folder, sockets, waiting) if held else {"status": "elsewhere"}
    except OSError as error:
        outcome = {"status": "failed", **_of_os_error(error)}
    (sockets / "outcome.json").write_text(json.dumps(outcome))


def _locked_run(task, folder, sockets, waiting):
    key = task["key"]
    if store.proven(folder, key):
        return {"status": "earlier"}
    store.clear_leftovers(folder, key)
    if shutil.disk_usage(folder).free < NEEDED_BYTES:
        return {"status": "failed", "kind": "disk full", "sentence": f"the disk of {folder} is full"}
    private = folder / ".private" / f"{key}-{os.getpid()}"
    private.mkdir()
    before = store.failure(folder, key) or {}
    begun = {
        "key": key,
        "tries": 1 + (before.get("tries", 0) if before.get("sweep") == task["sweep"] else 0),
        "parameters": task["parameters"],
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    start = time.perf_counter()
    try:
        notebook = _executed(task, folder, private, sockets, waiting)
        seconds = round(time.perf_counter() - start, 3)
        # What the libraries wrote to stderr matters only when something went wrong.
        (private / LOG).unlink(missing_ok=True)
        done = {"status": "done", "results": recorded(notebook), "seconds": seconds}
        store.publish(folder, key, private, begun | done | _circumstances(task))
        return {"status": "done"}
    except (Failed, OSError) as error:
        found = {"kind": error.kind, "sentence": error.sentence} if isinstance(error, Failed) else _of_os_error(error)
    found = {"status": "failed", **found}
    try:
        seconds = round(time.perf_counter() - start, 3)
        store.keep_failure(folder, key, private, begun | found | {"seconds": seconds, "sweep": task["sweep"]})
    except OSError:
        shutil.rmtree(private, ignore_errors=True)
    return found


def _executed(task, folder, private, sockets, waiting):
    """The executed notebook, a dict; it has run from its first cell to its last.

    Raises:
        Failed: in any other case.
    """
    source = folder / ".notebooks" / f"{task['notebook']['digest']}.ipynb"
    output = private / "notebook.ipynb"
    os.chdir(private)
    with open(LOG, "ab", buffering=0) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    _papermill(source, output, task, sockets, waiting)
    notebook = json.loads(output.read_bytes())
    for cell in notebook["cells"]:
        # nbclient leaves out what is tagged so.
        left_out = "skip-execution" in cell["metadata"].get("tags", [])
        if cell["cell_type"] == "code" and "".join(cell["source"]).strip() and not left_out:
            ends = [o for o in cell["outputs"] if o["output_type"] == "error" and o.get("ename") == "SystemExit"]
            if ends or cell["execution_count"] is None:
                # papermill reports success here, although the cells below did not run.
                raise Failed("exit", f"{cell_at_fault(notebook)} called sys.exit, and the cells below it did not run")
    return notebook


def cell_at_fault(notebook):
    """The code cell that raised, or else was begun last, by its number and its first line: counted as its author does."""
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    # Papermill's own cell, which sets the parameters, is not in the author's notebook.
    cells = [cell for cell in cells if "injected-parameters" not in cell["metadata"].get("tags", [])]
    raised = [i for i, cell in enumerate(cells) if any(o["output_type"] == "error" for o in cell["outputs"])]
    begun = [i for i, cell in enumerate(cells) if cell["execution_count"] is not None]
    if not raised + begun:
        return "the cell of the parameters"
    number = raised[0] if raised else begun[-1]
    lines = [line.strip() for line in "".join(cells[number]["source"]).splitlines() if line.strip()]
    return f"code cell {number + 1} (`{lines[0][:60] if lines else ''}`)"


def _papermill(source, output, task, sockets, waiting):
    # Imported here and in what preloads it: every other part of this module is light.
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    from vqcore.sweep.kernels import kernel_manager

    try:
        papermill.execute_notebook(
            # As text with its braces, a path would be formatted with the parameters.
            str(source).replace("{", "{{").replace("}", "}}"),
            str(output).replace("{", "{{").replace("}", "}}"),
            parameters=task["given"],
            kernel_name="python3",
            execution_timeout=task["timeout"],
            start_timeout=120,
            progress_bar=False,
            log_output=False,
            kernel_manager_class=kernel_manager(sockets, waiting),
        )
    except CellTimeoutError:
        raise Failed("timeout", f"{_cell_in(output)} took longer than {task['timeout']:g} s") from None
    except DeadKernelError:
        raise Failed("kernel died", f"the kernel died in {_cell_in(output)}: out of memory, or killed") from None
    except PapermillExecutionError as error:
        kind = {"SystemExit": "exit", "KeyboardInterrupt": "interrupted"}.get(error.ename, "error")
        raise Failed(kind, f"{_cell_in(output)} raised {error.ename}: {error.evalue}"[:500]) from None
    except OSError:
        raise
    except Exception as error:
        kind = "kernel died" if "Kernel died" in str(error) or "Kernel didn't respond" in str(error) else "broken"
        raise Failed(kind, f"{type(error).__name__}: {error}"[:500]) from None
    finally:
        end_kernel(sockets)
        # Before its files are taken as they are: what still runs could change them.
        end_children()


def _cell_in(output):
    try:
        return cell_at_fault(json.loads(output.read_bytes()))
    except (OSError, ValueError, KeyError, TypeError):
        # What papermill left is not whole, which must not hide the failure itself.
        return "a cell"


def _circumstances(task):
    versions = {}
    for name in VERSIONS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            pass
    machine = {"host": platform.node(), "platform": platform.platform(), "python": platform.python_version()}
    return {"notebook": task["notebook"], "machine": machine, "versions": versions, "threads": task["threads"]}


def _of_os_error(error):
    kind = {errno.ENOSPC: "disk full", errno.EDQUOT: "disk full", errno.EFBIG: "disk full"}.get(error.errno, "files")
    return {"kind": kind, "sentence": f"{error.strerror}: {error.filename or 'the private folder'}"}


def end_with(life, sockets):
    """Watch a pipe that only the supervisor holds open: when it closes, end the kernel and this process."""

    def watch():
        while os.read(life, 1):
            pass
        end_kernel(sockets)
        end_children()
        shutil.rmtree(sockets, ignore_errors=True)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    # Ctrl-C is the driver's to answer.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with(sys.stdin.fileno(), Path(sys.argv[1]))
    main(sys.argv[1])
