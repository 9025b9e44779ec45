"""Tests of ops/cluster/prepare.py: a store without conditional writes is detected."""

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from typing_extensions import override

from ops.cluster.prepare import honours_put_if_absent
from shared.storage import ObjectStore, StandInWarning
from shared.storage.filesystem import FolderStore
from tests.fakes.memory_store import MemoryStore


class OverwritingStore(MemoryStore):
    """A store that ignores the condition: it overwrites and reports that it created."""

    @override
    async def put_if_absent(self, key: str, data: bytes) -> bool:
        await self.put(key, data)
        return True


class RejectingStore(MemoryStore):
    """A store that overwrites, and reports that the object existed."""

    @override
    async def put_if_absent(self, key: str, data: bytes) -> bool:
        await self.put(key, data)
        return False


def open_quietly(store_class: Callable[[], MemoryStore]) -> MemoryStore:
    """Return a store without its warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StandInWarning)
        return store_class()


@pytest.mark.parametrize(
    ("store_class", "honours"),
    [(MemoryStore, True), (OverwritingStore, False), (RejectingStore, False)],
)
async def test_a_store_that_overwrites_claims_is_detected(
    store_class: Callable[[], MemoryStore],
    honours: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """The trial object is deleted afterwards."""
    store = open_quietly(store_class)

    assert await honours_put_if_absent(store) is honours
    assert [stat.key async for stat in store.list_objects("")] == []


async def test_a_folder_store_honours_conditional_writes(tmp_path: Path) -> None:
    """Claims rely on it."""
    store: ObjectStore = FolderStore(tmp_path)

    assert await honours_put_if_absent(store)
