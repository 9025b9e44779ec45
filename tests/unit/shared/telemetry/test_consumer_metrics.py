"""Lag, commits and work of a consumer, as exported to Prometheus."""

from typing import NamedTuple

from prometheus_client import REGISTRY

from shared.processing.offset_tracker import PartitionPosition
from shared.telemetry.consumer_metrics import ActiveRecords, ConsumerMetrics
from tests.fakes.clock import FakeClock


class Partition(NamedTuple):
    """A partition, as Kafka clients name it."""

    topic: str
    partition: int


ZERO, ONE = Partition("t-scenes", 0), Partition("t-scenes", 1)


class MetricsFixture:
    """Metrics of a consumer whose positions the test sets."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.positions: dict[Partition, PartitionPosition] = {}
        self.ends: dict[Partition, int] = {}
        self.metrics = ConsumerMetrics(
            service="test",
            topics=["scenes", "other"],
            prefix="t-",
            positions=lambda: self.positions,
            end_offset=self.end_of,
            clock=self.clock,
        )

    def end_of(self, partition: Partition) -> int | None:
        """Return the end offset."""
        return self.ends.get(partition)

    def ago(self, seconds: float) -> float:
        """Return a timestamp of the past, in Unix seconds."""
        return self.clock.now().timestamp() - seconds


def test_lag_is_the_age_of_the_oldest_unfinished_record() -> None:
    """Over all partitions of the topic, and of no other topic."""
    fixture = MetricsFixture()
    fixture.positions = {
        ZERO: PartitionPosition(
            next_offset=9,
            last_timestamp_s=fixture.ago(1),
            oldest_offset=4,
            oldest_timestamp_s=fixture.ago(30),
        ),
        ONE: PartitionPosition(next_offset=5, last_timestamp_s=fixture.ago(500)),
    }
    fixture.ends = {ZERO: 12, ONE: 5}

    assert round(fixture.metrics.lag_s("scenes")) == 30
    assert fixture.metrics.lag_records("scenes") == 12 - 4
    assert fixture.metrics.lag_s("other") == 0
    assert fixture.metrics.lag_records("other") == 0


def test_first_record_after_hours_is_not_hours_of_lag() -> None:
    """An unread record counts from the scrape that first sees it."""
    fixture = MetricsFixture()
    fixture.positions = {ZERO: PartitionPosition(next_offset=5, last_timestamp_s=fixture.ago(9000))}
    fixture.ends = {ZERO: 6}

    assert fixture.metrics.lag_s("scenes") == 0
    fixture.clock.jump(15)
    assert round(fixture.metrics.lag_s("scenes")) == 15
    assert fixture.metrics.lag_records("scenes") == 1


def test_lag_in_a_backlog_is_the_age_of_the_last_received_record() -> None:
    """Between two batches nothing is in flight, and the consumer still lags."""
    fixture = MetricsFixture()
    fixture.ends = {ZERO: 9000}
    fixture.positions = {
        ZERO: PartitionPosition(next_offset=1000, last_timestamp_s=fixture.ago(3600))
    }
    fixture.metrics.lag_s("scenes")
    fixture.positions = {
        ZERO: PartitionPosition(next_offset=2000, last_timestamp_s=fixture.ago(3000))
    }

    assert round(fixture.metrics.lag_s("scenes")) == 3000
    fixture.positions = {ZERO: PartitionPosition(next_offset=9000, last_timestamp_s=fixture.ago(1))}
    assert fixture.metrics.lag_s("scenes") == 0


def test_commit_is_due_from_the_first_completed_record_until_confirmed() -> None:
    """Later records do not restart the time; a failure does not end it."""
    fixture = MetricsFixture()
    assert fixture.metrics.commit_due_s() == 0
    fixture.metrics.commit_due()
    fixture.clock.jump(20)
    fixture.metrics.commit_due()
    fixture.metrics.commit_failed()
    assert fixture.metrics.commit_due_s() == 20

    fixture.metrics.commit_confirmed(nothing_due=False)
    fixture.clock.jump(5)
    assert fixture.metrics.commit_due_s() == 5

    fixture.metrics.commit_confirmed(nothing_due=True)
    assert fixture.metrics.commit_due_s() == 0


def test_metrics_are_exported_only_while_consuming() -> None:
    """A stale value would be wrong."""
    fixture = MetricsFixture()
    labels = {"service": "test", "topic": "scenes"}
    with fixture.metrics.exported():
        assert REGISTRY.get_sample_value("segue_consuming", {"service": "test"}) == 1
        assert REGISTRY.get_sample_value("segue_lag_seconds", labels) == 0
        assert REGISTRY.get_sample_value("segue_dead_letters_total", labels) == 0

    assert REGISTRY.get_sample_value("segue_consuming", {"service": "test"}) == 0
    assert REGISTRY.get_sample_value("segue_lag_seconds", labels) is None


def test_oldest_work_is_the_earliest_unfinished_record() -> None:
    """Later records may finish earlier."""
    clock = FakeClock()
    active_records = ActiveRecords("test", clock)
    with active_records.timed() as first:
        clock.jump(7)
        with active_records.timed():
            clock.jump(1)
            assert active_records.oldest_s() == 8
        assert first() == 8
    assert active_records.oldest_s() == 0
    assert REGISTRY.get_sample_value("segue_work_oldest_seconds", {"service": "test"}) == 0
