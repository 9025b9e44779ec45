"""What `segue watch` makes of what it saw: troubles, and a screen that fits."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ops.cli.exit_codes import CommandError, Exit
from ops.cluster.consumer_groups import SERVICES
from ops.kafka_log.lag import Lag
from ops.watch.collect import Said, service_of, together
from ops.watch.command import addresses
from ops.watch.render import JOB_COLUMNS, ROWS, SERVICE_COLUMNS, screen
from ops.watch.snapshot import (
    DatabaseFigures,
    KafkaFigures,
    Service,
    Side,
    Snapshot,
    told_of,
    troubles,
)
from services.api.database.overview import CostTotals, CurrentCounts
from shared.http.probes import Check, Ready
from tests.unit.ops.jobs.test_list import NOW, a_line

SCREENS = Path(__file__).parents[4] / "docs" / "screens"
WELL = Service(name="api", members=1, records=0, seconds=0.0, behind_on=None)


def a_service(**given: Any) -> Service:
    """A generator that is two records behind, and well."""
    told: dict[str, Any] = {
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
    return Service(**{**told, **given})


def some_figures(**given: Any) -> DatabaseFigures:
    """One job under way, some that ended."""
    told: dict[str, Any] = {
        "stages": {"submitted": 0, "generating": 1, "merging": 0, "muxing": 0},
        "waiting_scenes": 0,
        "waiting_reason": None,
        "outbox": 0,
        "outbox_since": None,
    }
    return DatabaseFigures(
        now=CurrentCounts(**{**told, **given}),
        bill=CostTotals(
            ended_today={"completed": 3, "failed": 1, "cancelled": 0},
            ended={"completed": 1204},
            spent_today_usd=1.25,
            saved_today_usd=0.5,
            spent_usd=70.0,
        ),
        oldest=[a_line(status="generating", error=None)],
    )


def a_moment(
    services: Sequence[Service] = (WELL, a_service()),
    *,
    letters: dict[str, int] | None = None,
    database: DatabaseFigures | None = None,
) -> Snapshot:
    """A moment in which both servers answered."""
    kafka = KafkaFigures(services=services, dead_letters=letters or {})
    return Snapshot(
        at=NOW,
        kafka=Side(figures=kafka, at=NOW),
        database=Side(figures=database or some_figures(), at=NOW),
    )


def drawn(shown: Snapshot, *, width: int) -> str:
    """The screen as text."""
    console = Console(width=width, highlight=False)
    with console.capture() as captured:
        console.print(screen(shown))
    return captured.get()


def test_a_line_that_works_is_no_trouble() -> None:
    """Some records behind is what work looks like."""
    assert troubles(a_moment()) == []


@pytest.mark.parametrize(
    ("moment", "what", "do"),
    [
        (a_moment([a_service(members=0)]), "generator: nobody is in its group", "start it"),
        (a_moment([a_service(seconds=301.0)]), "5 min behind on scene.requested", "segue lag"),
        (a_moment([a_service(unready="provider: no key")]), "not ready: provider: no key", "log"),
        (a_moment(letters={"a": 2, "b": 1}), "3 dead letters: a 2, b 1", "segue dlq list"),
        (
            a_moment(database=some_figures(waiting_scenes=2, waiting_reason="no credit")),
            "2 scenes wait for the provider: no credit",
            "segue jobs --waiting",
        ),
        (
            a_moment(database=some_figures(outbox=9, outbox_since=NOW - timedelta(minutes=2))),
            "9 records wait to be published, for 2 min",
            "Kafka",
        ),
    ],
)
def test_what_is_not_well_is_said_with_what_to_do(moment: Snapshot, what: str, do: str) -> None:
    """One thing at a time."""
    [one] = troubles(moment)

    assert what in one.what
    assert do in one.do


def test_an_outbox_that_the_relay_is_just_emptying_is_no_trouble() -> None:
    """It waits for less than a second, usually."""
    young = some_figures(outbox=9, outbox_since=NOW - timedelta(seconds=2))

    assert troubles(a_moment(database=young)) == []


def test_a_server_that_is_away_leaves_what_it_said_last() -> None:
    """With its time; and it is away no more once it answers."""
    before = a_moment()
    away = Snapshot(
        at=NOW + timedelta(seconds=9), kafka=Side(problem="gone"), database=before.database
    )

    shown = before.after(away)
    back = shown.after(a_moment([WELL]))

    assert shown.kafka.figures == before.kafka.figures
    assert [(one.what, "12:00:00" in one.do) for one in troubles(shown)] == [("Kafka: gone", True)]
    assert (shown.is_whole, back.is_whole) == (False, True)
    assert troubles(back) == []


def test_of_a_server_that_never_answered_nothing_is_made_up() -> None:
    """For scripts it is null; the screen shows the rest."""
    shown = Snapshot(at=NOW, kafka=Side(problem="gone"), database=a_moment().database)

    told = told_of(shown)
    assert (told["services"], told["dead_letters"]) == (None, None)
    assert told["kafka"] == {"answers": False, "problem": "gone", "figures_of": None}
    assert told["stages"]["generating"] == 1
    assert "Kafka is away" in drawn(shown, width=80)


@pytest.mark.parametrize("width", [80, 120])
def test_the_screen_fits_and_shows_everything(width: int) -> None:
    """Also with a job whose id is long, and with troubles."""
    busy = some_figures(waiting_scenes=2, waiting_reason="Replicate wants credit " * 4)
    busy = DatabaseFigures(
        now=busy.now, bill=busy.bill, oldest=[a_line(job_id="film " * 20, waits="x" * 90)]
    )
    text = drawn(a_moment(letters={"segment.generated": 3}, database=busy), width=width)

    assert max(map(len, text.splitlines())) <= width
    assert all(word in text for word in (*SERVICE_COLUMNS, *JOB_COLUMNS, *ROWS))
    for words in ("generating 1", "completed 3", "completed 1204", "today $1.25", "in all $70.00"):
        assert words in text
    assert "3 waiting: segment.generated 3" in text


def test_the_stand_in_of_a_broker_is_named_as_one() -> None:
    """It knows no members: nobody is said to be missing."""
    shown = a_moment([a_service(members=None, lanes=None, in_flight=None)])

    assert troubles(shown) == []
    assert "(stack)" in drawn(shown, width=80)
    assert "embedded broker" in " ".join(drawn(shown, width=80).split())


def test_a_service_is_as_late_as_its_latest_topic() -> None:
    """Records are added up; the oldest of them says where."""
    behind = [
        Lag(service="merger", topic="a", records=5, seconds=1.0, partitions_behind=1),
        Lag(service="merger", topic="b", records=1, seconds=9.0, partitions_behind=1),
        Lag(service="api", topic="a", records=7, seconds=99.0, partitions_behind=1),
    ]

    found = service_of("merger", {"merger": 1}, behind, Said())
    unknown = service_of("muxer", None, behind, Said())

    assert (found.records, found.seconds, found.behind_on) == (6, 9.0, "b")
    assert (unknown.records, unknown.members) == (None, None)


def test_the_processes_of_a_service_speak_together() -> None:
    """Lanes are added up; one that is silent, or not ready, is told."""
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

    said = together([ready, unready, None])

    assert (said.lanes, said.in_flight) == (3, 6)
    assert (said.slots_taken, said.slots) == (3, 16)
    assert said.unready == "1 of 3 do not answer; provider: no key"
    assert together([ready]).unready is None


def test_addresses_of_services_are_read_and_what_is_none_is_refused() -> None:
    """By what would be right."""
    assert addresses(["generator=http://a:1", " merger=https://b "]) == [
        ("generator", "http://a:1"),
        ("merger", "https://b"),
    ]
    for wrong in ("http://a:1", "painter=http://a:1", "merger=b:1"):
        with pytest.raises(CommandError, match="NAME=URL") as refused:
            addresses([wrong])
        assert refused.value.code is Exit.USAGE


def test_the_screens_in_the_docs_are_those_of_today() -> None:
    """`make screens` records them: the columns and rows that the commands print are on them."""
    watch = (SCREENS / "watch.txt").read_text()
    job = (SCREENS / "job.txt").read_text()

    assert all(word in watch for word in (*SERVICE_COLUMNS, *JOB_COLUMNS, *ROWS, *SERVICES))
    assert "-> segue dlq list" in watch
    for words in ("run 1 ", "scene.requested/", "asked for", "made: ", "track: ", "$", "UTC"):
        assert words in job or words == "UTC"
    assert max(map(len, watch.splitlines())) <= 100


def test_a_moment_is_dated_in_utc() -> None:
    """Operators of three continents read it."""
    assert datetime(2026, 11, 26, 12, tzinfo=UTC) == NOW
    assert "2026-11-26 12:00:00 UTC" in drawn(a_moment(), width=80)
