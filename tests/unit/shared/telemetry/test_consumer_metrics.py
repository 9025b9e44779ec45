"""How a consumer stands, as Prometheus is told it."""

from typing import NamedTuple

from prometheus_client import REGISTRY

from shared.processing.offset_tracker import PartitionPosition
from shared.telemetry.consumer_metrics import ActiveRecords, ConsumerMetrics
from tests.fakes.clock import FakeClock


class Partition(NamedTuple):
    """As Kafka's clients name one."""

    topic: str
    partition: int


ZERO, ONE = Partition("t-scenes", 0), Partition("t-scenes", 1)


class MetricsFixture:
    """A consumer that is told how it stands."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.positions: dict[Partition, PartitionPosition] = {}
        self.ends: dict[Partition, int] = {}
        self.told = ConsumerMetrics(
            service="test",
            topics=["scenes", "other"],
            prefix="t-",
            positions=lambda: self.positions,
            end_offset=self.end_of,
            clock=self.clock,
        )

    def end_of(self, partition: Partition) -> int | None:
        """Behind its last record."""
        return self.ends.get(partition)

    def ago(self, seconds: float) -> float:
        """A moment, as records say it."""
        return self.clock.now().timestamp() - seconds


def test_lag_is_the_age_of_the_oldest_record_that_is_not_finished() -> None:
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

    assert round(fixture.told.lag_s("scenes")) == 30
    assert fixture.told.lag_records("scenes") == 12 - 4
    assert fixture.told.lag_s("other") == 0
    assert fixture.told.lag_records("other") == 0


def test_a_record_that_comes_after_hours_of_silence_is_no_lag_of_hours() -> None:
    """It lies there for the moment in which it is looked at; if it stays, it ages from then."""
    fixture = MetricsFixture()
    fixture.positions = {ZERO: PartitionPosition(next_offset=5, last_timestamp_s=fixture.ago(9000))}
    fixture.ends = {ZERO: 6}

    assert fixture.told.lag_s("scenes") == 0
    fixture.clock.jump(15)
    assert round(fixture.told.lag_s("scenes")) == 15
    assert fixture.told.lag_records("scenes") == 1


def test_who_reads_through_a_backlog_is_as_far_behind_as_what_it_read_last() -> None:
    """Between two batches nothing is unfinished, and yet it is behind."""
    fixture = MetricsFixture()
    fixture.ends = {ZERO: 9000}
    fixture.positions = {
        ZERO: PartitionPosition(next_offset=1000, last_timestamp_s=fixture.ago(3600))
    }
    fixture.told.lag_s("scenes")
    fixture.positions = {
        ZERO: PartitionPosition(next_offset=2000, last_timestamp_s=fixture.ago(3000))
    }

    assert round(fixture.told.lag_s("scenes")) == 3000
    fixture.positions = {ZERO: PartitionPosition(next_offset=9000, last_timestamp_s=fixture.ago(1))}
    assert fixture.told.lag_s("scenes") == 0


def test_a_commit_is_due_from_the_first_record_let_go_until_it_is_confirmed() -> None:
    """What is let go meanwhile does not begin the time anew; a failure does not end it."""
    fixture = MetricsFixture()
    assert fixture.told.commit_due_s() == 0
    fixture.told.commit_due()
    fixture.clock.jump(20)
    fixture.told.commit_due()
    fixture.told.commit_failed()
    assert fixture.told.commit_due_s() == 20

    fixture.told.commit_confirmed(nothing_due=False)
    fixture.clock.jump(5)
    assert fixture.told.commit_due_s() == 5

    fixture.told.commit_confirmed(nothing_due=True)
    assert fixture.told.commit_due_s() == 0


def test_it_is_told_while_it_consumes_and_not_after() -> None:
    """A figure that nobody keeps up would be a lie."""
    fixture = MetricsFixture()
    labels = {"service": "test", "topic": "scenes"}
    with fixture.told.exported():
        assert REGISTRY.get_sample_value("segue_consuming", {"service": "test"}) == 1
        assert REGISTRY.get_sample_value("segue_lag_seconds", labels) == 0
        assert REGISTRY.get_sample_value("segue_dead_letters_total", labels) == 0

    assert REGISTRY.get_sample_value("segue_consuming", {"service": "test"}) == 0
    assert REGISTRY.get_sample_value("segue_lag_seconds", labels) is None


def test_the_oldest_work_is_the_one_that_began_first_and_still_goes_on() -> None:
    """Others may begin later and end sooner."""
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
