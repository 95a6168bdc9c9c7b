"""The command line: `vqcore check` compares the kernels here with the reference and times them, `vqcore sweep` runs a
study, `vqcore app` serves the explorers."""

import argparse
import sys
import time

import numpy as np

from vqcore.app import serving
from vqcore.sweep import command as sweeping


def main(arguments=None):
    what = "Vector quantization: checks of this installation, studies, and explorers."
    parser = argparse.ArgumentParser(prog="vqcore", description=what)
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="compare every kernel with the readable reference, then time it")
    check.add_argument("--device", default="numpy", help="numpy (default), dask, or a torch device: cpu, cuda, cuda:1")
    study = commands.add_parser("sweep", help="run a notebook over a grid of parameters, on Dask")
    sweeping.add_options(study)
    serving.add_options(commands.add_parser("app", help="serve the explorers in the browser, with Voilà"))
    chosen = parser.parse_args(arguments)
    mains = {"check": lambda chosen: check_kernels(chosen.device), "sweep": sweeping.main, "app": serving.main}
    return mains[chosen.command](chosen)


def check_kernels(device):
    """Print what differs from the reference and how long the kernels take; 0 if nothing differs."""
    from vqcore.kernels import conformance

    try:
        table, to_library = _table_on(device)
    except (ImportError, RuntimeError, AssertionError) as error:
        print(f"vqcore check: no device {device!r}: {str(error).splitlines()[0]}", file=sys.stderr)
        return 2
    n_wrong = 0
    found = conformance.cases()
    for case in found:
        wrong = conformance.faults(table, case, to_library)
        n_wrong += bool(wrong)
        for sentence in wrong:
            print(f"{case.name}: {sentence}")
    print(f"{len(found) - n_wrong} of {len(found)} cases equal the reference on {device}")
    for name, seconds in _timings(table, to_library):
        print(f"{name:48s} {1e3 * seconds:9.2f} ms")
    return 1 if n_wrong else 0


def _table_on(device):
    """The kernels for this device (on the CPU too the torch kernels, as a rehearsal) or for dask, and the way there."""
    if device == "numpy":
        from vqcore.kernels import compiled

        return compiled, lambda array: array
    if device == "dask":
        import dask.array

        from vqcore.kernels import blocks

        # In three blocks, and what is left of the rows.
        return blocks, lambda array: dask.array.from_array(array, chunks=(max(1, len(array) // 3), *array.shape[1:]))
    import torch

    from vqcore.kernels import tensors

    torch.zeros(1, device=device)
    # Through numpy's own copy, because torch cannot hold read-only or negatively strided memory.
    return tensors, lambda array: torch.from_numpy(np.array(array)).to(device)


def _timings(table, to_library):
    """Median seconds of `assign` and of a Lloyd step, after a warm-up, the device or the blocks waited for."""
    from vqcore.coding import assign
    from vqcore.lloyd import fit_lloyd

    rng = np.random.default_rng(0)
    for n, dim, n_codewords in [(500_000, 2, 64), (200_000, 32, 256), (20_000, 384, 512)]:
        points = rng.standard_normal((n, dim)).astype(np.float32)
        codebook, theirs = points[:n_codewords].astype(np.float64), to_library(points)
        yield f"assign {n:,} x {dim}, {n_codewords} codewords", _median(lambda: table.to_host(assign(theirs, codebook)[0].max()))
    theirs = to_library(rng.standard_normal(1_000_000))
    start = np.linspace(-3, 3, 100)
    for n_steps in (0, 100):
        run = lambda: table.to_host(fit_lloyd(theirs, 100, start=start, n_steps=n_steps).codes.max())  # noqa: E731
        yield f"fit_lloyd 1,000,000 on a line, 100 codewords, {n_steps} steps", _median(run)


def _median(run, n_repeats=5):
    seconds = []
    for _ in range(n_repeats + 1):
        begun = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begun)
    return float(np.median(seconds[1:]))


if __name__ == "__main__":
    sys.exit(main())
