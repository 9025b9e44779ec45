"""Simulation: a consumer group in virtual time, its lanes and watermarks the real ones.

A log of a few partitions is worked off by a few members. One seed draws how long work takes, when
members fetch, commit, die, join, and when the group regroups; the loop's clock leaps to whatever
is due next, so an hour costs no longer than its events. What is simulated is Kafka and the work;
`shared/processing/lanes.py` and `shared/processing/offset_tracker.py` are the product's own.

The rules: a record of a job is only done after all before it in its job were, and by whoever owns
its partition; nothing unfinished is committed past; records in flight are bounded; and once
nobody dies any more, everything is done. A commit may go back over records that were done and
came again, and stay there until the next record of the partition: a death then repeats them.

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
_CALM_S = 15.0  # from here on nobody dies
_END_S = 10_000.0
_HEARD = 0.8  # the chance of a commit
_DEATH, _REGROUPING = 0.3, 0.8  # chances, one above the other


class BrokenRuleError(AssertionError):
    """A rule was broken; the message says which, and the seed brings it again."""


class _NothingToSelect(selectors.SelectSelector):
    """No file is ever ready, and nobody waits for one."""

    @override
    def select(self, timeout: float | None = None) -> list[Any]:
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose clock leaps to the next timer as soon as nothing else can be done."""

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
        """Run `work` from the beginning of time."""
        self._now = 0.0
        return self.run_until_complete(work)


@dataclass(frozen=True, slots=True)
class Entry:
    """A record of the log."""

    offset: int
    key: str


@dataclass(slots=True)
class World:
    """The log, the group's offsets, and what was done."""

    draws: random.Random
    logs: list[list[Entry]] = field(default_factory=list)
    committed: list[int] = field(default_factory=list)
    done: list[set[int]] = field(default_factory=list)
    in_order: dict[tuple[int, str], int] = field(
        default_factory=dict
    )  #: how many of a job are done
    trace: "hashlib._Hash" = field(default_factory=hashlib.sha256)
    repeats: int = 0
    went_back: int = 0
    deaths: int = 0
    regroupings: int = 0

    def write(self) -> None:
        """Draw the log: jobs interleaved, holes between offsets."""
        for _ in range(PARTITIONS):
            offset, log = self.draws.randrange(3), []
            for _ in range(self.draws.randint(2, 7)):
                log.append(Entry(offset, self.draws.choice("xyz")))
                offset += 1 if self.draws.random() < 0.8 else self.draws.randint(2, 4)
            self.logs.append(log)
            self.committed.append(0)
            self.done.append(set())

    def note(self, what: str, *details: object) -> None:
        """Into the trace, which two runs of one seed have in common."""
        self.trace.update(f"{what} {details}\n".encode())

    def finished(self, partition: int, entry: Entry) -> None:
        """The effect of a record is out."""
        self.note("done", partition, entry.offset)
        log = [one.offset for one in self.logs[partition] if one.key == entry.key]
        place, known = log.index(entry.offset), self.in_order.get((partition, entry.key), 0)
        if place > known:
            raise BrokenRuleError(f"{partition}/{entry.offset} was done before one of its own job")
        self.repeats += place < known
        self.in_order[partition, entry.key] = max(known, place + 1)
        self.done[partition].add(entry.offset)

    def commit(self, partition: int, offset: int) -> None:
        """Everything below `offset` may be forgotten."""
        self.note("commit", partition, offset)
        below = {entry.offset for entry in self.logs[partition] if entry.offset < offset}
        left = below - self.done[partition]
        if left:
            raise BrokenRuleError(f"{partition}: committed {offset}, {left} unfinished")
        self.went_back += offset < self.committed[partition]
        self.committed[partition] = offset

    @property
    def is_done(self) -> bool:
        """Whether everything is done."""
        return all(len(done) == len(log) for done, log in zip(self.done, self.logs, strict=True))

    @property
    def is_committed(self) -> bool:
        """Whether the group's offsets say so too."""
        return self.committed == [log[-1].offset + 1 for log in self.logs]


