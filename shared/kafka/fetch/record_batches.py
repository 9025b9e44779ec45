"""Decodes fetched record batches and isolates those that cannot be decoded.

aiokafka, and Faust through it, raises at the first batch or record that it cannot decode, and
fetches it again without end. `install()` replaces the decoding of every consumer of the process:
a batch or record that cannot be decoded arrives as a record whose value is `Undecodable`, with
the reason, the offsets and the stored bytes, and the partition continues behind it. Causes: CRC,
magic, codec, a payload larger than `PAYLOAD_BYTES_MAX`, the form of a record, a header name that
is not UTF-8, and a log that the broker itself cannot read (ADR-0020).

The offset of such a record is the last one of the batch, so that a commit covers all of it.

No I/O.
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Self

from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.consumer import consumer as consumer_module
from aiokafka.consumer import fetcher as fetcher_module
from aiokafka.errors import CorruptRecordException
from aiokafka.record.control_record import ABORT_MARKER, ControlRecord
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.legacy_records import LegacyRecordBatch

from shared.kafka.codec import Headers, Undecodable, UndecodableContent

try:
    import cramjam
except ImportError:  # `missing_codecs` reports it
    cramjam = None  # type: ignore[assignment]

PAYLOAD_BYTES_MAX = 64 * 1024**2  # of a decompressed batch; a producer's batch has 1 MB at most
CODECS = {1: "gzip", 2: "snappy", 3: "lz4", 4: "zstd"}
_LENGTH = struct.Struct(">qi")  # base offset, bytes after this field: in every format
_HEADER = struct.Struct(">qiibIhiqqqhii")  # of format 2
_MAGIC_AT, _ATTRIBUTES_AT = 16, 21
_LENGTH_MIN = 14  # of a record of format 0 without key and value
_CODEC_MASK, _MAGIC = 0x07, 2
_LOG_APPEND_TIME = 0x08
_READ_COMMITTED = 1
_XERIAL = b"\x82SNAPPY\x00"  # snappy-java's framing: blocks with their length in front
_XERIAL_HEADER_BYTES = 16
_GZIP = 31  # zlib's window size with a gzip header


class UnreadableLog(bytes):
    """Stands for the bytes of an offset at which the broker cannot read its log; empty."""

    reason: str

    def __new__(cls, reason: str) -> Self:
        """Return the marker with the broker's error."""
        self = super().__new__(cls)
        self.reason = reason
        return self


