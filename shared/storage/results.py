"""Stores and finds the result of a run: an event, and the object that the event names.

The object is stored first and the event last, so an event without its complete object is damaged
or half deleted and counts as no result. I/O: the object store, local files.
"""

import hashlib
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from shared.contract.events import AudioMerged, VideoMuxed
from shared.errors import NotFoundError
from shared.storage import ObjectStore

E = TypeVar("E", AudioMerged, VideoMuxed)


async def stored_result(store: ObjectStore, key: str, event_type: type[E]) -> E | None:
    """Return the event at `key` if its object is stored whole; None otherwise."""
    try:
        event = event_type.model_validate_json(await store.get(key))
    except (NotFoundError, ValidationError):
        return None
    stat = await store.stat(event.object_key)
    return event if stat is not None and stat.size_bytes == event.size_bytes else None


async def store_result(
    store: ObjectStore, key: str, event: AudioMerged | VideoMuxed, path: Path, *, content_type: str
) -> None:
    """Store the file at `path` as the event's object, then the event at `key`."""
    await store.put_file(event.object_key, path, content_type=content_type)
    data = event.model_dump_json().encode()
    await store.put(key, data, content_type="application/json")


def file_fingerprint(path: Path) -> tuple[str, int]:
    """Return the SHA-256 (hexadecimal) and the size of a file; blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size
