"""What all tests share: a fixed number of threads, hypothesis without surprises in CI, and where things lie."""

import os
from pathlib import Path

# Before anything imports numpy or torch, whose thread pools read these once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", os.environ["OMP_NUM_THREADS"])
os.environ.setdefault("MPLBACKEND", "agg")

import pytest
from hypothesis import settings
from refresh_notebooks import kernel_config

# A shared machine may stall for a second, which says nothing about the code. In CI the examples are
# the same each time: there a red run must mean a change, at home new examples may find new faults.
settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


@pytest.fixture(scope="session")
def root():
    """The folder that holds pyproject.toml."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture
def run_notebook(tmp_path):
    """Runs a notebook with other parameters and returns what came out; a cell that raises fails the test."""

    def run(path, parameters, cell_timeout=120):
        import papermill

        known = papermill.inspect_notebook(str(path))
        # papermill takes a misspelt name in silence.
        assert parameters.keys() <= known.keys(), f"{path.stem} has no parameter {parameters.keys() - known.keys()}"
        with kernel_config() as config:
            return papermill.execute_notebook(
                str(path),
                str(tmp_path / path.name),
                parameters=parameters,
                cwd=str(path.parent),
                kernel_name="python3",
                execution_timeout=cell_timeout,
                progress_bar=False,
                log_output=False,
                config=config,
            )

    return run
