"""A study: a notebook run over a grid of parameters by Dask, which schedules, retries and spreads it; we only ask."""

import json
import logging
import os
import sys
import uuid
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from vqcore import checks
from vqcore.errors import InputError
from vqcore.sweep import folder as store
from vqcore.sweep.grid import expand
from vqcore.sweep.notebook import read_notebook
from vqcore.sweep.preloading import modules_to_preload
from vqcore.sweep.showing import shown
from vqcore.sweep.supervising import RunFailed, supervise
from vqcore.sweep.table import write_table

NEEDED_BYTES = 10_000_000
STARTS = 3  # of the workers, before it is given up


@dataclass(frozen=True, repr=False)
class Study:
    """What came of a sweep.

    Attributes:
        folder: where its runs lie.
        runs: the Run of every point of the grid.
        rows: a dict for every proven run in the folder: parameters, results, `run_...`; as in results.csv.
        failures: a dict for every run of this grid that failed: "key", "parameters", "kind", "sentence".
        n_earlier: runs that were done before, by an earlier sweep or by another beside this one.
    """

    folder: Path
    runs: list
    rows: list
    failures: list
    n_earlier: int

    def __repr__(self):
        kinds = Counter(found["kind"] for found in self.failures)
        why = f" ({', '.join(f'{n} {kind}' for kind, n in kinds.items())})" if kinds else ""
        counts = (f"runs     {len(self.runs):,}", f"failed   {len(self.failures):,}{why}", f"earlier  {self.n_earlier:,}")
        return "\n  ".join(["Study", f"folder   {self.folder}", *counts, f"rows     {len(self.rows):,}"])


def sweep(notebook, parameters, folder, *, how="grid", workers=None, scheduler=None, timeout=600.0, retries=2, threads=1, progress=None):
    """Run a notebook once for every point of a grid, resume what an earlier call left, and collect the results.

    Args:
        notebook: path of a notebook with a cell tagged `parameters`.
        parameters: name -> a list of values, a range, or one value, of the types that the notebook declares.
        folder: where the runs and the table go; runs that are proven there are not repeated.
        how: "grid" for all combinations, "zip" for the first of each, the second of each, ...
        workers: runs at a time on this machine; by default one for every core.
        scheduler: address of a running Dask scheduler, whose workers see the same folder; then `workers` is not used.
        timeout: seconds that a cell may take.
        retries: how often a run is tried again after a timeout or a death, and what else another try may mend.
        threads: threads that a run may use.
        progress: True or False to draw a progress bar or not; by default it is drawn where somebody is watching, and
            elsewhere, as in a file, a plain line is written every ten seconds.

    Returns:
        a Study; `results.csv` and `results.json` lie in the folder.

    Raises:
        InputError: before anything starts.
    """
    notebook, folder = read_notebook(notebook), checks.as_path(folder, "folder")
    runs = expand(notebook, parameters, how)
    options = {
        "timeout": checks.as_real(timeout, "timeout", low=0, open_low=True, high=1e7),
        "threads": checks.as_count(threads, "threads"),
        "sweep": uuid.uuid4().hex,
    }
    retries = checks.as_count(retries, "retries", low=0, high=100)
    workers = checks.as_count((os.cpu_count() or 1) if workers is None else workers, "workers", high=10_000)
    if scheduler is not None and not (isinstance(scheduler, str) and scheduler):
        raise InputError(f"scheduler={scheduler!r}: it must be an address such as 'tcp://HOST:8786'")
    options["preload"] = modules_to_preload(notebook.sources)
    if scheduler is None:
        _check_script()
    folder = store.open_folder(folder, NEEDED_BYTES)
    store.store_notebook(folder, notebook)
    store.clear_all_leftovers(folder)
    left = [run for run in runs if not store.proven(folder, run.key)]
    failures, counts = [], Counter(earlier=len(runs) - len(left))
    try:
        if left:
            with _Cluster(scheduler, min(workers, len(left)), folder, notebook) as client, shown(len(left), progress) as bar:
                tasks = [_task(notebook, run, folder, options) for run in left]
                for outcome in _outcomes(client, tasks, retries):
                    counts[outcome["status"]] += 1
                    failures += [outcome] * (outcome["status"] == "failed")
                    bar.set_description_str(f"{counts['done'] + counts['earlier']} done, {counts['failed']} failed")
                    bar.update()
    finally:
        # Also of what was done before an interruption.
        places = {run.key: place for place, run in enumerate(runs)}
        failures.sort(key=lambda found: places[found["key"]])
        rows = write_table(folder, notebook, failures)
    return Study(folder, runs, rows, failures, counts["earlier"])


