"""Takes the pictures of the README and the prose out of the executed notebooks (`make figures`).

A cell tagged `figure` gives its picture to figures/NAME.png, where NAME is the notebook's, less its
number: 00_start_here.ipynb gives start_here.png. So a figure is what the notebook shows, to the byte.
"""

import base64
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]


def figures(notebooks=ROOT / "notebooks"):
    """File name to bytes of every picture that a notebook gives away."""
    found = {}
    for path in sorted(notebooks.glob("*.ipynb")):
        tagged = [c for c in nbformat.read(path, as_version=4).cells if "figure" in c.metadata.get("tags", [])]
        pictures = [o["data"]["image/png"] for c in tagged for o in c.outputs if "image/png" in o.get("data", {})]
        if len(tagged) > 1 or len(pictures) != len(tagged):
            raise ValueError(f"{path.name}: at most one cell is tagged `figure`, and it shows one PNG")
        for picture in pictures:
            found[path.stem.partition("_")[2] + ".png"] = base64.b64decode(picture)
    return found


def main(target=ROOT / "figures"):
    """Writes every figure that is new or has changed."""
    target.mkdir(exist_ok=True)
    for name, content in figures().items():
        path = target / name
        changed = not path.exists() or path.read_bytes() != content
        if changed:
            path.write_bytes(content)
        print(f"{name:32s} {len(content) / 1000:6.1f} kB  {'changed' if changed else 'unchanged'}")


if __name__ == "__main__":
    sys.exit(main())
