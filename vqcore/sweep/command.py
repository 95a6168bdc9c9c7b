"""The command `vqcore sweep`: what it accepts, what it prints, and how it ends."""

import signal
import sys

from vqcore.errors import InputError
from vqcore.sweep import folder as store
from vqcore.sweep.grid import canonical, expand, values_of
from vqcore.sweep.notebook import read_notebook

MOST_SHOWN = 20
INTERRUPTED = 130


def add_options(parser):
    """The arguments of the command."""
    parser.add_argument("notebook", help="a notebook with a cell tagged `parameters`")
    parser.add_argument(
        "-p", dest="values", action="append", default=[], metavar="NAME=VALUES",
        help="values of a parameter: JSON literals with commas between, or start:stop; may be given again for another",
    )  # fmt: skip
    parser.add_argument("-o", dest="folder", required=True, metavar="FOLDER", help="where the runs go, for example runs/first")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--grid", dest="how", action="store_const", const="grid", default="grid", help="all combinations (default)")
    how.add_argument("--zip", dest="how", action="store_const", const="zip", help="the first values, then the second ones, ...")
    parser.add_argument("--workers", type=int, metavar="N", help="runs at a time on this machine; default: one for every core")
    parser.add_argument("--scheduler", metavar="ADDRESS", help="a running Dask scheduler instead, for example tcp://HOST:8786")
    parser.add_argument("--timeout", type=float, default=600.0, metavar="S", help="seconds that a cell may take (default: 600)")
    parser.add_argument("--retries", type=int, default=2, metavar="N", help="further tries after a timeout or a death (default: 2)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads of each run (default: 1)")
    parser.add_argument("--dry-run", action="store_true", help="only say what would run")


def main(chosen):
    """Run the command; 0 if every run of the grid is done, 1 if one failed, 2 if nothing was started, 130 if interrupted."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        notebook = read_notebook(chosen.notebook)
        values = {}
        for option in chosen.values:
            name, listed = values_of(option, notebook.declared)
            if name in values:
                raise InputError(f"-p {name} is given twice: write all its values behind one")
            values[name] = listed
        return _dry_run(chosen, notebook, values) if chosen.dry_run else _sweep(chosen, values)
    except InputError as error:
        print(f"vqcore sweep: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        what = " ".join(map(str, filter(None, (error.strerror or error, error.filename))))
        print(f"vqcore sweep: {what}; what is done stays in {chosen.folder}, and the same command goes on from there", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"interrupted; what is done stays in {chosen.folder}, and the same command goes on from there", file=sys.stderr)
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number, frame):
    raise KeyboardInterrupt


def _dry_run(chosen, notebook, values):
    runs = expand(notebook, values, chosen.how)
    folder = store.Path(chosen.folder).absolute()
    n_done = 0
    for number, run in enumerate(runs):
        done = bool(store.proven(folder, run.key))
        n_done += done
        if number < MOST_SHOWN:
            print(f"{run.key}  {'done   ' if done else 'to run '}  {_spelt(run.given)}")
    if len(runs) > MOST_SHOWN:
        print(f"... and {len(runs) - MOST_SHOWN:,} more")
    print(f"{len(runs):,} runs of {notebook.name}: {n_done:,} done, {len(runs) - n_done:,} to run in {chosen.folder}")
    return 0


def _sweep(chosen, values):
    from vqcore.sweep.study import sweep

    options = ("how", "workers", "scheduler", "timeout", "retries", "threads")
    study = sweep(chosen.notebook, values, chosen.folder, **{name: getattr(chosen, name) for name in options})
    print(closing_table(study))
    return 1 if study.failures else 0


def closing_table(study):
    """What came of a study, as text: counts, then one line for each kind of failure and its first runs."""
    n_runs, n_failed = len(study.runs), len(study.failures)
    n_new = n_runs - n_failed - study.n_earlier
    lines = [f"{n_runs:,} runs: {n_new:,} done now, {study.n_earlier:,} done earlier, {n_failed:,} failed"]
    given = {run.key: run.given for run in study.runs}
    for found in study.failures[:MOST_SHOWN]:
        lines.append(f"  {found['kind']:12s}  {_spelt(given[found['key']])}")
        lines.append(f"  {'':12s}  {found['sentence']}")
        kept = study.folder / "failed" / found["key"]
        lines += [f"  {'':12s}  {kept}"] * kept.exists()
    if n_failed > MOST_SHOWN:
        lines.append(f"  ... and {n_failed - MOST_SHOWN:,} more, in {study.folder / 'results.json'}")
    lines.append(f"{len(study.rows):,} rows in {study.folder / 'results.csv'}")
    return "\n".join(lines)


def _spelt(given):
    return "  ".join(f"{name}={canonical(value)}" for name, value in given.items()) or "(the defaults)"