class FetchedBytes:
    """The record batches of one partition in a response; in place of aiokafka's `MemoryRecords`."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def has_next(self) -> bool:
        """Return whether there is something to decode, however damaged."""
        return bool(self.data) or isinstance(self.data, UnreadableLog)

    def size_in_bytes(self) -> int:
        """Return the number of bytes."""
        return len(self.data)


class _Batch(NamedTuple):
    """One batch as stored, and the offset at which the next one begins, if that is known."""

    data: bytes
    following: int | None


class IsolatedRecords:
    """The records of one partition in a response; in place of aiokafka's `PartitionRecords`.

    `next_fetch_offset` is the consumer's position after the records that were returned.
    """

    def __init__(
        self,
        tp: TopicPartition,
        records: FetchedBytes,
        aborted_transactions: list[tuple[int, int]] | None,
        fetch_offset: int,
        _key_deserializer: None,
        _value_deserializer: None,
        check_crcs: bool,  # noqa: FBT001 - aiokafka's signature
        isolation_level: int,
    ) -> None:
        self._partition = tp
        self._fetched = records
        self._aborted = sorted(aborted_transactions or [], key=lambda aborted: aborted[1])
        self._aborted_producers: set[int] = set()
        self._check_crcs = check_crcs
        self._is_read_committed = isolation_level == _READ_COMMITTED
        self.next_fetch_offset = fetch_offset
        self.end_offset: int | None = None  #: of the partition; set by the fetcher
        self._records = self._decode()

    def __iter__(self) -> "IsolatedRecords":
        return self

    def __next__(self) -> ConsumerRecord:
        return next(self._records)

    def _decode(self) -> Iterator[ConsumerRecord]:
        data = self._fetched.data
        if isinstance(data, UnreadableLog):
            yield self._isolate(b"", data.reason, last=self.next_fetch_offset)
            return
        start = self.next_fetch_offset
        for batch in self._split(data):
            yield from self._records_of(batch)
        if self.next_fetch_offset == start:  # it would be fetched again without end
            yield self._isolate(data, "the response has other offsets", last=start)

    def _split(self, data: bytes) -> Iterator[_Batch]:
        """Yield the batches; the last one may be cut off by the broker, and is fetched again."""
        at, size = 0, len(data)
        while size - at >= _LENGTH.size:
            _, length = _LENGTH.unpack_from(data, at)
            end = at + _LENGTH.size + length
            is_cut = length >= _LENGTH_MIN and end > size
            if is_cut and at:
                return
            if is_cut or length < _LENGTH_MIN:
                yield _Batch(data[at:], None)  # its end is unknown: the broker finds the next one
                return
            following = _LENGTH.unpack_from(data, end)[0] if size - end >= _LENGTH.size else None
            yield _Batch(data[at:end], following)
            at = end
        if not at:
            yield _Batch(data, None)

    def _records_of(self, stored: _Batch) -> Iterator[ConsumerRecord]:
        try:
            batch = self._checked(stored)
            if batch.producer_id is not None and self._is_skipped(batch):
                self.next_fetch_offset = max(self.next_fetch_offset, batch.next_offset)
                return
            is_legacy = stored.data[_MAGIC_AT] < _MAGIC
            plain = stored.data if is_legacy else _uncompressed(stored.data)
            batch = batch if is_legacy else DefaultRecordBatch(plain)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with foreign bytes
            yield self._isolate(stored.data, _reason(error), last=self._last_offset(stored))
            return
        try:
            for record in batch:
                if record.offset >= self.next_fetch_offset:
                    self.next_fetch_offset = record.offset + 1
                    yield self._record(record)
        except Exception as error:  # noqa: BLE001 - as above
            if is_legacy:
                yield self._isolate(stored.data, _reason(error), last=self._last_offset(stored))
            else:
                yield from self._one_by_one(plain)
        # compaction may have removed the last records of the batch
        self.next_fetch_offset = max(self.next_fetch_offset, batch.next_offset)

    def _checked(self, stored: _Batch) -> Any:
        """Return aiokafka's batch.

        Raises:
            CorruptRecordException: it is not complete, or not as it was written.
        """
        data = stored.data
        if len(data) <= _MAGIC_AT or len(data) != _LENGTH.size + _LENGTH.unpack_from(data)[1]:
            raise CorruptRecordException("the length of the batch is wrong")
        magic = data[_MAGIC_AT]
        if magic > _MAGIC or (magic == _MAGIC and len(data) < _HEADER.size):
            raise CorruptRecordException(f"unknown format of the batch: magic {magic}")
        batch = DefaultRecordBatch(data) if magic == _MAGIC else LegacyRecordBatch(data, magic)
        if self._check_crcs and not batch.validate_crc():
            raise CorruptRecordException("the checksum (CRC) of the batch is wrong")
        ends = [end for end in (stored.following, self.end_offset) if end is not None]
        if batch.next_offset > min(ends, default=batch.next_offset):  # not part of the checksum
            raise CorruptRecordException("the offsets of the batch are wrong")
        return batch

    def _is_skipped(self, batch: Any) -> bool:
        """Return whether the batch has no records for a reader: markers, aborted transactions."""
        if self._is_read_committed:
            while self._aborted and self._aborted[0][1] <= batch.base_offset:
                self._aborted_producers.add(self._aborted.pop(0)[0])
            if batch.is_control_batch and _is_abort(batch):
                self._aborted_producers.discard(batch.producer_id)
            if batch.is_transactional and batch.producer_id in self._aborted_producers:
                return True
        return bool(batch.is_control_batch)

    def _one_by_one(self, plain: bytes) -> Iterator[ConsumerRecord]:
        """Yield the remaining records of a batch; those that cannot be decoded alone."""
        header = _HEADER.unpack_from(plain)
        last = header[0] + header[6]
        at = _HEADER.size
        for _ in range(header[-1]):
            try:
                length, start = _varint(plain, at)
                if length < 0 or start + length > len(plain):
                    raise CorruptRecordException("the length of the record is wrong")  # noqa: TRY301
            except Exception as error:  # noqa: BLE001 - as above
                yield self._isolate(plain[at:], _reason(error), last=last, content="record")
                return
            at = start + length
            yield from self._parse(plain[start:at], header)

    def _parse(self, data: bytes, header: tuple[int, ...]) -> Iterator[ConsumerRecord]:
        """Yield one record, if it was not returned before."""
        try:
            offset, delta_ms, key, value, headers, problem = _parse_record(data)
        except Exception as error:  # noqa: BLE001 - as above
            # offsets of a batch are consecutive until compaction
            offset = self.next_fetch_offset
            yield self._isolate(data, _reason(error), last=offset, content="record")
            return
        offset += header[0]
        if offset < self.next_fetch_offset:
            return
        self.next_fetch_offset = offset + 1
        if problem is not None:
            value = Undecodable(
                value or b"", reason=problem, first=offset, last=offset, content="value"
            )
        is_append_time = header[5] & _LOG_APPEND_TIME
        timestamp = header[8] if is_append_time else header[7] + delta_ms
        yield self._consumer_record(offset, timestamp, key, value, headers)

    def _isolate(
        self, data: bytes, reason: str, *, last: int, content: UndecodableContent = "batch"
    ) -> ConsumerRecord:
        """Return a record for bytes that cannot be decoded, and move the position behind them."""
        first = self.next_fetch_offset
        last = max(first, last)
        self.next_fetch_offset = last + 1
        value = Undecodable(bytes(data), reason=reason, first=first, last=last, content=content)
        return self._consumer_record(last, None, None, value, ())

    def _last_offset(self, stored: _Batch) -> int:
        """Return the last offset of a damaged batch, as far as it can be known."""
        first = self.next_fetch_offset
        if stored.following is not None and stored.following > first:
            return stored.following - 1
        last = first
        if len(stored.data) >= _HEADER.size:
            header = _HEADER.unpack_from(stored.data)
            # older formats have the last offset in front
            last = header[0] + (header[6] if stored.data[_MAGIC_AT] >= _MAGIC else 0)
        # a damaged header may name offsets that do not exist yet
        is_plausible = first <= last and (self.end_offset is None or last < self.end_offset)
        return last if is_plausible else first

    def _record(self, record: Any) -> ConsumerRecord:
        return self._consumer_record(
            record.offset, record.timestamp, record.key, record.value, tuple(record.headers)
        )

    def _consumer_record(
        self,
        offset: int,
        timestamp: int | None,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
    ) -> ConsumerRecord:
        return ConsumerRecord(
            self._partition.topic,
            self._partition.partition,
            offset,
            timestamp,
            0,
            key,
            value,
            None,
            -1 if key is None else len(key),
            -1 if value is None else len(value),
            headers,
        )


def install(fetcher: type[Any]) -> None:
    """Make every consumer of this process use `fetcher` and this decoding; repeatable."""
    consumer_module.Fetcher = fetcher
    fetcher_module.MemoryRecords = FetchedBytes
    fetcher_module.PartitionRecords = IsolatedRecords


def missing_codecs() -> list[str]:
    """Return the compression codecs of Kafka that this installation cannot decode."""
    text = b"segue " * 40
    packed: dict[str, Callable[[], bytes]] = {
        "gzip": lambda: zlib.compress(text, wbits=_GZIP),
        "snappy": lambda: bytes(cramjam.snappy.compress_raw(text)),
        "lz4": lambda: bytes(cramjam.lz4.compress(text)),
        "zstd": lambda: bytes(cramjam.zstd.compress(text)),
    }
    missing = []
    for number, name in CODECS.items():
        try:
            is_decoded = _decompressed(packed[name](), number) == text
        except Exception:  # noqa: BLE001 - a codec that cannot be used, for any reason
            is_decoded = False
        if not is_decoded:
            missing.append(name)
    return missing


def _uncompressed(data: bytes) -> bytes:
    """Return a batch of format 2 with its payload decompressed.

    Raises:
        CorruptRecordException: the codec is unknown, or the payload too large.
    """
    attributes = data[_ATTRIBUTES_AT : _ATTRIBUTES_AT + 2]
    codec = attributes[1] & _CODEC_MASK
    if not codec:
        return data
    if codec not in CODECS:
        raise CorruptRecordException(f"unknown compression codec {codec}")
    try:
        payload = _decompressed(data[_HEADER.size :], codec)
    except CorruptRecordException:
        raise
    except Exception as error:
        raise CorruptRecordException(f"{CODECS[codec]}: {error}") from error
    plain = bytes([attributes[0], attributes[1] & ~_CODEC_MASK])
    head = data[:_ATTRIBUTES_AT] + plain + data[_ATTRIBUTES_AT + 2 : _HEADER.size]
    return head + payload


def _decompressed(data: bytes, codec: int) -> bytes:
    if CODECS[codec] == "gzip":
        decoder = zlib.decompressobj(_GZIP)
        payload = decoder.decompress(data, PAYLOAD_BYTES_MAX + 1)
        if len(payload) > PAYLOAD_BYTES_MAX:
            raise _too_large()
        if not decoder.eof:
            raise CorruptRecordException("gzip: the payload is cut off")
        return payload
    if CODECS[codec] == "snappy":
        return _snappy(data)
    return _into_buffer(getattr(cramjam, CODECS[codec]).decompress_into, data)


def _into_buffer(decompress_into: Callable[[bytes, bytearray], int], data: bytes) -> bytes:
    """Decompress into a buffer of bounded size: the formats need not tell the size before."""
    size = min(max(64 * 1024, 8 * len(data)), PAYLOAD_BYTES_MAX)
    while True:
        buffer = bytearray(size)
        try:
            return bytes(memoryview(buffer)[: decompress_into(data, buffer)])
        except cramjam.DecompressionError as error:
            if "whole buffer" not in str(error):
                raise
            if size >= PAYLOAD_BYTES_MAX:
                raise _too_large() from error
        size = min(size * 8, PAYLOAD_BYTES_MAX)


def _snappy(data: bytes) -> bytes:
    if not data.startswith(_XERIAL):
        return _snappy_block(data, PAYLOAD_BYTES_MAX)
    blocks, at, size = [], _XERIAL_HEADER_BYTES, 0
    while at < len(data):
        (length,) = struct.unpack_from(">i", data, at)
        at += 4
        if length <= 0 or at + length > len(data):
            raise CorruptRecordException("snappy: the length of a block is wrong")
        blocks.append(_snappy_block(data[at : at + length], PAYLOAD_BYTES_MAX - size))
        at, size = at + length, size + len(blocks[-1])
    return b"".join(blocks)


def _snappy_block(data: bytes, size_max: int) -> bytes:
    if cramjam.snappy.decompress_raw_len(data) > size_max:
        raise _too_large()
    return bytes(cramjam.snappy.decompress_raw(data))


def _too_large() -> CorruptRecordException:
    return CorruptRecordException(f"the payload has more than {PAYLOAD_BYTES_MAX} bytes")


def _is_abort(batch: Any) -> bool:
    return bool(ControlRecord.parse(next(batch).key) == ABORT_MARKER)


def _parse_record(
    data: bytes,
) -> tuple[int, int, bytes | None, bytes | None, Headers, str | None]:
    """Return offset and time deltas, key, value, headers, and a problem of the header names."""
    delta_ms, at = _varint(data, 1)  # after the attributes
    offset, at = _varint(data, at)
    key, at = _sized(data, at)
    value, at = _sized(data, at)
    count, at = _varint(data, at)
    headers: list[tuple[str, bytes | None]] = []
    problem: str | None = None
    if not 0 <= count <= len(data):
        raise CorruptRecordException(f"the number of headers is wrong: {count}")
    for _ in range(count):
        name, at = _sized(data, at)
        content, at = _sized(data, at)
        if name is None:
            raise CorruptRecordException("a header has no name")
        text = name.decode("utf-8", "backslashreplace")
        if text.encode() != name:
            problem = problem or f'the header name "{text}" is not UTF-8'
        headers.append((text, content))
    if at != len(data):
        raise CorruptRecordException(f"the record has {len(data) - at} bytes behind its end")
    return offset, delta_ms, key, value, tuple(headers), problem


def _sized(data: bytes, at: int) -> tuple[bytes | None, int]:
    """Return bytes with their length in front, and where they end; a negative length is null."""
    length, at = _varint(data, at)
    if length < 0:
        return None, at
    if at + length > len(data):
        raise CorruptRecordException("a field is longer than its record")
    return data[at : at + length], at + length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a zigzag-encoded integer and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return (value >> 1) ^ -(value & 1), at
        shift += 7
        if shift > 63:  # noqa: PLR2004 - the bits of the largest integer
            raise CorruptRecordException("an integer of the record is too long")


def _reason(error: Exception) -> str:
    """Return the cause as text; aiokafka's text has its class and number in front."""
    text = " ".join(str(argument) for argument in error.args)
    return text or type(error).__name__
