"""How far a sweep has come: a bar where somebody is watching, elsewhere a plain line now and then."""

import sys
import time

SECONDS_BETWEEN = 10.0


def shown(total, progress):
    """What `sweep` tells its counts to: a bar, lines, or nothing.

    Args:
        total: runs to be made.
        progress: True for a bar, False for nothing, None for a bar or lines.
    """
    watched = sys.stderr.isatty() or "ipykernel" in sys.modules
    if progress is None and not watched:
        return Lines(total)
    from tqdm.auto import tqdm

    return tqdm(
        total=total,
        desc="0 done, 0 failed",
        unit="run",
        disable=progress is False,
        bar_format="{desc}, {remaining} to go |{bar}| {n_fmt}/{total_fmt}",
    )


class Lines:
    """The counts of a sweep as lines on stderr, for files and pipes, in which a bar would be a mess."""

    def __init__(self, total, seconds=SECONDS_BETWEEN):
        self.total, self.seconds = total, seconds
        self.n, self.text = 0, ""
        self.start = self.last = time.monotonic()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        return None

    def set_description_str(self, text):
        """What to say besides how many runs have ended."""
        self.text = text

    def update(self):
        """One more run has ended."""
        self.n += 1
        now = time.monotonic()
        if now - self.last >= self.seconds and self.n < self.total:
            left = (now - self.start) / self.n * (self.total - self.n)
            print(f"{self.n:,} of {self.total:,} runs: {self.text}, about {_spelt(left)} to go", file=sys.stderr, flush=True)
            self.last = now


def _spelt(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
