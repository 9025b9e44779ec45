"""Fits dead letters into the broker's limit; the store keeps the records that do not fit.

The added headers make a dead letter larger than its record, and a record that its producer
compressed may be larger than the limit by itself. Such a letter is truncated, and the whole record
is stored as an object that a header names: `segue dlq` shows and requeues the whole record.

I/O: the store.
"""

import base64
import hashlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from shared.errors import NotFoundError, RecordTooLargeError
from shared.kafka.codec import Headers, Record
from shared.storage import ObjectStore
from shared.storage.keys import dead_letter_key

ORIGINAL_OBJECT = "dlq-original-object"
TRUNCATED_FROM = "dlq-truncated-from"
#: bytes of a letter, the largest first: of the topics that Segue creates, of Kafka's default, of a
#: topic that an operator has limited
LETTER_BYTES = (2_000_000, 900_000, 90_000)
_RECORD_BYTES, _HEADER_BYTES = 100, 12  # at most, beside the contents
_PART = 4  # no key, and no group of headers, gets more than this part of a letter
_HEADER_BYTES_KEPT = 1000
_CONTEXT = ("ce_", "traceparent", "tracestate", "dlq-", "content-type")


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """A dead letter to be published."""

    record: Record  #: as it was consumed
    added: Headers  #: with the reason and the origin

    def size(self) -> int:
        """Return the bytes that the letter needs at most."""
        contents = len(self.record.key or b"") + len(self.record.value or b"") + _RECORD_BYTES
        return contents + _size(self.record.headers) + _size(self.added)

    def fitted(self, bytes_max: int, *, original: str | None) -> "Letter":
        """Return the letter truncated to `bytes_max`; `original`: key of the whole record."""
        part = bytes_max // _PART
        key, value, headers = self.record.key, self.record.value, self.record.headers
        if key is not None and len(key) > part:
            key = key[:_HEADER_BYTES_KEPT]
        if _size(headers) > part:
            headers = tuple(
                (name, content)
                for name, content in headers
                if name.startswith(_CONTEXT) and len(content or b"") <= _HEADER_BYTES_KEPT
            )
            headers = headers if _size(headers) <= part else ()
        added = (*self.added, (TRUNCATED_FROM, str(len(value or b"")).encode()))
        if original is not None:
            added = (*added, (ORIGINAL_OBJECT, original.encode()))
        used = len(key or b"") + _size(headers) + _size(added) + _RECORD_BYTES
        if value is not None:
            value = bytes(value[: max(bytes_max - used, 0)])
        record = replace(self.record, key=key, value=value, headers=headers)
        return Letter(record=record, added=added)


async def send_fitted(
    letter: Letter, send: Callable[[Letter], Awaitable[None]], *, store: ObjectStore | None
) -> None:
    """Send the letter, truncated as far as its topic requires; store a record that does not fit.

    Raises:
        RecordTooLargeError: the topic does not even accept the shortest letter.
    """
    original: str | None = None
    for bytes_max in LETTER_BYTES:
        fitted = letter
        if letter.size() > bytes_max:
            if store is not None and original is None:
                original = await store_original(store, letter.record)
            fitted = letter.fitted(bytes_max, original=original)
        try:
            await send(fitted)
        except RecordTooLargeError:
            if bytes_max == LETTER_BYTES[-1]:
                raise
        else:
            return


async def store_original(store: ObjectStore, record: Record) -> str:
    """Store the whole record; return its key, which is a function of its content."""
    content = json.dumps(
        {
            "key": _text(record.key),
            "value": _text(record.value),
            "headers": [[name, _text(content)] for name, content in record.headers],
        }
    ).encode()
    key = dead_letter_key(hashlib.sha256(content).hexdigest())
    await store.put(key, content)
    return key


async def restore_original(store: ObjectStore, letter: Record) -> Record:
    """Return `letter` with key, value and headers of the whole record, if an object has it.

    An object that is no longer stored leaves a truncated letter without a reference to it.
    """
    key = letter.header(ORIGINAL_OBJECT)
    if key is None:
        return letter
    try:
        content = json.loads(await store.get(key))
        headers = tuple((name, _bytes(text)) for name, text in content["headers"])
        own = tuple(pair for pair in letter.headers if pair[0].startswith("dlq-"))
        others = tuple(pair for pair in headers if pair not in own)
        return replace(
            letter,
            key=_bytes(content["key"]),
            value=_bytes(content["value"]),
            headers=others + own,
        )
    except (NotFoundError, ValueError, KeyError, TypeError):
        kept = tuple(pair for pair in letter.headers if pair[0] != ORIGINAL_OBJECT)
        return replace(letter, headers=kept)


def is_cut(letter: Record) -> bool:
    """Return whether a part of the record is lost: it is truncated, and no object has it."""
    return letter.header(TRUNCATED_FROM) is not None and letter.header(ORIGINAL_OBJECT) is None


def _size(headers: Headers) -> int:
    return sum(len(name.encode()) + len(value or b"") + _HEADER_BYTES for name, value in headers)


def _text(content: bytes | None) -> str | None:
    return None if content is None else base64.b64encode(content).decode()


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text, validate=True)
