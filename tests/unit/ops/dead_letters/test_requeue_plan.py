"""Planning a requeue: a lane is requeued as a whole and in order, or left out with a reason."""

from datetime import UTC, datetime
from typing import Any

from ops.dead_letters.letter import (
    DeadLetter,
    DeadLetterSelection,
    DeadLetterState,
    in_order_once,
)
from ops.dead_letters.requeue import requeued_record
from ops.dead_letters.requeue_plan import (
    NO_ORIGIN,
    TRUNCATED,
    UNDECODABLE,
    RequeuePlan,
    plan_requeue,
    plan_resumed_requeue,
)
from services.api.operators import Resolution, ResolvedLetter
from shared.errors import InvalidEventError
from shared.kafka.codec import Record, encode
from shared.kafka.dead_letters import dead_letter_headers
from tests.support.event_builders import a_scene

MOMENT = datetime(2026, 1, 5, 12, tzinfo=UTC)
TOPIC = "scene.requested"


def a_letter(at: int, *, origin: int, attempts: int = 0, **options: Any) -> Record:
    """Return a dead letter at offset `at`; `headers` are those of the original record."""
    encoded = encode(a_scene(0), source="api", now=MOMENT)
    record = Record(
        topic=TOPIC,
        partition=2,
        offset=origin,
        key=encoded.key,
        value=options.get("value", encoded.value),
        headers=encoded.headers + options.get("headers", ()),
    )
    headers = dead_letter_headers(
        record, InvalidEventError("wrong"), attempts=attempts, service="generator", now=MOMENT
    )
    return Record(
        topic=f"{TOPIC}.dlq",
        partition=2,
        offset=at,
        key=record.key,
        value=record.value,
        headers=record.headers + headers,
    )


def plan_of(*records: Record, **options: Any) -> RequeuePlan:
    """Return the plan of a requeue of the whole topic."""
    arguments = {
        "resolved": {},
        "selection": DeadLetterSelection(topic=TOPIC),
        "quarantined": False,
        **options,
    }
    return plan_requeue(map(DeadLetter.of, records), requeues_max=3, **arguments)


def test_a_requeued_record_keeps_its_first_place_in_the_order() -> None:
    """Its latest origin is behind letters that were parked later."""
    first = (("dlq-first-origin", f"{TOPIC}/2/10".encode()), ("dlq-requeues", b"1"))
    plan = plan_of(a_letter(5, origin=19), a_letter(6, origin=30, attempts=1, headers=first))

    assert [letter.place[2] for letter in plan.lanes[0]] == [6, 5]


def test_a_request_that_was_published_again_precedes_the_scenes_that_wait_for_it() -> None:
    """It is stored behind them in the log, because its first version could not be decoded."""
    later_scene, first_scene = (
        a_letter(at, origin=at, value=encode(a_scene(scene), source="api", now=MOMENT).value)
        for at, scene in ((1, 1), (2, 0))
    )
    plan = plan_of(later_scene, first_scene)

    assert [letter.place[2] for letter in plan.lanes[0]] == [2, 1]


def test_a_record_with_several_dead_letters_is_requeued_once() -> None:
    """The letter with the higher count of requeues is taken."""
    first = (("dlq-first-origin", f"{TOPIC}/2/10".encode()), ("dlq-requeues", b"1"))
    [lane] = plan_of(
        a_letter(1, origin=10, attempts=1),
        a_letter(2, origin=10, attempts=1),
        a_letter(3, origin=30, attempts=1, headers=first),
    ).lanes

    assert [letter.place[2] for letter in in_order_once(lane)] == [3]
    assert len(lane) == 3


def test_a_quarantined_letter_holds_back_its_whole_lane() -> None:
    """The letters behind it did not fail themselves, and wait with it."""
    spent = a_letter(1, origin=10, attempts=2, headers=(("dlq-requeues", b"3"),))
    behind = a_letter(2, origin=11, attempts=0, headers=(("dlq-requeues", b"3"),))
    default, forced = plan_of(spent, behind), plan_of(spent, behind, quarantined=True)

    assert (default.lanes, default.left_out) == ([], {DeadLetterState.QUARANTINED: 2})
    assert forced.letters == 2
    assert DeadLetter.of(behind).state(None, requeues_max=3) is DeadLetterState.WAITING


def test_letters_that_cannot_be_requeued_are_left_out_with_a_reason() -> None:
    """Letters without origin, truncated ones, and those that are resolved or claimed."""
    foreign = Record(topic=f"{TOPIC}.dlq", partition=2, offset=1, key=b"k", value=b"v")
    truncated = a_letter(2, origin=11, value=b"{", headers=(("dlq-truncated-from", b"9"),))
    requeued = ResolvedLetter(resolution=Resolution.REQUEUED, action=4, is_done=True)
    interrupted = ResolvedLetter(resolution=Resolution.REQUEUED, action=5, is_done=False)
    resolved = {(f"{TOPIC}.dlq", 2, 3): requeued, (f"{TOPIC}.dlq", 2, 4): interrupted}
    letters = [a_letter(3, origin=12), a_letter(4, origin=13)]
    stored = a_letter(
        5,
        origin=14,
        headers=(("dlq-truncated-from", b"9"), ("dlq-original-object", b"dead-letters/x")),
    )
    batch = a_letter(6, origin=15, value=b"\0", headers=(("dlq-content", b"batch"),))
    plan = plan_of(foreign, truncated, batch, *letters, resolved=resolved)
    whole = plan_of(stored)
    resumed = plan_resumed_requeue(map(DeadLetter.of, letters), resolved, action=5)

    assert (plan.lanes, plan.actions) == ([], {5})
    assert plan.left_out == {
        NO_ORIGIN: 1,
        TRUNCATED: 1,
        UNDECODABLE: 1,
        "requeued": 1,
        "interrupted": 1,
    }
    assert whole.letters == 1, "its whole record is stored"
    assert [letter.place[2] for letter in resumed.lanes[0]] == [4]


def test_a_record_is_requeued_unchanged_with_its_count_and_its_first_failure() -> None:
    """The count of requeues increases only for a record that failed itself."""
    failed, behind = a_letter(1, origin=10, attempts=2), a_letter(2, origin=11)
    copies = [
        requeued_record(record, DeadLetter.of(record), number=7, is_last=record is behind)
        for record in (failed, behind)
    ]
    original = encode(a_scene(0), source="api", now=MOMENT)

    for copy in copies:
        assert (copy.topic, copy.partition, copy.key) == (TOPIC, 2, original.key)
        assert (copy.value, copy.headers[: len(original.headers)]) == (
            original.value,
            original.headers,
        )
        assert copy.header("dlq-first-failed-at") == MOMENT.isoformat()
        assert copy.header("dlq-reason") is None
    assert [copy.header("dlq-requeues") for copy in copies] == ["1", "0"]
    assert [copy.header("dlq-requeue-last") for copy in copies] == [None, "true"]
