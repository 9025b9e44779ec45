"""A dead letter fits its topic; a record that does not fit is stored whole."""

from pathlib import Path

import pytest

from shared.errors import RecordTooLargeError
from shared.kafka.codec import Headers, Record
from shared.kafka.original_records import (
    LETTER_BYTES,
    ORIGINAL_OBJECT,
    TRUNCATED_FROM,
    Letter,
    is_cut,
    restore_original,
    send_fitted,
)
from shared.storage.filesystem import FolderStore

ADDED: Headers = (("dlq-reason", b"a reason"), ("dlq-stack", b"s" * 4000))
SMALL = {"key": b"key", "value": b"value", "headers": (("ce_id", b"1"),)}
RECORDS = {
    "small": SMALL,
    "large value": {**SMALL, "value": b"v" * 3_000_000},
    "large key": {**SMALL, "key": b"k" * 2_500_000},
    "large header": {**SMALL, "headers": (("ce_id", b"1"), ("x", b"h" * 2_500_000))},
    "many headers": {**SMALL, "headers": tuple((f"ce_{n}", b"v" * 900) for n in range(3000))},
    "nulls": {"key": None, "value": None, "headers": (("x", None), ("y", b"h" * 2_500_000))},
}


def record_of(kind: str) -> Record:
    """Return a record of this kind."""
    fields = RECORDS[kind]
    return Record(topic="scene.requested", partition=0, offset=7, **fields)  # type: ignore[arg-type]


class Topic:
    """Accepts letters up to a size."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.letters: list[Letter] = []
        self.rejected = 0

    async def send(self, letter: Letter) -> None:
        """Store the letter."""
        if letter.size() > self.bytes_max:
            self.rejected += 1
            raise RecordTooLargeError("too large")
        self.letters.append(letter)


def as_stored(letter: Letter) -> Record:
    """Return the letter as a record of its topic."""
    return Record(
        topic="scene.requested.dlq",
        partition=0,
        offset=0,
        key=letter.record.key,
        value=letter.record.value,
        headers=letter.record.headers + letter.added,
    )


@pytest.mark.parametrize("bytes_max", LETTER_BYTES)
@pytest.mark.parametrize("kind", RECORDS)
async def test_the_whole_record_is_restored_from_a_letter(
    kind: str, bytes_max: int, tmp_path: Path
) -> None:
    """Whatever is large, and whatever the topic accepts."""
    store, topic, record = FolderStore(tmp_path), Topic(bytes_max), record_of(kind)
    await send_fitted(Letter(record=record, added=ADDED), topic.send, store=store)

    [letter] = topic.letters
    stored = as_stored(letter)
    whole = await restore_original(store, stored)
    assert (whole.key, whole.value) == (record.key, record.value)
    assert tuple(pair for pair in whole.headers if pair in record.headers) == record.headers
    assert whole.header("dlq-reason") == "a reason"
    assert not is_cut(whole)
    assert (stored.header(ORIGINAL_OBJECT) is None) is (kind == "small")


async def test_a_letter_is_cut_if_nothing_keeps_the_whole_record(tmp_path: Path) -> None:
    """Without a store, or once the object is gone; the size of the value is known."""
    store, topic = FolderStore(tmp_path), Topic(2_000_000)
    letter = Letter(record=record_of("large value"), added=ADDED)
    await send_fitted(letter, topic.send, store=None)
    await send_fitted(letter, topic.send, store=store)
    key = as_stored(topic.letters[1]).header(ORIGINAL_OBJECT)
    assert key is not None
    await store.delete(key)

    assert is_cut(as_stored(topic.letters[0]))
    assert as_stored(topic.letters[0]).header(TRUNCATED_FROM) == "3000000"
    assert is_cut(await restore_original(store, as_stored(topic.letters[1])))


async def test_a_topic_that_accepts_no_letter_ends_the_attempts(tmp_path: Path) -> None:
    """The size does not change by itself."""
    topic = Topic(10)
    letter = Letter(record=record_of("small"), added=ADDED)

    with pytest.raises(RecordTooLargeError):
        await send_fitted(letter, topic.send, store=FolderStore(tmp_path))
    assert topic.rejected == len(LETTER_BYTES)
