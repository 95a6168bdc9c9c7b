"""Studies: which runs a grid names, what a run hands over, and that a record is the only proof of success."""

import json
import math
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import distributed
import nbformat
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from papermill.translators import PythonTranslator
from studies import rows, sweep, write_notebook

import vqcore as vq
from vqcore.__main__ import main
from vqcore.sweep import folder as store
from vqcore.sweep.grid import canonical, conforming, expand, plain, values_of
from vqcore.sweep.notebook import read_notebook
from vqcore.sweep.recording import recorded
from vqcore.sweep.runner import cell_at_fault
from vqcore.sweep.showing import Lines, shown
from vqcore.sweep.study import Study, _Cluster, _outcome
from vqcore.sweep.supervising import RunFailed
from vqcore.sweep.table import proven_records, row_of, write_table


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    """A small notebook that fails as its parameter `name` tells it."""
    return write_notebook(tmp_path_factory.mktemp("study") / "small.ipynb")


# ---- which runs a grid names


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("n=1,2,3", [1, 2, 3]),
        ("n=0:4", [0, 1, 2, 3]),
        ("n=10:0:-5", [10, 5]),
        ("width=1e-3,2", [0.001, 2]),
        ("fast=true,false", [True, False]),
        ('name="a, b","c"', ["a, b", "c"]),
        ("name=numpy,torch:cuda", ["numpy", "torch:cuda"]),
        ("sizes=[1,2],[3]", [[1, 2], [3]]),
        ('table={"a":1}', [{"a": 1}]),
        ("limit=null,3", [None, 3]),
    ],
)
def test_values_of_an_option(notebook, option, values):
    assert values_of(option, read_notebook(notebook).declared) == (option.partition("=")[0], values)


@pytest.mark.parametrize(
    "option",
    ["n", "n=", "n=1,,2", "n=1:", "n=5:5", "n=0:9:0", "m=1", "n=one", "name=true x", "name=None", "width=NaN", "n=0:999999999999",
     "n;import os=1", "=1", "width=.5", "sizes=[1", "name='a'"],
)  # fmt: skip
def test_an_option_that_cannot_be_read_is_refused(notebook, option):
    with pytest.raises(vq.InputError):
        values_of(option, read_notebook(notebook).declared)


@pytest.mark.parametrize(
    ("name", "value"),
    [("n", 1.0), ("n", True), ("n", "1"), ("n", None), ("width", "x"), ("width", True), ("fast", 1), ("fast", "false"),
     ("name", 3), ("sizes", [1.5]), ("sizes", 3), ("table", [1]), ("table", {"a": "b"}), ("limit", "x"), ("either", "x"), ("plain", "x"),
     ("nn", 1), ("width", float("nan")), ("width", math.inf), ("n", np.float32(1)), ("name", b"x"), ("name", "\ud800"),
     ("computed", (1, 2)), ("computed", {1: 2}), ("computed", {3}), ("computed", 1j), ("computed", object())],
)  # fmt: skip
def test_a_wrong_name_or_type_is_refused_before_anything_starts(notebook, name, value):
    with pytest.raises(vq.InputError, match="nn" if name == "nn" else name):
        expand(read_notebook(notebook), {name: [value]})


@pytest.mark.parametrize(
    ("name", "value", "arrives"),
    [("n", np.int64(3), 3), ("n", 2**70, 2**70), ("width", 1, 1.0), ("width", np.float32(0.5), 0.5), ("fast", np.bool_(True), True),
     ("name", "", ""), ("name", "a'\"\n\0{}\\é", "a'\"\n\0{}\\é"), ("sizes", [1, 2], [1, 2]), ("table", {"é": 1}, {"é": 1.0}),
     ("limit", None, None), ("limit", 4, 4), ("either", 4, 4), ("plain", 2, 2), ("plain", 2.5, 2.5), ("computed", [None, {"a": []}], [None, {"a": []}])],
)  # fmt: skip
def test_a_value_arrives_as_it_was_meant(notebook, name, value, arrives):
    (run,) = expand(read_notebook(notebook), {name: [value]})
    assert run.given == {name: arrives} and type(run.given[name]) is type(arrives)
    namespace = {}
    exec(PythonTranslator.codify(run.given), namespace)
    assert namespace[name] == arrives and type(namespace[name]) is type(arrives)


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=400)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


