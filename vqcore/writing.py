"""Files that are there in whole, or as they were before."""

import os
import secrets
from pathlib import Path


def write_whole(path, *pieces):
    """Write bytes to a file so that it is there in whole or as it was before, also after a loss of power; its Path.

    They are written beside the place under another name, brought to the disk and renamed.
    """
    path = Path(path)
    # A name may take 255 bytes, and a letter four of them.
    beside = path.with_name(f".{path.name[:50]}.{secrets.token_hex(8)}.tmp")
    try:
        with open(beside, "xb") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    return path
