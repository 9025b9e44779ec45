"""Without: what a service is like that lacks one protection. For tests of the tests alone.

A protection is the doors of the product through which it works, and what stands in their place
where it is switched off: in the process that asks for it (`dying.py --without`), or inside a
`with` of a test, and nowhere else.

I/O: none; it changes the product in this very process.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tests.faults.harness.steps import place_of


async def _never(*_given: Any, **_named: Any) -> bool:
    return False


async def _always(*_given: Any, **_named: Any) -> bool:
    return True


def _at_once(tracker: Any, slot: Any, offset: int) -> list[Any]:
    """Let a record go when it is done, whatever lies before it."""
    entries = tracker._partitions.get(slot, {})
    return [entries.pop(offset).handle] if offset in entries else []


async def _anyhow(
    connection: Any, epoch: str, partition: tuple[str, int], *, start: int, end: int
) -> bool:
    """Set the offset, wherever it stands."""
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
    # whoever comes to a scene pays
    "claims": {f"{_CLAIMS}.is_claimed": _never, f"{_CLAIMS}._create": _always},
    # what is done may be committed
    "acks": {"shared.processing.offset_tracker:OffsetTracker.complete": _at_once},
    # a lane goes on behind a dead letter
    "parking": {"shared.kafka.parked_runs:ParkedRuns.is_parked": _never},
    # a projector that was overtaken writes
    "compare-and-set": {"services.api.database.offsets:advance": _anyhow},
}


def switch_off(name: str) -> None:
    """This process lacks the protection from here on."""
    for door, instead in PROTECTIONS[name].items():
        setattr(*place_of(door), instead)


@contextmanager
def lacking(name: str | None) -> Iterator[None]:
    """Inside, this process lacks the protection; None: it lacks none."""
    doors = [] if name is None else [place_of(door) for door in PROTECTIONS[name]]
    before = [getattr(holder, attribute) for holder, attribute in doors]
    if name is not None:
        switch_off(name)
    try:
        yield
    finally:
        for (holder, attribute), was in zip(doors, before, strict=True):
            setattr(holder, attribute, was)
