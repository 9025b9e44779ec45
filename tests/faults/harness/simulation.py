"""Simulates a consumer group in virtual time, with the real lanes and offset tracker.

A few members consume a log of a few partitions. One seed determines the durations of the work and
when members fetch, commit, die and join and the group rebalances. The loop's clock jumps to the
next timer, so an hour costs only its events. Kafka and the work are simulated;
`shared/processing/lanes.py` and `shared/processing/offset_tracker.py` are the real ones.

The rules: a record is processed after all earlier records of its job, by the owner of its
partition; no commit passes an unfinished record; records in flight are bounded; after the last
death, every record is processed. A commit may move back over completed records that were
redelivered, until the next record of the partition: a death then repeats them.

Units: virtual seconds. No I/O.
"""

import asyncio
import hashlib
import random
import selectors
from collections.abc import Coroutine, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from typing_extensions import override

from shared.processing.lanes import Lanes

T = TypeVar("T")
PARTITIONS = 2
IN_FLIGHT_MAX = 6
MEMBERS_MAX = 3
_CALM_S = 15.0  # no member dies after this time
_END_S = 10_000.0
_COMMIT_CHANCE = 0.8  # that a commit succeeds
_DEATH, _REBALANCE = 0.3, 0.8  # cumulative chances


class BrokenRuleError(AssertionError):
    """A rule was broken; the seed reproduces it."""


class _NothingToSelect(selectors.SelectSelector):
    """A selector that never waits and has no ready file."""

    @override
    def select(self, timeout: float | None = None) -> list[Any]:
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose clock jumps to the next timer when nothing else is ready."""

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_NothingToSelect())

    @override
    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        loop: Any = self
        if not loop._ready and loop._scheduled:
            self._now = max(self._now, loop._scheduled[0].when())
        super()._run_once()  # type: ignore[misc]

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` with the clock at 0."""
        self._now = 0.0
        return self.run_until_complete(work)


@dataclass(frozen=True, slots=True)
class Entry:
    """A record of the log."""

    offset: int
    key: str


@dataclass(slots=True)
class World:
    """The log, the committed offsets and the completed records."""

    draws: random.Random
    logs: list[list[Entry]] = field(default_factory=list)
    committed: list[int] = field(default_factory=list)
    done: list[set[int]] = field(default_factory=list)
    in_order: dict[tuple[int, str], int] = field(default_factory=dict)  #: completed records per job
    trace: "hashlib._Hash" = field(default_factory=hashlib.sha256)
    repeats: int = 0
    went_back: int = 0
    deaths: int = 0
    rebalances: int = 0

    def write(self) -> None:
        """Draw the log: interleaved jobs, gaps between offsets."""
        for _ in range(PARTITIONS):
            offset, log = self.draws.randrange(3), []
            for _ in range(self.draws.randint(2, 7)):
                log.append(Entry(offset, self.draws.choice("xyz")))
                offset += 1 if self.draws.random() < 0.8 else self.draws.randint(2, 4)
            self.logs.append(log)
            self.committed.append(0)
            self.done.append(set())

    def note(self, what: str, *details: object) -> None:
        """Add to the trace, which is equal for runs with the same seed."""
        self.trace.update(f"{what} {details}\n".encode())

    def finished(self, partition: int, entry: Entry) -> None:
        """Mark a record as processed."""
        self.note("done", partition, entry.offset)
        log = [one.offset for one in self.logs[partition] if one.key == entry.key]
        place, known = log.index(entry.offset), self.in_order.get((partition, entry.key), 0)
        if place > known:
            raise BrokenRuleError(
                f"{partition}/{entry.offset} was processed before an earlier record of its job"
            )
        self.repeats += place < known
        self.in_order[partition, entry.key] = max(known, place + 1)
        self.done[partition].add(entry.offset)

    def commit(self, partition: int, offset: int) -> None:
        """Commit an offset of a partition."""
        self.note("commit", partition, offset)
        below = {entry.offset for entry in self.logs[partition] if entry.offset < offset}
        left = below - self.done[partition]
        if left:
            raise BrokenRuleError(f"{partition}: committed {offset}, {left} unfinished")
        self.went_back += offset < self.committed[partition]
        self.committed[partition] = offset

    @property
    def is_done(self) -> bool:
        """Return whether every record is processed."""
        return all(len(done) == len(log) for done, log in zip(self.done, self.logs, strict=True))

    @property
    def is_committed(self) -> bool:
        """Return whether every record is committed."""
        return self.committed == [log[-1].offset + 1 for log in self.logs]