@given(JSON)
def test_every_json_value_reaches_the_notebook_unchanged(value):
    namespace = {}
    exec(PythonTranslator.codify({"value": plain(value, "value")}), namespace)
    assert canonical(namespace["value"]) == canonical(value)


@settings(max_examples=500)
@given(TEXTS, TEXTS)
def test_names_of_files_are_hashes_that_stay_in_the_folder(notebook, one, other):
    study = read_notebook(notebook)
    keys = {text: expand(study, {"name": [text]})[0].key for text in (one, other)}
    assert len(set(keys.values())) == len(keys)
    assert all(len(key) == 20 and set(key) <= set("0123456789abcdef") for key in keys.values())


def test_equal_parameters_have_equal_keys(notebook):
    study = read_notebook(notebook)
    assert expand(study, {"width": [2]})[0].key == expand(study, {"width": [2.0]})[0].key
    assert expand(study, {"n": [8], "width": 0.5})[0].key == expand(study, {})[0].key, "a default that is named"
    assert expand(study, {"n": [1], "width": [2]})[0].key == expand(study, {"width": [2], "n": [1]})[0].key
    assert expand(study, {"plain": [1]})[0].key != expand(study, {"plain": [1.0]})[0].key
    with pytest.raises(vq.InputError, match="same"):
        expand(study, {"n": [1, 1]})


def test_grid_and_zip(notebook):
    study = read_notebook(notebook)
    grid = expand(study, {"n": range(3), "name": ["a", "b"]})
    assert [tuple(run.given.values()) for run in grid] == [(n, name) for n in range(3) for name in "ab"]
    pairs = expand(study, {"n": np.arange(3), "name": ["a", "b", "c"]}, "zip")
    assert [tuple(run.given.values()) for run in pairs] == [(0, "a"), (1, "b"), (2, "c")]
    with pytest.raises(vq.InputError, match="same length"):
        expand(study, {"n": [1, 2], "name": ["a"]}, "zip")
    with pytest.raises(vq.InputError, match="100,000"):
        expand(study, {"n": range(1000), "plain": range(1000)})
    with pytest.raises(vq.InputError, match="no values"):
        expand(study, {"n": []})
    with pytest.raises(vq.InputError, match="tuple"):
        expand(study, {"n": (1, 2)})


def test_a_notebook_that_is_none_is_refused(tmp_path, notebook):
    for content in ("", "{}", "[]", '{"nbformat": 3, "cells": []}', '{"nbformat": 4, "cells": 3}'):
        (tmp_path / "bad.ipynb").write_text(content)
        with pytest.raises(vq.InputError):
            read_notebook(tmp_path / "bad.ipynb")
    with pytest.raises(vq.InputError):
        read_notebook(tmp_path / "missing.ipynb")
    content = json.loads(notebook.read_text())
    content["cells"][0]["metadata"] = {}
    (tmp_path / "bare.ipynb").write_text(json.dumps(content))
    with pytest.raises(vq.InputError, match="tagged"):
        expand(read_notebook(tmp_path / "bare.ipynb"), {"n": [1]})