class Member:
    """One consumer, with the product's lanes."""

    def __init__(self, group: "Group", number: int) -> None:
        self.number = number
        self.lanes = group.lanes_class(self._release)
        self.owned: frozenset[int] = frozenset()
        self.regroups = True
        self._group = group
        self._draws = group.world.draws
        self._positions: dict[int, int] = {}
        self._may_commit: dict[int, int] = {}
        self._tasks = [asyncio.create_task(work) for work in (self._fetch(), self._commit())]

    def suspend(self) -> None:
        """The group regroups."""
        self.regroups = True
        self.lanes.suspend()

    def resume(self, owned: frozenset[int]) -> None:
        """The group has regrouped: from the committed offsets on."""
        self.owned = owned
        self._positions = {partition: self._group.world.committed[partition] for partition in owned}
        self._may_commit = {}
        self.regroups = False
        self.lanes.resume(owned)

    async def die(self) -> None:
        """End at once, whatever runs."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.lanes.drain(0)
        if self.lanes.failure.done():
            self.lanes.failure.exception()  # heard: else whoever collects garbage next is told

    def check(self) -> None:
        """Raise what broke inside the lanes, or beside them."""
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
        """Hand the next records of a partition to the lanes."""
        for _ in range(count):
            await self.lanes.wait_for_capacity(IN_FLIGHT_MAX)
            if self.regroups or partition not in self.owned:
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
                raise BrokenRuleError(f"{partition}/{entry.offset} was done by who lost it")
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
            if self.regroups:
                continue
            for partition, offset in sorted(self._may_commit.items()):
                if self._draws.random() < _HEARD:  # else it is said again
                    self._group.world.commit(partition, offset)
                    del self._may_commit[partition]


class Group:
    """Who is in it, and whose partitions are whose."""

    def __init__(self, world: World, lanes_class: type[Lanes[int]]) -> None:
        self.world = world
        self.lanes_class = lanes_class
        self.owner: dict[int, Member] = {}
        self.members: list[Member] = []
        self._joined = 0

    def join(self) -> None:
        """One more; it owns nothing before the group has regrouped."""
        self.members.append(Member(self, self._joined))
        self._joined += 1

    async def regroup(self) -> None:
        """Everybody stops, partitions are dealt anew, everybody goes on."""
        self.world.regroupings += 1
        for member in self.members:
            member.suspend()
        await asyncio.sleep(self.world.draws.random() * 2)
        draws = self.world.draws
        self.owner = {partition: draws.choice(self.members) for partition in range(PARTITIONS)}
        self.world.note("dealt", *(self.owner[p].number for p in range(PARTITIONS)))
        for member in self.members:
            mine = (partition for partition, owner in self.owner.items() if owner is member)
            member.resume(frozenset(mine))

    async def kill(self) -> None:
        """One dies; somebody else is there, or comes."""
        self.world.deaths += 1
        victim = self.members.pop(self.world.draws.randrange(len(self.members)))
        self.world.note("dies", victim.number)
        await victim.die()
        if not self.members:
            self.join()
        await self.regroup()

    def check(self) -> None:
        """Raise what broke at anybody's."""
        for member in self.members:
            member.check()

    async def end(self) -> None:
        """Let go of everybody."""
        for member in self.members:
            await member.die()


async def _live(world: World, lanes_class: type[Lanes[int]]) -> World:
    world.write()
    group = Group(world, lanes_class)
    try:
        for _ in range(world.draws.randint(1, MEMBERS_MAX)):
            group.join()
        await group.regroup()
        await _suffer(world, group)
        await _recover(world, group)
    finally:
        await group.end()
    return world


async def _suffer(world: World, group: Group) -> None:
    """Deaths and regroupings, at any moment."""
    while asyncio.get_running_loop().time() < _CALM_S and not world.is_committed:
        await asyncio.sleep(world.draws.random() * 5)
        group.check()
        fate = world.draws.random()
        if fate < _DEATH:
            await group.kill()
        elif fate < _REGROUPING:
            if len(group.members) < MEMBERS_MAX:
                group.join()
            await group.regroup()


async def _recover(world: World, group: Group) -> None:
    """Nobody dies any more: everything comes to its end."""
    while not world.is_done:
        group.check()
        if asyncio.get_running_loop().time() > _END_S:
            raise BrokenRuleError("something was lost: it is not done, and nobody is at it")
        await asyncio.sleep(5)
    group.check()


def simulate(seed: int, loop: VirtualLoop, *, lanes_class: type[Lanes[int]] = Lanes) -> World:
    """Run one schedule to its end, with members that use `lanes_class`.

    Raises:
        BrokenRuleError: a rule was broken.
    """
    return loop.run(_live(World(random.Random(seed)), lanes_class))
