"""The type of an error decides where its record goes; every stopped job publishes its reason."""

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from typing_extensions import override

from shared.contract.events import JobFailed, Stage
from shared.errors import (
    DeadLetterLimitError,
    InvalidEventError,
    JobError,
    MediaError,
    ProviderBusyError,
    RetryableError,
    SceneGapError,
)
from shared.kafka.codec import Envelope, Record, try_decode
from shared.kafka.dead_letters import STACK_CHARS_MAX
from shared.kafka.parked_runs import ParkedRuns
from shared.processing.retry import RetryPolicy
from shared.storage.filesystem import FolderStore
from tests.fakes.clock import FakeClock
from tests.support.router_harness import (
    ATTEMPTS_MAX,
    DEAD_LETTERS_MAX,
    FailingHandler,
    RouterHarness,
    a_record,
    headers_of,
    partitions_owned,
)


@pytest.fixture
def harness(tmp_path: Path) -> RouterHarness:
    """Return a router on an empty store."""
    return RouterHarness(FolderStore(tmp_path))


async def test_the_router_publishes_nothing_for_a_successful_record(
    harness: RouterHarness,
) -> None:
    """Its handler publishes the result."""
    await harness.run(try_decode(a_record()))

    assert harness.handled == ["job-1"]
    assert harness.publisher.records == []


async def test_the_router_counts_outcomes_retries_times_and_failures(
    harness: RouterHarness,
) -> None:
    """Outcome, attempts, durations and the failure's code have a metric each."""
    topic = {"service": "generator", "topic": "scene.requested"}
    row = {"service": "generator"}
    names: list[tuple[str, dict[str, str]]] = [
        ("segue_records_total", {**topic, "outcome": "done"}),
        ("segue_retries_total", topic),
        ("segue_work_seconds_count", topic),
        ("segue_work_seconds_sum", topic),
        ("segue_record_seconds_count", topic),
        ("segue_dead_letters_total", topic),
        ("segue_job_failures_total", {**row, "code": "internal_error"}),
    ]

    def samples() -> list[float]:
        return [REGISTRY.get_sample_value(name, labels) or 0.0 for name, labels in names]

    before = samples()
    await harness.run(
        try_decode(a_record(job_id="succeeds")), ProviderBusyError("", retry_after_s=20)
    )
    await harness.run(try_decode(a_record(job_id="fails")), ValueError("bug"))

    increases = [now - then for now, then in zip(samples(), before, strict=True)]
    assert increases == [1, 1, 1, pytest.approx(20, abs=2), 1, 1, 1]
    assert REGISTRY.get_sample_value("segue_dead_letters_in_row", row) == 1
    assert REGISTRY.get_sample_value("segue_dead_letters_in_row_max", row) == DEAD_LETTERS_MAX


async def test_a_retryable_error_is_retried_in_place(harness: RouterHarness) -> None:
    """The delay grows and is never shorter than `retry_after_s`."""
    await harness.run(
        try_decode(a_record()), RetryableError("busy"), ProviderBusyError("", retry_after_s=20)
    )

    assert len(harness.handled) == 3
    assert harness.publisher.records == []
    first, second = harness.clock.slept
    assert 0.5 <= first <= 1.0
    assert 20.0 <= second <= 20.5


async def test_every_attempt_waits_until_the_partition_is_owned(harness: RouterHarness) -> None:
    """A retry during a rebalance must not run while another consumer may own the partition."""
    calls: list[int] = []

    async def wait_until_owned() -> None:
        calls.append(len(harness.handled))

    await harness.run(
        try_decode(a_record()), RetryableError("busy"), wait_until_owned=wait_until_owned
    )

    assert calls == [0, 1]


async def test_exhausted_retries_end_in_job_failed_and_a_dead_letter(
    harness: RouterHarness,
) -> None:
    """The failure is marked retryable; the dead letter has the number of attempts."""
    await harness.run(
        try_decode(a_record()), *[RetryableError("store is unavailable")] * ATTEMPTS_MAX
    )

    assert len(harness.handled) == ATTEMPTS_MAX
    failure = harness.failures[0]
    assert (failure.code, failure.message, failure.retryable) == (
        "gave_up",
        "store is unavailable",
        True,
    )
    assert failure.scene_index == 0
    headers = headers_of(harness.dead_letters[0])
    assert headers["dlq-attempts"] == "3"
    assert headers["dlq-first-failed-at"] == FakeClock().now().isoformat(), "no time had passed"
    assert headers["dlq-failed-at"] == harness.clock.now().isoformat()
    assert harness.clock.elapsed_s > 0


async def test_a_job_error_fails_the_job_and_commits_the_record(harness: RouterHarness) -> None:
    """No dead letter: the record was valid, the job was not."""
    await harness.run(try_decode(a_record(1)), MediaError("no picture in it"))

    assert harness.dead_letters == []
    assert harness.failures == [
        JobFailed(
            job_id="job-1",
            run=1,
            stage=Stage.GENERATION,
            code="invalid_media",
            message="no picture in it",
            scene_index=1,
        )
    ]
    await harness.run(try_decode(a_record(2)))
    assert len(harness.handled) == 2, "its lane is not parked"