@pytest.mark.parametrize(
    ("metadata", "match"),
    [({}, "which kernel"), ({"kernelspec": {"name": "python3", "display_name": "Python 3"}}, "which kernel"),
     ({"kernelspec": {"name": "ir", "display_name": "R", "language": "R"}}, "only Python"), ({"language_info": 3}, "which kernel")],
)  # fmt: skip
def test_a_notebook_that_papermill_could_not_run_is_refused_before_anything_starts(tmp_path, notebook, metadata, match):
    content = json.loads(notebook.read_text())
    content["metadata"] = metadata
    (tmp_path / "other.ipynb").write_text(json.dumps(content))
    with pytest.raises(vq.InputError, match=match):
        vq.sweep.sweep(tmp_path / "other.ipynb", {"n": [1]}, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_prose_and_outputs_do_not_change_the_digest_but_code_does(tmp_path, notebook):
    content = nbformat.read(notebook, 4)
    content.cells.insert(0, nbformat.v4.new_markdown_cell("# A title"))
    content.cells[-1].execution_count = 9
    nbformat.write(content, tmp_path / "other.ipynb")
    assert read_notebook(tmp_path / "other.ipynb").digest == read_notebook(notebook).digest
    content.cells[-1].source += "\n1"
    nbformat.write(content, tmp_path / "other.ipynb")
    assert read_notebook(tmp_path / "other.ipynb").digest != read_notebook(notebook).digest


def test_what_cannot_be_read_is_told_the_declared_type(notebook):
    with pytest.raises(vq.InputError, match="the notebook declares n: int"):
        values_of("n=one", read_notebook(notebook).declared)


def test_every_notebook_of_the_suite_can_be_swept(root):
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        study = read_notebook(path)
        assert {"seed", "library"} <= set(study.declared), path
        assert all(declared.is_literal for declared in study.declared.values()), path
        assert len(expand(study, {"seed": range(3), "library": ["numpy", "torch"]})) == 6


# ---- what a run hands over


def test_record_prints_outside_of_notebooks(capsys):
    vq.record(distortion=np.float64(1 / 3), codes=np.arange(3), ok=True, nothing=None, far=math.inf)
    assert capsys.readouterr().out == "distortion=0.333333  codes=[0, 1, 2]  ok=True  nothing=None  far=inf\n"


@pytest.mark.parametrize("results", [{}, {"a": object()}, {"a": {1: 2}}, {"a": np.zeros(1001)}, {"a": 1j}])
def test_record_refuses_what_no_table_can_hold(results):
    with pytest.raises(vq.InputError):
        vq.record(**results)


# ---- a record is the only proof


@pytest.fixture
def one_run(tmp_path):
    """A folder with one proven run, made by hand."""
    folder = store.open_folder(tmp_path / "runs")
    publish(folder, "ab")
    return folder


def publish(folder, key, text="x"):
    private = folder / ".private" / f"{key}-1"
    private.mkdir()
    (private / "notebook.ipynb").write_text(text)
    store.publish(folder, key, private, {"key": key, "status": "done"})


@pytest.mark.parametrize("name", ["record.json", "notebook.ipynb"])
def test_any_damage_of_a_run_takes_its_proof(one_run, name):
    assert store.proven(one_run, "ab")["status"] == "done"
    path = one_run / "done" / "ab" / name
    whole = path.read_bytes()
    for damaged in [b"", whole[:-1], whole + b" ", *(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :] for i in range(len(whole)))]:
        path.write_bytes(damaged)
        assert store.proven(one_run, "ab") is None, damaged
    path.unlink()
    assert store.proven(one_run, "ab") is None
    path.write_bytes(whole)
    assert store.proven(one_run, "ab")


def test_a_proof_stands_for_one_key(one_run):
    (one_run / "done" / "ab").rename(one_run / "done" / "cd")
    assert store.proven(one_run, "cd") is None and store.proven(one_run, "ab") is None


def test_a_damaged_run_is_replaced_in_whole(one_run):
    (one_run / "done" / "ab" / "record.json").write_text("{}")
    publish(one_run, "ab", "new")
    assert store.proven(one_run, "ab") and (one_run / "done" / "ab" / "notebook.ipynb").read_text() == "new"
    assert list((one_run / ".private").iterdir()) == []


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_a_record_that_the_notebook_wrote_is_none(tmp_path, kind):
    folder = store.open_folder(tmp_path / "runs")
    private = folder / ".private" / "ab-1"
    private.mkdir()
    for name in ("record.json", "failure.json"):
        place = private / name
        place.write_text("mine") if kind == "file" else place.mkdir() if kind == "folder" else place.symlink_to("nowhere")
    store.publish(folder, "ab", private, {"key": "ab", "status": "done"})
    assert store.proven(folder, "ab")
    (folder / "done" / "ab").rename(private)
    store.keep_failure(folder, "ab", private, {"kind": "error"})
    assert store.failure(folder, "ab") == {"kind": "error"}


def test_one_sweep_at_a_time_writes_the_table(tmp_path, notebook):
    folder = store.open_folder(tmp_path / "runs")
    writer = threading.Thread(target=write_table, args=(folder, read_notebook(notebook), []))
    with store.locked(folder, store.SHARED):
        writer.start()
        writer.join(0.3)
        assert writer.is_alive() and not (folder / "results.json").exists()
    writer.join()
    assert (folder / "results.csv").exists()


def proven_run(folder, study, n):
    """A run, made by hand."""
    (run,) = expand(study, {"n": n})
    private = folder / ".private" / f"{run.key}-1"
    private.mkdir()
    machine = {"host": "h", "python": "3"}
    about = {"seconds": 1, "tries": 1, "started": "now", "threads": 1, "machine": machine, "versions": {}, "results": {}}
    store.publish(folder, run.key, private, {"key": run.key, "status": "done", "notebook": {"digest": study.digest}, "parameters": run.parameters} | about)


