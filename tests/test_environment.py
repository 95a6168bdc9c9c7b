"""pyproject.toml, requirements.lock and environment.yml speak of the same packages, and what is installed fits."""

import importlib.metadata as metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text())
OPTIONAL_BY_HAND = {"embeddings"}  # extras that neither the lock nor conda installs
CONDA_TO_PYPI = {"pytorch": "torch", "matplotlib-base": "matplotlib"}  # the only names that differ
# What torch asks for on Linux depends on the build: the CPU one asks for none of these.
OF_CUDA_BUILDS = re.compile(r"nvidia-|cuda-|triton")


def ranges():
    """Name to requirement, of everything that pyproject.toml asks for except what is installed by hand."""
    lines = list(PROJECT["dependencies"])
    for extra, names in PROJECT["optional-dependencies"].items():
        if extra not in OPTIONAL_BY_HAND:
            lines += names
    return {canonicalize_name(r.name): r for r in map(Requirement, lines)}


def locked():
    """Name to version, as requirements.lock pins them."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pins}


def conda_specs():
    """Name on PyPI to specifier, of everything that environment.yml asks conda, or pip under it, for."""
    specs = {}
    for line in conda_lines() + pip_lines():
        if line != "-e .":
            match = re.fullmatch(r"([A-Za-z0-9_.-]+)( [<>=!~][^ ]*)?", line)
            assert match, f"not a plain requirement: {line!r}"
            specs[canonicalize_name(CONDA_TO_PYPI.get(match[1], match[1]))] = SpecifierSet((match[2] or "").strip())
    return specs


def conda_lines():
    return [line for line in ENVIRONMENT["dependencies"] if isinstance(line, str)]


def pip_lines():
    return [line for part in ENVIRONMENT["dependencies"] if isinstance(part, dict) for line in part["pip"]]


RANGES, LOCKED, CONDA = ranges(), locked(), conda_specs()


def test_lock_is_a_plain_sorted_list_of_public_versions():
    lines = [x for x in (ROOT / "requirements.lock").read_text().splitlines() if not x.startswith("#")]
    for line in lines:
        assert re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9.]+", line), line
    names = [line.split("==")[0].lower() for line in lines]
    assert names == sorted(names) and len(set(names)) == len(names)
    assert "vqcore" not in LOCKED
    assert LOCKED["torch"] == "2.13.0"


def test_lock_holds_what_builds_the_package():
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    for need in map(Requirement, build):
        assert need.specifier.contains(LOCKED[need.name]), "make installs with --no-build-isolation"


@pytest.mark.parametrize("name", sorted(RANGES))
def test_lock_pins_within_the_range(name):
    assert name in LOCKED
    assert RANGES[name].specifier.contains(LOCKED[name])


@pytest.mark.skipif(sys.platform != "linux", reason="the lock lists what Linux needs; pip adds the rest elsewhere")
def test_lock_is_closed():
    missing = set()
    for name in LOCKED:
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # of another Python version
        for need in map(Requirement, needs):
            applies = need.marker is None or need.marker.evaluate({"extra": ""})
            if applies and not OF_CUDA_BUILDS.match(need.name) and canonicalize_name(need.name) not in LOCKED:
                missing.add(f"{need.name} (for {name})")
    assert missing == set()


@pytest.mark.parametrize("name", sorted(RANGES))
def test_installed_version_is_in_the_range(name):
    assert RANGES[name].specifier.contains(Version(metadata.version(name)).public)


@pytest.mark.skipif(Path(sys.prefix).resolve() != ROOT / ".venv", reason="only .venv is installed from the lock")
def test_make_installed_the_lock():
    installed = {name: Version(metadata.version(name)).public for name in RANGES}
    assert installed == {name: LOCKED[name] for name in RANGES}


def test_conda_names_and_ranges_are_those_of_pyproject():
    wanted = {name: r.specifier for name, r in RANGES.items()} | {"python": SpecifierSet(PROJECT["requires-python"])}
    got = {name: spec for name, spec in CONDA.items() if name != "pip"}
    assert got == wanted


def test_conda_takes_only_conda_forge_and_installs_the_package():
    assert ENVIRONMENT["channels"] == ["conda-forge", "nodefaults"]
    assert pip_lines().count("-e .") == 1


def test_package_is_installed_and_not_found_by_luck(tmp_path):
    where = "import vqcore, pathlib; print(pathlib.Path(vqcore.__file__).resolve().parent)"
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [sys.executable, "-c", where]
    run = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert run.stdout.strip() == str(ROOT / "vqcore"), run.stderr
    assert metadata.version("vqcore") == PROJECT["version"]
