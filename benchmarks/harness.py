"""Harness: ways of doing the same work, measured in turns, as a table and as JSON.

A figure without another one beside it says more about the machine than about the code. So every
benchmark names a baseline, takes turns with it in one run (A B A B …), throws the first turn
away, and compares turn by turn: what slows the machine down for a while slows both.

Units: seconds of `time.perf_counter`; ratios are rates over the baseline's rate of the same
turn, so above 1 is more work per second. I/O: prints a table, writes one JSON file.
"""

import argparse
import asyncio
import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shared.clock import SystemClock

WARM_UPS = 1  # turns thrown away: imports, caches, connections
ROUNDS = 5  # turns that count
TURN_S_MAX = 60.0  # a turn that takes longer hangs
RESULTS = Path("out/bench")

Step = Callable[[], Awaitable[None]]
Probe = Callable[[], Awaitable[float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way of doing the work."""

    name: str
    work: float  #: how much one run does, in the unit of the comparison
    run: Step
    prepare: Step | None = None  #: before every run, and not timed


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Where the counted turns lie."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """The median and the extremes of `values`, of which there is at least one."""
        return cls(median=statistics.median(values), low=min(values), high=max(values))


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """What one way reached, turn by turn."""

    name: str
    unit: str
    values: tuple[float, ...]
    seconds: tuple[float, ...] = ()  #: what each run took; empty where time is not the question
    ratios: tuple[float, ...] = ()  #: over the baseline's value of the same turn
    against: str = ""  #: the baseline; "" of the baseline itself

    def share_of(self, ideal: float) -> "Figure":
        """The same turns in percent of `ideal`, a value in this figure's unit."""
        values = tuple(100 * value / ideal for value in self.values)
        return replace(
            self, name=f"{self.name}, of the ideal", unit="%", values=values, ratios=(), against=""
        )

    def as_json(self) -> dict[str, Any]:
        """As it stands in the file."""
        told: dict[str, Any] = {"name": self.name, "unit": self.unit, **_spread(self.values)}
        if self.seconds:
            told["seconds"] = _spread(self.seconds)
        if self.ratios:
            told["ratio"] = {"against": self.against, **_spread(self.ratios)}
        return told


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a benchmark found."""

    name: str
    figures: Sequence[Figure]
    #: versions of what was measured beside Python
    facts: Mapping[str, str | int | float]

    def as_json(self) -> dict[str, Any]:
        """As it stands in the file."""
        return {
            "benchmark": self.name,
            "machine": dict(self.facts),
            "rounds": ROUNDS,
            "warm_ups": WARM_UPS,
            "figures": [figure.as_json() for figure in self.figures],
        }

    def as_table(self) -> str:
        """For people: one line per figure."""
        rows: list[tuple[str, ...]] = [
            ("", "unit", "median", "min-max", "a run", "ratio", "min-max", "against")
        ]
        rows += [_row(figure) for figure in self.figures]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(_laid(row, widths)).rstrip() for row in rows]
        facts = ", ".join(f"{name} {value}" for name, value in self.facts.items())
        return "\n".join([f"{self.name}: {facts}", *lines])


async def take_turns(
    probes: Sequence[Probe], *, rounds: int = ROUNDS, warm_ups: int = WARM_UPS
) -> list[tuple[float, ...]]:
    """What each probe returned in the counted turns; they take turns in the order given."""
    turns: list[list[float]] = []
    for _ in range(warm_ups + rounds):
        turn = []
        for probe in probes:
            async with asyncio.timeout(TURN_S_MAX):
                turn.append(await probe())
        turns.append(turn)
    return list(zip(*turns[warm_ups:], strict=True))


async def compare(
    ways: Sequence[Way],
    *,
    unit: str,
    rounds: int = ROUNDS,
    warm_ups: int = WARM_UPS,
    timer: Callable[[], float] = time.perf_counter,
) -> list[Figure]:
    """How much work per second each way does; the first is the baseline of the others."""
    taken = await take_turns([_timed(way, timer) for way in ways], rounds=rounds, warm_ups=warm_ups)
    rates = [
        Figure(
            name=way.name,
            unit=unit,
            values=tuple(way.work / took for took in seconds),
            seconds=seconds,
        )
        for way, seconds in zip(ways, taken, strict=True)
    ]
    return against_first(rates)


def against_first(figures: Sequence[Figure]) -> list[Figure]:
    """The figures, each but the first with its ratios to the first, turn by turn."""
    base = figures[0]
    others = [
        replace(
            figure,
            ratios=tuple(a / b for a, b in zip(figure.values, base.values, strict=True)),
            against=base.name,
        )
        for figure in figures[1:]
    ]
    return [base, *others]


def machine(**versions: str) -> dict[str, str | int | float]:
    """The facts that a figure means nothing without; `versions` of what else takes part."""
    return {
        "cores": os.cpu_count() or 1,
        "Python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "load": round(os.getloadavg()[0], 2),  # before the first turn: others at work
        **versions,
        "on": SystemClock().now().date().isoformat(),
    }


def main(measure: Callable[[], Awaitable[Report]]) -> None:
    """Measure, print the table, write the JSON file into the folder that `--out` names."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON file")
    folder: Path = parser.parse_args().out
    begun_s = time.perf_counter()
    report = asyncio.run(_awaited(measure))
    path = write(report, folder)
    print(report.as_table())
    print(f"{time.perf_counter() - begun_s:.0f} s; written to {path}\n")


def write(report: Report, folder: Path) -> Path:
    """Write `report` into `folder`; where."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{report.name}.json"
    path.write_text(json.dumps(report.as_json(), indent=2) + "\n", encoding="utf-8")
    return path


async def _awaited(measure: Callable[[], Awaitable[Report]]) -> Report:
    return await measure()


def _timed(way: Way, timer: Callable[[], float]) -> Probe:
    async def probe() -> float:
        if way.prepare is not None:
            await way.prepare()
        gc.collect()  # one way's rubbish is not the next one's work
        begun_s = timer()
        await way.run()
        return timer() - begun_s

    return probe


def _spread(values: Sequence[float]) -> dict[str, float]:
    spread = Spread.of(values)
    return {
        name: float(f"{value:.4g}")  # more digits would claim more than was measured
        for name, value in (("median", spread.median), ("min", spread.low), ("max", spread.high))
    }


def _row(figure: Figure) -> tuple[str, ...]:
    took = f"{_told(statistics.median(figure.seconds))} s" if figure.seconds else ""
    ratio = _columns(figure.ratios) if figure.ratios else ("", "")
    return (figure.name, figure.unit, *_columns(figure.values), took, *ratio, figure.against)


def _columns(values: Sequence[float]) -> tuple[str, str]:
    spread = Spread.of(values)
    return _told(spread.median), f"{_told(spread.low)}-{_told(spread.high)}"


def _told(value: float) -> str:
    """Three digits, and never an exponent."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 100 else f"{rounded:g}"  # noqa: PLR2004 - digits


def _laid(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Words to the left, figures to the right."""
    words = (0, 1, len(row) - 1)
    return [
        cell.ljust(width) if place in words else cell.rjust(width)
        for place, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