def test_a_table_does_not_wait_for_a_process_that_is_stopped(tmp_path, notebook, monkeypatch):
    """A writer holds the lock and is stopped between reading the records and writing them; then it goes on."""
    monkeypatch.setattr("vqcore.sweep.folder.PATIENCE", 0.2)
    study, folder = read_notebook(notebook), store.open_folder(tmp_path / "runs")
    proven_run(folder, study, 1)
    has_read, goes_on = threading.Event(), threading.Event()

    def stopped(folder, notebook):
        found = proven_records(folder, notebook)
        if threading.current_thread() is writer and not has_read.is_set():
            has_read.set()
            goes_on.wait()
        return found

    monkeypatch.setattr("vqcore.sweep.table.proven_records", stopped)
    writer = threading.Thread(target=write_table, args=(folder, study, []))
    writer.start()
    try:
        assert has_read.wait(10)
        proven_run(folder, study, 2)
        begun = time.monotonic()
        assert [row["n"] for row in write_table(folder, study, [])] == [1, 2] and len(rows(folder)) == 2
        assert time.monotonic() - begun < 5
    finally:
        goes_on.set()
        writer.join()
    assert len(rows(folder)) == 2, "what was written in between is lost"


def test_no_column_hides_another():
    machine = {"host": "h", "python": "3"}
    record = {"key": "ab", "seconds": 1.5, "tries": 1, "started": "now", "threads": 1, "machine": machine, "versions": {"numpy": "2"}}
    row = row_of(record | {"parameters": {"n": 1, "run_key": "mine"}, "results": {"n": 2, "run_seconds": 5, "a": 3}})
    assert (row["n"], row["n_recorded"], row["a"]) == (1, 2, 3)
    assert (row["run_key"], row["run_key_given"]) == ("ab", "mine")
    assert (row["run_seconds"], row["run_seconds_recorded"]) == (1.5, 5)


def test_a_lock_is_held_once_and_its_leftovers_are_only_then_removed(one_run):
    for name in ("ab-7", "cd-8"):
        (one_run / ".private" / name).mkdir()
    with store.locked(one_run, "ab") as held, store.locked(one_run, "ab") as again:
        assert held and not again
        store.clear_all_leftovers(one_run)
        assert [path.name for path in (one_run / ".private").iterdir()] == ["ab-7"]
    with store.locked(one_run, "ab") as held:
        assert held
    store.clear_all_leftovers(one_run)
    assert list((one_run / ".private").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_refused_at_once(tmp_path, notebook):
    (tmp_path / "file").write_text("")
    with pytest.raises(vq.InputError, match="cannot be written"):
        store.open_folder(tmp_path / "file")
    with pytest.raises(vq.InputError, match="MB left"):
        store.open_folder(tmp_path / "runs", needed_bytes=10**18)


# ---- what is seen of a sweep


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"notebook": None}, "notebook=None is a NoneType"), ({"folder": 5}, "folder=5 is a int"), ({"folder": "a\0b"}, "NUL"),
     ({"workers": 0}, "workers=0"), ({"scheduler": 8786}, "scheduler=8786"), ({"scheduler": ""}, "an address")],
)  # fmt: skip
def test_an_argument_of_no_use_is_refused_in_a_sentence(tmp_path, notebook, wrong, words):
    with pytest.raises(vq.InputError, match=words):
        vq.sweep.sweep(**{"notebook": notebook, "parameters": {"n": [1]}, "folder": tmp_path / "runs"} | wrong)
    assert not (tmp_path / "runs").exists()


def test_values_that_are_none_are_refused_in_a_sentence(notebook):
    study = read_notebook(notebook)
    with pytest.raises(vq.InputError, match="n=array.3. is a ndarray"):
        expand(study, {"n": np.array(3)})
    for option in ("n=0:1000000", f"n=0:{10**30}"):
        with pytest.raises(vq.InputError, match="more values than the 100,000"):
            values_of(option, study.declared)


