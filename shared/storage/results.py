"""Finds the stored result of a run: its event, and the object that the event names.

A stage stores the object first and its event last, so an event without its whole object is
damaged or half deleted, and counts as no result. I/O: the object store.
"""

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
