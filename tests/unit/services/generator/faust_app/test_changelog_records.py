"""Changelog records that Faust cannot decode are read as the deletion of no job's state."""

import pytest
from aiokafka import ConsumerRecord

from services.generator.faust_app.driver import NO_STATE_KEY, state_record
from shared.kafka.codec import Undecodable

DAMAGED = Undecodable(b'"state"', reason="CRC", first=3, last=3, content="batch")
ODD = [
    (None, b'"state"'),
    (b"", b'"state"'),
    (b"\xff", b'"state"'),
    (b"7", b'"state"'),
    (b"[" * 100_000, b'"state"'),
    (b'"job"', DAMAGED),
    (None, DAMAGED),
]


def a_record(key: bytes | None, value: bytes | None) -> ConsumerRecord:
    """Return a record of the changelog."""
    return ConsumerRecord("changelog", 0, 3, 1, 0, key, value, None, -1, -1, ())


@pytest.mark.parametrize(("key", "value"), ODD)
def test_an_odd_record_keeps_its_offset_and_deletes_nothing(
    key: bytes | None, value: bytes | None
) -> None:
    """Recovery waits for the last offset of the changelog."""
    record = state_record(a_record(key, value))

    assert (record.key, record.value, record.offset) == (NO_STATE_KEY, None, 3)


@pytest.mark.parametrize("value", [b'{"run":1}', b"\xff", b"", None])
def test_a_state_and_its_deletion_are_unchanged(value: bytes | None) -> None:
    """Faust encodes keys as JSON texts; a value is read when its job needs it."""
    record = a_record(b'"job"', value)

    assert state_record(record) is record
