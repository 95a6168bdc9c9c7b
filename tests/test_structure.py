"""The shape of the code: imports point one way, importing is light, nothing unsafe, no folder that nobody planned."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "vqcore"
MODULES = sorted(PACKAGE.rglob("*.py"))

# Data flows down this list; a module imports from its own floor or from floors above it.
FLOORS = [
    ["errors", "progress", "writing"],
    ["kernels"],
    ["checks"],
    ["fit", "coding", "rates", "bench"],
    ["law", "sources", "data", "descent"],
    ["voronoi", "scalar", "optimal", "lloyd", "online", "medians", "em", "soft"],
    ["subspaces", "product", "bits", "messages", "qsgd", "layers", "compress", "store"],
    ["view"],
    ["sweep", "app"],
    ["__init__", "__main__"],
]
FLOOR_OF = {name: level for level, names in enumerate(FLOORS) for name in names}
HEAVY = {"torch", "matplotlib", "dask", "distributed", "scipy", "sklearn", "numba", "pandas", "ipywidgets", "IPython"}
# The kernels, what is about torch modules by nature, and what starts or stores things of any library.
KNOW_TORCH = {"kernels", "layers", "compress", "store", "sweep", "app", "__main__"}
TOP_LEVEL = {
    "README.md", "environment.yml", "pyproject.toml", "requirements.lock", "Makefile", "LICENSE",
    "vqcore", "notebooks", "tests", "figures",
}  # fmt: skip
# Each of these can run code that a file brings along.
UNSAFE = re.compile(
    r"\bpickle\b|\bcloudpickle\b|\bjoblib\.load\b|\bmarshal\b|\bdill\b|allow_pickle\s*=\s*True"
    r"|yaml\.(unsafe_)?load\(|torch\.load\(|weights_only\s*=\s*False|\beval\(|\bexec\("
)


def room(path):
    """The part of vqcore that a file belongs to: the name of a module, or of the package that holds it."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path):
    """The rooms of vqcore that a file imports, wherever in it: an import inside a function is an arrow too."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: write imports in full"
            # `from vqcore import lloyd` and `from vqcore.lloyd import fit_lloyd` are the same arrow.
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "vqcore":
                rooms.add(parts[1] if len(parts) > 1 and parts[1] in FLOOR_OF else "__init__")
    return rooms - {room(path)}


def arrows():
    graph = {}
    for path in MODULES:
        graph.setdefault(room(path), set()).update(imported(path))
    return graph


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    assert room(path) in FLOOR_OF, f"{room(path)} has no floor: place it in FLOORS"
    back = {name for name in imported(path) if FLOOR_OF[name] > FLOOR_OF[room(path)]}
    assert not back, f"{room(path)} imports from below: {back}"


def test_imports_make_no_circle():
    graph = arrows()
    while graph:
        free = [name for name, needs in graph.items() if not needs & graph.keys()]
        assert free, f"these import each other: {graph}"
        for name in free:
            del graph[name]


def test_importing_is_light():
    code = f"import sys, vqcore; print(*sorted({HEAVY} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.split() == []


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_module_is_safe_and_well_named(path):
    source = path.read_text()
    assert not UNSAFE.search(source), f"can run code from a file: {UNSAFE.search(source)[0]}"
    asserts = [node.lineno for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Assert)]
    assert not asserts, f"python -O removes the assert in line {asserts}: raise an InputError"
    assert path.stem not in {"utils", "util", "helpers", "common", "misc"}, "name it by what it does"
    assert not re.search(r"^from \S+ import \*", source, re.M)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_the_kernels_know_the_library(path):
    if room(path) in KNOW_TORCH:
        return
    for node in ast.walk(ast.parse(path.read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", None) or ""]
        assert not any(name.partition(".")[0] in ("torch", "dask") for name in names), f"line {node.lineno}"


def functions(table):
    """The public functions that a kernel table defines or imports by name, in its source."""
    tree = ast.parse((PACKAGE / "kernels" / f"{table}.py").read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")}


def test_at_most_ten_kernels_the_same_in_every_library():
    names = functions("reference")
    assert 0 < len(names) <= 10
    for table in ("compiled", "tensors", "blocks"):
        if (PACKAGE / "kernels" / f"{table}.py").exists():
            lacking = f"(n for n in {sorted(names)} if not callable(getattr(t, n, None)))"
            code = f"import vqcore.kernels.{table} as t; print(*{lacking})"
            run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
            assert run.stdout.split() == [], f"{table} lacks these kernels"


def test_top_level_is_the_planned_one():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, timeout=30)
    if listed.returncode:
        pytest.skip("not a git checkout")
    top = {line.split("/")[0] for line in listed.stdout.splitlines()}
    assert {name for name in top if not name.startswith(".")} <= TOP_LEVEL


def test_the_readme_links_to_what_is_there():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", (ROOT / "README.md").read_text())
    assert len(links) > 3
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_example_of_the_readme_runs(tmp_path):
    example, _ = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    code = example + "\nprint(fit.distortion >= 0.9 * best.distortion, len(codes), best.certificate.unique)"
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert run.stdout.split() == ["True", "10000", "True"], run.stderr