async def test_only_the_generator_reports_a_scene_index(tmp_path: Path) -> None:
    """At merge and mux the whole job failed, whichever scene caused it."""
    harness = RouterHarness(FolderStore(tmp_path), stage=Stage.MERGE)
    await harness.run(try_decode(a_record(1)), JobError("cannot be joined"))

    assert harness.failures[0].scene_index is None
    assert harness.failures[0].stage is Stage.MERGE


async def test_an_invalid_record_becomes_a_dead_letter_unchanged(harness: RouterHarness) -> None:
    """Key, value and headers stay; added headers give its origin and the reason."""
    record = a_record(3, offset=17)
    await harness.run(try_decode(record), SceneGapError("scene 3 came too early"))

    dead = harness.dead_letters[0]
    assert (dead.topic, dead.key, dead.value) == ("scene.requested.dlq", record.key, record.value)
    assert dead.partition == record.partition
    assert dead.headers[: len(record.headers)] == record.headers
    headers = headers_of(dead)
    assert headers["dlq-reason"] == "scene 3 came too early"
    assert headers["dlq-exception"] == "SceneGapError"
    assert headers["dlq-origin-topic"] == "scene.requested"
    assert headers["dlq-origin-partition"] == "2"
    assert headers["dlq-origin-offset"] == "17"
    assert headers["dlq-origin-timestamp"] == "1700000000000"
    assert headers["dlq-attempts"] == "1"
    assert headers["dlq-service"] == "generator"
    assert headers["dlq-service-version"]
    assert headers["dlq-failed-at"] == harness.clock.now().isoformat()
    assert headers["dlq-first-failed-at"] == headers["dlq-failed-at"]
    assert harness.failures[0].code == "gave_up"


async def test_an_undecodable_record_becomes_a_dead_letter_without_job_failed(
    harness: RouterHarness,
) -> None:
    """Its job and run are unknown."""
    record = Record(topic="scene.requested", partition=0, offset=0, key=None, value=b"junk")
    await harness.run(try_decode(record))

    assert harness.dead_letters[0].value == b"junk"
    assert "JSON" in headers_of(harness.dead_letters[0])["dlq-reason"]
    assert harness.failures == []
    assert harness.handled == []


async def test_a_bug_becomes_a_dead_letter_with_its_traceback(harness: RouterHarness) -> None:
    """It stops its job, never the partition; the failure does not blame the client."""
    await harness.run(try_decode(a_record()), ZeroDivisionError("division by zero"))

    failure = harness.failures[0]
    assert failure.code == "internal_error"
    assert failure.message == "internal error: ZeroDivisionError: division by zero"
    assert failure.retryable
    stack = headers_of(harness.dead_letters[0])["dlq-stack"]
    assert "router_harness.py" in stack
    assert len(stack) <= STACK_CHARS_MAX


async def test_a_long_traceback_is_truncated_to_its_end(harness: RouterHarness) -> None:
    """A header has a limit, and the last lines are the most useful."""
    await harness.run(try_decode(a_record()), ValueError("x" * 2 * STACK_CHARS_MAX + " the end"))

    stack = headers_of(harness.dead_letters[0])["dlq-stack"]
    assert len(stack) == STACK_CHARS_MAX
    assert stack.rstrip().endswith("the end")


@dataclass
class AlwaysFails(FailingHandler):
    """Raises the same bug for every record."""

    @override
    async def handle(self, envelope: Envelope) -> None:
        """Raise a bug."""
        raise ValueError("bug")


async def test_concurrent_lanes_dead_letter_no_more_records_than_the_limit(
    harness: RouterHarness,
) -> None:
    """A record that fails after the limit is not committed, parked or reported as failed."""
    count = 5 * DEAD_LETTERS_MAX
    results = await asyncio.gather(
        *(
            harness.router.run(
                try_decode(a_record(job_id=f"job-{number}")),
                AlwaysFails(),
                wait_until_owned=partitions_owned,
            )
            for number in range(count)
        ),
        return_exceptions=True,
    )
    parked = [stored.key async for stored in harness.store.list_objects("")]

    assert {type(result) for result in results} <= {DeadLetterLimitError, type(None)}
    assert len(harness.dead_letters) == len(harness.failures) == len(parked) == DEAD_LETTERS_MAX
    harness.router.dead_letters.record_success()
    with pytest.raises(DeadLetterLimitError):
        await harness.run(try_decode(a_record(job_id="one more")), ValueError("bug"))
    assert len(harness.dead_letters) == DEAD_LETTERS_MAX


async def test_later_records_of_the_run_are_parked_behind_its_dead_letter(
    harness: RouterHarness,
) -> None:
    """Other runs and other jobs continue."""
    await harness.run(try_decode(a_record(0)), InvalidEventError("wrong"))
    await harness.run(try_decode(a_record(1)))
    assert len(harness.handled) == 1
    assert headers_of(harness.dead_letters[1])["dlq-attempts"] == "0"
    assert "behind" in headers_of(harness.dead_letters[1])["dlq-reason"]
    assert len(harness.failures) == 1, "published once"

    await harness.run(try_decode(a_record(1, run=2)))
    await harness.run(try_decode(a_record(1, job_id="other")))
    assert harness.handled == ["job-1", "job-1", "other"]


