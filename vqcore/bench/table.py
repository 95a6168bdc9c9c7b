"""The rows of a report as text, for a notebook and as a file; rows below their bar stand first and are marked."""

from pathlib import Path

from vqcore.bench.measuring import OURS
from vqcore.writing import write_whole

HEAD = ("work", "case", "vqcore, ms", "fastest peer", "its ms", "ratio", "quartiles of the rounds", "bar", "result", "others, ms")


def as_text(rows):
    """Rows in columns for a notebook, under the names of their works; those below their bar are marked."""
    if not rows:
        return "Left out."
    lines, works = [f"  {'milliseconds':41s}{'vqcore':>9s}  {'fastest peer':27s}{'ratio':>7s}  {'quartiles':13s}{'bar':>5s}"], []
    order = list(dict.fromkeys(row.work for row in rows))
    for row in sorted(rows, key=lambda row: order.index(row.work)):
        if row.work not in works:
            works.append(row.work)
            lines.append(row.work)
        low, _, high = row.quartiles
        peer = "" if row.peer is None else f"{_ms(row.best(row.peer)):>8s} {row.peer}"
        spread = "" if row.peer is None else f"{_number(low)} to {_number(high)}"
        numbers = f"{_number(row.ratio):>7s}  {spread:13s}{_bar(row):>5s}"
        mark = "!" if row.is_wrong else "*" if row.is_short else " "
        lines.append(f"{mark} {row.case:41s}{_ms(row.best()):>9s}  {peer:27s}{numbers}")
    legend = {"*": "* below its bar", "!": "! failed, or came to another result"}
    return "\n".join(lines + [text for mark, text in legend.items() if any(line[0] == mark for line in lines)])


def _number(ratio):
    """Two decimals, as far as there is room."""
    return "-" if ratio != ratio else f"{ratio:.2f}" if ratio < 100 else f"{ratio:.0f}"


def as_markdown(report, about, notes=()):
    """The whole report as a page: the machine, what falls short, then every row in the order it was measured.

    Args:
        about: what the times belong to, name to text, as `machine` tells it.
        notes: further paragraphs.
    """
    kind = "a quick run, to see that it works: its times mean nothing" if report.quick else "the full run"
    short, wrong = report.short, [row for row in report.rows if row.is_wrong]
    asked = [row for row in report.rows if row.bar is not None]
    lines = ["# Benchmarks", "", f"Written by `make bench` from notebook 09 ({kind}). {METHOD}", ""]
    lines += ["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in about.items()), ""]
    for note in notes:
        lines += [note, ""]
    lines += [f"## Below the bar: {len(short)} of {len(asked)} rows", "", *_table(short), ""]
    lines += [f"## Failed, or another result: {len(wrong)} rows", "", *(f"- {row}" for row in wrong), ""]
    return "\n".join(lines + [f"## All {len(report.rows)} rows", "", *_table(report.rows), ""])


METHOD = (
    "Contenders take turns in one process, with the same data, precision and threads; a first call of each does not count. "
    "The ratio is the best time of the fastest peer over the best time of vqcore: above 1, vqcore is the faster."
)


def write(path, text):
    """Write a text file in whole, or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text.encode())


def _table(rows):
    if not rows:
        return ["None."]
    return ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD), *map(_line, rows)]


def _line(row):
    low, middle, high = row.quartiles
    others = [name for name in row.seconds if name not in (OURS, row.peer)]
    mark = "**" if row.is_short else ""
    cells = [
        row.work, row.case, _ms(row.best()), row.peer or "-", _ms(row.best(row.peer)), f"{mark}{row.ratio:.2f}{mark}",
        f"{low:.2f}, {middle:.2f}, {high:.2f}", _bar(row) + (" **short**" if row.is_short else ""),
        row.outcome(), ", ".join(f"{name} {_ms(row.best(name))}" for name in others),
    ]  # fmt: skip
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _ms(seconds):
    """Milliseconds with three digits that count."""
    milliseconds = 1e3 * seconds
    return "-" if milliseconds != milliseconds else f"{milliseconds:,.0f}" if milliseconds >= 100 else f"{milliseconds:.3g}"


def _bar(row):
    return "-" if row.bar is None else f"{row.bar:.3g}"
