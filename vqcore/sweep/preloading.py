"""Which of a notebook's imports a station may make in advance, and how a worker speaks with its station."""

import ast
import json
import os
import select
import subprocess
import sys
import threading
import time

# Importing these starts no thread and touches no device; whatever else a notebook imports waits for the kernel.
SAFE = {"numpy", "scipy", "sklearn", "numba", "matplotlib", "PIL", "pandas", "ipywidgets", "torch", "vqcore", "tqdm"}
_here = threading.local()


def modules_to_preload(sources):
    """What code cells import and what is safe to import in advance, in order: modules, and names of vqcore."""
    found = {}
    for source in sources:
        try:
            tree = ast.parse("\n".join(line for line in source.splitlines() if not line.lstrip().startswith(("%", "!"))))
        except SyntaxError:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found.update(dict.fromkeys(alias.name for alias in node.names))
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found[node.module] = None
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "vq":
                # vqcore imports its parts when they are first named.
                found[f"vqcore.{node.attr}"] = None
    return [name for name in found if name.partition(".")[0] in SAFE]


def station(sweep, modules, env):
    """The station of this thread for this sweep, started if there is none; None where runs cannot be forked."""
    if not hasattr(os, "fork") or env["OMP_NUM_THREADS"] != "1":
        # The thread pools of the libraries take their size when they are imported.
        return None
    current = getattr(_here, "station", None)
    if current is None or current.sweep != sweep or not current.is_alive():
        if current is not None:
            current.close()
        _here.station = current = Station(sweep, modules, env)
    return current if current.ready else None


class Station:
    """A worker's end of a station."""

    def __init__(self, sweep, modules, env):
        self.sweep = sweep
        life, self._life = os.pipe()
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "vqcore.sweep.station", str(life), *modules],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                pass_fds=[life],
                env=env,
                start_new_session=True,
            )
        finally:
            os.close(life)
        self._unread = b""
        self.ready = (self._message(120) or {}).get("ready", False)

    def is_alive(self):
        """Whether it still takes runs."""
        return self.process.poll() is None

    def run(self, sockets, limit):
        """Have it fork a run, and wait for its end; False if that did not come in time, or the station died."""
        try:
            self.process.stdin.write(f"{sockets}\n".encode())
            self.process.stdin.flush()
        except OSError:
            return False
        return self._message(60) is not None and self._message(limit) is not None

    def close(self):
        """End it, and with it whatever it runs: a run ends itself and its kernel when this pipe closes."""
        if self._life is None:
            return
        os.close(self._life)
        self._life = None
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()

    def _message(self, seconds):
        end = time.monotonic() + seconds
        while b"\n" not in self._unread:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                return None
            more = os.read(self.process.stdout.fileno(), 4096)
            if not more:
                return None
            self._unread += more
        line, _, self._unread = self._unread.partition(b"\n")
        return json.loads(line)