@pytest.mark.parametrize(
    ("ends", "outcome"),
    [(lambda: {"status": "done"}, {"status": "done"}),
     (lambda: raising(RunFailed('{"status": "failed", "kind": "timeout"}')), {"status": "failed", "kind": "timeout"}),
     (lambda: raising(distributed.CancelledError("gone")), {"status": "failed", "kind": "worker", "sentence": "CancelledError: gone"})],
)  # fmt: skip
@pytest.mark.parametrize("status", ["finished", "lost", "pending"])
def test_a_result_that_is_lost_with_its_worker_is_waited_for(ends, outcome, status):
    """Dask hands over what has ended; when a worker dies before its result is fetched, it is made again."""
    future = SimpleNamespace(status=status, result=ends, exception=lambda: None)
    assert _outcome(future) == outcome


def raising(error):
    raise error


@pytest.mark.parametrize("n_deaths", [0, 2, 3])
def test_workers_that_die_as_they_start_are_started_again(tmp_path, notebook, monkeypatch, n_deaths):
    starts = iter(["dies"] * n_deaths + ["lives"] * 3)
    monkeypatch.setattr(distributed, "LocalCluster", lambda **options: raising(RuntimeError("Nanny")) if next(starts) == "dies" else "cluster")
    cluster = _Cluster(None, 2, tmp_path, read_notebook(notebook))
    if n_deaths < 3:
        assert cluster._started() == "cluster"
    else:
        with pytest.raises(OSError, match="die as they start"):
            cluster._started()


def test_a_table_of_no_runs_has_its_columns(tmp_path, notebook):
    study, folder = read_notebook(notebook), store.open_folder(tmp_path / "runs")
    assert write_table(folder, study, []) == []
    assert (folder / "results.csv").read_text() == ",".join(study.declared) + "\n"


def test_a_study_shows_itself_in_a_few_short_lines(tmp_path, notebook):
    runs = expand(read_notebook(notebook), {"n": range(1000)})
    failures = [{"key": run.key, "parameters": run.parameters, "kind": kind, "sentence": "?"} for run, kind in zip(runs, ("error", "exit", "error"))]
    text = repr(Study(tmp_path, runs, [{"n": 1}] * 997, failures, 5))
    assert text.splitlines() == [
        "Study", f"  folder   {tmp_path}", "  runs     1,000", "  failed   3 (2 error, 1 exit)", "  earlier  5", "  rows     997",
    ]  # fmt: skip


