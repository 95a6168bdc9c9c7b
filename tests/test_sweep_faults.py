"""What machines do to a study: deaths, hangs, full disks, lost schedulers; and that nothing leaks from run to run."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import nbformat
import numpy as np
import pytest
from studies import command, content, marked, no_process_left, processes, rows, sweep, wait_until, write_notebook

import vqcore as vq
from vqcore.sweep import folder as store
from vqcore.sweep.grid import expand
from vqcore.sweep.notebook import read_notebook
from vqcore.sweep.preloading import modules_to_preload
from vqcore.sweep.supervising import WORTH_ANOTHER_TRY
from vqcore.writing import write_whole

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    """A small notebook that fails as its parameter `name` tells it."""
    return write_notebook(tmp_path_factory.mktemp("study") / "small.ipynb")


@pytest.fixture
def mark():
    """A text in the environment of all processes that a test starts; at its end none of them may live."""
    with no_process_left() as text:
        yield text


def failures(folder):
    return {found["parameters"]["name"]: found for found in json.loads((folder / "results.json").read_text())["failed"]}


LEAKY = """
import os, sys, random, numpy as np, numpy.random, matplotlib.pyplot as plt
import vqcore as vq
assert vq.fit_lloyd and vq.view
""", """
assert not hasattr(np, "left_behind") and "LEFT_BEHIND" not in os.environ and "left_behind" not in sys.modules
assert plt.rcParams["lines.linewidth"] == 1.5 and plt.get_fignums() == [] and np.geterr()["over"] == "warn"
assert set(os.listdir()) <= {"vqcore-run.log", "notebook.ipynb"} and "leak" not in globals() and os.getcwd().endswith(str(os.getppid()))
""", """
np.left_behind = leak = 1
os.environ["LEFT_BEHIND"] = "1"
sys.modules["left_behind"] = sys
plt.rcParams["lines.linewidth"] = 9
np.seterr(over="raise")
open("left_behind.txt", "w").write(str(seed))
""", """
vq.record(pid=os.getpid(), numpy=np.random.rand(), python=random.random(), figure=plt.figure().number)
plt.plot([1, 2]);
"""  # fmt: skip


def test_nothing_leaks_from_run_to_run(tmp_path, mark):
    path = write_notebook(tmp_path / "leaky.ipynb", LEAKY, "seed: int = 0")
    done = sweep(path, tmp_path / "runs", "-p", "seed=0:4", "--workers", 1, **marked(mark))
    assert done.returncode == 0, done.stdout
    found = rows(tmp_path / "runs")
    for name in ("pid", "numpy", "python"):
        assert len({row[name] for row in found}) == 4, f"{name} is shared"
    for row in found:
        home = tmp_path / "runs" / "done" / row["run_key"]
        assert (home / "left_behind.txt").read_text() == row["seed"], "files that a run writes are kept with it"
        outputs = [o for cell in json.loads((home / "notebook.ipynb").read_text())["cells"] for o in cell.get("outputs", [])]
        assert any("image/png" in output.get("data", {}) for output in outputs), "figures are shown as in any kernel"


def test_only_imports_that_are_safe_are_made_in_advance():
    sources = ["import numpy as np, faiss, os\nfrom scipy.spatial import Voronoi", "%matplotlib inline\nimport vqcore as vq", "vq.fit_lloyd; vq.view",
               "no python", "from . import x"]  # fmt: skip
    assert modules_to_preload(sources) == ["numpy", "scipy.spatial", "vqcore", "vqcore.fit_lloyd", "vqcore.view"]


def test_what_a_notebook_detaches_ends_with_its_run(tmp_path, notebook, mark):
    done = sweep(notebook, tmp_path / "runs", "-p", 'name="detached","runner, detached"', "--workers", 1, "--retries", 0, **marked(mark))
    assert done.returncode == 1 and "1 done now, 0 done earlier, 1 failed" in done.stdout, done.stdout
    (path,) = (tmp_path / "runs" / "done").glob("*/late.txt")
    before = path.read_bytes()
    time.sleep(0.3)
    assert path.read_bytes() == before and store.proven(tmp_path / "runs", path.parent.name), "changed after the end of its run"
    assert not processes(mark)


def test_deaths_get_the_right_name_and_are_tried_again(tmp_path, notebook, mark):
    once, log = tmp_path / "once", tmp_path / "log"
    env = marked(mark) | {"VQ_TEST_ONCE": str(once), "VQ_TEST_LOG": str(log)}
    names = '"ok","once","kill","runner"'
    done = sweep(notebook, tmp_path / "runs", "-p", f"name={names}", "--workers", 2, "--retries", 1, **env)
    assert done.returncode == 1 and "4 runs: 2 done now, 0 done earlier, 2 failed" in done.stdout, done.stdout
    found = failures(tmp_path / "runs")
    assert {name: each["kind"] for name, each in found.items()} == {"kill": "kernel died", "runner": "killed"}
    assert {row["name"]: row["run_tries"] for row in rows(tmp_path / "runs")} == {"ok": "1", "once": "2"}
    assert sorted(log.read_text().split("\n")) == ["", "8 0.5 ok", "8 0.5 once"], "what died has not been taken for done"
    assert list((tmp_path / "runs" / ".private").iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_end_of_a_run_has_its_true_name(tmp_path, notebook, mark):
    expected = {"raise": "error", "exit": "exit", "exit 1": "exit", "die": "kernel died", "kill": "kernel died", "hang": "timeout",
                "deaf": "timeout", "runner": "killed", "segv": "kernel died", "stop": "timeout", "interrupt": "interrupted"}  # fmt: skip
    listed = ",".join(json.dumps(name) for name in ("ok", *expected))
    orphan = tmp_path / "orphan"
    arguments = ["-p", f'name={listed},"orphans"', "--workers", 2, "--retries", 0, "--timeout", 4]
    done = sweep(notebook, tmp_path / "runs", *arguments, timeout=400, **marked(mark), VQ_TEST_ORPHAN=str(orphan))
    assert done.returncode == 1, done.stderr
    found = failures(tmp_path / "runs")
    assert {name: each["kind"] for name, each in found.items()} == expected
    assert {row["name"] for row in rows(tmp_path / "runs")} == {"ok", "orphans"}
    for name in ("hang", "deaf", "stop"):
        failed = json.loads((tmp_path / "runs" / "failed" / found[name]["key"] / "failure.json").read_text())
        assert failed["seconds"] <= 4 + 5, "ended within five seconds of the limit"
    assert wait_until(lambda: not processes(mark), 5), "what a notebook starts ends with it"


@pytest.mark.slow
def test_an_exception_that_a_notebook_announces_is_none_of_a_success(tmp_path, mark):
    """Papermill runs all cells of such a notebook, says that each is completed, and raises."""
    path = write_notebook(tmp_path / "announced.ipynb", ["1 / 0", "import vqcore as vq\nvq.record(a=1)"], "name: str = 'ok'")
    content = nbformat.read(path, 4)
    content.cells[1].metadata["tags"] = ["raises-exception"]
    nbformat.write(content, path)
    done = sweep(path, tmp_path / "runs", **marked(mark))
    assert done.returncode == 1 and rows(tmp_path / "runs") == []
    assert failures(tmp_path / "runs")["ok"]["kind"] == "error" and "code cell 2" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, *(pytest.param(n, marks=pytest.mark.slow) for n in (signal.SIGTERM, signal.SIGKILL))])
def test_a_driver_that_is_stopped_takes_everything_with_it(tmp_path, notebook, mark, number):
    arguments = ["-p", "n=1", "-p", 'name="ok","hang"', "--workers", 2]
    driver = subprocess.Popen(
        command(notebook, tmp_path / "runs", *arguments), env=os.environ | marked(mark), stderr=subprocess.PIPE, stdout=-3, text=True
    )
    try:
        assert wait_until(lambda: list((tmp_path / "runs" / "done").glob("*/record.json")), 60)
        driver.send_signal(number)
        assert driver.wait(30) == (-9 if number == signal.SIGKILL else 130)
        if number != signal.SIGKILL:
            assert "the same command goes on" in driver.stderr.read()
            assert [row["name"] for row in rows(tmp_path / "runs")] == ["ok"]
        assert wait_until(lambda: not processes(mark), 15), processes(mark)
    finally:
        driver.kill()
        driver.wait()
        driver.stderr.close()
    (run,) = expand(read_notebook(notebook), {"n": 1, "name": "ok"})
    assert store.proven(tmp_path / "runs", run.key)


@pytest.fixture
def small_disk(tmp_path):
    """A file system in memory of the size that is asked for, unmounted in the end."""
    mounted = []

    def mount(size, *options):
        path = tmp_path / f"disk{len(mounted)}"
        path.mkdir()
        made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], capture_output=True)
        if made.returncode:
            pytest.skip("needs the right to mount")
        mounted.append(path)
        return path

    yield mount
    for path in mounted:
        subprocess.run(["umount", path], check=True)


@pytest.mark.slow
def test_a_full_disk_is_told_and_older_runs_stay(small_disk, notebook, mark, tmp_path):
    disk = small_disk("14m")
    first = sweep(notebook, disk / "runs", "-p", "n=1", **marked(mark))
    assert first.returncode == 0, first.stdout + first.stderr
    done = {path: path.read_bytes() for path in (disk / "runs" / "done").rglob("*") if path.is_file()}
    table = (disk / "runs" / "results.csv").read_bytes()
    for size in ("5m", "1m", "100k"):
        subprocess.run(["mount", "-o", f"remount,size={size}", disk], check=True)
        refused = sweep(notebook, disk / "runs", "-p", "n=1,2", **marked(mark))
        assert refused.returncode == 2 and "MB left" in refused.stderr
        assert {path: path.read_bytes() for path in done} == done and (disk / "runs" / "results.csv").read_bytes() == table
    subprocess.run(["mount", "-o", "remount,size=14m", disk], check=True)

    # Filled from within a run, to the last byte.
    greedy = write_notebook(tmp_path / "greedy.ipynb", ["open('ballast', 'wb').write(bytes(20_000_000))"])
    full = sweep(greedy, disk / "runs", **marked(mark))
    assert full.returncode == 1 and "No space left" in full.stdout, full.stdout + full.stderr
    assert {path: path.read_bytes() for path in done} == done
    shutil.rmtree(disk / "runs" / "failed")
    again = sweep(notebook, disk / "runs", "-p", "n=1,2", **marked(mark))
    assert again.returncode == 0 and "1 done now, 1 done earlier" in again.stdout, again.stdout + again.stderr
    assert {path: path.read_bytes() for path in done} == done and len(rows(disk / "runs")) == 2


def test_a_write_that_fails_leaves_the_older_file(small_disk):
    disk = small_disk("100k")
    target = write_whole(disk / "results.csv", b"old\n")
    with pytest.raises(OSError):
        write_whole(target, bytes(200_000))
    assert target.read_bytes() == b"old\n" and [path.name for path in disk.iterdir()] == ["results.csv"]


def test_a_folder_that_cannot_be_written_is_refused_within_a_second(small_disk, notebook):
    disk = small_disk("1m")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    start = time.monotonic()
    with pytest.raises(vq.InputError, match="cannot be written"):
        vq.sweep.sweep(notebook, {"n": [1, 2]}, disk / "runs")
    assert time.monotonic() - start < 1


@pytest.mark.slow
def test_a_scheduler_and_workers_of_their_own(tmp_path, notebook, mark):
    """As on a cluster: processes that this test starts one by one, on the loopback."""
    env, address_file = os.environ | marked(mark), tmp_path / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": env, "cwd": tmp_path}
    local = ["--host", "127.0.0.1"]
    started = [subprocess.Popen([*dask, "scheduler", *local, "--port", "0", "--no-dashboard", "--scheduler-file", address_file], **quiet)]
    try:
        assert wait_until(lambda: address_file.exists() and address_file.read_text(), 60)
        address = json.loads(address_file.read_text())["address"]
        for _ in range(2):
            started.append(subprocess.Popen([*dask, "worker", *local, address, "--nthreads", "1", "--no-dashboard"], **quiet))
        arguments = ["-p", "n=0:12", "--scheduler", address]
        done = sweep(notebook, tmp_path / "runs", *arguments, **marked(mark))
        assert done.returncode == 0 and "12 done now" in done.stdout, done.stdout + done.stderr
        # One of the workers dies in the middle.
        driver = subprocess.Popen(command(notebook, tmp_path / "more", *arguments), env=env, stdout=subprocess.PIPE, text=True)
        started.append(driver)
        assert wait_until(lambda: len(list((tmp_path / "more" / "done").glob("*"))) >= 3, 60)
        started[1].kill()
        assert driver.wait(120) == 0, driver.communicate()
        driver.stdout.close()
        assert content(tmp_path / "more") == content(tmp_path / "runs")
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait(30)
    wait_until(lambda: not processes(mark), 20)


def test_a_busy_port_is_no_news(tmp_path, notebook):
    """Dask's own page would like port 8787, where another cluster's may be."""
    with socket.socket() as taken:
        with contextlib.suppress(OSError):  # then it is taken already
            taken.bind(("127.0.0.1", 8787))
            taken.listen()
        done = sweep(notebook, tmp_path / "runs", "-p", "n=1", "--workers", 1)
    assert done.returncode == 0 and "8787" not in done.stderr + done.stdout, done.stdout + done.stderr


@pytest.mark.slow
def test_a_scheduler_that_is_not_there_is_told(tmp_path, notebook):
    done = sweep(notebook, tmp_path / "runs", "--scheduler", "tcp://127.0.0.1:9")
    assert done.returncode == 2 and "no Dask scheduler" in done.stderr, done.stderr


@pytest.mark.slow
def test_a_run_costs_a_fifth_of_what_papermill_costs(tmp_path, mark):
    """Of a small notebook, side by side: what ten more runs add to a sweep, next to papermill's command."""
    path = write_notebook(tmp_path / "quick.ipynb", ["import numpy as np\nimport vqcore as vq", "vq.record(seed=np.mean([seed]))"], "seed: int = 0")

    def seconds(run):
        start = time.monotonic()
        assert run().returncode == 0
        return time.monotonic() - start

    few, many, theirs = [], [], []
    for number in range(5):
        few.append(seconds(lambda: sweep(path, tmp_path / f"few{number}", "-p", "seed=0:2", "--workers", 1)))
        many.append(seconds(lambda: sweep(path, tmp_path / f"many{number}", "-p", "seed=0:12", "--workers", 1)))
        papermill = [sys.executable, "-m", "papermill", path, tmp_path / "out.ipynb", "-p", "seed", "1", "--no-progress-bar"]
        theirs.append(seconds(lambda: subprocess.run(papermill, capture_output=True)))
    # The least of several: whatever else the machine does only adds.
    ours = (min(many) - min(few)) / 10
    print(f"a run: {ours:.2f} s; papermill: {min(theirs):.2f} s; ratio {ours / min(theirs):.2f}")
    assert ours <= min(theirs) / 5


