"""Exports lag, commits and work in progress of a consumer, computed at each scrape.

Lag by time is the age of the oldest unfinished record in flight: all later ones are younger. With
none in flight and more records on the topic, it is the age of the last received record if one was
received since the previous scrape, else the time since that scrape.

Units: seconds. I/O: the metrics registry only.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from shared.clock import Clock
from shared.processing.offset_tracker import PartitionPosition
from shared.telemetry import metrics

Slot = Any  # a partition of a Kafka client: has `topic`, prefix included


@dataclass(kw_only=True)
class ConsumerMetrics:
    """Metrics of the one consumer of a service; keeps no state per record."""

    service: str
    topics: Collection[str]  #: without prefix
    prefix: str
    positions: Callable[[], Mapping[Slot, PartitionPosition]]
    #: the end offset of a partition; None: unknown, or not assigned
    end_offset: Callable[[Slot], int | None]
    clock: Clock
    is_consuming: bool = True
    _due_since: float | None = None
    _behind: dict[Slot, tuple[int, float]] = field(default_factory=dict)  # at the previous scrape

    def commit_due(self) -> None:
        """Note that an offset is to be committed."""
        if self._due_since is None:
            self._due_since = self.clock.monotonic()

    def commit_confirmed(self, *, nothing_due: bool) -> None:
        """Note a confirmed commit, or that the due partitions were revoked."""
        self._due_since = None if nothing_due else self.clock.monotonic()

    def commit_failed(self) -> None:
        """Count a commit that Kafka did not confirm."""
        metrics.COMMITS_FAILED_TOTAL.labels(self.service).inc()

    def commit_due_s(self) -> float:
        """Return the time since a commit became due without one succeeding."""
        return 0.0 if self._due_since is None else self.clock.monotonic() - self._due_since

    def lag_s(self, topic: str) -> float:
        """Return the age of the oldest unfinished record of `topic`."""
        ages = [self._age_s(slot, position) for slot, position in self._of(topic)]
        return max(ages, default=0.0)

    def lag_records(self, topic: str) -> int:
        """Return the records of `topic` from the oldest unfinished one to the end."""
        records = 0
        for slot, position in self._of(topic):
            start = position.oldest_offset
            start = position.next_offset if start is None else start
            records += max(0, (self.end_offset(slot) or position.next_offset) - start)
        return records

    @contextmanager
    def exported(self) -> Iterator[None]:
        """Export the metrics while the block runs; afterwards `segue_consuming` is 0."""
        name = self.service
        metrics.CONSUMING.labels(name).set_function(lambda: float(self.is_consuming))
        metrics.COMMIT_DUE_SECONDS.labels(name).set_function(self.commit_due_s)
        metrics.COMMITS_FAILED_TOTAL.labels(name)  # exported as 0
        for topic in self.topics:
            self._export(topic)
        try:
            yield
        finally:
            for topic in self.topics:
                metrics.LAG_SECONDS.remove(name, topic)
                metrics.LAG_RECORDS.remove(name, topic)
            metrics.COMMIT_DUE_SECONDS.remove(name)
            metrics.CONSUMING.remove(name)
            metrics.CONSUMING.labels(name).set(0)

    def _export(self, topic: str) -> None:
        metrics.DEAD_LETTERS_TOTAL.labels(self.service, topic)  # at 0: the first is an increase
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
        previous = self._behind.get(slot)
        if previous is None:
            self._behind[slot] = (position.next_offset, now)
            return 0.0
        offset, noticed_at = previous
        has_moved = offset != position.next_offset
        self._behind[slot] = (position.next_offset, noticed_at)
        return _since(position.last_timestamp_s if has_moved else noticed_at, now)


class ActiveRecords:
    """The records that a service is processing, and since when."""

    def __init__(self, service: str, clock: Clock) -> None:
        self._clock = clock
        self._started: dict[object, float] = {}  # oldest first
        metrics.WORK_OLDEST_SECONDS.labels(service).set_function(self.oldest_s)

    @contextmanager
    def timed(self) -> Iterator[Callable[[], float]]:
        """Track a record while the block runs; yields a function that returns its time."""
        started, key = self._clock.monotonic(), object()
        self._started[key] = started
        try:
            yield lambda: self._clock.monotonic() - started
        finally:
            del self._started[key]

    def oldest_s(self) -> float:
        """Return the processing time so far of the oldest record."""
        started = next(iter(self._started.values()), None)
        return 0.0 if started is None else self._clock.monotonic() - started


class BlockedRecords:
    """The records that cannot be finished: their event or dead letter cannot be published."""

    def __init__(self, service: str, clock: Clock) -> None:
        self._clock = clock
        self._blocked: dict[object, tuple[float, str]] = {}  # since when, why; oldest first
        metrics.BLOCKED_OLDEST_SECONDS.labels(service).set_function(self.oldest_s)

    @contextmanager
    def tracked(self) -> Iterator[Callable[[str], None]]:
        """Track a step while the block runs; yields a function that notes why it is retried."""
        key = object()

        def note(reason: str) -> None:
            since, _ = self._blocked.get(key, (self._clock.monotonic(), ""))
            self._blocked[key] = (since, reason)

        try:
            yield note
        finally:
            self._blocked.pop(key, None)

    def oldest_s(self) -> float:
        """Return for how long the oldest record has been blocked; 0 without any."""
        since = next((since for since, _ in self._blocked.values()), None)
        return 0.0 if since is None else self._clock.monotonic() - since

    @property
    def reason(self) -> str:
        """Return why the oldest record is blocked; empty without any."""
        return next((reason for _, reason in self._blocked.values()), "")


def export_lane_metrics(
    service: str, figures: Callable[[], Mapping[str, int]], *, in_flight_max: int
) -> None:
    """Export the lanes and records in flight of a service."""
    metrics.LANES.labels(service).set_function(lambda: figures()["lanes"])
    metrics.IN_FLIGHT.labels(service).set_function(lambda: figures()["records_in_flight"])
    metrics.IN_FLIGHT_MAX.labels(service).set(in_flight_max)


def _since(timestamp_s: float | None, now: float) -> float:
    return 0.0 if timestamp_s is None else max(0.0, now - timestamp_s)
