"""What a time belongs to: this machine, these packages, and programs of their own where a process must be fresh."""

import importlib
import json
import os
import platform
import subprocess
import sys
from datetime import date
from importlib import metadata
from pathlib import Path


class NotInstalled(Exception):
    """A package to compare with is not there."""


def optional(name):
    """The module of that name, or a stand-in that raises NotInstalled as soon as something is taken from it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return _Absent(name)


class _Absent:
    def __init__(self, name):
        self._name = name

    def __getattr__(self, attribute):
        raise NotInstalled(f"{self._name} is not installed")


def machine(packages=()):
    """What the times belong to, as a dict of strings: date, processor, cores, memory, versions. Neither names nor paths."""
    found = {"date": date.today().isoformat(), "processor": _processor(), "cores": str(os.cpu_count())}
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", ()):
        found["memory"] = f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB"
    found |= {"system": f"{platform.system()} {platform.machine()}", "Python": platform.python_version()}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def in_child(code, timeout=300, **environment):
    """What a program of its own prints as JSON in its last line, and what it wrote to stderr.

    Args:
        code: Python source.
        environment: variables that differ from this process's; None removes one.

    Raises:
        RuntimeError: it failed; the message is the last line that it wrote.
    """
    env = {name: value for name, value in (os.environ | environment).items() if value is not None}
    # Not from the current directory, where a folder could hide an installed package.
    command = [sys.executable, "-P", "-c", code]
    run = subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout)
    if run.returncode:
        last = run.stderr.strip().splitlines()[-1:]
        raise RuntimeError(f"a child process ended with {run.returncode}: {' '.join(last)}")
    return json.loads(run.stdout.strip().splitlines()[-1]), run.stderr


def _processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"