def _check_script():
    """Refuse a script that every worker would run again from its top, this sweep included: they import it as they start."""
    main = sys.modules["__main__"]
    path = Path(getattr(main, "__file__", None) or "")
    if getattr(main, "__spec__", None) is None and path.suffix == ".py" and path.is_file():
        if "__name__" not in path.read_text(encoding="utf-8", errors="replace"):
            raise InputError(f"{path.name} starts a sweep when it is imported, and workers import it: put it below `if __name__ == '__main__':`")


def _task(notebook, run, folder, options):
    about = {"name": notebook.name, "digest": notebook.digest}
    run_of_it = {"key": run.key, "given": run.given, "parameters": run.parameters}
    here = {"folder": str(folder), "notebook": about, "n_cells": len(notebook.sources), "wait": False}
    return run_of_it | here | options


def _outcomes(client, tasks, retries):
    """The outcome of every task as it comes, with its key and parameters."""
    from distributed import as_completed

    busy = []
    futures = {_submit(client, task, retries): task for task in tasks}
    for future in as_completed(futures):
        outcome = _outcome(future)
        if outcome["status"] == "elsewhere":
            busy.append(futures[future])
        else:
            yield _about(futures.pop(future)) | outcome
    # Another sweep runs these now; when it lets go they are done, or ours to do.
    futures = {_submit(client, task | {"wait": True}, retries): task for task in busy}
    for future in as_completed(futures):
        yield _about(futures.pop(future)) | _outcome(future)


def _about(task):
    return {"key": task["key"], "parameters": task["parameters"]}


def _submit(client, task, retries):
    return client.submit(supervise, task, key=f"vq-{task['key']}-{uuid.uuid4().hex[:8]}", retries=retries, pure=False)


def _outcome(future):
    from distributed import CancelledError

    try:
        # Whatever its status is: a result that was lost with its worker is being made again.
        return future.result()
    except RunFailed as error:
        return json.loads(str(error))
    except (Exception, CancelledError) as error:
        return {"status": "failed", "kind": "worker", "sentence": f"{type(error).__name__}: {error}"[:500]}


class _Cluster:
    """A Dask client, of a cluster on this machine or of one that is running; what was started here is stopped."""

    def __init__(self, scheduler, n_workers, folder, notebook):
        self.scheduler, self.n_workers, self.folder, self.notebook = scheduler, n_workers, folder, notebook
        self.cluster = self.client = None

    def __enter__(self):
        from distributed import Client

        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        try:
            if self.scheduler:
                self.client = self._connected(Client)
            else:
                self.cluster = self._started()
                self.client = Client(self.cluster)
        except BaseException:
            self.__exit__()
            raise
        return self.client

    def _started(self):
        import dask
        from distributed import LocalCluster

        # A worker that died is started again, which may take its time: Dask would give up its place after 15 seconds.
        dask.config.set({"distributed.deploy.lost-worker-timeout": "1 day"})
        for n_left in reversed(range(STARTS)):
            try:
                return LocalCluster(
                    n_workers=self.n_workers,
                    threads_per_worker=1,
                    host="127.0.0.1",
                    # Without an address the scheduler takes port 8787 for its pages all the same, and warns if it is busy.
                    dashboard_address="127.0.0.1:0",
                    scheduler_kwargs={"dashboard": False},
                    # Kernels are processes of their own: the memory of a worker says nothing about them.
                    memory_limit=None,
                    silence_logs=logging.CRITICAL,
                )
            except RuntimeError as error:
                # One that dies before it has begun takes the cluster with it.
                if not n_left:
                    raise ChildProcessError(f"the workers of this sweep die as they start ({error})") from None

    def _connected(self, client_class):
        try:
            client = client_class(self.scheduler, timeout=10)
            client.wait_for_workers(1, timeout=60)
        except (OSError, TimeoutError, ValueError) as error:
            raise InputError(f"no Dask scheduler with workers answers at {self.scheduler!r}: {error}") from None
        seen = client.run(sees_notebook, str(self.folder), self.notebook.digest)
        blind = [address for address, sees in seen.items() if not sees]
        if blind:
            client.close()
            raise InputError(f"the workers {', '.join(blind)} do not see the folder {self.folder}: put it on a disk they share")
        return client

    def __exit__(self, *exception):
        for each in (self.client, self.cluster):
            if each is not None:
                each.close(timeout=10)


def sees_notebook(folder, digest):
    """Whether this worker sees the folder of the sweep."""
    return (Path(folder) / ".notebooks" / f"{digest}.ipynb").exists()
