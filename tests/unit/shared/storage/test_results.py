"""Checks that a stored event without its whole object does not count as a result."""

from pathlib import Path

import pytest

from shared.contract.events import AudioMerged
from shared.storage import keys
from shared.storage.filesystem import FolderStore
from shared.storage.results import stored_result
from tests.support.run_builders import a_track

KEY = keys.merged_key("job-1", 1)
TRACK = b"x" * 10


@pytest.fixture
async def store(tmp_path: Path) -> FolderStore:
    """Return a store with a track and its event."""
    store = FolderStore(tmp_path)
    merged = a_track(size=len(TRACK))
    await store.put(merged.object_key, TRACK)
    await store.put(KEY, merged.model_dump_json().encode())
    return store


async def test_a_whole_result_is_returned(store: FolderStore) -> None:
    """The event, as it was stored."""
    assert await stored_result(store, KEY, AudioMerged) == a_track(size=len(TRACK))


@pytest.mark.parametrize("damage", ["no event", "damaged event", "no object", "short object"])
async def test_an_incomplete_result_is_none(store: FolderStore, damage: str) -> None:
    """The stage then produces it again."""
    track_key = a_track().object_key
    match damage:
        case "no event":
            await store.delete(KEY)
        case "damaged event":
            await store.put(KEY, b'{"job_id": "')
        case "no object":
            await store.delete(track_key)
        case _:
            await store.put(track_key, TRACK[:-1])

    assert await stored_result(store, KEY, AudioMerged) is None
