"""The runs of a sweep: what the notebook declares, which values it is given, and a name for every run."""

import ast
import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from vqcore.errors import InputError

MOST_RUNS = 100_000
# A bare word on the command line may stand for a string, if it cannot be mistaken for another literal.
WORD = re.compile(r"(?!(?:true|false|null|None|True|False|nan|inf|NaN|Infinity)$)[A-Za-z_][\w.:/+-]*")
RANGE = re.compile(r"(-?\d+):(-?\d+)(?::(-?\d+))?")


@dataclass(frozen=True)
class Run:
    """One run of a sweep.

    Attributes:
        key: hash of the notebook's code and of all parameters; the name of the run's files.
        given: the parameters that the sweep sets.
        parameters: those and the declared defaults, in the order of their declaration.
    """

    key: str
    given: dict
    parameters: dict


def canonical(value):
    """The one JSON text of a value: equal values have equal texts, on every machine."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def plain(value, name):
    """The value as JSON can hold it without change: numpy's scalars become Python's, lists and dicts are copied.

    Raises:
        InputError: what would arrive as something else (a tuple, bytes, a key that is no string), or not at all.
    """
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InputError(f"{name}={value!r}: a parameter must be finite")
        return value
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InputError(f"{name}={value!r}: not valid Unicode, so that no file can hold it") from None
        return value
    if isinstance(value, list):
        return [plain(item, name) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {plain(key, name): plain(item, name) for key, item in value.items()}
    raise InputError(
        f"{name}={value!r} is a {type(value).__name__}: a parameter must be None, a bool, an int, a float, "
        f"a string, or a list or dict of these with strings as keys"
    )


def conforming(value, kind, name):
    """The plain value as its annotation wants it: a whole number becomes a float where one is declared.

    Args:
        kind: the annotation as an ast node; None, and what is not understood, allow everything.

    Raises:
        InputError: a value of another type.
    """
    for fits in _readings(kind):
        try:
            return fits(value)
        except TypeError:
            continue
    raise InputError(f"{name}={value!r} is a {type(value).__name__}: the notebook declares {name}: {ast.unparse(kind)}")


def _readings(kind):
    """Functions that return a value of this kind, or raise TypeError; one for each alternative."""
    if isinstance(kind, ast.Constant) and isinstance(kind.value, str):
        kind = _parsed(kind.value)
    if isinstance(kind, ast.BinOp) and isinstance(kind.op, ast.BitOr):
        return _readings(kind.left) + _readings(kind.right)
    if isinstance(kind, ast.Constant) and kind.value is None:
        return [_exactly(type(None))]
    name = getattr(kind, "id", getattr(kind, "attr", None))
    if name in ("int", "bool", "str", "list", "dict"):
        return [_exactly({"int": int, "bool": bool, "str": str, "list": list, "dict": dict}[name])]
    if name == "float":
        return [_as_float]
    if isinstance(kind, ast.Subscript):
        outer = getattr(kind.value, "id", getattr(kind.value, "attr", "")).lower()
        parts = kind.slice.elts if isinstance(kind.slice, ast.Tuple) else [kind.slice]
        if outer in ("optional", "union"):
            return [fits for part in parts for fits in _readings(part)] + [_exactly(type(None))] * (outer == "optional")
        if outer == "list":
            return [lambda value: [_first(parts[0], item) for item in _exactly(list)(value)]]
        if outer == "dict" and len(parts) == 2:
            return [lambda value: {key: _first(parts[1], item) for key, item in _exactly(dict)(value).items()}]
    return [lambda value: value]


def _parsed(annotation):
    try:
        return ast.parse(annotation, mode="eval").body
    except SyntaxError:
        return None


def _exactly(kind):
    def fits(value):
        if type(value) is not kind:
            raise TypeError
        return value

    return fits


def _as_float(value):
    if type(value) not in (int, float) or abs(value) > 1e308:
        raise TypeError
    return float(value)


def _first(kind, value):
    for fits in _readings(kind):
        try:
            return fits(value)
        except TypeError:
            continue
    raise TypeError


def values_of(option, declared):
    """A name and its list of values from `name=v1,v2` or `name=start:stop[:step]`.

    Values are JSON literals; bare words may stand for strings where the notebook declares one.

    Raises:
        InputError: no such text.
    """
    name, equals, text = (part.strip() for part in option.partition("="))
    if not equals or not text:
        raise InputError(f"-p {option}: write -p name=value, -p name=value,value or -p name=start:stop")
    _check_name(name, declared)
    if found := RANGE.fullmatch(text):
        start, stop, step = int(found[1]), int(found[2]), int(found[3] or 1)
        values = range(start, stop, step) if step else ()
        if not values:
            raise InputError(f"-p {option}: this range holds no values; the stop is left out, as in Python")
        if values[MOST_RUNS:]:
            raise InputError(f"-p {option}: more values than the {MOST_RUNS:,} runs that a sweep has at most")
        return name, list(values)
    try:
        return name, json.loads(f"[{text}]", parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        words = [word.strip() for word in text.split(",")]
        annotation = declared[name].annotation
        if annotation is not None and ast.unparse(annotation) == "str" and all(map(WORD.fullmatch, words)):
            return name, words
        wanted = "" if annotation is None else f"the notebook declares {name}: {ast.unparse(annotation)}, and "
        raise InputError(
            f"-p {option}: {wanted}values are JSON literals with commas between: 8,16 or 0.5 or true or "
            f"""'"a text"' or [1,2] or 0:20 for 0 to 19"""
        ) from None


def _refuse_constant(text):
    raise ValueError(text)


def expand(notebook, values, how="grid"):
    """All runs: every combination of the values ("grid"), or the first of each, the second of each ... ("zip").

    Args:
        notebook: a `Notebook`.
        values: name -> a list, a range or an array of values, or one value.

    Raises:
        InputError: a name or a type that the notebook does not declare, lists of other lengths for "zip",
            two equal runs, more than 100,000 runs.
    """
    if how not in ("grid", "zip"):
        raise InputError(f"how={how!r}: it must be 'grid' or 'zip'")
    if not isinstance(values, dict):
        raise InputError(f"parameters is a {type(values).__name__}: it must be a dict of names and lists of values")
    lists = {name: _checked(name, each, notebook.declared) for name, each in values.items()}
    lengths = {name: len(each) for name, each in lists.items()}
    if how == "zip" and len(set(lengths.values())) > 1:
        raise InputError(f"zip needs lists of the same length, not {', '.join(f'{n} {k}' for k, n in lengths.items())}")
    n_runs = max(lengths.values(), default=1) if how == "zip" else math.prod(lengths.values())
    if n_runs > MOST_RUNS:
        raise InputError(f"{n_runs:,} runs: a sweep has at most {MOST_RUNS:,}")
    rows = zip(*lists.values()) if how == "zip" and lists else itertools.product(*lists.values())
    runs = [run_of(notebook, dict(zip(lists, row))) for row in rows]
    seen = {}
    for run in runs:
        if run.key in seen:
            raise InputError(f"two runs are the same: {canonical(run.given)}; name every value once")
        seen[run.key] = run
    return runs


def run_of(notebook, given):
    """The run of a notebook with these parameters, already checked."""
    defaults = {name: d.default for name, d in notebook.declared.items() if d.is_literal}
    parameters = {name: given.get(name, defaults.get(name)) for name in notebook.declared if name in given or name in defaults}
    text = canonical({"notebook": notebook.digest, "parameters": parameters})
    return Run(hashlib.sha256(text.encode()).hexdigest()[:20], given, parameters)


def _checked(name, values, declared):
    _check_name(name, declared)
    if isinstance(values, (str, dict)) or not isinstance(values, Iterable) or getattr(values, "shape", None) == ():
        values = [values]
    if isinstance(values, tuple):
        raise InputError(f"{name}={values!r} is a tuple: write a list of values")
    if isinstance(values, (list, range)) and len(values) > MOST_RUNS:
        raise InputError(f"{name} has {len(values):,} values: a sweep has at most {MOST_RUNS:,} runs")
    checked = [conforming(plain(value, name), declared[name].annotation, name) for value in values]
    if not checked:
        raise InputError(f"{name} has no values: give at least one")
    return checked


def _check_name(name, declared):
    if not isinstance(name, str) or name not in declared:
        known = ", ".join(declared) or "none: it has no cell tagged `parameters`"
        raise InputError(f"the notebook has no parameter {name!r}: it declares {known}")
