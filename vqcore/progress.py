"""A progress bar where somebody is watching, and nothing where nobody is."""

import sys
from contextlib import nullcontext


class _Silent:
    def update(self, n=1):
        """Count n steps, for nobody."""


def progress_bar(total, label, progress=None):
    """A context whose `update(n)` counts steps; by default drawn only in a terminal, and only after a second."""
    if progress is None and not sys.stderr.isatty() or progress is False:
        return nullcontext(_Silent())
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return nullcontext(_Silent())
    return tqdm(total=total, desc=label, leave=False, delay=0 if progress else 1)
