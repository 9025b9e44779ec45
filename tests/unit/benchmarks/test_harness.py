"""Harness: ways take turns, the first turn is thrown away, and turns are compared in pairs."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from benchmarks.harness import Figure, Report, Spread, Way, compare, take_turns, write


@dataclass
class Stopwatch:
    """A timer that only the runs move, and what was run."""

    now_s: float = 0.0
    ran: list[str] = field(default_factory=list)

    def __call__(self) -> float:
        """The time."""
        return self.now_s

    def way(self, name: str, took_s: list[float], *, work: float, prepare_s: float = 0.0) -> Way:
        """A way whose runs take these times, one after another."""
        left = list(took_s)

        async def run() -> None:
            self.ran.append(name)
            self.now_s += left.pop(0)

        async def prepare() -> None:
            self.ran.append(f"prepare {name}")
            self.now_s += prepare_s

        return Way(name=name, work=work, run=run, prepare=prepare if prepare_s else None)


async def test_ways_take_turns_and_the_warm_up_does_not_count() -> None:
    """A B A B A B; of three turns two are left."""
    watch = Stopwatch()
    ways = [watch.way("a", [100, 1, 2], work=8), watch.way("b", [100, 4, 4], work=8)]

    slow, fast = await compare(ways, unit="records/s", rounds=2, warm_ups=1, timer=watch)

    assert watch.ran == ["a", "b", "a", "b", "a", "b"]
    assert (slow.seconds, slow.values) == ((1, 2), (8, 4))
    assert (fast.seconds, fast.values) == ((4, 4), (2, 2))


async def test_a_ratio_is_taken_within_a_turn_against_the_first_way() -> None:
    """A machine that is slow for one turn is slow for both, and the ratio stays."""
    watch = Stopwatch()
    ways = [watch.way("base", [3, 30, 3], work=3), watch.way("new", [1, 10, 1], work=3)]

    base, new = await compare(ways, unit="records/s", rounds=3, warm_ups=0, timer=watch)

    assert (base.ratios, base.against) == ((), "")
    assert new.ratios == pytest.approx((3, 3, 3))
    assert new.against == "base"


async def test_ways_that_do_unlike_amounts_are_compared_by_their_rates() -> None:
    """A tenth of the work in half the time is a fifth of the speed."""
    watch = Stopwatch()
    ways = [watch.way("all", [2], work=100), watch.way("tenth", [1], work=10)]

    _, tenth = await compare(ways, unit="records/s", rounds=1, warm_ups=0, timer=watch)

    assert tenth.ratios == pytest.approx((0.2,))


async def test_preparing_comes_before_every_run_and_is_not_timed() -> None:
    """It takes a hundred seconds, and the run two."""
    watch = Stopwatch()
    way = watch.way("a", [2, 2], work=1, prepare_s=100)

    (figure,) = await compare([way], unit="runs/s", rounds=1, warm_ups=1, timer=watch)

    assert watch.ran == ["prepare a", "a", "prepare a", "a"]
    assert figure.seconds == (2,)


async def test_probes_keep_their_own_values() -> None:
    """What each returned, in its order, without the warm-up."""
    ones, tens = iter([1.0, 2.0, 3.0]), iter([10.0, 20.0, 30.0])

    async def one() -> float:
        return next(ones)

    async def ten() -> float:
        return next(tens)

    assert await take_turns([one, ten], rounds=2, warm_ups=1) == [(2, 3), (20, 30)]


def test_a_spread_is_the_median_and_the_extremes() -> None:
    """One outlier moves an end, not the middle."""
    assert Spread.of([5, 1, 2, 3, 900]) == Spread(median=3, low=1, high=900)


def test_a_share_of_the_ideal_is_in_percent_and_compared_with_nothing() -> None:
    """1,800 of 2,000 is 90 %."""
    figure = Figure(
        name="lanes", unit="records/s", values=(1800, 1000), ratios=(9, 5), against="one"
    )

    share = figure.share_of(2000)

    assert (share.unit, share.values, share.ratios) == ("%", (90, 50), ())


def a_report() -> Report:
    """Two figures, the second over the first."""
    return Report(
        name="sample",
        figures=[
            Figure(name="base", unit="records/s", values=(10, 20, 30), seconds=(1, 0.5, 0.25)),
            Figure(
                name="new",
                unit="records/s",
                values=(12345, 12345, 12345),
                ratios=(2, 3, 4),
                against="base",
            ),
        ],
        facts={"cores": 2, "Python": "3.11.7"},
    )


def test_the_file_holds_every_figure_and_the_machine(tmp_path: Path) -> None:
    """Median, least and most, with the ratio and what it is against."""
    path = write(a_report(), tmp_path / "new" / "folder")

    told = json.loads(path.read_text())
    assert path.name == "sample.json"
    assert told["machine"] == {"cores": 2, "Python": "3.11.7"}
    base, new = told["figures"]
    assert (base["median"], base["min"], base["max"]) == (20, 10, 30)
    assert base["seconds"] == {"median": 0.5, "min": 0.25, "max": 1}
    assert "ratio" not in base
    assert new["ratio"] == {"against": "base", "median": 3, "min": 2, "max": 4}


def test_the_table_has_a_line_per_figure_in_plain_digits() -> None:
    """What is long is rounded to three digits, never written with an exponent."""
    title, _, base, new = a_report().as_table().splitlines()

    assert title == "sample: cores 2, Python 3.11.7"
    assert base.split() == ["base", "records/s", "20", "10-30", "0.5", "s"]
    assert new.split() == ["new", "records/s", "12,300", "12,300-12,300", "3", "2-4", "base"]
