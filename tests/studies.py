"""A small notebook that fails in many ways, the command that sweeps it, and what it leaves."""

import contextlib
import csv
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_notebook

PARAMETERS = """
from typing import Optional
n: int = 8                # a whole number
width: float = 0.5        # a number
name: str = "ok"          # a text
fast: bool = False        # yes or no
sizes: list[int] = [1]    # several
table: dict[str, float] = {}  # by name
limit: Optional[int] = None   # perhaps
either: "int | None" = None   # as text
plain = 3
computed = 2 ** 3
"""
CELLS = [
    "import os, sys, time\nimport vqcore as vq",
    """
if name == "raise":
    raise ValueError("no good")
if name == "exit":
    sys.exit(0)
if name == "exit 1":
    sys.exit(1)
if name == "die":
    os._exit(0)
if name == "kill":
    os.kill(os.getpid(), 9)
if name == "hang":
    time.sleep(600)
if name == "deaf":
    import signal
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end = time.time() + 600
    while time.time() < end:
        time.sleep(1)
if name == "orphans":
    import subprocess
    child = subprocess.Popen(["sleep", "600"])
    open(os.environ["VQ_TEST_ORPHAN"], "w").write(str(child.pid))
if "detached" in name:
    import subprocess
    child = subprocess.Popen(["sh", "-c", "(while sleep 0.05; do date +%N > late.txt; done)& sleep 600"], start_new_session=True)
    while not os.path.exists("late.txt"):
        time.sleep(0.01)
if name == "segv":
    os.kill(os.getpid(), 11)
if name == "stop":
    os.kill(os.getpid(), 19)
if name == "interrupt":
    os.kill(os.getpid(), 2)
    time.sleep(600)
if "runner" in name:
    os.kill(os.getppid(), 9)
    time.sleep(600)
if name == "once" and not os.path.exists(os.environ["VQ_TEST_ONCE"]):
    open(os.environ["VQ_TEST_ONCE"], "w").close()
    os._exit(1)
""",
    'with open(os.environ.get("VQ_TEST_LOG", os.devnull), "a") as log:\n    log.write(f"{n} {width} {name}\\n")',
    "vq.record(product=n * width, threads=os.environ['OMP_NUM_THREADS'])\nvq.record(name=name, sizes=sizes)",
]


def write_notebook(path, cells=CELLS, parameters=PARAMETERS):
    """A notebook with these cells below its parameters; its path."""
    cells = [new_code_cell(parameters, metadata={"tags": ["parameters"]}), *map(new_code_cell, cells)]
    spec = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=cells, metadata=spec), path)
    return path


def command(notebook, folder, *arguments):
    """The command as a list."""
    return [sys.executable, "-m", "vqcore", "sweep", str(notebook), "-o", str(folder), *map(str, arguments)]


def sweep(notebook, folder, *arguments, timeout=200, **env):
    """The finished command."""
    run = command(notebook, folder, *arguments)
    # A kernel chooses its own way to show figures, unless somebody else has.
    inherited = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    return subprocess.run(run, capture_output=True, text=True, timeout=timeout, env=inherited | env)


def rows(folder):
    """The table, a dict a row."""
    with open(folder / "results.csv", newline="") as file:
        return list(csv.DictReader(file))


def content(folder):
    """The table less the circumstances of its runs, as text that can be compared bit for bit."""
    return [[(name, value) for name, value in row.items() if not name.startswith("run_")] for row in rows(folder)]


def processes(mark):
    """Pid -> command line of every process whose environment holds this text: kernels and stations inherit it."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (path / "environ").read_bytes() and (path / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                found[int(path.name)] = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
    return found


def parent_of(pid):
    """The pid of a process's parent; 0 if it is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def marked(mark):
    """A mark as the environment that sets it."""
    return dict([mark.split("=")])


@contextlib.contextmanager
def no_process_left():
    """A mark for the environment of whatever is started; in the end none of these processes may live."""
    mark = f"VQ_TEST_MARK={uuid.uuid4().hex}"
    yield mark
    # Some, as Python's own resource tracker, end a moment after those who started them.
    wait_until(lambda: not processes(mark), 5)
    left = processes(mark)
    for pid in left:
        end(pid)
    assert not left, left


def kin(mark, driver):
    """The processes of a sweep by what they are: driver, worker, station, run, kernel; lists of pids."""
    found = {"driver": [driver.pid] if driver.poll() is None else [], "worker": [], "station": [], "run": [], "kernel": []}
    lines = processes(mark)
    stations = {pid for pid, line in lines.items() if "vqcore.sweep.station" in line}
    for pid, line in lines.items():
        if "spawn_main" in line:
            found["worker"].append(pid)
        elif pid in stations:
            forks = (parent_of(pid) in stations) + (parent_of(parent_of(pid)) in stations)
            found[("station", "run", "kernel")[forks]].append(pid)
    return found


def wait_until(condition, seconds):
    """What the condition returns once it is true, or what it last was."""
    end = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    return found


def end(pid):
    """Kill one process, if it is still there."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