def test_progress_in_a_pipe_is_a_line_now_and_then(capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    assert isinstance(shown(9, None), Lines) and not isinstance(shown(9, False), Lines)
    clock = iter([0.0, 4.0, 10.0, 12.0, 3620.0, 3630.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    with Lines(5) as lines:
        for i in range(5):
            lines.set_description_str(f"{i + 1} done, 0 failed")
            lines.update()
    assert capsys.readouterr().err.splitlines() == [
        "2 of 5 runs: 2 done, 0 failed, about 0:15 to go", "4 of 5 runs: 4 done, 0 failed, about 15:05 to go",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("cells", "named"),
    [([("a = 1", 1, False), ("\n# why\nb()", 2, True), ("c", None, False)], "code cell 2 (`# why`)"),
     ([("a = 1", 1, False), ("sleep(9)", 2, False), ("c", None, False)], "code cell 2 (`sleep(9)`)"),
     ([("a = 1", None, False)], "the cell of the parameters")],
)  # fmt: skip
def test_the_cell_at_fault_is_counted_as_its_author_does(cells, named):
    made = [nbformat.v4.new_markdown_cell("prose"), nbformat.v4.new_code_cell("n = 2", metadata={"tags": ["injected-parameters"]}, execution_count=1)]
    for source, count, raised in cells:
        made.append(nbformat.v4.new_code_cell(source, execution_count=count))
        made[-1].outputs = [nbformat.v4.new_output("error", ename="E", evalue="", traceback=[])] * raised
    assert cell_at_fault(nbformat.v4.new_notebook(cells=made)) == named


# ---- the command


def test_a_disk_that_is_full_at_the_end_is_told_in_a_sentence(tmp_path, notebook, monkeypatch, capsys):
    def full(*arguments):
        raise OSError(28, "No space left on device", "results.json")

    monkeypatch.setattr("vqcore.sweep.study.write_table", full)
    study = read_notebook(notebook)
    run = expand(study, {})[0]
    publish(store.open_folder(tmp_path / "runs"), run.key)
    assert main(["sweep", str(notebook), "-o", str(tmp_path / "runs")]) == 1
    assert capsys.readouterr().err.startswith("vqcore sweep: No space left on device results.json; what is done stays")


def test_what_is_wrong_is_said_before_anything_starts(tmp_path, notebook):
    for arguments in (["-p", "nn=1"], ["-p", "n=1.5"], ["-p", "n=1", "-p", "n=2"], ["-p", "n=1", "--workers", "-1"], ["--timeout", "0"]):
        done = sweep(notebook, tmp_path / "runs", *arguments)
        assert done.returncode == 2 and done.stderr.startswith("vqcore sweep: ") and done.stderr.count("\n") == 1, done
        assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("guard", ["", "if __name__ == '__main__':\n    "])
def test_a_script_that_workers_would_run_again_is_refused(tmp_path, notebook, guard):
    call = f"print(vq.sweep.sweep({str(notebook)!r}, {{'n': [1]}}, 'runs', workers=1).rows[0]['n'])"
    (tmp_path / "script.py").write_text(f"import vqcore as vq\n{guard}{call}\n")
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.stdout == "1\n") if guard else ("below `if __name__" in done.stderr and not (tmp_path / "runs").exists()), done


def test_a_dry_run_leaves_nothing_behind(tmp_path, notebook):
    done = sweep(notebook, tmp_path / "runs", "-p", "n=0:30", "--dry-run")
    assert done.returncode == 0 and "30 runs of small: 0 done, 30 to run" in done.stdout and "... and 10 more" in done.stdout
    assert not (tmp_path / "runs").exists()


def test_whatever_a_run_writes_is_kept_and_a_cell_left_out_is_no_exit(tmp_path):
    writes = "for name in ('log.txt', 'record.json'):\n    open(name, 'w').write('mine')"
    notebook = write_notebook(tmp_path / "odd.ipynb", ["1 / 0", "# only words", "import vqcore as vq\nvq.record(a=1)", writes])
    content = nbformat.read(notebook, 4)
    content.cells[1].metadata["tags"] = ["skip-execution"]
    nbformat.write(content, notebook)
    study = vq.sweep.sweep(notebook, {}, tmp_path / "runs", workers=1, progress=False)
    assert not study.failures and [row["a"] for row in study.rows] == [1]
    home = tmp_path / "runs" / "done" / study.runs[0].key
    assert sorted(path.name for path in home.iterdir()) == ["log.txt", "notebook.ipynb", "record.json"]
    assert (home / "log.txt").read_text() == "mine"


def test_a_study_runs_fails_truly_and_goes_on(tmp_path, notebook):
    folder, log = tmp_path / "runs", tmp_path / "log"
    arguments = ["-p", "n=2", "-p", 'name="ok","exit","raise","../{x}"', "--workers", 2]
    done = sweep(notebook, folder, *arguments, VQ_TEST_LOG=str(log))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "4 runs: 2 done now, 0 done earlier, 2 failed" in done.stdout
    where = 'code cell 3 (`if name == "raise":`)'
    assert f"{where} raised ValueError: no good" in done.stdout and f"{where} called sys.exit" in done.stdout
    assert "\r" not in done.stderr, "a bar in a pipe"
    found = rows(folder)
    assert [(row["name"], row["product"], row["sizes"], row["threads"]) for row in found] == [
        (name, "1.0", "[1]", "1") for name in ("../{x}", "ok")
    ]
    assert all(row["run_numpy"] == np.__version__ and row["run_tries"] == "1" for row in found)
    everything = json.loads((folder / "results.json").read_text())
    assert [failed["kind"] for failed in everything["failed"]] == ["exit", "error"], "in the order of the grid"
    assert {record["results"]["product"] for record in everything["runs"]} == {1.0}
    executed = json.loads((folder / "done" / found[1]["run_key"] / "notebook.ipynb").read_text())
    assert recorded(executed) == {"product": 1.0, "threads": "1", "name": "ok", "sizes": [1]}
    assert row_of(everything["runs"][1])["product"] == 1.0

    before = (folder / "results.csv").read_bytes()
    again = sweep(notebook, folder, "-p", "n=2", VQ_TEST_LOG=str(log))
    assert again.returncode == 0 and "1 runs: 0 done now, 1 done earlier, 0 failed" in again.stdout
    assert (folder / "results.csv").read_bytes() == before
    assert sorted(log.read_text().splitlines()) == ["2 0.5 ../{x}", "2 0.5 ok"], "a proven run is not repeated"
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "log"}
