"""The tools around the notebooks, tried on a small notebook of their own in a temporary folder."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from refresh_notebooks import comparable, executed, main, refresh
from test_notebooks import nbval

CELLS = [
    ("start: int = 40  # added to the answer\nseconds: float = 0.0  # of sleep", ["parameters"]),
    ("import random\nimport time\n\nfrom ipywidgets import IntSlider\n\nimport answer", []),
    ("answer.value(start)", []),
    ("time.sleep(seconds)\nrandom.random()", ["timing", "nbval-ignore-output"]),
    ("slider = IntSlider(value=3)\nslider", ["widgets", "nbval-ignore-output"]),
]


@pytest.fixture
def notebook(tmp_path):
    """A notebook that was never run, beside the module whose number it shows."""
    (tmp_path / "answer.py").write_text("def value(start):\n    return start + 2\n")
    cells = [new_markdown_cell("# What is the answer?")]
    for source, tags in CELLS:
        cells += [new_markdown_cell("See."), new_code_cell(source, metadata={"tags": tags})]
    path = tmp_path / "answer.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    return path


def test_unchanged_results_give_the_same_bytes(notebook):
    assert refresh(notebook)
    first = notebook.read_bytes()
    assert not refresh(notebook), "a random number in a cell tagged `timing` is no change"
    assert notebook.read_bytes() == first
    (notebook.parent / "answer.py").write_text("def value(start):\n    return start + 3\n")
    assert refresh(notebook)
    assert b"43" in notebook.read_bytes()


def test_digits_that_no_text_shows_are_no_change():
    def recorded(value, text="d=1"):
        output = new_output("display_data", {"text/plain": text}, metadata={"vqcore": {"results": {"d": value}}})
        return comparable(new_notebook(cells=[new_code_cell("vq.record(d=d)", id="a", outputs=[output])]))

    assert recorded(1.0) == recorded(1.0 + 1e-15) != recorded(1.0, "d=1.1")


def test_a_changed_number_turns_nbval_red(notebook):
    assert main([str(notebook)]) == 0
    run = nbval(notebook, notebook.parent)
    assert run.returncode == 0 and "5 passed" in run.stdout, run.stdout
    (notebook.parent / "answer.py").write_text("def value(start):\n    return start + 2.0001\n")
    run = nbval(notebook, notebook.parent)
    assert run.returncode == 1 and "Cell outputs differ" in run.stdout, run.stdout


def test_a_notebook_that_fails_is_left_as_it_was(notebook, capsys):
    (notebook.parent / "answer.py").write_text("def value(start):\n    raise ValueError('no answer today')\n")
    before = notebook.read_bytes()
    assert main([str(notebook)]) == 1
    assert notebook.read_bytes() == before
    assert "no answer today" in capsys.readouterr().out
    assert sorted(p.name for p in notebook.parent.iterdir() if not p.name.startswith("_")) == ["answer.ipynb", "answer.py"]


def test_other_parameters_reach_the_cells(notebook, run_notebook):
    refresh(notebook)
    done = run_notebook(notebook, {"start": 100})
    texts = [o.data["text/plain"] for c in done.cells if c.cell_type == "code" for o in c.outputs if "data" in o]
    assert "102" in texts
    with pytest.raises(AssertionError, match="no parameter"):
        run_notebook(notebook, {"strat": 100})
    with pytest.raises(Exception, match="timed out"):
        run_notebook(notebook, {"seconds": 30.0}, cell_timeout=1)


def test_a_run_leaves_the_notebook_it_was_given_alone(notebook):
    given = nbformat.read(notebook, as_version=4)
    assert executed(given, notebook.parent).cells[2].execution_count == 1
    assert given.cells[2].execution_count is None
