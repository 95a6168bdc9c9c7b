"""One tidy table of all runs: a row for each, in an order that does not depend on who finished first."""

import csv
import io
import json

from vqcore.sweep import folder as store
from vqcore.sweep.grid import canonical
from vqcore.writing import write_whole


def proven_records(folder, notebook):
    """The records of all proven runs of this very notebook in a folder, whichever sweep made them, in order."""
    records = (store.proven(folder, path.name) for path in (folder / "done").iterdir())
    found = [record for record in records if record and record["notebook"]["digest"] == notebook.digest]
    return sorted(found, key=lambda record: [_order(value) for value in record["parameters"].values()])


def row_of(record):
    """A record as a flat row: parameters, results, and `run_...` for the circumstances of the run.

    A result with the name of another column becomes `..._recorded`, a parameter with that of a circumstance `..._given`.
    """
    machine, versions = record["machine"], record["versions"]
    about = {"key": record["key"], "seconds": record["seconds"], "tries": record["tries"], "started": record["started"]}
    about |= {"host": machine["host"], "python": machine["python"], "threads": record["threads"], **versions}
    about = {f"run_{name}": value for name, value in about.items()}
    row = {f"{name}_given" if name in about else name: value for name, value in record["parameters"].items()}
    for name, value in record["results"].items():
        row[f"{name}_recorded" if name in row or name in about else name] = value
    return row | about


def write_table(folder, notebook, failures):
    """Write results.csv and results.json, each in whole; the rows."""
    # What another sweep of this folder proves in between must not be missing from the table that is written last: so
    # one writes after the other. One that does not let go is not waited for; should it be the last after all, it sees
    # what it has missed, and writes again.
    with store.locked(folder, store.SHARED, store.PATIENCE):
        for _ in range(2):
            seen = _keys(folder)
            records = proven_records(folder, notebook)
            rows = [row_of(record) for record in records]
            everything = {"notebook": notebook.name, "digest": notebook.digest, "runs": records, "failed": failures}
            write_whole(folder / "results.json", (json.dumps(everything, indent=1) + "\n").encode())
            write_whole(folder / "results.csv", _csv(rows, notebook.declared).encode())
            if _keys(folder) == seen:
                break
    return rows


def _keys(folder):
    return sorted(path.name for path in (folder / "done").iterdir())


def _csv(rows, declared):
    # Where no run is proven, the parameters alone are a table too: of no rows.
    names = list(dict.fromkeys(name for row in rows for name in row)) or list(declared)
    # The circumstances stand last, also where some rows have results that others lack.
    names.sort(key=lambda name: name.startswith("run_"))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def _cell(value):
    return canonical(value) if isinstance(value, (list, dict)) else "" if value is None else value


def _order(value):
    """Numbers in their order, then texts in theirs, then everything else by its JSON text."""
    if isinstance(value, (int, float)):
        return (0, value, "")
    return (1, 0, value) if isinstance(value, str) else (2, 0, canonical(value))
