"""Tests of the benchmark harness: alternating runs, warm-up, ratios within a round."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from benchmarks.harness import Measurement, Report, Spread, Variant, compare, run_interleaved, write


@dataclass
class Stopwatch:
    """A timer that only the runs advance, with a record of the runs."""

    now_s: float = 0.0
    ran: list[str] = field(default_factory=list)

    def __call__(self) -> float:
        """Return the time."""
        return self.now_s

    def variant(
        self, name: str, durations_s: list[float], *, work: float, prepare_s: float = 0.0
    ) -> Variant:
        """Return a variant whose runs take these durations in turn."""
        remaining_s = list(durations_s)

        async def run() -> None:
            self.ran.append(name)
            self.now_s += remaining_s.pop(0)

        async def prepare() -> None:
            self.ran.append(f"prepare {name}")
            self.now_s += prepare_s

        return Variant(name=name, work=work, run=run, prepare=prepare if prepare_s else None)


async def test_variants_run_alternately_and_the_warm_up_does_not_count() -> None:
    """A B A B A B; two of three rounds are measured."""
    watch = Stopwatch()
    variants = [watch.variant("a", [100, 1, 2], work=8), watch.variant("b", [100, 4, 4], work=8)]

    slow, fast = await compare(variants, unit="records/s", rounds=2, warm_ups=1, timer=watch)

    assert watch.ran == ["a", "b", "a", "b", "a", "b"]
    assert (slow.seconds, slow.values) == ((1, 2), (8, 4))
    assert (fast.seconds, fast.values) == ((4, 4), (2, 2))


async def test_a_ratio_is_computed_within_a_round_to_the_first_variant() -> None:
    """A slow round is slow for both, so the ratio does not change."""
    watch = Stopwatch()
    variants = [watch.variant("base", [3, 30, 3], work=3), watch.variant("new", [1, 10, 1], work=3)]

    base, new = await compare(variants, unit="records/s", rounds=3, warm_ups=0, timer=watch)

    assert (base.ratios, base.against) == ((), "")
    assert new.ratios == pytest.approx((3, 3, 3))
    assert new.against == "base"


async def test_variants_with_different_work_are_compared_by_rate() -> None:
    """A tenth of the work in half the time is a fifth of the speed."""
    watch = Stopwatch()
    variants = [watch.variant("all", [2], work=100), watch.variant("tenth", [1], work=10)]

    _, tenth = await compare(variants, unit="records/s", rounds=1, warm_ups=0, timer=watch)

    assert tenth.ratios == pytest.approx((0.2,))


async def test_prepare_runs_before_every_run_and_is_not_measured() -> None:
    """It takes 100 s, the run 2 s."""
    watch = Stopwatch()
    variant = watch.variant("a", [2, 2], work=1, prepare_s=100)

    (measurement,) = await compare([variant], unit="runs/s", rounds=1, warm_ups=1, timer=watch)

    assert watch.ran == ["prepare a", "a", "prepare a", "a"]
    assert measurement.seconds == (2,)


async def test_each_probe_gets_its_own_values() -> None:
    """They are in order and exclude the warm-up."""
    ones, tens = iter([1.0, 2.0, 3.0]), iter([10.0, 20.0, 30.0])

    async def first_probe() -> float:
        return next(ones)

    async def second_probe() -> float:
        return next(tens)

    assert await run_interleaved([first_probe, second_probe], rounds=2, warm_ups=1) == [
        (2, 3),
        (20, 30),
    ]


def test_a_spread_is_the_median_and_the_extremes() -> None:
    """An outlier changes the maximum, not the median."""
    assert Spread.of([5, 1, 2, 3, 900]) == Spread(median=3, low=1, high=900)


def test_a_share_of_the_ideal_is_a_percentage_without_a_ratio() -> None:
    """1,800 of 2,000 is 90 %."""
    measurement = Measurement(
        name="lanes", unit="records/s", values=(1800, 1000), ratios=(9, 5), against="one"
    )

    share = measurement.share_of(2000)

    assert (share.unit, share.values, share.ratios) == ("%", (90, 50), ())


def a_report() -> Report:
    """Return two measurements, the second with a ratio to the first."""
    return Report(
        name="sample",
        measurements=[
            Measurement(name="base", unit="records/s", values=(10, 20, 30), seconds=(1, 0.5, 0.25)),
            Measurement(
                name="new",
                unit="records/s",
                values=(12345, 12345, 12345),
                ratios=(2, 3, 4),
                against="base",
            ),
        ],
        facts={"cores": 2, "Python": "3.11.7"},
    )


def test_the_json_file_holds_every_measurement_and_the_machine(tmp_path: Path) -> None:
    """Median, minimum and maximum, and the ratio with its baseline."""
    path = write(a_report(), tmp_path / "new" / "folder")

    content = json.loads(path.read_text())
    assert path.name == "sample.json"
    assert content["machine"] == {"cores": 2, "Python": "3.11.7"}
    base, new = content["figures"]
    assert (base["median"], base["min"], base["max"]) == (20, 10, 30)
    assert base["seconds"] == {"median": 0.5, "min": 0.25, "max": 1}
    assert "ratio" not in base
    assert new["ratio"] == {"against": "base", "median": 3, "min": 2, "max": 4}


def test_the_table_has_a_line_per_measurement_without_exponents() -> None:
    """Values are rounded to three significant digits."""
    title, _, base, new = a_report().as_table().splitlines()

    assert title == "sample: cores 2, Python 3.11.7"
    assert base.split() == ["base", "records/s", "20", "10-30", "0.5", "s"]
    assert new.split() == ["new", "records/s", "12,300", "12,300-12,300", "3", "2-4", "base"]
