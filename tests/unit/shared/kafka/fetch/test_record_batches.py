"""A batch or record that cannot be decoded arrives with its bytes; its partition continues."""

import struct
import zlib
from collections.abc import Callable
from typing import Any

import cramjam
import pytest
from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.consumer.fetcher import FetchResult
from hypothesis import given
from hypothesis import strategies as st

from shared.kafka.codec import Record, Undecodable, Unreadable, try_decode
from shared.kafka.consumer import record_of, valid_timestamp
from shared.kafka.fetch import record_batches
from shared.kafka.fetch.record_batches import (
    PAYLOAD_BYTES_MAX,
    FetchedBytes,
    IsolatedRecords,
    UnreadableLog,
    missing_codecs,
)
from tests.support.odd_batches import GZIP, LZ4, SNAPPY, ZSTD, OddBatch, OddRecord

PARTITION = TopicPartition("scene.requested", 0)
END = 1000
NAME = b"caf\xe9"


def decoded(data: bytes, *, start: int = 0, end: int | None = END) -> IsolatedRecords:
    """Return the records of a response that was fetched at `start`."""
    records = IsolatedRecords(PARTITION, FetchedBytes(data), None, start, None, None, True, 1)
    records.end_offset = end
    return records


def between(damaged: bytes, *, offsets: int = 1) -> bytes:
    """Return a response with a valid batch in front of `damaged`, at offset 1, and one behind."""
    before = OddBatch(records=[OddRecord(value=b"before")])
    behind = OddBatch(base=1 + offsets, records=[OddRecord(value=b"behind")])
    return before.encoded() + damaged + behind.encoded()


def with_byte(data: bytes, at: int, change: int) -> bytes:
    """Return `data` with one byte changed."""
    return data[:at] + bytes([data[at] ^ change]) + data[at + 1 :]


def the_damage(records: list[ConsumerRecord]) -> Undecodable:
    """Return the one undecodable value of these records."""
    [damage] = [record.value for record in records if isinstance(record.value, Undecodable)]
    return damage


THREE = OddBatch(base=1, records=[OddRecord(value=b"%d" % number) for number in range(3)])
WHOLE = THREE.encoded()


@pytest.mark.parametrize("codec", [0, GZIP, SNAPPY, LZ4, ZSTD])
def test_every_codec_is_decoded(codec: int) -> None:
    """Aiokafka's own encoder writes snappy in blocks, so that form is tested on a broker."""
    headers = [(b"a", b"1"), (b"a", None), (b"", b"")]
    batch = OddBatch(codec=codec, records=[OddRecord(key=None, value=b"x" * 9000, headers=headers)])

    [record] = decoded(batch.encoded())

    assert (record.key, record.value, record.offset) == (None, b"x" * 9000, 0)
    assert record.headers == (("a", b"1"), ("a", None), ("", b""))
    assert missing_codecs() == []


