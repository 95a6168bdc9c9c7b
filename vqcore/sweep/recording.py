"""How a notebook hands over its results: shown as text, kept in full beside it."""

import math

from vqcore.errors import InputError

MOST_NUMBERS = 1000


def record(**results):
    """Hands results of a notebook to the sweep that runs it, and shows them as one line of text.

    The text has six digits and is compared by nbval like any other. The full values travel as JSON in the
    metadata of the same output, which no comparison reads and JupyterLab does not draw. Several calls add up;
    of two values with one name the later counts.

    Args:
        results: numbers, strings, bools, None, or small arrays or lists of them; infinity and NaN are kept as words.

    Raises:
        InputError: no results, or one that is nothing of the kind, or large.
    """
    if not results:
        raise InputError("record() needs at least one result: record(distortion=fit.distortion)")
    found = {name: _result(value, name) for name, value in results.items()}
    text = "  ".join(f"{name}={_short(value)}" for name, value in found.items())
    shell = None
    try:
        from IPython import get_ipython

        shell = get_ipython()
    except ImportError:
        pass
    if shell is None:
        print(text)
        return
    shell.display_pub.publish({"text/plain": text}, metadata={"vqcore": {"results": found}})


def recorded(notebook):
    """All results, name to value, that the outputs of an executed notebook (a dict) hold."""
    found = {}
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            ours = output.get("metadata", {}).get("vqcore", {})
            if isinstance(ours, dict) and isinstance(ours.get("results"), dict):
                found.update(ours["results"])
    return found


def _result(value, name):
    n_values = math.prod(getattr(value, "shape", ()))
    if n_values > MOST_NUMBERS:
        raise InputError(f"{name} has {n_values:,} values: record at most {MOST_NUMBERS:,}, and save the rest to a file")
    value = value.tolist() if hasattr(value, "tolist") else value
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, (list, tuple)) and len(value) <= MOST_NUMBERS:
        return [_result(item, name) for item in value]
    raise InputError(f"{name} is a {type(value).__name__}: record numbers, strings, bools, None, or small arrays of them")


def _short(value):
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"[{', '.join(map(_short, value))}]" if isinstance(value, list) else str(value)
