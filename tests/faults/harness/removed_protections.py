"""Switch off one protection of the product, as a negative control of the tests.

A protection is a set of product functions and their replacements. It is switched off in a service
(`dying_service --without`) or inside a `with` block of a test.

I/O: none; it changes the product in this process.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tests.faults.harness.steps import resolve


async def _never(*_given: Any, **_named: Any) -> bool:
    return False


async def _always(*_given: Any, **_named: Any) -> bool:
    return True


def _complete_unordered(tracker: Any, slot: Any, offset: int) -> list[Any]:
    """Return a completed record for commit, without waiting for earlier ones."""
    entries = tracker._partitions.get(slot, {})
    return [entries.pop(offset).handle] if offset in entries else []


async def _set_unconditionally(
    connection: Any, epoch: str, partition: tuple[str, int], *, start: int, end: int
) -> bool:
    """Set the offset without comparing."""
    del start
    await connection.execute(
        """
        UPDATE projection_offsets SET next_offset = $4
        WHERE epoch = $1 AND topic = $2 AND partition = $3
        """,
        epoch,
        *partition,
        end,
    )
    return True


_CLAIMS = "services.generator.composition.claims:Claims"
PROTECTIONS: Mapping[str, Mapping[str, Callable[..., Any]]] = {
    # every process pays for a scene
    "claims": {f"{_CLAIMS}.is_claimed": _never, f"{_CLAIMS}._create": _always},
    # a completed record is committed before earlier ones
    "acks": {"shared.processing.offset_tracker:OffsetTracker.complete": _complete_unordered},
    # a lane continues after a dead letter
    "parking": {"shared.kafka.parked_runs:ParkedRuns.is_parked": _never},
    # a superseded projector writes
    "compare-and-set": {"services.api.database.offsets:advance": _set_unconditionally},
}


def switch_off(name: str) -> None:
    """Switch off a protection in this process."""
    for function, replacement in PROTECTIONS[name].items():
        setattr(*resolve(function), replacement)


@contextmanager
def without_protection(name: str | None) -> Iterator[None]:
    """Switch off a protection inside the block; None: none."""
    functions = [] if name is None else [resolve(path) for path in PROTECTIONS[name]]
    before = [getattr(holder, attribute) for holder, attribute in functions]
    if name is not None:
        switch_off(name)
    try:
        yield
    finally:
        for (holder, attribute), original in zip(functions, before, strict=True):
            setattr(holder, attribute, original)
