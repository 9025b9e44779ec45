"""Gathering: a lane goes back whole and in order, or not at all, and it is said why."""

from datetime import UTC, datetime
from typing import Any

from ops.dead_letters.letter import Letter, LetterSelection, LetterState, once
from ops.dead_letters.requeue import copy_of
from ops.dead_letters.requeue_plan import CUT, FOREIGN, gather, gather_again
from services.api.database.operators.dead_letters import Resolution, ResolvedLetter
from shared.errors import InvalidEventError
from shared.kafka.codec import Record, encode
from shared.kafka.dead_letters import dead_letter_headers
from tests.support.event_builders import a_scene

MOMENT = datetime(2026, 1, 5, 12, tzinfo=UTC)
TOPIC = "scene.requested"


def a_letter(at: int, *, origin: int, attempts: int = 0, **given: Any) -> Record:
    """A dead letter at offset `at`; `headers` are what the record had before."""
    one = encode(a_scene(0), source="api", now=MOMENT)
    record = Record(
        topic=TOPIC,
        partition=2,
        offset=origin,
        key=one.key,
        value=given.get("value", one.value),
        headers=one.headers + given.get("headers", ()),
    )
    told = dead_letter_headers(
        record, InvalidEventError("wrong"), attempts=attempts, service="generator", now=MOMENT
    )
    return Record(
        topic=f"{TOPIC}.dlq",
        partition=2,
        offset=at,
        key=record.key,
        value=record.value,
        headers=record.headers + told,
    )


def gathered(*records: Record, **given: Any) -> Any:
    """What a requeue of the whole topic would take."""
    told = {"fates": {}, "selection": LetterSelection(topic=TOPIC), "quarantined": False, **given}
    return gather(map(Letter.of, records), requeues_max=3, **told)


def test_a_record_that_was_put_back_has_its_first_place_in_the_order() -> None:
    """Its last one lies behind what was parked since."""
    first = (("dlq-first-origin", f"{TOPIC}/2/10".encode()), ("dlq-requeues", b"1"))
    told = gathered(a_letter(5, origin=19), a_letter(6, origin=30, attempts=1, headers=first))

    assert [letter.place[2] for letter in told.lanes[0]] == [6, 5]


def test_a_request_that_was_said_again_goes_before_those_that_wait_for_its_scene() -> None:
    """It lies behind them in the log: whoever wrote the one that nobody could read came late."""
    waits, late = (
        a_letter(at, origin=at, value=encode(a_scene(scene), source="api", now=MOMENT).value)
        for at, scene in ((1, 1), (2, 0))
    )
    told = gathered(waits, late)

    assert [letter.place[2] for letter in told.lanes[0]] == [2, 1]


def test_what_a_death_put_aside_twice_goes_back_once() -> None:
    """With the higher count, if it was put back in between."""
    first = (("dlq-first-origin", f"{TOPIC}/2/10".encode()), ("dlq-requeues", b"1"))
    [lane] = gathered(
        a_letter(1, origin=10, attempts=1),
        a_letter(2, origin=10, attempts=1),
        a_letter(3, origin=30, attempts=1, headers=first),
    ).lanes

    assert [letter.place[2] for letter in once(lane)] == [3]
    assert len(lane) == 3


def test_one_letter_that_failed_too_often_keeps_its_lane() -> None:
    """Those behind it have done nothing wrong, and wait with it."""
    spent = a_letter(1, origin=10, attempts=2, headers=(("dlq-requeues", b"3"),))
    behind = a_letter(2, origin=11, attempts=0, headers=(("dlq-requeues", b"3"),))
    left, taken = gathered(spent, behind), gathered(spent, behind, quarantined=True)

    assert (left.lanes, left.left_out) == ([], {LetterState.QUARANTINED: 2})
    assert taken.letters == 2
    assert Letter.of(behind).state(None, requeues_max=3) is LetterState.WAITING


def test_what_cannot_go_back_is_left_out_with_its_reason() -> None:
    """Strangers, what is not whole, and what waits no more."""
    stranger = Record(topic=f"{TOPIC}.dlq", partition=2, offset=1, key=b"k", value=b"v")
    cut = a_letter(2, origin=11, value=b"{", headers=(("dlq-truncated-from", b"9"),))
    again = ResolvedLetter(resolution=Resolution.REQUEUED, action=4, is_done=True)
    broken = ResolvedLetter(resolution=Resolution.REQUEUED, action=5, is_done=False)
    fates = {(f"{TOPIC}.dlq", 2, 3): again, (f"{TOPIC}.dlq", 2, 4): broken}
    known = [a_letter(3, origin=12), a_letter(4, origin=13)]
    told = gathered(stranger, cut, *known, fates=fates)
    goes_on = gather_again(map(Letter.of, known), fates, action=5)

    assert (told.lanes, told.actions) == ([], {5})
    assert told.left_out == {FOREIGN: 1, CUT: 1, "requeued": 1, "interrupted": 1}
    assert [letter.place[2] for letter in goes_on.lanes[0]] == [4]


def test_a_record_goes_back_as_it_was_with_its_count_and_its_first_failure() -> None:
    """Only what failed itself counts up."""
    died, behind = a_letter(1, origin=10, attempts=2), a_letter(2, origin=11)
    copies = [
        copy_of(record, Letter.of(record), number=7, is_last=record is behind)
        for record in (died, behind)
    ]
    before = encode(a_scene(0), source="api", now=MOMENT)

    for copy in copies:
        assert (copy.topic, copy.partition, copy.key) == (TOPIC, 2, before.key)
        assert (copy.value, copy.headers[: len(before.headers)]) == (before.value, before.headers)
        assert copy.header("dlq-first-failed-at") == MOMENT.isoformat()
        assert copy.header("dlq-reason") is None
    assert [copy.header("dlq-requeues") for copy in copies] == ["1", "0"]
    assert [copy.header("dlq-requeue-last") for copy in copies] == [None, "true"]