class Member:
    """A consumer with the product's lanes."""

    def __init__(self, group: "Group", number: int) -> None:
        self.number = number
        self.lanes = group.lanes_class(self._release)
        self.owned: frozenset[int] = frozenset()
        self.rebalances = True
        self._group = group
        self._draws = group.world.draws
        self._positions: dict[int, int] = {}
        self._may_commit: dict[int, int] = {}
        self._tasks = [asyncio.create_task(work) for work in (self._fetch(), self._commit())]

    def suspend(self) -> None:
        """Suspend the lanes for a rebalance."""
        self.rebalances = True
        self.lanes.suspend()

    def resume(self, owned: frozenset[int]) -> None:
        """Continue after a rebalance from the committed offsets."""
        self.owned = owned
        self._positions = {partition: self._group.world.committed[partition] for partition in owned}
        self._may_commit = {}
        self.rebalances = False
        self.lanes.resume(owned)

    async def die(self) -> None:
        """End at once."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.lanes.drain(0)
        if self.lanes.failure.done():
            self.lanes.failure.exception()  # retrieved: otherwise asyncio reports it

    def check(self) -> None:
        """Raise the exception of the lanes or tasks, if any."""
        for ended in (self.lanes.failure, *self._tasks):
            if ended.done():
                ended.result()

    def _release(self, slot: Hashable, handles: list[int]) -> None:
        assert isinstance(slot, int), "partitions are numbers here"
        self._may_commit[slot] = handles[-1]

    async def _fetch(self) -> None:
        while True:
            await asyncio.sleep(self._draws.random() * 1.5)
            for partition in sorted(self.owned):
                await self._take(partition, self._draws.randint(1, 4))

    async def _take(self, partition: int, count: int) -> None:
        """Submit the next records of a partition to the lanes."""
        for _ in range(count):
            await self.lanes.wait_for_capacity(IN_FLIGHT_MAX)
            if self.rebalances or partition not in self.owned:
                return
            begin = self._positions[partition]
            log = self._group.world.logs[partition]
            entry = next((one for one in log if one.offset >= begin), None)
            if entry is None:
                return
            self._positions[partition] = entry.offset + 1
            self._offer(partition, entry)

    def _offer(self, partition: int, entry: Entry) -> None:
        async def work() -> None:
            await asyncio.sleep(self._draws.random() * 3)
            await self.lanes.wait_until_owned()
            if self._group.owner.get(partition) is not self:
                raise BrokenRuleError(
                    f"{partition}/{entry.offset} was processed after its partition was lost"
                )
            self._group.world.finished(partition, entry)
            await asyncio.sleep(self._draws.random() * 0.1)

        self.lanes.submit(
            partition=partition,
            offset=entry.offset,
            key=entry.key,
            handle=entry.offset + 1,
            work=work,
        )
        if self.lanes.in_flight > IN_FLIGHT_MAX:
            raise BrokenRuleError(f"{self.lanes.in_flight} records in flight")

    async def _commit(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            if self.rebalances:
                continue
            for partition, offset in sorted(self._may_commit.items()):
                if self._draws.random() < _COMMIT_CHANCE:  # otherwise it is repeated later
                    self._group.world.commit(partition, offset)
                    del self._may_commit[partition]


class Group:
    """The members and the owners of the partitions."""

    def __init__(self, world: World, lanes_class: type[Lanes[int]]) -> None:
        self.world = world
        self.lanes_class = lanes_class
        self.owner: dict[int, Member] = {}
        self.members: list[Member] = []
        self._joined = 0

    def join(self) -> None:
        """Add a member; it owns partitions after the next rebalance."""
        self.members.append(Member(self, self._joined))
        self._joined += 1

    async def rebalance(self) -> None:
        """Suspend all members, assign the partitions, resume all members."""
        self.world.rebalances += 1
        for member in self.members:
            member.suspend()
        await asyncio.sleep(self.world.draws.random() * 2)
        draws = self.world.draws
        self.owner = {partition: draws.choice(self.members) for partition in range(PARTITIONS)}
        self.world.note("assigned", *(self.owner[p].number for p in range(PARTITIONS)))
        for member in self.members:
            mine = (partition for partition, owner in self.owner.items() if owner is member)
            member.resume(frozenset(mine))

    async def kill(self) -> None:
        """Kill a member; add one if none is left."""
        self.world.deaths += 1
        victim = self.members.pop(self.world.draws.randrange(len(self.members)))
        self.world.note("dies", victim.number)
        await victim.die()
        if not self.members:
            self.join()
        await self.rebalance()

    def check(self) -> None:
        """Raise the exception of a member, if any."""
        for member in self.members:
            member.check()

    async def end(self) -> None:
        """End all members."""
        for member in self.members:
            await member.die()


async def _live(world: World, lanes_class: type[Lanes[int]]) -> World:
    world.write()
    group = Group(world, lanes_class)
    try:
        for _ in range(world.draws.randint(1, MEMBERS_MAX)):
            group.join()
        await group.rebalance()
        await _suffer(world, group)
        await _recover(world, group)
    finally:
        await group.end()
    return world


async def _suffer(world: World, group: Group) -> None:
    """Inject deaths and rebalances at random times."""
    while asyncio.get_running_loop().time() < _CALM_S and not world.is_committed:
        await asyncio.sleep(world.draws.random() * 5)
        group.check()
        draw = world.draws.random()
        if draw < _DEATH:
            await group.kill()
        elif draw < _REBALANCE:
            if len(group.members) < MEMBERS_MAX:
                group.join()
            await group.rebalance()


async def _recover(world: World, group: Group) -> None:
    """Wait until every record is processed, without faults."""
    while not world.is_done:
        group.check()
        if asyncio.get_running_loop().time() > _END_S:
            raise BrokenRuleError("a record was lost: it is neither processed nor in flight")
        await asyncio.sleep(5)
    group.check()


def simulate(seed: int, loop: VirtualLoop, *, lanes_class: type[Lanes[int]] = Lanes) -> World:
    """Run one schedule to its end, with members that use `lanes_class`.

    Raises:
        BrokenRuleError: a rule was broken.
    """
    return loop.run(_live(World(random.Random(seed)), lanes_class))