async def test_a_parked_run_stays_parked_in_the_next_process(harness: RouterHarness) -> None:
    """The marker is in the store, not in memory."""
    await harness.run(try_decode(a_record(0)), InvalidEventError("wrong"))
    restarted = RouterHarness(harness.store)
    await restarted.run(try_decode(a_record(1)))

    assert restarted.handled == []


async def test_a_released_run_continues_in_every_process(harness: RouterHarness) -> None:
    """An operator releases it from another process."""
    await harness.run(try_decode(a_record(0)), InvalidEventError("wrong"))
    await harness.run(try_decode(a_record(1)))
    await ParkedRuns(harness.store).release("job-1", 1, "scene.requested")
    await harness.run(try_decode(a_record(0)))

    assert len(harness.handled) == 2


async def test_consecutive_dead_letters_stop_the_consumer(harness: RouterHarness) -> None:
    """The fault is then the service's; records after the last dead letter stay on the topic."""
    for number in range(DEAD_LETTERS_MAX - 1):
        await harness.run(try_decode(a_record(job_id=f"job-{number}")), ValueError("bug"))
    with pytest.raises(DeadLetterLimitError, match="4 dead letters in a row, the last: bug"):
        await harness.run(try_decode(a_record(job_id="one-more")), ValueError("bug"))

    assert len(harness.dead_letters) == DEAD_LETTERS_MAX


async def test_a_success_resets_the_count_of_consecutive_dead_letters(
    harness: RouterHarness,
) -> None:
    """The fault is then in the records."""
    for number in range(3 * DEAD_LETTERS_MAX):
        await harness.run(try_decode(a_record(job_id=f"job-{number}")), ValueError("bug"))
        await harness.run(try_decode(a_record(job_id=f"success-{number}")))

    assert len(harness.dead_letters) == 3 * DEAD_LETTERS_MAX


async def test_parked_records_do_not_count_as_consecutive_dead_letters(
    harness: RouterHarness,
) -> None:
    """A job of a thousand scenes must not stop the consumer."""
    await harness.run(try_decode(a_record(0)), ValueError("bug"))
    for _ in range(3 * DEAD_LETTERS_MAX):
        await harness.run(try_decode(a_record(1)))

    assert len(harness.dead_letters) == 1 + 3 * DEAD_LETTERS_MAX


@pytest.mark.parametrize("fault", [JobError("cannot be made"), ValueError("bug")])
async def test_the_router_retries_publishing_until_kafka_is_available(
    harness: RouterHarness, fault: Exception
) -> None:
    """Nothing is committed before: without a broker there is nothing else to do."""
    harness.publisher.busy = 50
    await harness.run(try_decode(a_record()), fault)

    assert len(harness.failures) == 1
    assert len(harness.clock.slept) == 50
    assert max(harness.clock.slept) <= 8.0


async def test_job_failed_is_published_before_the_dead_letter(harness: RouterHarness) -> None:
    """A crash between the two repeats both; in the other order the job would never end."""
    await harness.run(try_decode(a_record()), ValueError("bug"))

    assert [record.topic for record in harness.publisher.records] == [
        "job.failed",
        "scene.requested.dlq",
    ]


async def test_an_event_without_a_run_becomes_a_dead_letter_without_job_failed(
    harness: RouterHarness,
) -> None:
    """Upstream's `video.stitched` has no run yet."""
    value = json.dumps({"job_id": "v", "scenes": [{"duration_s": 1}]}).encode()
    record = Record(topic="video.stitched", partition=0, offset=0, key=b"v", value=value)
    await harness.run(try_decode(record), ValueError("bug"))

    assert harness.failures == []
    assert harness.dead_letters[0].topic == "video.stitched.dlq"


async def test_a_cancelled_lane_publishes_nothing(harness: RouterHarness) -> None:
    """Another consumer owns its record: no job.failed, no dead letter."""
    with pytest.raises(asyncio.CancelledError):
        await harness.run(try_decode(a_record()), asyncio.CancelledError())  # type: ignore[arg-type]

    assert harness.publisher.records == []


@pytest.mark.parametrize(("asked_s", "attempts"), [(3600.0, 1), (40.0, 2)])
async def test_a_wait_beyond_the_deadline_is_not_waited_for(
    harness: RouterHarness, asked_s: float, attempts: int
) -> None:
    """A server that asks for an hour does not hold its job; a shorter wait is respected."""
    harness.router.policy = RetryPolicy(first_s=1.0, max_s=8.0, attempts_max=30, deadline_s=60)
    busy = RetryableError("the video's server is busy", retry_after_s=asked_s)
    await harness.run(try_decode(a_record()), *[busy] * 30)

    assert len(harness.handled) == attempts
    assert harness.clock.elapsed_s <= 60
    assert [failure.message for failure in harness.failures] == ["the video's server is busy"]
    assert len(harness.dead_letters) == 1