def test_what_is_tried_again_is_what_may_mend():
    assert "error" not in WORTH_ANOTHER_TRY and "exit" not in WORTH_ANOTHER_TRY and "disk full" not in WORTH_ANOTHER_TRY

COMPUTING = [
    "import time\nimport vqcore as vq",
    "points = vq.Normal().sample(200_000 * 8, seed=seed).reshape(-1, 8)\nvq.fit_lloyd(points, 128, n_steps=1)",
    "begin = time.perf_counter()\nfit = vq.fit_lloyd(points, 128, n_steps=50)\nvq.record(took=time.perf_counter() - begin)",
]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_runs_side_by_side_do_not_fight_for_the_cores(tmp_path, mark):
    """Two workers on two cores, a thread for each run or two: what the computation itself takes, in turns."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        pytest.skip("needs two cores")
    path = write_notebook(tmp_path / "computing.ipynb", COMPUTING, "seed: int = 0")
    took = {1: [], 2: []}
    for number in range(6):
        for threads in sorted(took, reverse=number % 2):
            folder = tmp_path / f"runs{threads}-{number}"
            pinned = ["taskset", "-c", "{},{}".format(*cores), *command(path, folder, "-p", "seed=0:4", "--workers", 2, "--threads", threads)]
            done = subprocess.run(pinned, capture_output=True, text=True, env=os.environ | marked(mark), timeout=300)
            assert done.returncode == 0, done.stdout + done.stderr
            took[threads].append(np.median([float(row["took"]) for row in rows(folder)]))
    ratios = np.divide(took[2], took[1])
    print(f"two threads for each of two runs on two cores, over one: {np.median(ratios):.2f} times as long, from {min(ratios):.2f} to {max(ratios):.2f}")
    assert 0.95 < np.median(ratios) < 1.2  # nothing gained to speak of, and little lost
