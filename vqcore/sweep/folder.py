"""The folder of a sweep: one folder a run, a record written last that proves it, and a lock for every run.

    done/KEY/     notebook.ipynb, whatever files the run wrote, and record.json: there in whole or not at all
    failed/KEY/   how far a run came, and failure.json
    .private/     runs in progress, each in a folder of its own that is renamed into done/ or failed/
    .locks/       one empty file a run, held by the process that runs it and released by its death; and one for what all share
    .notebooks/   the notebooks, without outputs, under the hash of their code
"""

import hashlib
import json
import os
import shutil
import time
from contextlib import contextmanager
from pathlib import Path

from vqcore.errors import InputError
from vqcore.sweep.grid import canonical
from vqcore.writing import write_whole

PARTS = ("done", "failed", ".private", ".locks", ".notebooks")
# The lock of the table and of the notebooks. It is held for a moment; but a process may be stopped in that moment, by
# Ctrl-Z or with the machine it runs on, and nobody should wait for it longer than this.
SHARED, PATIENCE = "table", 10.0


def open_folder(path, needed_bytes=0):
    """The folder of a sweep, made if it is not there, and proven to be writable.

    Raises:
        InputError: it cannot be made or written, or its disk is full.
    """
    path = Path(path).absolute()
    try:
        for part in PARTS:
            (path / part).mkdir(parents=True, exist_ok=True)
        # Of one name, so that what a death leaves here is gone the next time.
        probe = path / ".private" / "probe"
        probe.write_bytes(b"probe")
        probe.unlink(missing_ok=True)
        free = shutil.disk_usage(path).free
    except OSError as error:
        raise InputError(f"the folder {path} cannot be written: {error.strerror}") from None
    if free < needed_bytes:
        raise InputError(f"the disk of {path} has {free / 1e6:.1f} MB left: at least {needed_bytes / 1e6:.0f} MB are needed")
    return path


def store_notebook(folder, notebook):
    """Keep the notebook under its digest, so that all runs of a sweep run the same code."""
    target = folder / ".notebooks" / f"{notebook.digest}.ipynb"
    content = notebook.text.encode()
    if not target.exists() or target.read_bytes() != content:
        with locked(folder, SHARED, PATIENCE):
            write_whole(target, content)


@contextmanager
def locked(folder, key, seconds=0.0):
    """True while this process holds a lock, False if another held it all these seconds; a process that dies lets it go."""
    end = time.monotonic() + seconds
    with open(folder / ".locks" / key, "ab") as file:
        while not (held := _lock(file.fileno())) and time.monotonic() < end:
            time.sleep(0.05)
        yield held
        # Closing releases it.


def _lock(handle):
    try:
        try:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    except (BlockingIOError, PermissionError):
        return False
    return True


def clear_leftovers(folder, key):
    """Remove what broken runs of this key left behind; only whoever holds its lock may call this."""
    for private in (folder / ".private").glob(f"{key}-*"):
        shutil.rmtree(private, ignore_errors=True)


def clear_all_leftovers(folder):
    """Remove what broken runs left behind, wherever nobody is at work."""
    for key in {path.name.partition("-")[0] for path in (folder / ".private").iterdir() if path.is_dir()}:
        with locked(folder, key) as held:
            if held:
                clear_leftovers(folder, key)
    with locked(folder, SHARED) as held:
        if held:
            for unfinished in (*folder.glob(".*.tmp"), *folder.glob(".notebooks/.*.tmp")):
                unfinished.unlink(missing_ok=True)


def sealed(record):
    """The bytes of a record, with a digest over everything in it."""
    body = {name: value for name, value in record.items() if name != "digest"}
    digest = hashlib.sha256(canonical(body).encode()).hexdigest()
    return (json.dumps(body | {"digest": digest}, indent=1) + "\n").encode()


def proven(folder, key):
    """The record of a run that is done, with all its files as they were; else None."""
    home = folder / "done" / key
    try:
        content = (home / "record.json").read_bytes()
        record = json.loads(content)
        if content != sealed(record) or record["key"] != key or record["status"] != "done":
            return None
        whole = all(digest_of(home / name) == digest for name, digest in record["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return record if whole else None


def failure(folder, key):
    """What is known of the last failure of a run, or None."""
    try:
        found = json.loads((folder / "failed" / key / "failure.json").read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def digest_of(path):
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def publish(folder, key, private, record):
    """Rename a run's private folder to its place, in whole, its record written last; its last failure is forgotten."""
    # A record is this function's alone to write, whatever the notebook may have put there.
    _remove(private / "record.json")
    for path in sorted(private.rglob("*")):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
    files = sorted(path for path in private.rglob("*") if path.is_file() and not path.is_symlink())
    record = record | {"files": {path.relative_to(private).as_posix(): digest_of(path) for path in files}}
    write_whole(private / "record.json", sealed(record))
    # Before, because nobody would look for the failure of a run that is done.
    _put_away(folder, folder / "failed" / key)
    _take_place(folder, private, folder / "done" / key)


def _remove(path):
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def keep_failure(folder, key, private, found):
    """Keep how far a run came and why it ended, in the place of its last failure; done/ is not touched."""
    _remove(private / "failure.json")
    write_whole(private / "failure.json", (json.dumps(found, indent=1) + "\n").encode())
    _take_place(folder, private, folder / "failed" / key)


def _put_away(folder, home):
    """Remove a folder in one step: a death on the way leaves nothing that could be taken for the whole."""
    if home.exists():
        old = folder / ".private" / f"{home.name}-old-{os.getpid()}"
        os.rename(home, old)
        shutil.rmtree(old, ignore_errors=True)


def _take_place(folder, private, home):
    # A folder is replaced by two renames; after a death between them the run is not proven, and runs again.
    _put_away(folder, home)
    os.rename(private, home)
    if os.name == "posix":
        handle = os.open(home.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
