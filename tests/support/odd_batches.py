"""Builds Kafka record batches byte by byte, valid or damaged, and publishes or plants them."""

import asyncio
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aiokafka.client import AIOKafkaClient
from aiokafka.codec import gzip_encode, lz4_encode, snappy_encode, zstd_encode
from aiokafka.errors import for_code
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record._crc32c import crc as crc32c

from shared.clock import SystemClock

GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4
_AFTER_CRC = struct.Struct(">hiqqqhii")
_MAGIC_AT, _CRC_AT, _ATTRIBUTES_AT = 16, 17, 21
ACCEPTED_S = 10.0


@dataclass(frozen=True, kw_only=True)
class OddRecord:
    """One record; header names are bytes."""

    key: bytes | None = b"key"
    value: bytes | None = b"value"
    headers: Sequence[tuple[bytes, bytes | None]] = ()

    def encoded(self, index: int) -> bytes:
        """Return the record as the `index`-th of its batch."""
        content = b"\x00" + _varint(0) + _varint(index) + _sized(self.key) + _sized(self.value)
        content += _varint(len(self.headers))
        content += b"".join(_sized(name) + _sized(value) for name, value in self.headers)
        return _varint(len(content)) + content


@dataclass(frozen=True, kw_only=True)
class OddBatch:
    """A batch of format 2; the defaults are valid."""

    records: Sequence[OddRecord] = field(default=(OddRecord(),))
    base: int = 0
    codec: int = 0
    payload: bytes | None = None  #: in place of the encoded records, compressed already
    magic: int = 2
    last_delta: int | None = None

    def encoded(self) -> bytes:
        """Return the batch with its checksum."""
        plain = b"".join(record.encoded(index) for index, record in enumerate(self.records))
        payload = _compressed(plain, self.codec) if self.payload is None else self.payload
        count, moment_ms = len(self.records), _now_ms()
        delta = count - 1 if self.last_delta is None else self.last_delta
        checked = _AFTER_CRC.pack(self.codec, delta, moment_ms, moment_ms, -1, -1, -1, count)
        checked += payload
        head = struct.pack(">ibI", -1, self.magic, crc32c(checked))
        return struct.pack(">qi", self.base, len(head) + len(checked)) + head + checked


async def publish_batch(bootstrap: str, topic: str, batch: bytes, *, partition: int = 0) -> None:
    """Publish an encoded batch, which the broker checks."""
    client = AIOKafkaClient(bootstrap_servers=bootstrap, client_id="test")
    await client.bootstrap()
    try:
        await client.set_topics([topic])
        await client._wait_on_metadata(topic)
        [broker] = client.cluster.brokers()
        request = ProduceRequest(
            transactional_id=None,
            required_acks=-1,
            timeout=10_000,
            topics=[(topic, [(partition, batch)])],
        )
        async with asyncio.timeout(ACCEPTED_S):
            while True:
                response = await client.send(broker.nodeId, request)
                [(_, [(_, code, *_)])] = response.topics
                if not for_code(code).retriable:  # a topic that was just created has no leader
                    break
        assert not code, for_code(code).__name__
    finally:
        await client.close()


@dataclass(frozen=True)
class PartitionLog:
    """The log of one partition on this machine; its broker may run."""

    folder: Path

    def batch_of(self, token: bytes) -> tuple[int, bytes]:
        """Return position and bytes of the batch that contains `token`."""
        data, at = self._file.read_bytes(), 0
        while at < len(data):
            end = at + 12 + struct.unpack_from(">i", data, at + 8)[0]
            if token in data[at:end]:
                return at, data[at:end]
            at = end
        raise AssertionError(f"{token!r} is not in {self._file}")

    def overwrite(self, token: bytes, at: int, content: bytes, *, is_checked: bool = False) -> None:
        """Overwrite bytes `at` this place of a batch; `is_checked`: with a valid checksum."""
        start, batch = self.batch_of(token)
        changed = bytearray(batch)
        changed[at : at + len(content)] = content
        if is_checked:
            struct.pack_into(">I", changed, _CRC_AT, crc32c(bytes(changed[_ATTRIBUTES_AT:])))
        with self._file.open("r+b") as file:
            file.seek(start)
            file.write(changed)

    @property
    def _file(self) -> Path:
        [file] = self.folder.glob("*.log")
        return file


def _compressed(data: bytes, codec: int) -> bytes:
    encoders = {GZIP: gzip_encode, SNAPPY: snappy_encode, LZ4: lz4_encode, ZSTD: zstd_encode}
    encode = encoders.get(codec, lambda plain: plain)
    encoded: bytes = encode(data)
    return encoded


def _sized(content: bytes | None) -> bytes:
    return _varint(-1) if content is None else _varint(len(content)) + content


def _varint(value: int) -> bytes:
    number, encoded = (value << 1) ^ (value >> 63), bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _now_ms() -> int:
    """Return the time of a record; retention removes older ones."""
    return int(SystemClock().now().timestamp() * 1000)
