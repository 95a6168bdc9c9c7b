"""Runs notebooks from top to bottom in fresh kernels and stores their outputs in place (`make notebooks`).

A notebook whose results have not changed keeps its file to the byte: whatever differs from run to
run without meaning anything (times, widget ids, execution metadata) is left out, and a notebook that
differs only in measured times (cells tagged `timing`) is not written at all.
"""

import argparse
import os
import re
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from traitlets.config import Config

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


@contextmanager
def kernel_config():
    """A traitlets config whose kernels talk through sockets in a folder of their own, not through ports.

    Two runs side by side then cannot take each other's ports, and nobody else on the machine can connect.
    """
    if os.name != "posix":
        yield Config()
        return
    # Not below a long path: the name of a unix socket ends after about a hundred characters.
    with tempfile.TemporaryDirectory(prefix="vq-") as folder:
        yield Config({"KernelManager": {"transport": "ipc", "ip": f"{folder}/k"}})


def executed(notebook, folder, cell_timeout=300):
    """A copy of the notebook with the outputs of a fresh run in `folder`.

    Raises:
        CellExecutionError: a cell raised.
    """
    fresh = nbformat.from_dict(notebook)
    for cell in fresh.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    with kernel_config() as config:
        client = NotebookClient(
            fresh,
            config=config,
            timeout=cell_timeout,
            kernel_name="python3",
            record_timing=False,
            coalesce_streams=True,
            resources={"metadata": {"path": str(folder)}},
        )
        client.execute()
    return normalised(fresh)


def normalised(notebook):
    """The notebook without what says nothing about its content or its results."""
    notebook.metadata.pop("widgets", None)
    notebook.metadata.pop("papermill", None)
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        for key in ("execution", "papermill", "ExecuteTime", "collapsed", "scrolled"):
            cell.metadata.pop(key, None)
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(WIDGET_VIEW, None)
    nbformat.validate(notebook)
    return notebook


def comparable(notebook):
    """The notebook as text, less the outputs that hold measured times, and the digits of recorded results that no text shows."""
    copy = nbformat.from_dict(notebook)
    for cell in copy.cells:
        if "timing" in cell.metadata.get("tags", []):
            cell["outputs"] = []
        for output in cell.get("outputs", []):
            output.get("metadata", {}).pop("vqcore", None)
    return nbformat.writes(copy)


def refresh(path):
    """Whether the notebook's file had to change."""
    before = nbformat.read(path, as_version=4)
    after = executed(before, path.parent)
    if comparable(before) == comparable(after):
        return False
    # Written beside it and renamed, so that an interruption leaves the old file whole.
    new = path.with_name(f".{path.name}.new")
    nbformat.write(after, new)
    os.replace(new, path)
    return True


def main(argv=None):
    """Refreshes the named notebooks, or all; 1 if a cell of any raised (its file is left as it was)."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all in notebooks/")
    failed = 0
    for path in parser.parse_args(argv).notebooks or sorted(NOTEBOOKS.glob("*.ipynb")):
        start = time.perf_counter()
        try:
            outcome = "changed" if refresh(path) else "unchanged"
        except CellExecutionError as error:
            failed, outcome = 1, "FAILED, left as it was\n" + re.sub(r"\x1b\[[0-9;]*m", "", str(error))
        print(f"{path.name:32s} {time.perf_counter() - start:6.1f} s  {outcome}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
