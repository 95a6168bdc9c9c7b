"""The machinery of the benchmark: turns, ratios, what happens to who raises, and what the table says."""

import itertools
import math
import re
import socket
import sys
from pathlib import Path

import numpy as np
import pytest

from vqcore.bench import NotInstalled, Report, Row, as_markdown, as_text, in_child, machine, optional, take_turns, write


class Clock:
    """A clock that only the contenders move, so that no test depends on how busy the machine is."""

    def __init__(self):
        self.now, self.log = 0.0, []

    def __call__(self):
        return self.now

    def work(self, name, *durations):
        forever = itertools.chain(durations, itertools.repeat(durations[-1]))

        def call():
            self.log.append(name)
            self.now += next(forever)

        return call


def turns(clock, calls, **limits):
    return take_turns(calls, clock=clock, pause=0, **limits)


def test_contenders_take_turns_there_and_back():
    clock = Clock()
    taken = turns(clock, {"a": clock.work("a", 1.0), "b": clock.work("b", 2.0)}, seconds=0, fewest=3)
    assert clock.log == ["a", "b", "a", "b", "b", "a", "a", "b"]
    assert taken["a"].tolist() == [1, 1, 1] and taken["b"].tolist() == [2, 2, 2]


def test_the_first_call_does_not_count():
    clock = Clock()
    taken = turns(clock, {"a": clock.work("a", 100.0, 1.0)}, seconds=0, fewest=2)
    assert taken["a"].tolist() == [1, 1]


def test_a_long_call_that_was_made_already_is_not_made_again_for_nothing():
    clock = Clock()
    calls = {"long": clock.work("long", 3.0), "short": clock.work("short", 0.5)}
    turns(clock, calls, seconds=0, fewest=2, warm={"long": 3.0, "short": 0.5, "gone": 9.0})
    assert clock.log.count("long") == 2 and clock.log.count("short") == 3


def test_as_many_rounds_as_fit():
    clock = Clock()
    assert len(turns(clock, {"a": clock.work("a", 0.5)}, seconds=4, fewest=2, most=100)["a"]) == 8
    assert len(turns(clock, {"a": clock.work("a", 0.5)}, seconds=4, fewest=2, most=5)["a"]) == 5
    assert len(turns(clock, {"a": clock.work("a", 50.0)}, seconds=4, fewest=2, most=5)["a"]) == 2


def test_a_short_call_is_repeated_within_its_turn_and_told_per_call():
    clock = Clock()
    taken = turns(clock, {"a": clock.work("a", 1e-5)}, seconds=0, fewest=1)
    assert clock.log.count("a") >= 200
    assert taken["a"] == pytest.approx([1e-5])


def row(ours, theirs, bar=2.0):
    return Row("assign", "a case", bar, {"vqcore": np.array(ours), "slow": np.array(theirs) * 3, "fast": np.array(theirs)})


def test_a_ratio_is_of_the_best_times_to_the_fastest_peer():
    found = row([1.0, 4.0, 2.0], [6.0, 3.0, 4.0])
    assert (found.peer, found.ratio, found.share, found.is_short) == ("fast", 3.0, 1.5, False)
    assert found.quartiles.tolist() == np.quantile([6.0, 0.75, 2.0], (0.25, 0.5, 0.75)).tolist()
    assert row([2.0], [3.0]).is_short and not row([2.0], [3.0], bar=None).is_short and not row([1.0], [2.0]).is_short


def test_a_row_without_peers_or_times_can_be_told():
    alone = Row("growth", "a case", None, {"vqcore": np.array([1.0])})
    assert alone.peer is None and math.isnan(alone.ratio) and not alone.is_short
    broken = Row("assign", "a case", 2.0, {"fast": np.array([1.0])}, failed={"vqcore": "ValueError: no"})
    assert broken.is_short and broken.share == 0
    report = Report()
    report.rows += [alone, broken]
    assert "ValueError: no" in as_markdown(report, {}) and as_text(report.rows)


def test_between_turns_threads_may_go_to_sleep(monkeypatch):
    pauses = []
    monkeypatch.setattr("time.sleep", pauses.append)
    Report().compare("assign", "a case", 1.0, {"vqcore": returns(7), "same": returns(7)}, pause=0.125)
    assert pauses == 4 * [0.125]


def returns(value):
    return lambda *data: lambda: value


def raises(error):
    def prepare(*data):
        raise error

    return prepare


def test_who_raises_is_written_down_and_the_others_go_on():
    report = Report()
    calls = iter([1])
    contenders = {
        "vqcore": returns(7), "same": returns(7), "other": returns(8), "absent": raises(NotInstalled("absent is not installed")),
        "early": raises(ValueError("bad | data\nof two lines")), "late": lambda: lambda: next(calls) and None,
    }  # fmt: skip
    report.compare("assign", "a case", 1.0, {k: v for k, v in contenders.items() if k != "late"}, agree=int.__eq__)
    (found,) = report.rows
    assert found.agrees == {"same": True, "other": False} and set(found.seconds) == {"vqcore", "same", "other"}
    assert found.failed == {"early": "ValueError: bad | data of two lines"} and set(found.missing) == {"absent"}
    assert found.is_wrong and "other DISAGREES" in str(found) and "absent is not installed" in report.summary()
    # Its first call works, a later one does not: the row is lost, the report is not.
    report.compare("assign", "a later case", 1.0, contenders)
    assert report.rows[-1].is_wrong and "StopIteration" in str(report.rows[-1]) and report.rows[-1].is_short


