"""Studies under random kills, in pairs and beside other people's kernels: a few in every test run, hundreds among the slow tests."""

import collections
import csv
import io
import json
import os
import random
import subprocess
import sys
import time

import pytest
from studies import command, content, end, kin, marked, no_process_left, parent_of, processes, rows, sweep, wait_until, write_notebook

from vqcore.sweep import folder as store
from vqcore.sweep.grid import expand
from vqcore.sweep.notebook import read_notebook

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")

# The results take many digits, and a file beside them is part of what a run is.
TINY = [
    "import os\nimport vqcore as vq",
    'with open(os.environ.get("VQ_TEST_LOG", os.devnull), "a") as log:\n    log.write(f"{seed}\\n")',
    'open("beside.bin", "wb").write(bytes(100_000))\nvq.record(third=(seed + 1) / 3, name=f"run {seed}")',
]


def often(few, n, seconds):
    """A count: small in every test run, in full among the slow tests."""
    return [few, pytest.param(n, marks=[pytest.mark.slow, pytest.mark.timeout(seconds)])]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A notebook that does next to nothing."""
    return write_notebook(tmp_path_factory.mktemp("study") / "tiny.ipynb", TINY, "seed: int = 0")


@pytest.fixture
def mark():
    """A text in the environment of all processes that a test starts; at its end none of them may live."""
    with no_process_left() as text:
        yield text


class Watched:
    """A folder of a sweep, whose every file must be whole whenever it is looked at, and which no proof may leave."""

    def __init__(self, folder):
        self.folder, self.proofs, self.n_reads = folder, {}, collections.Counter()

    def look(self):
        """Read everything that a reader may read."""
        for path in self.folder.glob("done/*/record.json"):
            found = path.read_bytes()
            assert found == store.sealed(json.loads(found)), f"{path} is damaged"
            assert path in self.proofs or store.proven(self.folder, path.parent.name), f"{path} proves nothing"
            assert self.proofs.setdefault(path, found) == found, "a finished run was made again"
            self.n_reads["records"] += 1
        for path in self.folder.glob("done/*/notebook.ipynb"):
            assert json.loads(path.read_bytes())["cells"], path
            self.n_reads["notebooks"] += 1
        for path in self.folder.glob("results.csv"):
            text = path.read_text()
            listed = {row["run_key"] for row in csv.DictReader(io.StringIO(text))}
            assert text.endswith("\n") and all(store.proven(self.folder, key) for key in listed), "read while it was written"
            self.n_reads["tables"] += 1
        for path in self.folder.glob("results.json"):
            assert json.loads(path.read_bytes())["notebook"] == "tiny", "read while it was written"
            self.n_reads["tables"] += 1

    def is_finished(self, whole):
        """Look for the last time: the same results as a sweep that nobody disturbed, and nothing else."""
        self.look()
        assert content(self.folder) == content(whole)
        assert all(path.read_bytes() == proof for path, proof in self.proofs.items()) and len(self.proofs) == len(rows(whole))
        assert {path.name for path in self.folder.iterdir()} == {*store.PARTS, "results.csv", "results.json"}
        left = {part: [path.name for path in (self.folder / part).iterdir()] for part in ("failed", ".private", ".notebooks")}
        assert (left["failed"], left[".private"], len(left[".notebooks"])) == ([], [], 1), left


def start(tiny, folder, mark, *arguments, **env):
    """The command, begun; what it says goes to a file beside its folder."""
    with open(folder.with_suffix(".said"), "ab") as said:
        return subprocess.Popen(command(tiny, folder, *arguments), env=os.environ | marked(mark) | env, stdout=said, stderr=said)


def said(folder):
    """The last that a command said."""
    return folder.with_suffix(".said").read_text()[-2000:]


def unbroken(tiny, folder, mark, arguments):
    """How long a sweep takes that nobody disturbs."""
    begun = time.monotonic()
    done = sweep(tiny, folder, *arguments, **marked(mark))
    assert done.returncode == 0, done.stdout + done.stderr
    return time.monotonic() - begun


def is_killed(driver, watched, mark, rng, span):
    """Kill a driver at a random moment, and sometimes another process of the sweep before; False if it has ended by then."""
    seconds = rng.uniform(0, span)
    if rng.random() < 0.7:
        # Most of a small sweep is its beginning: from the first run on that it adds.
        wait_until(lambda: driver.poll() is not None or len(list(watched.folder.glob("done/*"))) > len(watched.proofs), 120)
        seconds /= 6
    time.sleep(seconds / 2)
    others = [pid for kind, pids in kin(mark, driver).items() if kind != "driver" for pid in pids]
    if others and rng.random() < 0.25:
        end(rng.choice(others))
    time.sleep(seconds / 2)
    if driver.poll() is None:
        driver.kill()
    return driver.wait() == -9


@pytest.mark.parametrize("n_kills", often(1, 200, 3600))
def test_a_driver_killed_at_random_moments_goes_on_where_it_was(tmp_path, tiny, mark, n_kills):
    n_runs = 20 if n_kills > 1 else 6
    arguments, whole = ["-p", f"seed=0:{n_runs}", "--workers", 2, "--retries", 5], tmp_path / "whole"
    span = unbroken(tiny, whole, mark, arguments)
    rng, n_done, n_folders = random.Random(0), [], 0
    while len(n_done) < n_kills:
        watched, n_folders = Watched(tmp_path / f"broken{n_folders}"), n_folders + 1
        driver = None
        # Killed until one of them comes to its end first; the next one starts while the last one's runs are still dying.
        while driver is None or driver.returncode == -9:
            driver = start(tiny, watched.folder, mark, *arguments)
            if len(n_done) < n_kills and is_killed(driver, watched, mark, rng, span):
                n_done.append(0)
            assert driver.wait(120) in (0, -9), said(watched.folder)
            watched.look()
            if driver.returncode == -9:
                n_done[-1] = len(watched.proofs)
        watched.is_finished(whole)
    assert wait_until(lambda: not processes(mark), 20), processes(mark)
    n_between = sum(0 < n < n_runs for n in n_done)
    print(f"{n_kills} drivers killed in {n_folders} sweeps, {n_between} of them between the first run and the last")
    assert n_between >= n_kills // 4, "killed before the first run was done, or after the last"


def run_at_work(pid, lines):
    """The run that a worker, a station, a run or a kernel is busy with: of its family, the one that a folder is named for."""
    family = {pid, parent_of(pid)} | {child for child in lines if parent_of(child) == pid}
    return family | {child for child in lines if parent_of(child) in family}


@pytest.mark.parametrize("n_kills", often(1, 50, 1200))
def test_a_death_beside_the_driver_costs_that_run_alone(tmp_path, tiny, mark, n_kills):
    n_runs, n_each = (20, 5) if n_kills > 1 else (6, 1)
    keys = [run.key for run in expand(read_notebook(tiny), {"seed": range(n_runs)})]
    rng, kinds, n_failed = random.Random(0), collections.Counter(), 0
    for number in range(n_kills // n_each):
        watched, log = Watched(tmp_path / f"runs{number}"), tmp_path / f"log{number}"
        driver = start(tiny, watched.folder, mark, "-p", f"seed=0:{n_runs}", "--workers", 2, VQ_TEST_LOG=str(log))
        hits, n_unknown = collections.Counter(), 0
        for n_before in sorted(rng.sample(range(n_runs - 4), n_each)):
            wait_until(lambda: len(list(watched.folder.glob("done/*"))) >= n_before, 60)
            time.sleep(rng.uniform(0, 0.5))
            # At the very beginning there is nobody yet.
            ours = wait_until(lambda: [(kind, pid) for kind, pids in kin(mark, driver).items() if kind != "driver" for pid in pids], 20)
            assert ours, "the sweep came to its end before it was disturbed"
            kind, pid = rng.choice(ours)
            family = run_at_work(pid, processes(mark))
            at_work = [path.name.split("-")[0] for path in watched.folder.glob(".private/*-*") if int(path.name.split("-")[-1]) in family]
            end(pid)
            kinds[kind] += 1
            hits.update(at_work)
            # It had not begun, or it was done before it was hit, and then the next run was hit perhaps.
            n_unknown += not at_work or bool(store.proven(watched.folder, at_work[0]))
            watched.look()
        assert driver.wait(120) in (0, 1), said(watched.folder)
        watched.look()
        begun = collections.Counter(keys[int(line)] for line in log.read_text().split())
        failed = {found["key"]: found for found in json.loads((watched.folder / "results.json").read_text())["failed"]}
        assert set(keys) == failed.keys() | {row["run_key"] for row in rows(watched.folder)}, "others finish"
        for key, found in failed.items():
            assert hits[key] + n_unknown > 2 and (found["kind"] in ("killed", "kernel died") or "KilledWorker" in found["sentence"]), found
        assert sum(max(0, begun[key] - 1 - hits[key]) for key in keys) <= n_unknown, "a run was made again that nobody hit"
        assert wait_until(lambda: not processes(mark), 20), processes(mark)
        n_failed += len(failed)
    print(f"{dict(kinds)} killed in {n_kills // n_each} sweeps; {n_failed} runs were hit too often")
    assert n_failed <= n_kills // 10


@pytest.mark.parametrize("n_pairs", often(1, 50, 1800))
def test_two_sweeps_of_one_folder_make_no_run_twice(tmp_path, tiny, mark, n_pairs):
    n_reads = collections.Counter()
    for number in range(n_pairs):
        watched, log = Watched(tmp_path / f"runs{number}"), tmp_path / f"log{number}"
        both = [start(tiny, watched.folder, mark, "-p", "seed=0:8", "--workers", 1, VQ_TEST_LOG=str(log)) for _ in range(2)]
        while any(driver.poll() is None for driver in both):
            watched.look()
            time.sleep(0.01)
        watched.look()
        assert [driver.returncode for driver in both] == [0, 0], said(watched.folder)
        assert sorted(log.read_text().split()) == list("01234567"), "a run was made twice, or not at all"
        assert sorted(row["seed"] for row in rows(watched.folder)) == list("01234567")
        n_reads.update(watched.n_reads)
    print(f"{n_pairs} pairs, read {dict(n_reads)} times")
    assert sum(n_reads.values()) >= 200 * n_pairs and n_reads["tables"] >= n_pairs


@pytest.mark.parametrize("n_survivals", often(2, 100, 1200))
def test_a_foreign_kernel_is_left_alone(tmp_path, mark, n_survivals):
    """Four of them (two), beside sweeps in each of which kernels are ended in four ways."""
    notebook, n_kernels = write_notebook(tmp_path / "small.ipynb"), 4 if n_survivals > 2 else 2
    launch = [sys.executable, "-m", "ipykernel_launcher", "-f"]
    foreign = [subprocess.Popen([*launch, str(tmp_path / f"{i}.json")], stdout=-3, stderr=-3, start_new_session=i % 2 > 0) for i in range(n_kernels)]
    n_survived = 0
    try:
        while n_survived < n_survivals:
            folder = tmp_path / f"runs{n_survived}"
            arguments = ["-p", 'name="ok","die","kill","hang","runner"', "--workers", 2, "--retries", 0, "--timeout", 1]
            done = sweep(notebook, folder, *arguments, **marked(mark))
            assert done.returncode == 1 and len(rows(folder)) == 1, done.stdout + done.stderr
            assert [kernel.poll() for kernel in foreign] == [None] * n_kernels, f"after {n_survived} survivals"
            n_survived += n_kernels
    finally:
        for kernel in foreign:
            kernel.kill()
            kernel.wait()


def test_a_death_at_any_step_leaves_what_is_whole(tmp_path, root):
    done = subprocess.run([sys.executable, str(root / "tests" / "dying.py"), str(tmp_path)], capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 50, "the deaths missed the work"
