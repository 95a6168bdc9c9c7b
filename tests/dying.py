"""A death at every step of what a sweep does to its folder: `python tests/dying.py FOLDER` says how many there are.

Each time a process is forked that ends, without a farewell, right before its first, its second, ... access to a file.
Whatever it leaves, all that stands there is whole, and those who come after it reach the same end.
"""

import csv
import io
import json
import os
import shutil
import sys
from pathlib import Path

from studies import write_notebook

from vqcore.sweep import folder as store
from vqcore.sweep.grid import expand
from vqcore.sweep.notebook import read_notebook
from vqcore.sweep.table import write_table

STEPS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink"}
MACHINE = {"machine": {"host": "h", "python": "3"}, "versions": {}, "threads": 1}


def work(folder, notebook, runs):
    """What a sweep does to its folder: two runs succeed of which one had failed and one is damaged, and another one fails."""
    store.open_folder(folder)
    store.store_notebook(folder, notebook)
    store.clear_all_leftovers(folder)
    for run in runs:
        if store.proven(folder, run.key):
            continue
        with store.locked(folder, run.key) as held:
            assert held
            store.clear_leftovers(folder, run.key)
            private = folder / ".private" / f"{run.key}-{os.getpid()}"
            private.mkdir()
            for name in ("notebook.ipynb", "record.json"):
                (private / name).write_text(notebook.text)
            about = {"key": run.key, "parameters": run.parameters, "seconds": 1, "tries": 1, "started": "now"}
            if run is runs[-1]:
                store.keep_failure(folder, run.key, private, about | {"kind": "error"})
            else:
                done = {"status": "done", "results": {"a": run.given["seed"]}, "notebook": {"digest": notebook.digest}}
                store.publish(folder, run.key, private, about | done | MACHINE)
    write_table(folder, notebook, [])


def died(function, number):
    """Whether a process died before its access of this number; False if there are fewer."""
    pid = os.fork()
    if pid == 0:
        left = number

        def watch(event, arguments):
            nonlocal left
            left -= event in STEPS
            if left == 0:
                os._exit(9)

        sys.addaudithook(watch)
        try:
            function()
            os._exit(0)
        finally:
            os._exit(1)
    ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert ended in (0, 9), ended
    return ended == 9


def tree(folder):
    """Every file but the locks, and what is in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file() and ".locks" not in path.parts}


def look(folder, before):
    """All that stands there is whole."""
    for path in folder.glob("done/*"):
        record = (path / "record.json").read_bytes()
        assert store.proven(folder, path.name) or record == before[f"done/{path.name}/record.json"]
    for path in folder.glob("failed/*"):
        assert store.failure(folder, path.name) and not store.proven(folder, path.name)
    if (folder / "results.json").exists():
        assert json.loads((folder / "results.json").read_bytes())["notebook"]
    table = (folder / "results.csv").read_text()
    # The older one lists what has been damaged since.
    if table.encode() != before["results.csv"]:
        assert all(store.proven(folder, row["run_key"]) for row in csv.DictReader(io.StringIO(table)))


def main(place):
    """The number of steps, each of which was a death's."""
    notebook = read_notebook(write_notebook(place / "small.ipynb", ["1"], "seed: int = 0"))
    runs = expand(notebook, {"seed": range(3)})
    # What an earlier sweep left: a table, a failure of the first run, a damaged second one.
    shutil.copytree(store.open_folder(place / "empty"), place / "before")
    work(place / "before", notebook, runs[2:])
    work(place / "before", notebook, [runs[1], runs[2]])
    (place / "before" / "done" / runs[1].key / "notebook.ipynb").write_text("{}")
    shutil.copytree(place / "before" / "failed" / runs[2].key, place / "before" / "failed" / runs[0].key)
    before = tree(place / "before")
    shutil.copytree(place / "before", place / "whole")
    work(place / "whole", notebook, runs)
    whole, number = tree(place / "whole"), 1
    while True:
        folder = place / f"step{number}"
        shutil.copytree(place / "before", folder)
        if not died(lambda: work(folder, notebook, runs), number):
            return number - 1
        look(folder, before)
        work(folder, notebook, runs)
        after = tree(folder)
        assert after.keys() == whole.keys(), after.keys() ^ whole.keys()
        assert after == whole, {name for name in whole if after[name] != whole[name]}
        shutil.rmtree(folder)
        number += 1


if __name__ == "__main__":
    print(main(Path(sys.argv[1])))
