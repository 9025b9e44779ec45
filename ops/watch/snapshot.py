"""Watching: what `segue watch` knows of one moment, and what of it is a trouble.

Kafka and PostgreSQL are looked at side by side, and each may be away: then what it said last
stays, with the time from which it is.

Pure. `looking.py` asks, `screen.py` draws.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

from ops.jobs.list import age_of, line_of
from services.api.operators import CostTotals, CurrentCounts, JobSummary

LATE_S = 300.0  # a record that nobody finished for so long is worth a look
OUTBOX_LATE = timedelta(seconds=30)  # the relay needs less than one
F = TypeVar("F")


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One service."""

    name: str
    members: int | None  #: of its consumer group; None: the broker cannot be asked
    records: int | None  #: it has not let go of them; None: nobody could say
    seconds: float  #: age of the oldest of them
    behind_on: str | None  #: the topic of that one
    lanes: int | None = None  #: at work, by its own word; None: it was not asked
    in_flight: int | None = None  #: taken and not let go, by its own word
    slots: int | None = None  #: for calls of the provider, joining or muxing; None as above
    slots_taken: int | None = None
    unready: str | None = None  #: what it says it waits for


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaFigures:
    """What Kafka says, and the services that were asked."""

    services: Sequence[Service]
    dead_letters: Mapping[str, int]  #: waiting ones, by topic


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseFigures:
    """What PostgreSQL says."""

    now: CurrentCounts
    bill: CostTotals
    oldest: Sequence[JobSummary]  #: under way for longest


@dataclass(frozen=True, slots=True, kw_only=True)
class Side(Generic[F]):
    """One of the two servers."""

    figures: F | None = None  #: None: it never answered
    at: datetime | None = None  #: of the figures
    problem: str | None = None  #: why there are no newer ones

    def after(self, newer: "Side[F]") -> "Side[F]":
        """`newer`, with our figures where it has none."""
        if newer.figures is not None or self.figures is None:
            return newer
        return Side(figures=self.figures, at=self.at, problem=newer.problem)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Something an operator should see to."""

    what: str
    do: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One moment."""

    at: datetime
    kafka: Side[KafkaFigures]
    database: Side[DatabaseFigures]

    def after(self, newer: "Snapshot") -> "Snapshot":
        """`newer`, with what we know where a server is away."""
        return Snapshot(
            at=newer.at,
            kafka=self.kafka.after(newer.kafka),
            database=self.database.after(newer.database),
        )

    @property
    def is_whole(self) -> bool:
        """Whether both servers answered."""
        return self.kafka.problem is None and self.database.problem is None


def troubles(shown: Snapshot) -> list[Trouble]:
    """What is not well, the gravest first."""
    return [*_away(shown), *_of_services(shown), *_of_jobs(shown)]


def _away(shown: Snapshot) -> Iterator[Trouble]:
    for name, side in (("Kafka", shown.kafka), ("PostgreSQL", shown.database)):
        if side.problem is not None:
            since = "never answered" if side.at is None else f"figures of {side.at:%H:%M:%S}"
            yield Trouble(what=f"{name}: {side.problem}", do=f"{since}; watching goes on")


def _of_services(shown: Snapshot) -> Iterator[Trouble]:
    if shown.kafka.figures is None:
        return
    for one in shown.kafka.figures.services:
        if one.members == 0:
            yield Trouble(what=f"{one.name}: nobody is in its group", do="start it")
        if one.unready is not None:
            yield Trouble(what=f"{one.name} is not ready: {one.unready}", do="see its log")
        if one.seconds >= LATE_S:
            what = f"{one.name}: {age_of(one.seconds)} behind on {one.behind_on}"
            yield Trouble(what=what, do="segue lag, segue jobs --status processing")
    if letters := shown.kafka.figures.dead_letters:
        count = sum(letters.values())
        what = f"{count} dead letter{'s' if count > 1 else ''}: {_listed(letters)}"
        yield Trouble(what=what, do="segue dlq list")


def _of_jobs(shown: Snapshot) -> Iterator[Trouble]:
    if shown.database.figures is None:
        return
    now = shown.database.figures.now
    if now.waiting_scenes:
        what = f"{now.waiting_scenes} scenes wait for the provider: {now.waiting_reason}"
        yield Trouble(what=what, do="segue jobs --waiting")
    if now.outbox_since is not None and shown.at - now.outbox_since > OUTBOX_LATE:
        age = age_of((shown.at - now.outbox_since).total_seconds())
        what = f"{now.outbox} records wait to be published, for {age}"
        yield Trouble(what=what, do="is the api up, and Kafka for it?")


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def told_of(shown: Snapshot) -> dict[str, Any]:
    """The moment for scripts; what nobody could say is null."""
    kafka, database = shown.kafka.figures, shown.database.figures
    now, bill = (None, None) if database is None else (database.now, database.bill)
    return {
        "at": shown.at.isoformat(),
        "kafka": _side(shown.kafka),
        "postgres": _side(shown.database),
        "services": None if kafka is None else [asdict(one) for one in kafka.services],
        "dead_letters": None if kafka is None else dict(kafka.dead_letters),
        "stages": None if now is None else dict(now.stages),
        "ended_today": None if bill is None else dict(bill.ended_today),
        "ended": None if bill is None else dict(bill.ended),
        "waiting_scenes": None if now is None else now.waiting_scenes,
        "spent_today_usd": None if bill is None else bill.spent_today_usd,
        "saved_today_usd": None if bill is None else bill.saved_today_usd,
        "spent_usd": None if bill is None else bill.spent_usd,
        "outbox": None if now is None else now.outbox,
        "oldest": None
        if database is None
        else [line_of(one, now=shown.at) for one in database.oldest],
        "troubles": [asdict(one) for one in troubles(shown)],
    }


def _side(side: Side[Any]) -> dict[str, Any]:
    at = None if side.at is None else side.at.isoformat()
    return {"answers": side.problem is None, "problem": side.problem, "figures_of": at}
