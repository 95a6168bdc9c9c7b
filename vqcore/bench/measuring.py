"""Contenders take turns, and a row keeps what came out of it, whatever happened.

A time says little: it belongs to one machine at one moment. A ratio says more, if both sides had the same moment. So
contenders take turns within one run, and each is judged by its best round, which the rest of the machine
disturbed least; the quartiles of the ratios, round by round, tell how far that can be trusted.
"""

import math
import time
import traceback
from dataclasses import dataclass, field

import numpy as np

from vqcore.bench.machine import NotInstalled

OURS = "vqcore"
SHORTEST_TURN = 0.002  # seconds: a quicker call is repeated within its turn, or the clock would be part of the answer
PAUSE = 0.003  # seconds between turns, in which the threads of the call before go to sleep


@dataclass(frozen=True)
class Row:
    """One comparison: `vqcore` and its peers at the same work.

    Attributes:
        work, case: what was done, and to what.
        bar: how many times as fast as the fastest peer `vqcore` should be; None where nothing is asked.
        seconds: contender to seconds (n_rounds,).
        agrees: peer to whether its result is that of `vqcore`.
        missing: contender to the sentence that its package is not installed.
        failed: contender to the sentence with which it raised.
    """

    work: str
    case: str
    bar: float | None
    seconds: dict = field(default_factory=dict)
    agrees: dict = field(default_factory=dict)
    missing: dict = field(default_factory=dict)
    failed: dict = field(default_factory=dict)

    def best(self, name=OURS):
        """Least seconds of a contender; NaN if it was not measured."""
        return float(min(self.seconds.get(name, [math.nan])))

    @property
    def peer(self):
        """The fastest peer; None if none was measured."""
        return min((name for name in self.seconds if name != OURS), key=self.best, default=None)

    @property
    def ratio(self):
        """Best time of the fastest peer over the best of `vqcore`: above 1, `vqcore` is the faster."""
        return self.best(self.peer) / self.best()

    @property
    def quartiles(self):
        """The lower quartile, the median and the upper quartile (3,) of that ratio, round by round."""
        if self.peer is None or OURS not in self.seconds:
            return np.full(3, math.nan)
        rounds = np.asarray(self.seconds[self.peer]) / np.asarray(self.seconds[OURS])
        return np.quantile(rounds, (0.25, 0.5, 0.75))

    @property
    def share(self):
        """The ratio as a share of the bar: 0 if `vqcore` failed, NaN if there is no bar or no peer."""
        if OURS in self.failed:
            return 0.0
        return math.nan if self.bar is None else self.ratio / self.bar

    @property
    def is_short(self):
        """Whether the ratio is below the bar, or `vqcore` failed."""
        return self.share < 1

    @property
    def is_wrong(self):
        """Whether a contender failed or disagrees."""
        return bool(self.failed) or not all(self.agrees.values())

    def outcome(self):
        """What came out, without a time: who agrees, who does not, who is missing, who failed."""
        parts = [f"{name} agrees" if same else f"{name} DISAGREES" for name, same in self.agrees.items()]
        parts += [f"{name}: {why}" for name, why in self.missing.items()]
        parts += [f"{name} FAILED: {why}" for name, why in self.failed.items()]
        return ", ".join(parts) or "measured"

    def __str__(self):
        return f"{self.work}: {self.case}: {self.outcome()}"


def take_turns(calls, seconds=1.0, fewest=3, most=25, *, warm=None, clock=time.perf_counter, pause=PAUSE):
    """Name to seconds (n_rounds,) of every call, one after the other in each round, every second round backwards.

    Each is called once before, which does not count. A call shorter than `SHORTEST_TURN` is repeated within its turn.

    Args:
        calls: name to a function without arguments.
        seconds: as many rounds are made as fit into this time, but at least `fewest` and at most `most`.
        warm: seconds of calls that were made already; one that took longer than a second is not made again.
    """
    once = {name: taken for name, taken in (warm or {}).items() if name in calls and taken > 1}
    once |= {name: _timed(call, 1, clock) for name, call in calls.items() if name not in once}
    repeats = {name: max(1, math.ceil(SHORTEST_TURN / max(taken, 1e-7))) for name, taken in once.items()}
    a_round = sum(repeats[name] * once[name] for name in calls)
    n_rounds = int(min(max(seconds / max(a_round, 1e-9), fewest), most))
    taken = {name: [] for name in calls}
    for number in range(n_rounds):
        # Nobody always runs behind the same neighbour.
        for name in list(calls)[:: 1 if number % 2 == 0 else -1]:
            time.sleep(pause)
            taken[name].append(_timed(calls[name], repeats[name], clock))
    return {name: np.array(values) for name, values in taken.items()}


