"""The notebooks beside nbval: their shape, other parameters, and whether nbval would notice a wrong number."""

import ast
import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tokenize
from pathlib import Path

import nbformat
import pytest
from make_figures import figures
from refresh_notebooks import comparable, normalised

from vqcore.sweep.recording import recorded

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LONGEST_CELL = 15
LARGEST_IMAGE = 60_000
MOST_PARAMETERS = 6
# Only these cells may escape nbval's comparison: controls (their numbers are printed by the cell below) and clocks.
MAY_OPT_OUT = {"widgets", "timing"}
OPT_OUT = re.compile(r"nbval[-_](ignore[-_]output|skip|raises[-_]exception)|raises-exception", re.I)
# One is the door, the other measures times, of which a machine has its own.
HAND_OVER_NOTHING = {"00_start_here", "09_benchmarks"}
OUTPUT_WIDGETS = {"interact", "interact_manual", "interactive", "interactive_output", "Output"}

# Sets of parameters beside the defaults, which nbval runs: another seed, torch, small and large. They
# are given by notebook, and a parameter that a notebook does not have is an error.
VARIANTS = {
    "00_start_here": [
        {"seed": 1, "library": "torch"},
        {"n_points": 200, "n_codewords": 2},
        {"n_codewords": 64, "seed": 2},
    ],
    "01_voronoi_cells": [
        {"seed": 1, "library": "torch"},
        {"n_codewords": 2, "n_plane": 4, "n_points": 500},
        {"n_codewords": 100, "n_plane": 64, "offset": 1e4},
    ],
    "03_em_and_empty_cells": [
        {"seed": 1, "library": "torch"},
        {"n_codewords": 16, "n_columns": 64, "n_points": 200, "n_runs": 5},
        {"n_codewords": 64, "n_columns": 100, "seed": 2},
    ],
    "02_lloyd_convergence": [
        {"seed": 1, "library": "torch", "timed_points": 20_000},
        {"n_codewords": 2, "n_points": 1000, "n_starts": 5, "timed_points": 20_000},
        {"n_codewords": 48, "seed": 2, "n_starts": 10, "timed_points": 20_000},
    ],
    "04_learned_codebooks": [
        {"seed": 1, "library": "torch", "n_passes": 300},
        {"n_codewords": 2, "n_points": 1000, "n_slots": 4, "n_passes": 400},
        {"n_codewords": 40, "seed": 2, "n_slots": 16, "n_passes": 300},
    ],
    "05_product_quantization": [
        {"seed": 1, "library": "torch", "data_sets": "digits patches"},
        {"n_subspaces": 2, "n_codewords": 20, "data_sets": "digits", "n_queries": 100},
        {"n_subspaces": 16, "n_codewords": 16, "seed": 2, "data_sets": "patches"},
    ],
    "06_bit_packing": [
        {"seed": 1, "library": "torch"},
        {"n_bits": 1, "n_values": 64, "n_workers": 2, "n_steps": 200},
        {"n_bits": 16, "n_values": 50_000, "n_workers": 64, "seed": 2},
    ],
    "07_images": [
        {"seed": 1, "library": "torch"},
        {"name": "flower", "n_colours": 2, "patch_size": 8, "n_codewords": 2},
        {"n_colours": 256, "patch_size": 2, "n_codewords": 256, "seed": 2},
    ],
    "08_compressing_a_network": [
        {"seed": 1, "library": "torch"},
        {"n_hidden": 64, "block_size": 8, "n_codewords": 64, "vectors": "digits"},
        {"n_hidden": 128, "block_size": 1, "n_codewords": 4, "seed": 2, "vectors": "digits"},
    ],
    "09_benchmarks": [
        {"seed": 1, "library": "torch"},
        {"rows": "pack, nothing of this name", "n_threads": 1},
    ],
    "10_sweeps": [
        {"seed": 1, "library": "torch", "n_seeds": 2},
        {"seed": 60, "n_seeds": 1, "workers": 1},
    ],
}

# One-line faults put into a copy of vqcore: nbval must see a changed number in the notebook that is named.
# (notebook, module, text that occurs there once, what replaces it)
MUTANTS = [
    ("03_em_and_empty_cells", "em.py", "means[moves] = sums[moves]", "means[moves] = 0.999 * sums[moves]"),
    ("00_start_here", "lloyd.py", "sums[moves] / mass[moves, None]", "0.999 * sums[moves] / mass[moves, None]"),
    ("01_voronoi_cells", "law.py", "density = self._density(z_middle[:, None]", "density = 0.999 * self._density(z_middle[:, None]"),
    ("02_lloyd_convergence", "descent.py", "edges = codebook[:-1] + np.diff(codebook) / 2", "edges = codebook[:-1] + np.diff(codebook) / 2.01"),
    ("04_learned_codebooks", "layers.py", "(counts[won] / mass[won])[:, None]", "0.99 * (counts[won] / mass[won])[:, None]"),
    ("05_product_quantization", "product.py", "self.distortion = self.distortions[-1]", "self.distortion = 0.999 * self.distortions[-1]"),
    ("06_bit_packing", "qsgd.py", "fractions * (1 - fractions)).sum(1)", "fractions * (1 - 0.999 * fractions)).sum(1)"),
    ("07_images", "rates.py", "len(column) * entropy(", "1.01 * len(column) * entropy("),
    ("09_benchmarks", "coding.py", "return assign(points, codebook)[0]", "return assign(points, codebook)[0] ^ 1"),
    ("08_compressing_a_network", "compress/network.py", "n_codes * part.n_bits", "n_codes * (part.n_bits + 1)"),
    ("10_sweeps", "sweep/study.py", "Counter(earlier=len(runs) - len(left))", "Counter(earlier=len(left))"),
]

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)


