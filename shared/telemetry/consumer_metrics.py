"""ConsumerMetrics: how a consumer stands, worked out when Prometheus asks and not before.

How far behind it is counts from what it was given: the oldest record that is taken and not done
is older than all that lie behind it. Where everything taken is done and more lies there, the last
one taken tells, if one was since the look before; else the time since that look.

Units: seconds. Pure but for the metrics; whoever consumes says what happens, and lends its eyes.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from shared.clock import Clock
from shared.processing.offset_tracker import PartitionPosition
from shared.telemetry import metrics

Slot = Any  # a partition, as Kafka's clients name it: with `topic`, prefix included


@dataclass(kw_only=True)
class ConsumerMetrics:
    """What is told of the one consumer of a service. Cheap: nothing is kept per record."""

    service: str
    topics: Collection[str]  #: without prefix
    prefix: str
    positions: Callable[[], Mapping[Slot, PartitionPosition]]
    #: the offset behind the last record of a partition; None: not known, or not ours
    end_offset: Callable[[Slot], int | None]
    clock: Clock
    is_consuming: bool = True
    _due_since: float | None = None
    _behind: dict[Slot, tuple[int, float]] = field(default_factory=dict)  # at the last look

    def commit_due(self) -> None:
        """Something was let go, and is to be committed."""
        if self._due_since is None:
            self._due_since = self.clock.monotonic()

    def commit_confirmed(self, *, nothing_due: bool) -> None:
        """Kafka confirmed a commit, or what was due is nobody's any more."""
        self._due_since = None if nothing_due else self.clock.monotonic()

    def commit_failed(self) -> None:
        """Kafka did not confirm a commit."""
        metrics.COMMITS_FAILED_TOTAL.labels(self.service).inc()

    def commit_due_s(self) -> float:
        """How long something is due and nothing was committed."""
        return 0.0 if self._due_since is None else self.clock.monotonic() - self._due_since

    def lag_s(self, topic: str) -> float:
        """Age of the oldest record of `topic` that is not finished, as far as is known."""
        ages = [self._age_s(slot, position) for slot, position in self._of(topic)]
        return max(ages, default=0.0)

    def lag_records(self, topic: str) -> int:
        """Records of `topic` from the oldest that is not finished to the end."""
        behind = 0
        for slot, position in self._of(topic):
            begin = position.oldest_offset
            begin = position.next_offset if begin is None else begin
            behind += max(0, (self.end_offset(slot) or position.next_offset) - begin)
        return behind

    @contextmanager
    def exported(self) -> Iterator[None]:
        """While Prometheus is told; afterwards nothing is consumed."""
        name = self.service
        metrics.CONSUMING.labels(name).set_function(lambda: float(self.is_consuming))
        metrics.COMMIT_DUE_SECONDS.labels(name).set_function(self.commit_due_s)
        metrics.COMMITS_FAILED_TOTAL.labels(name)  # 0 is a figure, too
        for topic in self.topics:
            self._show(topic)
        try:
            yield
        finally:
            for topic in self.topics:
                metrics.LAG_SECONDS.remove(name, topic)
                metrics.LAG_RECORDS.remove(name, topic)
            metrics.COMMIT_DUE_SECONDS.remove(name)
            metrics.CONSUMING.remove(name)
            metrics.CONSUMING.labels(name).set(0)

    def _show(self, topic: str) -> None:
        metrics.DEAD_LETTERS_TOTAL.labels(self.service, topic)  # else the first is no increase
        metrics.LAG_SECONDS.labels(self.service, topic).set_function(lambda: self.lag_s(topic))
        metrics.LAG_RECORDS.labels(self.service, topic).set_function(
            lambda: self.lag_records(topic)
        )

    def _of(self, topic: str) -> list[tuple[Slot, PartitionPosition]]:
        name = self.prefix + topic
        return [
            (slot, position) for slot, position in self.positions().items() if slot.topic == name
        ]

    def _age_s(self, slot: Slot, position: PartitionPosition) -> float:
        now = self.clock.now().timestamp()
        if position.oldest_offset is not None:
            self._behind.pop(slot, None)
            return _since(position.oldest_timestamp_s, now)
        if (self.end_offset(slot) or 0) <= position.next_offset:
            self._behind.pop(slot, None)
            return 0.0
        known = self._behind.get(slot)
        if known is None:
            self._behind[slot] = (position.next_offset, now)
            return 0.0
        offset, noticed_at = known
        moves = offset != position.next_offset
        self._behind[slot] = (position.next_offset, noticed_at)
        return _since(position.last_timestamp_s if moves else noticed_at, now)


class ActiveRecords:
    """Since when each record of a service is worked on."""

    def __init__(self, service: str, clock: Clock) -> None:
        self._clock = clock
        self._begun: dict[object, float] = {}  # the oldest first
        metrics.WORK_OLDEST_SECONDS.labels(service).set_function(self.oldest_s)

    @contextmanager
    def timed(self) -> Iterator[Callable[[], float]]:
        """While a record is worked on; called, it says for how long."""
        begun, key = self._clock.monotonic(), object()
        self._begun[key] = begun
        try:
            yield lambda: self._clock.monotonic() - begun
        finally:
            del self._begun[key]

    def oldest_s(self) -> float:
        """For how long the one that began first has been worked on."""
        begun = next(iter(self._begun.values()), None)
        return 0.0 if begun is None else self._clock.monotonic() - begun


def export_lane_metrics(
    service: str, figures: Callable[[], Mapping[str, int]], *, in_flight_max: int
) -> None:
    """Tell Prometheus how much is under way in the lanes of a service."""
    metrics.LANES.labels(service).set_function(lambda: figures()["lanes"])
    metrics.IN_FLIGHT.labels(service).set_function(lambda: figures()["records_in_flight"])
    metrics.IN_FLIGHT_MAX.labels(service).set(in_flight_max)


def _since(moment: float | None, now: float) -> float:
    return 0.0 if moment is None else max(0.0, now - moment)