class Report:
    """The rows of a benchmark, as they are measured.

    Args:
        quick: small cases and two rounds of everything, to see that it runs, instead of the whole table.
        only: names of works, or parts of them, with commas between; the others are left out. "" for all.
    """

    def __init__(self, quick=True, only=""):
        self.rows, self.quick = [], quick
        self._only = [name.strip() for name in only.split(",") if name.strip()]
        self.turns = dict(seconds=0.0, fewest=2, most=2) if quick else dict(seconds=2.0, fewest=3, most=25)

    def cases(self, work, quick, full):
        """The cases of this work to measure: of a quick run or of a full one, or none if it is left out."""
        wanted = not self._only or any(name in work for name in self._only)
        return list(quick if self.quick else full) if wanted else []

    def compare(self, work, case, bar, contenders, *, data=(), agree=None, apart=None, pause=PAUSE):
        """Measure a row, whatever happens in it: who raises is written down, and the others go on.

        Args:
            bar: of `Row`.
            contenders: name to a function that takes the data and returns the call to be timed; "vqcore" among them.
            data: arguments of those functions; preparing is not timed.
            agree: agree(ours, theirs) tells whether a result is right; a call that returns None is not asked.
            apart: contenders that take their turns with the others but make a row of their own, name to bar.
            pause: seconds between turns. The threads of some BLAS go on looking for work for up to 50 ms, in the way
                of whoever comes next.
        """
        apart = apart or {}
        seconds, found = self.measure(contenders, data, agree, pause)
        together = [name for name in contenders if name not in apart]
        for title, limit, names in [(work, bar, together), *((f"{work}, {n}", apart[n], [OURS, n]) for n in apart)]:
            self.add(title, case, limit, _only(seconds, names), **{key: _only(by, names) for key, by in found.items()})

    def measure(self, contenders, data=(), agree=None, pause=PAUSE):
        """Seconds by contender, and who agrees, is missing or failed; the arguments are those of `compare`."""
        calls, warm, agrees, missing, failed, ours = {}, {}, {}, {}, {}, None
        for name, prepare in contenders.items():
            try:
                call = prepare(*data)
                begin = time.perf_counter()
                result = call()
                # A first call of ours may have compiled.
                warm[name] = time.perf_counter() - begin if name != OURS else 0.0
                if name == OURS:
                    ours = result
                elif agree and ours is not None and result is not None:
                    agrees[name] = bool(agree(ours, result))
                calls[name] = call
            except NotInstalled as error:
                missing[name] = str(error)
            except Exception as error:
                failed[name] = _sentence(error)
        try:
            seconds = take_turns(calls, **self.turns, warm=warm, pause=pause)
        except Exception as error:
            seconds, failed = {}, failed | {OURS: _sentence(error)}
        return seconds, {"agrees": agrees, "missing": missing, "failed": failed}

    def add(self, work, case, bar, seconds, **found):
        """Put down a row; `found` are further attributes of `Row`. Bars are for the full cases."""
        self.rows.append(Row(work, case, None if self.quick else bar, dict(seconds), **found))

    def attempt(self, work, case, run, *arguments):
        """run(*arguments), which adds rows of its own; if it raises, that is the row."""
        try:
            run(*arguments)
        except Exception as error:
            self.add(work, case, None, {}, failed={OURS: _sentence(error)})

    def of(self, *works):
        """The rows whose work begins with one of these names."""
        return [row for row in self.rows if row.work.startswith(works)]

    def summary(self):
        """What came out, without times: for each work its cases, the peers that agree in all, and whatever else happened."""
        lines = []
        for work in dict.fromkeys(row.work for row in self.rows):
            of_work = [row for row in self.rows if row.work == work]
            peers = dict.fromkeys(name for row in of_work for name in row.agrees)
            agreeing = [name for name in peers if all(row.agrees.get(name, True) for row in of_work)]
            cases = f"{len(of_work)} case{'s' * (len(of_work) != 1)}"
            lines.append(f"{work}: {cases}" + (f", the same result from {', '.join(agreeing)}" if agreeing else ""))
            lines += [f"    {row}" for row in of_work if row.is_wrong or row.missing]
        return "\n".join(lines) or "nothing was measured"

    @property
    def short(self):
        """The rows that failed or are below their bar, the farthest below first."""
        return sorted((row for row in self.rows if row.is_short), key=lambda row: row.share)


def _timed(call, n_repeats, clock):
    begin = clock()
    for _ in range(n_repeats):
        call()
    return (clock() - begin) / n_repeats


def _only(by_name, names):
    return {name: value for name, value in by_name.items() if name in names}


def _sentence(error):
    """An exception in one line."""
    return " ".join(traceback.format_exception_only(error)[-1].split())[:200]