def read(path):
    return nbformat.read(path, as_version=4)


def tags(cell):
    return set(cell.metadata.get("tags", []))


def code_cells(path):
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def literal_parameters(source):
    """Name to value of a `parameters` cell, which must be annotated literals with a comment each."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    commented, found = {token.start[0] for token in tokens if token.type == tokenize.COMMENT}, {}
    for node in ast.parse(source).body:
        line = f"line {node.lineno}"
        assert isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name), f"{line}: `name: type = value  # why`"
        # papermill reads the annotation with a regular expression that knows neither `|` nor quotes nor `...`.
        assert re.fullmatch(r"[\w.\[\], ]+", ast.unparse(node.annotation)), f"{line}: papermill cannot read this annotation"
        assert node.lineno == node.end_lineno and node.lineno in commented, f"{line}: one line, with a comment"
        found[node.target.id] = ast.literal_eval(node.value)
    return found


def run_pytest(arguments, cwd, **env):
    """A pytest of its own, which knows nothing of this project's configuration."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(cwd)]
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    return subprocess.run([*command, *map(str, arguments)], cwd=cwd, env=clean | env, capture_output=True, text=True, timeout=280)


def nbval(notebook, cwd, **env):
    sanitize = Path(__file__).with_name("nbval_sanitize.cfg")
    flags = ["--nbval", "--nbval-current-env", "--nbval-cell-timeout", "60", "--nbval-sanitize-with", sanitize]
    return run_pytest([*flags, notebook], cwd, **env)


@every_notebook
def test_parameters_come_first_then_the_imports(path):
    cells = code_cells(path)
    assert ["parameters" in tags(cell) for cell in cells] == [True] + [False] * (len(cells) - 1)
    assert 1 <= len(literal_parameters(cells[0].source)) <= MOST_PARAMETERS
    for number, cell in enumerate(cells):
        body = ast.parse(re.sub(r"^[%!].*$", "", cell.source, flags=re.M)).body
        imports = [isinstance(node, (ast.Import, ast.ImportFrom)) for node in body]
        assert any(imports) == (number == 1), f"code cell {number}: imports stand in the second, and only there"
        stars = [n for n in body if isinstance(n, ast.ImportFrom) and n.names[0].name == "*"]
        assert not stars and not re.search(r"sys\.path|^\s*[%!]\s*(pip|conda)", cell.source, re.M)


@every_notebook
def test_a_sentence_stands_before_every_short_cell(path):
    cells = read(path).cells
    assert cells[0].cell_type == "markdown" and cells[0].source.startswith("# "), "the title is the question"
    for before, cell in zip(cells, cells[1:]):
        if cell.cell_type == "code":
            assert before.cell_type == "markdown" and before.source.strip(), f"no sentence before: {cell.source[:60]!r}"
            assert len(cell.source.splitlines()) <= LONGEST_CELL, f"too long: {cell.source[:60]!r}"


@every_notebook
def test_every_reference_is_there_to_be_compared(path):
    notebook, cells = read(path), code_cells(path)
    assert all(cell.source.strip() for cell in cells)
    # nbval compares nothing where the count is missing, and says nothing about it.
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "run it: make notebooks"
    assert notebook.metadata.kernelspec.name == "python3"
    assert (notebook.nbformat, notebook.nbformat_minor) >= (4, 5) and all(cell.get("id") for cell in notebook.cells)
    assert comparable(notebook) == comparable(normalised(read(path))), "saved by hand: run make notebooks"
    for cell in cells:
        assert not any(output.output_type == "error" for output in cell.outputs), cell.source
        assert not any(output.get("name") == "stderr" for output in cell.outputs), f"warnings in: {cell.source}"
        if OPT_OUT.search(cell.source + " ".join(tags(cell))):
            assert tags(cell) & MAY_OPT_OUT, f"only cells tagged {MAY_OPT_OUT} may opt out: {cell.source}"
            assert "assert" not in cell.source, "a check must not stand where nothing is compared"


@every_notebook
def test_outputs_are_small_and_hold_no_address(path):
    for cell in code_cells(path):
        for output in cell.outputs:
            data = output.get("data", {})
            images = [base64.b64decode(data[kind]) for kind in ("image/png", "image/jpeg") if kind in data]
            images += [data["image/svg+xml"].encode()] if "image/svg+xml" in data else []
            assert all(len(image) <= LARGEST_IMAGE for image in images), [len(image) for image in images]
            text = output.get("text", "") + data.get("text/plain", "")
            assert not re.search(r" at 0x[0-9a-f]{6,}", text), f"an address, different each time: {text[:200]}"


