"""Compares variants of the same work; reports a table and JSON.

A single number says more about the machine than about the code. So every benchmark has a baseline,
runs all variants alternately in one process (A B A B ...), discards the first round and compares
within each round: a slow moment of the machine affects both.

Units: seconds of `time.perf_counter`; a ratio is a rate over the baseline's rate of the same round,
so above 1 is faster. I/O: prints a table, writes one JSON file.
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
from shared.settings import TelemetrySettings
from shared.telemetry.log import configure

WARM_UPS = 1  # discarded rounds: imports, caches, connections
ROUNDS = 5  # measured rounds
RUN_S_MAX = 60.0  # timeout of one run
RESULTS = Path("out/bench")

Step = Callable[[], Awaitable[None]]
Probe = Callable[[], Awaitable[float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to do the work."""

    name: str
    work: float  #: amount of work of one run, in the unit of the comparison
    run: Step
    prepare: Step | None = None  #: runs before every run, outside the measured time


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Median and range of the measured rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Return the spread of one or more values."""
        return cls(median=statistics.median(values), low=min(values), high=max(values))


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """The values of one variant, round by round."""

    name: str
    unit: str
    values: tuple[float, ...]
    seconds: tuple[float, ...] = ()  #: duration of each run; empty if the value is not a rate
    ratios: tuple[float, ...] = ()  #: to the baseline's value of the same round
    against: str = ""  #: name of the baseline; "" for the baseline itself

    def share_of(self, ideal: float) -> "Measurement":
        """Return the values as a percentage of `ideal`, in the same unit."""
        values = tuple(100 * value / ideal for value in self.values)
        return replace(
            self, name=f"{self.name}, of the ideal", unit="%", values=values, ratios=(), against=""
        )

    def as_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        entry: dict[str, Any] = {"name": self.name, "unit": self.unit, **_spread(self.values)}
        if self.seconds:
            entry["seconds"] = _spread(self.seconds)
        if self.ratios:
            entry["ratio"] = {"against": self.against, **_spread(self.ratios)}
        return entry


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Results of one benchmark."""

    name: str
    measurements: Sequence[Measurement]
    #: machine and versions
    facts: Mapping[str, str | int | float]

    def as_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "benchmark": self.name,
            "machine": dict(self.facts),
            "rounds": ROUNDS,
            "warm_ups": WARM_UPS,
            "figures": [measurement.as_json() for measurement in self.measurements],
        }

    def as_table(self) -> str:
        """Return a table with one line per measurement."""
        rows: list[tuple[str, ...]] = [
            ("", "unit", "median", "min-max", "a run", "ratio", "min-max", "against")
        ]
        rows += [_row(measurement) for measurement in self.measurements]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(_pad(row, widths)).rstrip() for row in rows]
        facts = ", ".join(f"{name} {value}" for name, value in self.facts.items())
        return "\n".join([f"{self.name}: {facts}", *lines])


async def run_interleaved(
    probes: Sequence[Probe], *, rounds: int = ROUNDS, warm_ups: int = WARM_UPS
) -> list[tuple[float, ...]]:
    """Run the probes alternately; return the values of each."""
    results: list[list[float]] = []
    for _ in range(warm_ups + rounds):
        values = []
        for probe in probes:
            async with asyncio.timeout(RUN_S_MAX):
                values.append(await probe())
        results.append(values)
    return list(zip(*results[warm_ups:], strict=True))


async def compare(
    variants: Sequence[Variant],
    *,
    unit: str,
    rounds: int = ROUNDS,
    warm_ups: int = WARM_UPS,
    timer: Callable[[], float] = time.perf_counter,
) -> list[Measurement]:
    """Return the work per second of each variant; the first is the baseline."""
    durations = await run_interleaved(
        [_timed(variant, timer) for variant in variants], rounds=rounds, warm_ups=warm_ups
    )
    rates = [
        Measurement(
            name=variant.name,
            unit=unit,
            values=tuple(variant.work / duration_s for duration_s in seconds),
            seconds=seconds,
        )
        for variant, seconds in zip(variants, durations, strict=True)
    ]
    return with_ratios(rates)


def with_ratios(measurements: Sequence[Measurement]) -> list[Measurement]:
    """Return the measurements, all but the first with their ratios to the first."""
    base = measurements[0]
    others = [
        replace(
            measurement,
            ratios=tuple(a / b for a, b in zip(measurement.values, base.values, strict=True)),
            against=base.name,
        )
        for measurement in measurements[1:]
    ]
    return [base, *others]


def machine_facts(**versions: str) -> dict[str, str | int | float]:
    """Return the machine's facts and the versions of the measured software."""
    return {
        "cores": os.cpu_count() or 1,
        "Python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "load": round(os.getloadavg()[0], 2),  # before the first round
        **versions,
        "on": SystemClock().now().date().isoformat(),
    }


def main(measure: Callable[[], Awaitable[Report]]) -> None:
    """Run a benchmark, print its table and write its JSON file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON file")
    folder: Path = parser.parse_args().out
    configure(TelemetrySettings(log_level="warning"))
    begin_s = time.perf_counter()
    report = asyncio.run(_awaited(measure))
    path = write(report, folder)
    print(report.as_table())
    print(f"{time.perf_counter() - begin_s:.0f} s; written to {path}\n")


def write(report: Report, folder: Path) -> Path:
    """Write `report` to `folder`; return the path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{report.name}.json"
    path.write_text(json.dumps(report.as_json(), indent=2) + "\n", encoding="utf-8")
    return path


async def _awaited(measure: Callable[[], Awaitable[Report]]) -> Report:
    return await measure()


def _timed(variant: Variant, timer: Callable[[], float]) -> Probe:
    async def probe() -> float:
        if variant.prepare is not None:
            await variant.prepare()
        gc.collect()  # garbage of one variant must not cost the next
        begin_s = timer()
        await variant.run()
        return timer() - begin_s

    return probe


def _spread(values: Sequence[float]) -> dict[str, float]:
    spread = Spread.of(values)
    return {
        name: float(f"{value:.4g}")  # more digits would be false precision
        for name, value in (("median", spread.median), ("min", spread.low), ("max", spread.high))
    }


def _row(measurement: Measurement) -> tuple[str, ...]:
    duration = f"{_format(statistics.median(measurement.seconds))} s" if measurement.seconds else ""
    ratio = _columns(measurement.ratios) if measurement.ratios else ("", "")
    return (
        measurement.name,
        measurement.unit,
        *_columns(measurement.values),
        duration,
        *ratio,
        measurement.against,
    )


def _columns(values: Sequence[float]) -> tuple[str, str]:
    spread = Spread.of(values)
    return _format(spread.median), f"{_format(spread.low)}-{_format(spread.high)}"


def _format(value: float) -> str:
    """Return three significant digits without an exponent."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 100 else f"{rounded:g}"  # noqa: PLR2004 - digits


def _pad(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Align texts to the left and numbers to the right."""
    text_columns = (0, 1, len(row) - 1)
    return [
        cell.ljust(width) if place in text_columns else cell.rjust(width)
        for place, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
