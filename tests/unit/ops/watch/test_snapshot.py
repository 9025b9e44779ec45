"""Tests of ops/watch: the figures, the problems in them, and the screen."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ops.cli.exit_codes import CommandError, Exit
from ops.cluster.consumer_groups import SERVICES
from ops.kafka_log.lag import Lag
from ops.watch.collect import HealthFigures, service_figures, sum_health
from ops.watch.command import parse_health_urls
from ops.watch.render import JOB_COLUMNS, ROWS, SERVICE_COLUMNS, draw
from ops.watch.snapshot import (
    DatabaseFigures,
    KafkaFigures,
    ServerState,
    ServiceFigures,
    Snapshot,
    problems_of,
    snapshot_json,
)
from services.api.operators import CostTotals, CurrentCounts
from shared.http.probes import Check, Ready
from tests.unit.ops.jobs.test_list import NOW, a_summary

SCREENS = Path(__file__).parents[4] / "docs" / "screens"
IDLE_API = ServiceFigures(name="api", members=1, records=0, seconds=0.0, behind_on=None)


def busy_generator(**overrides: Any) -> ServiceFigures:
    """Return a generator with two records in flight and no problem."""
    figures: dict[str, Any] = {
        "name": "generator",
        "members": 2,
        "records": 2,
        "seconds": 12.4,
        "behind_on": "scene.requested",
        "lanes": 2,
        "in_flight": 2,
        "slots": 8,
        "slots_taken": 2,
    }
    return ServiceFigures(**{**figures, **overrides})


def database_figures(**overrides: Any) -> DatabaseFigures:
    """Return one running job and some that ended."""
    counts: dict[str, Any] = {
        "stages": {"submitted": 0, "generating": 1, "merging": 0, "muxing": 0},
        "waiting_scenes": 0,
        "waiting_reason": None,
        "outbox": 0,
        "outbox_since": None,
    }
    return DatabaseFigures(
        counts=CurrentCounts(**{**counts, **overrides}),
        totals=CostTotals(
            ended_today={"completed": 3, "failed": 1, "cancelled": 0},
            ended={"completed": 1204},
            spent_today_usd=1.25,
            saved_today_usd=0.5,
            spent_usd=70.0,
        ),
        oldest=[a_summary(status="generating", error=None)],
    )


def make_snapshot(
    services: Sequence[ServiceFigures] = (IDLE_API, busy_generator()),
    *,
    letters: dict[str, int] | None = None,
    database: DatabaseFigures | None = None,
) -> Snapshot:
    """Return a snapshot in which both servers answered."""
    kafka = KafkaFigures(services=services, dead_letters=letters or {})
    return Snapshot(
        at=NOW,
        kafka=ServerState(figures=kafka, at=NOW),
        database=ServerState(figures=database or database_figures(), at=NOW),
    )


def drawn(snapshot: Snapshot, *, width: int) -> str:
    """Return the screen as text."""
    console = Console(width=width, highlight=False)
    with console.capture() as captured:
        console.print(draw(snapshot))
    return captured.get()


def test_records_in_flight_are_not_a_problem() -> None:
    """A pipeline at work has some lag."""
    assert problems_of(make_snapshot()) == []


@pytest.mark.parametrize(
    ("snapshot", "what", "do"),
    [
        (
            make_snapshot([busy_generator(members=0)]),
            "generator: no members in its group",
            "start it",
        ),
        (
            make_snapshot([busy_generator(seconds=301.0)]),
            "5 min behind on scene.requested",
            "segue lag",
        ),
        (
            make_snapshot([busy_generator(unready="provider: no key")]),
            "not ready: provider: no key",
            "log",
        ),
        (make_snapshot(letters={"a": 2, "b": 1}), "3 dead letters: a 2, b 1", "segue dlq list"),
        (
            make_snapshot(database=database_figures(waiting_scenes=2, waiting_reason="no credit")),
            "2 scenes wait for the provider: no credit",
            "segue jobs --waiting",
        ),
        (
            make_snapshot(
                database=database_figures(outbox=9, outbox_since=NOW - timedelta(minutes=2))
            ),
            "9 records in the outbox, the oldest for 2 min",
            "Kafka",
        ),
    ],
)
def test_a_problem_is_shown_with_what_to_do(snapshot: Snapshot, what: str, do: str) -> None:
    """Each snapshot here has one problem."""
    [problem] = problems_of(snapshot)

    assert what in problem.what
    assert do in problem.do


def test_a_young_outbox_is_not_a_problem() -> None:
    """The relay usually needs less than a second."""
    young = database_figures(outbox=9, outbox_since=NOW - timedelta(seconds=2))

    assert problems_of(make_snapshot(database=young)) == []


def test_uploads_that_no_job_uses_are_shown() -> None:
    """With their size, on the screen and for scripts; none: no line."""
    figures = database_figures(uploads=3, upload_bytes=5 * 2**20)
    snapshot = make_snapshot(database=figures)

    assert "3 that no job uses, 5.0 MiB" in drawn(snapshot, width=80)
    assert snapshot_json(snapshot)["unreferenced_uploads"] == 3
    assert snapshot_json(snapshot)["unreferenced_upload_bytes"] == 5 * 2**20
    assert "no job uses" not in drawn(make_snapshot(), width=80)


def test_an_unavailable_server_keeps_its_last_figures() -> None:
    """They are shown with their time, until the server answers again."""
    before = make_snapshot()
    unavailable = Snapshot(
        at=NOW + timedelta(seconds=9),
        kafka=ServerState(problem="gone"),
        database=before.database,
    )

    shown = before.updated(unavailable)
    back = shown.updated(make_snapshot([IDLE_API]))

    assert shown.kafka.figures == before.kafka.figures
    assert [(problem.what, "12:00:00" in problem.do) for problem in problems_of(shown)] == [
        ("Kafka is unavailable: gone", True)
    ]
    assert (shown.is_complete, back.is_complete) == (False, True)
    assert problems_of(back) == []


def test_a_server_that_has_not_answered_yet_has_no_figures() -> None:
    """They are null for scripts; the screen shows the other server's."""
    snapshot = Snapshot(
        at=NOW, kafka=ServerState(problem="gone"), database=make_snapshot().database
    )

    document = snapshot_json(snapshot)
    assert (document["services"], document["dead_letters"]) == (None, None)
    assert document["kafka"] == {"answers": False, "problem": "gone", "figures_of": None}
    assert document["stages"]["generating"] == 1
    assert "Kafka is unavailable" in drawn(snapshot, width=80)


