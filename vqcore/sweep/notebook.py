"""A notebook as a sweep sees it: its code, without outputs, and the parameters that it declares."""

import ast
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from vqcore import checks
from vqcore.errors import InputError
from vqcore.sweep.grid import canonical, conforming, plain


@dataclass(frozen=True)
class Declared:
    """A parameter of a notebook: its annotation (an ast node, or None) and its default, if that is a literal."""

    annotation: Any
    default: Any = None
    is_literal: bool = False


@dataclass(frozen=True)
class Notebook:
    """A notebook to be run.

    Attributes:
        name: the file's name without its ending.
        text: the notebook as JSON, without outputs.
        digest: hash of all code cells; a change of the prose alone keeps it.
        declared: name -> Declared, from the cell tagged `parameters`, in order.
        sources: the texts of its code cells.
    """

    name: str
    text: str
    digest: str
    declared: dict
    sources: list


def read_notebook(path):
    """The Notebook in a file.

    Raises:
        InputError: no such file, not a notebook of format 4, not Python, or parameters that cannot be read.
    """
    path = checks.as_path(path, "notebook")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["nbformat"] != 4:
            raise InputError(f"{path} has notebook format {content['nbformat']}: save it again in format 4")
        cells = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
        sources = ["".join(cell["source"]) for cell in cells]
        tags = [cell.get("metadata", {}).get("tags", []) for cell in cells]
    except OSError as error:
        raise InputError(f"no notebook at {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not a notebook") from None
    language = _language(content.get("metadata", {}))
    if language is None:
        raise InputError(
            f"{path} does not say which kernel runs it: open it in JupyterLab, choose a kernel and save it, "
            f"""or store nbformat's metadata={{"kernelspec": {{"name": "python3", "display_name": "Python 3", "language": "python"}}}}"""
        )
    if language != "python":
        raise InputError(f"{path} is written in {language}: only Python notebooks can be swept")
    for cell in cells:
        cell.update(outputs=[], execution_count=None)
    declared = next((_declared(source, path) for source, tag in zip(sources, tags) if "parameters" in tag), {})
    digest = hashlib.sha256(canonical(sources).encode()).hexdigest()
    return Notebook(path.stem, json.dumps(content, ensure_ascii=False, indent=1), digest, declared, sources)


def _language(metadata):
    """The language of a notebook, from where papermill reads it; None where it would find nothing, and fail every run."""
    try:
        return metadata.get("language_info", {}).get("name") or metadata.get("kernelspec", {}).get("language") or None
    except AttributeError:
        return None


def _declared(source, path):
    found = {}
    try:
        body = ast.parse(source).body
    except SyntaxError as error:
        raise InputError(f"the parameters of {path} cannot be read: line {error.lineno}, {error.msg}") from None
    for node in body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = _with_default(node.target.id, node.annotation, node.value)
        elif isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = _with_default(node.targets[0].id, None, node.value)
    return found


def _with_default(name, annotation, node):
    try:
        value = plain(ast.literal_eval(node), name)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return Declared(annotation)
    if annotation is None and type(value) in (bool, int, float, str):
        # What has no annotation is of the type of its default; a default of 1 may well mean any number.
        annotation = ast.parse("int | float" if type(value) is int else type(value).__name__, mode="eval").body
    try:
        value = conforming(value, annotation, name)
    except InputError:
        pass
    return Declared(annotation, value, True)
