"""The figures of one moment of `segue watch`, and the problems in them.

Kafka and PostgreSQL are read side by side and either may be unavailable: then its last figures
stay, with their time.

No I/O: `collect.py` reads the figures, `render.py` draws them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

from ops.cli.layout import count_of
from ops.cli.servers import KAFKA, POSTGRES, PROVIDER, STORE, problem_text
from ops.cli.times import format_time
from ops.jobs.list import format_age, job_row
from services.api.operators import CostTotals, CurrentCounts, JobSummary

LAG_S_MAX = 300.0  # an older unfinished record is a problem
OUTBOX_AGE_MAX = timedelta(seconds=30)  # the relay needs less than a second
F = TypeVar("F")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceFigures:
    """The figures of one service."""

    name: str
    members: int | None  #: of its consumer group; None: the broker does not support the request
    records: int | None  #: not committed yet; None: unknown
    seconds: float  #: age of the oldest of them
    behind_on: str | None  #: the topic of that one
    lanes: int | None = None  #: at work; None: its health port was not read
    in_flight: int | None = None  #: records received and not committed; None as above
    slots: int | None = None  #: for calls of the provider, merging or muxing; None as above
    slots_taken: int | None = None
    unready: str | None = None  #: why it is not ready


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaFigures:
    """The figures from Kafka and from the health ports."""

    services: Sequence[ServiceFigures]
    dead_letters: Mapping[str, int]  #: waiting ones, by topic


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseFigures:
    """The figures from PostgreSQL."""

    counts: CurrentCounts
    totals: CostTotals
    oldest: Sequence[JobSummary]  #: the unfinished jobs that started first


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerState(Generic[F]):
    """The newest figures of one server, and why there are no newer ones."""

    figures: F | None = None  #: None: it has not answered yet
    at: datetime | None = None  #: time of the figures
    problem: str | None = None  #: why it is unavailable; None: it answers

    def updated(self, newer: "ServerState[F]") -> "ServerState[F]":
        """Return `newer`; if it has no figures, with these."""
        if newer.figures is not None or self.figures is None:
            return newer
        return ServerState(figures=self.figures, at=self.at, problem=newer.problem)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A problem, and what the operator should do."""

    what: str
    do: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The state of both servers at one moment."""

    at: datetime
    kafka: ServerState[KafkaFigures]
    database: ServerState[DatabaseFigures]
    store: str | None = None  #: why it is unavailable; None: it answers
    provider: str | None = None  #: why it rejects every request; None: it does not

    def updated(self, newer: "Snapshot") -> "Snapshot":
        """Return `newer`, with the last figures of a server that is unavailable."""
        return Snapshot(
            at=newer.at,
            store=newer.store,
            provider=newer.provider,
            kafka=self.kafka.updated(newer.kafka),
            database=self.database.updated(newer.database),
        )

    @property
    def is_complete(self) -> bool:
        """Return whether every server answered."""
        return (self.kafka.problem, self.database.problem, self.store) == (None, None, None)


def problems_of(snapshot: Snapshot) -> list[Problem]:
    """Return the problems of a snapshot, the most severe first."""
    return [
        *_server_problems(snapshot),
        *_service_problems(snapshot),
        *_job_problems(snapshot),
    ]


def _server_problems(snapshot: Snapshot) -> Iterator[Problem]:
    for name, state in ((KAFKA, snapshot.kafka), (POSTGRES, snapshot.database)):
        if state.problem is not None:
            age = "no figures yet" if state.at is None else f"figures of {format_time(state.at)}"
            yield Problem(what=problem_text(name, state.problem), do=f"{age}; retrying")
    if snapshot.store is not None:
        yield Problem(
            what=problem_text(STORE, snapshot.store), do="start it; jobs wait until it answers"
        )
    if snapshot.provider is not None:
        what = problem_text(PROVIDER, snapshot.provider)
        yield Problem(what=what, do="correct the key or the credit; jobs wait meanwhile")


def _service_problems(snapshot: Snapshot) -> Iterator[Problem]:
    if snapshot.kafka.figures is None:
        return
    for service in snapshot.kafka.figures.services:
        if service.members == 0:
            yield Problem(what=f"{service.name}: no members in its group", do="start it")
        if service.unready is not None:
            yield Problem(what=f"{service.name} is not ready: {service.unready}", do="see its log")
        if service.seconds >= LAG_S_MAX:
            what = f"{service.name}: {format_age(service.seconds)} behind on {service.behind_on}"
            yield Problem(what=what, do="segue lag, segue jobs --status processing")
    if letters := snapshot.kafka.figures.dead_letters:
        count = sum(letters.values())
        what = f"{count_of(count, 'dead letter')}: {_listed(letters)}"
        yield Problem(what=what, do="segue dlq list")


def _job_problems(snapshot: Snapshot) -> Iterator[Problem]:
    if snapshot.database.figures is None:
        return
    counts = snapshot.database.figures.counts
    if counts.waiting_scenes:
        verb = "waits" if counts.waiting_scenes == 1 else "wait"
        scenes = count_of(counts.waiting_scenes, "scene")
        what = f"{scenes} {verb} for the provider: {counts.waiting_reason}"
        yield Problem(what=what, do="segue jobs --waiting")
    if counts.outbox_since is not None and snapshot.at - counts.outbox_since > OUTBOX_AGE_MAX:
        age = format_age((snapshot.at - counts.outbox_since).total_seconds())
        what = f"{count_of(counts.outbox, 'record')} in the outbox, the oldest for {age}"
        yield Problem(what=what, do="check that the api runs and reaches Kafka")


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def snapshot_json(snapshot: Snapshot) -> dict[str, Any]:
    """Return the snapshot for `--json`; unknown values are null."""
    kafka, database = snapshot.kafka.figures, snapshot.database.figures
    counts, totals = (None, None) if database is None else (database.counts, database.totals)
    return {
        "at": snapshot.at.isoformat(),
        "kafka": _state_json(snapshot.kafka),
        "postgres": _state_json(snapshot.database),
        "store": {"answers": snapshot.store is None, "problem": snapshot.store},
        "provider": {"answers": snapshot.provider is None, "problem": snapshot.provider},
        "services": None if kafka is None else [asdict(service) for service in kafka.services],
        "dead_letters": None if kafka is None else dict(kafka.dead_letters),
        "stages": None if counts is None else dict(counts.stages),
        "ended_today": None if totals is None else dict(totals.ended_today),
        "ended": None if totals is None else dict(totals.ended),
        "waiting_scenes": None if counts is None else counts.waiting_scenes,
        "spent_today_usd": None if totals is None else totals.spent_today_usd,
        "saved_today_usd": None if totals is None else totals.saved_today_usd,
        "spent_usd": None if totals is None else totals.spent_usd,
        "outbox": None if counts is None else counts.outbox,
        "unreferenced_uploads": None if counts is None else counts.uploads,
        "unreferenced_upload_bytes": None if counts is None else counts.upload_bytes,
        "oldest": None
        if database is None
        else [job_row(job, now=snapshot.at) for job in database.oldest],
        "problems": [asdict(problem) for problem in problems_of(snapshot)],
    }


def _state_json(state: ServerState[Any]) -> dict[str, Any]:
    at = None if state.at is None else state.at.isoformat()
    return {"answers": state.problem is None, "problem": state.problem, "figures_of": at}
