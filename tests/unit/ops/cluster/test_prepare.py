"""Prepare: a store on which claims would not hold is found before anybody pays on it."""

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from typing_extensions import override

from ops.cluster.prepare import keeps_the_first
from shared.storage import ObjectStore, StandInWarning
from shared.storage.filesystem import FolderStore
from tests.fakes.memory_store import MemoryStore


class Overwriting(MemoryStore):
    """A server that does not know the condition: it writes, and says that it created."""

    @override
    async def put_if_absent(self, key: str, data: bytes) -> bool:
        await self.put(key, data)
        return True


class Refusing(MemoryStore):
    """A server that takes the condition for met by nothing, ever."""

    @override
    async def put_if_absent(self, key: str, data: bytes) -> bool:
        await self.put(key, data)
        return False


def of(kind: Callable[[], MemoryStore]) -> MemoryStore:
    """One of these; that it is a stand-in is known."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StandInWarning)
        return kind()


@pytest.mark.parametrize(
    ("kind", "keeps"), [(MemoryStore, True), (Overwriting, False), (Refusing, False)]
)
async def test_a_store_that_writes_over_claims_is_seen(
    kind: Callable[[], MemoryStore],
    keeps: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """Whatever it answers; and what was tried is gone afterwards."""
    store = of(kind)

    assert await keeps_the_first(store) is keeps
    assert [found.key async for found in store.list_objects("")] == []


async def test_a_folder_keeps_the_first(tmp_path: Path) -> None:
    """As it does for claims."""
    store: ObjectStore = FolderStore(tmp_path)

    assert await keeps_the_first(store)