def test_if_vqcore_raises_the_row_is_short_and_wrong():
    report = Report(quick=False)
    report.compare("assign", "a case", 1.0, {"vqcore": raises(MemoryError("no")), "other": returns(1)}, agree=int.__eq__)
    (found,) = report.rows
    assert found.is_short and found.is_wrong and report.short == [found] and found.failed == {"vqcore": "MemoryError: no"}


def test_bars_are_for_the_full_cases():
    for quick in (True, False):
        report = Report(quick)
        report.add("assign", "a case", 2.0, {"vqcore": [1.0], "peer": [1.0]})
        assert report.rows[0].bar == (None if quick else 2.0) and len(report.short) == (not quick)


def test_contenders_apart_make_rows_of_their_own():
    report = Report(quick=False)
    contenders = {"vqcore": returns(7), "peer": returns(7), "limit": returns(None)}
    report.compare("assign", "a case", 1.3, contenders, agree=int.__eq__, apart={"limit": 0.5})
    together, apart = report.rows
    assert (together.work, together.bar, set(together.seconds)) == ("assign", 1.3, {"vqcore", "peer"})
    assert (apart.work, apart.bar, set(apart.seconds)) == ("assign, limit", 0.5, {"vqcore", "limit"})
    assert together.agrees == {"peer": True} and apart.agrees == {} and not apart.is_wrong
    assert together.seconds["vqcore"] is apart.seconds["vqcore"]


def test_an_attempt_that_raises_is_a_row():
    report = Report()
    report.attempt("memory", "a case", lambda n: report.add("memory", f"case {n}", None, {"vqcore": [1.0]}), 3)
    report.attempt("memory", "a case", raises(OSError("no room")))
    assert [found.is_wrong for found in report.rows] == [False, True]
    assert report.summary() == "memory: 2 cases\n    memory: a case: vqcore FAILED: OSError: no room"


def test_parts_can_be_chosen():
    assert Report().cases("assign", [1], [2, 3]) == [1] and Report(quick=False).cases("assign", [1], [2, 3]) == [2, 3]
    chosen = Report(only="assign, fit")
    assert chosen.cases("fit", [1], []) == [1] and chosen.cases("pack", [1], []) == []
    assert chosen.summary() == "nothing was measured"


def test_a_summary_says_who_agrees_in_all_cases_and_what_else_happened():
    report = Report()
    report.add("assign", "one", None, {"vqcore": [1.0]}, agrees={"a": True, "b": True})
    report.add("assign", "two", None, {"vqcore": [1.0]}, agrees={"a": True, "b": False})
    report.add("fit", "one", None, {"vqcore": [1.0]})
    lines = ["assign: 2 cases, the same result from a", "    assign: two: a agrees, b DISAGREES", "fit: 1 case"]
    assert report.summary().splitlines() == lines
    assert [row.case for row in report.of("fit")] == ["one"] and len(report.of("fit", "assign")) == 3


def test_the_page_names_every_row_and_shows_first_what_falls_short():
    report = Report(quick=False)
    report.add("fine", "a case", 1.0, {"vqcore": [1.0], "peer": [2.0], "third": [5.0]})
    report.add("near", "a case", 2.0, {"vqcore": [1.0], "peer": [1.9]})
    report.add("far", "b | case", 8.0, {"vqcore": [1.0], "peer": [2.0]}, agrees={"peer": False})
    assert [found.work for found in report.short] == ["far", "near"]
    page = as_markdown(report, {"processor": "one"}, notes=["A note."])
    below, wrong, every = re.split(r"^## ", page, flags=re.M)[1:]
    assert [line.split(" | ")[0] for line in below.splitlines() if line.startswith("| ")][1:] == ["| far", "| near"]
    assert below.startswith("Below the bar: 2 of 3 rows") and "far: b | case: peer DISAGREES" in wrong
    assert all(name in every for name in ("fine", "near", "far", "third 5,000")) and "A note." in page and "| processor | one |" in page
    # A bar within a cell would shift all columns after it.
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in every.splitlines() if line.startswith("|")} == {11}
    text = as_text(report.rows).splitlines()
    assert [line[0] for line in text if "case " in line] == [" ", "*", "!"] and max(map(len, text)) < 110
    assert text[-2:] == ["* below its bar", "! failed, or came to another result"] and as_text([]) == "Left out."


def test_the_page_is_written_in_whole(tmp_path):
    path = tmp_path / "new" / "page.md"
    write(path, "one")
    write(path, "two")
    assert path.read_text() == "two" and list(path.parent.iterdir()) == [path]


def test_the_machine_is_described_without_names_and_paths():
    about = machine(["numpy", "no-such-package"])
    assert about["numpy"] == np.__version__ and about["no-such-package"] == "not installed"
    assert {"date", "processor", "cores", "Python"} <= about.keys()
    text = " ".join(about.values())
    assert socket.gethostname() not in text and str(Path.home()) not in text and sys.prefix not in text


def test_a_package_that_is_not_there_is_said_when_it_is_used():
    assert optional("math") is math
    absent = optional("no_such_package")
    with pytest.raises(NotInstalled, match="no_such_package is not installed"):
        absent.KMeans(3)


def test_a_child_process_tells_its_result_or_its_end():
    value, said = in_child("import os, sys; sys.stderr.write('hello'); print('noise'); print(os.environ['VQ_X'])", VQ_X="[1, 2]")
    assert (value, said) == ([1, 2], "hello")
    assert in_child("import os; print('VQ_X' in os.environ and 1 or 0)", VQ_X=None)[0] == 0
    with pytest.raises(RuntimeError, match="ended with 1: ValueError: no"):
        in_child("raise ValueError('no')")


def test_a_child_process_does_not_import_what_lies_in_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "vq_shadow.py").write_text("")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RuntimeError, match="No module named 'vq_shadow'"):
        in_child("import vq_shadow; print(1)")