@pytest.mark.parametrize("width", [80, 120])
def test_the_screen_shows_everything_and_fits_its_width(width: int) -> None:
    """Also with a long job id and with problems."""
    busy = database_figures(waiting_scenes=2, waiting_reason="Replicate wants credit " * 4)
    busy = DatabaseFigures(
        counts=busy.counts,
        totals=busy.totals,
        oldest=[a_summary(job_id="film " * 20, waits="x" * 90)],
    )
    text = drawn(make_snapshot(letters={"segment.generated": 3}, database=busy), width=width)

    assert max(map(len, text.splitlines())) <= width
    assert all(word in text for word in (*SERVICE_COLUMNS, *JOB_COLUMNS, *ROWS))
    for figure in (
        "generating 1",
        "completed 3",
        "completed 1204",
        "today $1.25",
        "total $70.00",
    ):
        assert figure in text
    assert "3 waiting: segment.generated 3" in text


def test_the_embedded_broker_is_marked() -> None:
    """It does not list members, so none is reported as missing."""
    snapshot = make_snapshot([busy_generator(members=None, lanes=None, in_flight=None)])

    assert problems_of(snapshot) == []
    assert "(stack)" in drawn(snapshot, width=80)
    assert "embedded broker" in " ".join(drawn(snapshot, width=80).split())


def test_the_lag_of_a_service_is_that_of_its_latest_topic() -> None:
    """Records are summed; the topic is that of the oldest record."""
    lags = [
        Lag(service="merger", topic="a", records=5, seconds=1.0, partitions_behind=1),
        Lag(service="merger", topic="b", records=1, seconds=9.0, partitions_behind=1),
        Lag(service="api", topic="a", records=7, seconds=99.0, partitions_behind=1),
    ]

    merger = service_figures("merger", {"merger": 1}, lags, HealthFigures())
    unknown = service_figures("muxer", None, lags, HealthFigures())

    assert (merger.records, merger.seconds, merger.behind_on) == (6, 9.0, "b")
    assert (unknown.records, unknown.members) == (None, None)


def test_the_health_of_a_service_is_summed_over_its_processes() -> None:
    """A process that does not answer or is not ready is reported."""
    checks = {
        "kafka": Check(ok=True, detail="answers"),
        "provider": Check(ok=False, detail="no key"),
        "extra": Check(ok=False, detail="away", required=False),
    }
    ready = Ready(
        ready=True,
        checks={},
        figures={"lanes": 2, "records_in_flight": 5, "slots": 8, "slots_taken": 2},
    )
    unready = Ready(
        ready=False,
        checks=checks,
        figures={"lanes": 1, "records_in_flight": 1, "slots": 8, "slots_taken": 1},
    )

    health = sum_health([ready, unready, None])

    assert (health.lanes, health.in_flight) == (3, 6)
    assert (health.slots_taken, health.slots) == (3, 16)
    assert health.unready == "1 of 3 do not answer; provider: no key"
    assert sum_health([ready]).unready is None


def test_health_urls_are_parsed_and_invalid_ones_rejected() -> None:
    """The error shows the right form."""
    assert parse_health_urls(["generator=http://a:1", " merger=https://b "]) == [
        ("generator", "http://a:1"),
        ("merger", "https://b"),
    ]
    for invalid in ("http://a:1", "painter=http://a:1", "merger=b:1"):
        with pytest.raises(CommandError, match="NAME=URL") as rejected:
            parse_health_urls([invalid])
        assert rejected.value.code is Exit.USAGE


def test_the_recorded_screens_have_the_columns_of_the_commands() -> None:
    """`make screens` records them."""
    watch = (SCREENS / "watch.txt").read_text()
    job = (SCREENS / "job.txt").read_text()

    assert all(word in watch for word in (*SERVICE_COLUMNS, *JOB_COLUMNS, *ROWS, *SERVICES))
    assert "-> segue dlq list" in watch
    for text in ("run 1 ", "scene.requested/", "requested", "generated: ", "track: ", "$", "UTC"):
        assert text in job or text == "UTC"
    assert max(map(len, watch.splitlines())) <= 100


def test_a_snapshot_is_dated_in_utc() -> None:
    """The operators may be in several time zones."""
    assert datetime(2026, 11, 26, 12, tzinfo=UTC) == NOW
    assert "2026-11-26T12:00:00Z" in drawn(make_snapshot(), width=80)
