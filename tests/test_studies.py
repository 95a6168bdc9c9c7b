"""The studies that ship with the suite: every table belongs to its notebook, and its rows can be had again."""

import csv
import json
import random
import re
import shlex
from pathlib import Path

import pytest

import vqcore as vq
from vqcore.sweep.grid import expand, run_of, values_of
from vqcore.sweep.notebook import read_notebook
from vqcore.sweep.recording import recorded

STUDIES = sorted((Path(__file__).resolve().parents[1] / "notebooks" / "studies").glob("*.ipynb"))

every_study = pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)


def table_of(path):
    """The rows of a study's table: dicts of values as they are written."""
    with open(path.with_suffix(".csv"), newline="") as file:
        return list(csv.DictReader(file))


def parameters_of(study, row):
    """What a row says about the parameters, as the notebook declares them."""
    return {name: type(declared.default)(row[name]) for name, declared in study.declared.items()}


def commands_in(path):
    """The sweeps that a notebook names in its prose, each a dict of lists of values."""
    study, found = read_notebook(path), []
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "markdown":
            for block in re.findall(r"```sh\n(.*?)```", "".join(cell["source"]), re.S):
                lines = block.replace("\\\n", " ").strip().splitlines()
                words = [shlex.split(line) for line in lines]
                found += [dict(values_of(v, study.declared) for o, v in zip(w, w[1:]) if o == "-p") for w in words]
    return found


def test_there_are_studies():
    assert {path.stem for path in STUDIES} == {"blog", "codebooks", "coders"}


@every_study
def test_a_table_is_what_the_commands_in_its_notebook_make(path):
    study, rows = read_notebook(path), table_of(path)
    # The name of a run is a hash of the code and of all parameters: a table of other code would have other names.
    keys = [run_of(study, parameters_of(study, row)).key for row in rows]
    assert [row["run_key"] for row in rows] == keys and len(set(keys)) == len(keys)
    assert {run.key for values in commands_in(path) for run in expand(study, values)} == set(keys)
    results = recorded(json.loads(path.read_text()))
    assert results and set(rows[0]) == {*study.declared, *results, *(name for name in rows[0] if name.startswith("run_"))}
    assert all(value != "" for row in rows for value in row.values())


@pytest.mark.slow
@pytest.mark.timeout(600)
@every_study
def test_rows_of_a_table_can_be_had_again(path, tmp_path):
    rows = random.Random(path.stem).sample(table_of(path), 4)
    study = read_notebook(path)
    chosen = [parameters_of(study, row) for row in rows]
    values = {name: [parameters[name] for parameters in chosen] for name in study.declared}
    made = vq.sweep.sweep(path, values, tmp_path / "runs", how="zip", progress=False)
    assert not made.failures and len(made.rows) == 4
    there = {row["run_key"]: row for row in rows}
    for row in made.rows:
        for name in recorded(json.loads(path.read_text())):
            if isinstance(row[name], float):
                assert row[name] == pytest.approx(float(there[row["run_key"]][name]), rel=1e-9), name