def test_codecs_without_their_library_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their batches are isolated; gzip needs no library."""
    lz4 = between(OddBatch(base=1, codec=LZ4).encoded())
    monkeypatch.setattr(record_batches, "cramjam", None)

    assert missing_codecs() == ["snappy", "lz4", "zstd"]
    assert the_damage(list(decoded(lz4))).reason.startswith("lz4: ")


def _zeros(codec: int) -> bytes:
    """Return a small payload of one codec that decompresses to more than is allowed."""
    zeros = bytes(PAYLOAD_BYTES_MAX + 1)
    compressors: dict[int, Callable[[bytes], Any]] = {
        GZIP: lambda data: zlib.compress(data, wbits=31),
        SNAPPY: cramjam.snappy.compress_raw,
        LZ4: cramjam.lz4.compress,
        ZSTD: cramjam.zstd.compress,
    }
    return bytes(compressors[codec](zeros))


DAMAGED_BATCHES = {
    "a wrong checksum": (with_byte(WHOLE, len(WHOLE) - 1, 1), "CRC"),
    "an unknown magic": (OddBatch(base=1, records=THREE.records, magic=9).encoded(), "magic 9"),
    "a negative magic": (OddBatch(base=1, records=THREE.records, magic=-1).encoded(), "magic 255"),
    "an old magic": (OddBatch(base=1, records=THREE.records, magic=1).encoded(), "read"),
    "an unknown codec": (OddBatch(base=1, records=THREE.records, codec=6).encoded(), "codec 6"),
    "garbage as lz4": (
        OddBatch(base=1, records=THREE.records, codec=LZ4, payload=b"garbage").encoded(),
        "lz4: ",
    ),
    "garbage as snappy blocks": (
        OddBatch(
            base=1, records=THREE.records, codec=SNAPPY, payload=b"\x82SNAPPY\0" + bytes(12)
        ).encoded(),
        "snappy: ",
    ),
    "half of a gzip": (
        OddBatch(
            base=1,
            records=THREE.records,
            codec=GZIP,
            payload=zlib.compress(b"records" * 99, wbits=31)[:-12],
        ).encoded(),
        "gzip: ",
    ),
    **{
        f"too many bytes in codec {codec}": (
            OddBatch(base=1, records=THREE.records, codec=codec, payload=_zeros(codec)).encoded(),
            "more than",
        )
        for codec in (GZIP, SNAPPY, LZ4, ZSTD)
    },
}


@pytest.mark.parametrize("kind", DAMAGED_BATCHES)
def test_a_damaged_batch_is_isolated_with_its_bytes_and_offsets(kind: str) -> None:
    """Its record has the last offset, so that a commit covers the batch."""
    data, reason = DAMAGED_BATCHES[kind]
    records = decoded(between(data, offsets=3))

    before, damaged, behind = list(records)

    assert (before.value, behind.value) == (b"before", b"behind")
    assert (before.offset, damaged.offset, behind.offset) == (0, 3, 4)
    assert records.next_fetch_offset == 5
    damage = damaged.value
    assert isinstance(damage, Undecodable)
    assert (bytes(damage), damage.first, damage.last, damage.content) == (data, 1, 3, "batch")
    assert reason in damage.reason
    received = try_decode(record_of(damaged, prefix=""))
    assert isinstance(received, Unreadable)
    assert str(received.error).startswith("offsets 1 to 3 cannot be decoded: ")


def test_a_record_that_was_returned_is_not_returned_again() -> None:
    """A fetch inside a batch gets all of it; so does one that is resumed."""
    assert [record.offset for record in decoded(WHOLE, start=2)] == [2, 3]
    damage = the_damage(list(decoded(with_byte(WHOLE, len(WHOLE) - 1, 1), start=2)))
    assert (damage.first, damage.last) == (2, 3)


@pytest.mark.parametrize("value", [b"the value", None])
def test_only_the_record_with_an_odd_header_name_is_isolated(value: bytes | None) -> None:
    """It keeps key, value and headers, so that a requeue publishes a valid record."""
    odd = OddRecord(key=b"job", value=value, headers=[(NAME, b"1"), (b"ce_id", b"2")])
    batch = OddBatch(base=1, records=[OddRecord(), odd, OddRecord()])

    records = list(decoded(between(batch.encoded(), offsets=3)))

    assert [record.offset for record in records] == [0, 1, 2, 3, 4]
    damage = the_damage(records)
    assert damage is records[2].value
    assert (bytes(damage), damage.content, damage.first) == (value or b"", "value", 2)
    assert records[2].key == b"job"
    assert records[2].headers == (("caf\\xe9", b"1"), ("ce_id", b"2"))
    assert "caf\\xe9" in damage.reason


def test_only_the_record_that_is_damaged_inside_its_length_is_isolated() -> None:
    """The lengths of the records lead to the next one."""
    plain = [OddRecord(value=b"%d" % number).encoded(number) for number in range(3)]
    broken = with_byte(plain[1], 4, 0x3F)  # the length of its key
    payload = plain[0] + broken + plain[2]
    batch = OddBatch(base=1, records=THREE.records, payload=payload)

    records = list(decoded(between(batch.encoded(), offsets=3)))

    assert [record.offset for record in records] == [0, 1, 2, 3, 4]
    damage = the_damage(records)
    assert (bytes(damage), damage.content) == (broken[1:], "record")
    assert (damage.first, damage.last) == (2, 2)


def test_the_rest_of_a_batch_without_lengths_is_isolated() -> None:
    """The records in front of it are returned."""
    plain = OddRecord(value=b"0").encoded(0)
    batch = OddBatch(base=1, records=THREE.records, payload=plain + b"\xff" * 20)

    records = list(decoded(between(batch.encoded(), offsets=3)))

    assert [record.offset for record in records] == [0, 1, 3, 4]
    damage = the_damage(records)
    assert (damage.first, damage.last, damage.content) == (2, 3, "record")


@pytest.mark.parametrize("length", [-1, 0, 13, 2**31 - 1])
def test_a_batch_with_a_wrong_length_ends_the_response(length: int) -> None:
    """The broker is asked for the next offset; it finds batches by its own index."""
    data = WHOLE[:8] + struct.pack(">i", length) + WHOLE[12:]
    records = decoded(data, start=1)

    damage = the_damage(list(records))

    assert (bytes(damage), damage.first) == (data, 1)
    assert records.next_fetch_offset in {2, 4}


def test_a_batch_that_the_broker_cut_off_is_fetched_again() -> None:
    """Unless it is the first one: then a fetch would return the same."""
    records = decoded(OddBatch(base=0).encoded() + WHOLE[:-3])

    assert [record.offset for record in records] == [0]
    assert records.next_fetch_offset == 1
    assert the_damage(list(decoded(WHOLE[:-3], start=1))).first == 1
    assert the_damage(list(decoded(WHOLE[:5], start=1))).last == 1


def test_a_damaged_last_offset_does_not_move_the_position_behind_the_log() -> None:
    """The consumer would start again at the beginning of the log, for ever."""
    data = OddBatch(base=1, records=THREE.records, last_delta=2**30, codec=6).encoded()
    records = decoded(data, start=1, end=4)

    assert the_damage(list(records)).last == 1
    assert records.next_fetch_offset == 2


def test_an_offset_that_the_broker_cannot_read_is_recorded_without_bytes() -> None:
    """There are none."""
    records = IsolatedRecords(
        PARTITION, FetchedBytes(UnreadableLog("error 2")), None, 7, None, None, True, 1
    )

    damage = the_damage(list(records))

    assert (bytes(damage), damage.first, damage.last, damage.reason) == (b"", 7, 7, "error 2")
    assert records.next_fetch_offset == 8


@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255))
def test_no_damaged_byte_stops_a_partition(at: int, change: int) -> None:
    """Whatever byte is damaged, reading ends, never moves back, and reaches the next batch."""
    position, rounds = 0, 0
    following = OddBatch(base=4, records=[OddRecord(value=b"behind")]).encoded()
    values: list[bytes | None] = []
    while position < 5:
        rounds += 1
        assert rounds < 9, f"no progress at {position}"
        # the broker finds the batch of an offset by its index
        data = with_byte(WHOLE, at, change) + following if position < 4 else following
        records = decoded(data, start=position, end=5)
        values += [record.value for record in records]
        assert records.next_fetch_offset > position
        position = records.next_fetch_offset
    assert b"behind" in values or any(isinstance(value, Undecodable) for value in values)


def test_aiokafka_still_calls_what_is_replaced() -> None:
    """`FetchResult` uses these names; another release of aiokafka may use others."""
    state = type("State", (), {"paused": False, "position": 0})()
    assignment = type("Assignment", (), {"active": True, "state_value": lambda *_: state})()
    state.consumed_to = lambda offset: setattr(state, "position", offset)
    result = FetchResult(
        PARTITION, assignment=assignment, partition_records=decoded(WHOLE), backoff=0
    )
    state.position = 0

    assert [record.offset for record in result.getall(2)] == [1, 2]
    assert [record.offset for record in result.getall()] == [3]
    assert state.position == 4


def test_a_timestamp_that_is_no_time_is_none() -> None:
    """A producer may send any number."""
    odd = [None, -1, 0, 2**62]

    assert [valid_timestamp(number) for number in odd] == [None] * 4
    assert valid_timestamp(1_790_000_000_000) == 1_790_000_000_000


def test_odd_keys_and_headers_are_part_of_a_valid_record() -> None:
    """Null, empty, not UTF-8, duplicate."""
    headers = (("ce_id", None), ("ce_id", b"\xff"), ("", b""))
    for key in (None, b"", b"\xff\xfe"):
        record = Record(
            topic="job.cancelled",
            partition=0,
            offset=0,
            key=key,
            value=b'{"job_id":"j","run":1}',
            headers=headers,
        )
        assert not isinstance(try_decode(record), Unreadable)