@every_notebook
def test_explorers_can_be_run_by_papermill(path):
    for cell in code_cells(path):
        tree = ast.parse(re.sub(r"^[%!].*$", "", cell.source, flags=re.M))
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
        assert not names & OUTPUT_WIDGETS, f"{names & OUTPUT_WIDGETS} hang papermill and swallow errors: use observe"


@every_notebook
def test_a_sweep_gets_results(path):
    results = recorded(json.loads(path.read_text()))
    assert len(results) >= 2 or path.stem in HAND_OVER_NOTHING, "hand them over by vq.record"


@every_notebook
def test_it_teaches(path):
    """Predictions with choices, exercises with answers, what to remember, and the ways back and on."""
    cells = [cell.source for cell in read(path).cells if cell.cell_type == "markdown"]
    text = "\n".join(cells)
    asked = [part for cell in cells for part in re.split(r"(?=\*\*Predict\.\*\*)", cell) if part.startswith("**Predict.**")]
    assert asked, "a question with choices before the answer"
    for part in asked:
        assert "(a)" in part and "(b)" in part, f"no choices: {part[:100]!r}"
    answers = text.count("<details>")
    assert 2 <= answers <= 4 and answers == text.count("<summary>Answer</summary>") == text.count("</details>")
    assert "## What to remember" in text
    # The last links: back (the first has nothing behind it) and on (the last goes to the map).
    number, end = int(path.stem[:2]), text[text.index("## What to remember") :]
    linked = {int(found) for found in re.findall(r"\]\((\d\d)_\w+\.ipynb[^)]*\)", end)}
    assert number == 0 or min(linked) < number, "no way back after what to remember"
    assert path == NOTEBOOKS[-1] or max(linked) > number, "no way on after what to remember"
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (path.parent / link).exists(), f"a link to nowhere: {link}"


@every_notebook
def test_pictures_have_words_and_explorers_their_still_twin(path):
    cells = code_cells(path)
    for i, cell in enumerate(cells):
        for output in cell.outputs:
            for kind in {"image/png", "image/jpeg", "image/svg+xml"} & set(output.get("data", {})):
                alt = output.metadata.get(kind, {}).get("alt", "")
                assert len(alt) > 20 and alt == output["data"]["text/plain"], f"no description: {cell.source[:60]!r}"
        if "widgets" in tags(cell):
            (name,) = re.fullmatch(r"(\w+)", cell.source.strip()).groups()
            before = "\n".join(c.source for c in cells[:i])
            after = "\n".join(c.source for c in cells[i + 1 :])
            assert re.search(rf"show\w*\({name}\.figure\(\), {name}\.summary\(\)\)", before), f"{name} has no twin above it"
            assert re.search(rf"\b{name}\.(set\(|codebook = )", after), f"no plain cell moves {name} and prints"


def test_figures_are_those_of_the_notebooks():
    for name, content in figures().items():
        assert (ROOT / "figures" / name).read_bytes() == content, f"{name} is old: run make figures"


@pytest.mark.parametrize(
    ("name", "parameters"),
    [(name, parameters) for name, sets in VARIANTS.items() for parameters in sets],
    ids=lambda value: value if isinstance(value, str) else "-".join(f"{k}={v}" for k, v in value.items()),
)
def test_other_parameters_run_without_error(run_notebook, name, parameters):
    done = run_notebook(ROOT / "notebooks" / f"{name}.ipynb", parameters)
    outputs = [output for cell in done.cells if cell.cell_type == "code" for output in cell.outputs]
    assert outputs and not any(output.output_type == "error" for output in outputs)


def with_mutant(folder, module, text, replacement):
    """A copy of vqcore in `folder` with one line changed."""
    copy = folder / "vqcore"
    # Compiled kernels are cached beside their source: they come along, or every mutant would compile for a minute.
    shutil.copytree(ROOT / "vqcore", copy)
    source = (copy / module).read_text()
    assert source.count(text) == 1, f"{module} holds {text!r} {source.count(text)} times: the table of mutants is old"
    (copy / module).write_text(source.replace(text, replacement))
    if "numba" in source:
        # Functions of other files may hold this one inlined, which their caches do not notice.
        for cached in copy.rglob("*.nb[ic]"):
            cached.unlink()


@pytest.mark.parametrize(("name", "module", "text", "replacement"), MUTANTS, ids=[f"{m[1]}: {m[2]}" for m in MUTANTS])
def test_nbval_sees_a_wrong_number(tmp_path, name, module, text, replacement):
    with_mutant(tmp_path, module, text, replacement)
    notebook = shutil.copy(ROOT / "notebooks" / f"{name}.ipynb", tmp_path)
    shutil.copytree(ROOT / "notebooks" / "studies", tmp_path / "studies")
    run = nbval(notebook, tmp_path, PYTHONPATH=str(tmp_path))
    assert run.returncode == 1 and "Cell outputs differ" in run.stdout, run.stdout[-3000:]
