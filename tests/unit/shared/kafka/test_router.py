"""Routing: what kind of error it is decides where the record goes, and the job always says why."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

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
from shared.kafka.codec import Envelope, Record, Unreadable, encode, try_decode
from shared.kafka.dead_letters import STACK_CHARS_MAX, DeadLetters
from shared.kafka.parked_runs import ParkedRuns
from shared.kafka.router import Router
from shared.processing.retry import RetryPolicy
from shared.storage.filesystem import FolderStore
from shared.telemetry.log import logger_of
from tests.fakes.clock import FakeClock
from tests.fakes.publisher import FakePublisher
from tests.support.event_builders import a_scene

ATTEMPTS_MAX = 3
DEAD_LETTERS_MAX = 4


async def partitions_owned() -> None:
    """The partitions are ours."""


@dataclass
class RouterFixture:
    """A router with everything behind it, and a handler that does as it is told."""

    store: FolderStore
    stage: Stage = Stage.GENERATION
    publisher: FakePublisher = field(default_factory=FakePublisher)
    clock: FakeClock = field(default_factory=FakeClock)
    handled: list[str] = field(default_factory=list)
    faults: list[Exception] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Wire it as `build_router` does."""
        self.router = Router(
            service="generator",
            stage=self.stage,
            publisher=self.publisher.port,
            dead_letters=DeadLetters(
                self.publisher.port,
                service="generator",
                clock=self.clock,
                consecutive_max=DEAD_LETTERS_MAX,
            ),
            parked=ParkedRuns(self.store),
            policy=RetryPolicy(first_s=1.0, max_s=8.0, attempts_max=ATTEMPTS_MAX),
            clock=self.clock,
            log=logger_of("test"),
            chance=random.Random(7),
        )

    async def handle(self, envelope: Envelope) -> None:
        """Raise what is next in `faults`; without any, all is well."""
        self.handled.append(envelope.event.job_id)
        if self.faults:
            raise self.faults.pop(0)

    async def run(
        self,
        received: Envelope | Unreadable,
        *faults: Exception,
        wait_until_owned: Callable[[], Awaitable[None]] = partitions_owned,
    ) -> None:
        """Route a record whose handling meets these faults, one a try."""
        self.faults = list(faults)
        await self.router.run(received, self.handle, wait_until_owned=wait_until_owned)

    @property
    def dead(self) -> list[Record]:
        """What lies on the dead-letter topics."""
        return [record for record in self.publisher.records if record.topic.endswith(".dlq")]

    @property
    def failures(self) -> list[JobFailed]:
        """What was said about jobs."""
        return [event for event in self.publisher.events if isinstance(event, JobFailed)]


@pytest.fixture
def fixture(tmp_path: Path) -> RouterFixture:
    """A fresh line on an empty store."""
    return RouterFixture(FolderStore(tmp_path))


def a_record(index: int = 0, *, offset: int = 0, **scene: Any) -> Record:
    """A `scene.requested` record."""
    sent = encode(a_scene(index, **scene), source="api", now=FakeClock().now())
    return Record(
        topic=sent.topic,
        partition=2,
        offset=offset,
        key=sent.key,
        value=sent.value,
        headers=sent.headers,
        timestamp_ms=1_700_000_000_000,
    )


def told(record: Record) -> dict[str, str]:
    """The headers of a dead letter."""
    return {name: value.decode() for name, value in record.headers}


async def test_a_record_that_goes_well_says_nothing(fixture: RouterFixture) -> None:
    """Its handler publishes what there is to say."""
    await fixture.run(try_decode(a_record()))

    assert fixture.handled == ["job-1"]
    assert fixture.publisher.records == []


async def test_what_became_of_a_record_is_counted(fixture: RouterFixture) -> None:
    """How it ended, how often it was tried, how long it took, why a job failed."""
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

    def figures() -> list[float]:
        return [REGISTRY.get_sample_value(name, labels) or 0.0 for name, labels in names]

    before = figures()
    await fixture.run(try_decode(a_record(job_id="well")), ProviderBusyError("", retry_after_s=20))
    await fixture.run(try_decode(a_record(job_id="ill")), ValueError("bug"))

    moved = [now - then for now, then in zip(figures(), before, strict=True)]
    assert moved == [1, 1, 1, pytest.approx(20, abs=2), 1, 1, 1]
    assert REGISTRY.get_sample_value("segue_dead_letters_in_row", row) == 1
    assert REGISTRY.get_sample_value("segue_dead_letters_in_row_max", row) == DEAD_LETTERS_MAX


async def test_a_busy_world_is_tried_again_in_place(fixture: RouterFixture) -> None:
    """With a wait that grows, and never shorter than asked for."""
    await fixture.run(
        try_decode(a_record()), RetryableError("busy"), ProviderBusyError("", retry_after_s=20)
    )

    assert len(fixture.handled) == 3
    assert fixture.publisher.records == []
    first, second = fixture.clock.slept
    assert 0.5 <= first <= 1.0
    assert 20.0 <= second <= 20.5


async def test_every_try_waits_at_the_gate(fixture: RouterFixture) -> None:
    """A retry after a rebalance must not run while the partition may be somebody else's."""
    passed: list[int] = []

    async def wait_until_owned() -> None:
        passed.append(len(fixture.handled))

    await fixture.run(
        try_decode(a_record()), RetryableError("busy"), wait_until_owned=wait_until_owned
    )

    assert passed == [0, 1]


async def test_a_world_that_stays_busy_ends_in_failure_and_dead_letter(
    fixture: RouterFixture,
) -> None:
    """The job says that asking again can help; the record is kept with its tries."""
    await fixture.run(try_decode(a_record()), *[RetryableError("store is away")] * ATTEMPTS_MAX)

    assert len(fixture.handled) == ATTEMPTS_MAX
    failure = fixture.failures[0]
    assert (failure.code, failure.message, failure.retryable) == ("gave_up", "store is away", True)
    assert failure.scene_index == 0
    headers = told(fixture.dead[0])
    assert headers["dlq-attempts"] == "3"
    assert headers["dlq-first-failed-at"] == FakeClock().now().isoformat(), "no time had passed"
    assert headers["dlq-failed-at"] == fixture.clock.now().isoformat()
    assert fixture.clock.elapsed_s > 0


async def test_a_job_that_cannot_succeed_fails_and_its_record_is_done(
    fixture: RouterFixture,
) -> None:
    """No dead letter: the record was right, the job was not."""
    await fixture.run(try_decode(a_record(1)), MediaError("no picture in it"))

    assert fixture.dead == []
    assert fixture.failures == [
        JobFailed(
            job_id="job-1",
            run=1,
            stage=Stage.GENERATION,
            code="invalid_media",
            message="no picture in it",
            scene_index=1,
        )
    ]
    await fixture.run(try_decode(a_record(2)))
    assert len(fixture.handled) == 2, "its lane is not parked"


async def test_only_the_generator_speaks_of_scenes(tmp_path: Path) -> None:
    """At merge and mux the whole job failed, whichever scene brought it about."""
    fixture = RouterFixture(FolderStore(tmp_path), stage=Stage.MERGE)
    await fixture.run(try_decode(a_record(1)), JobError("cannot be joined"))

    assert fixture.failures[0].scene_index is None
    assert fixture.failures[0].stage is Stage.MERGE


async def test_a_wrong_record_is_a_dead_letter_kept_whole(fixture: RouterFixture) -> None:
    """Key, value and headers as they were; beside them where it was and why it is here."""
    record = a_record(3, offset=17)
    await fixture.run(try_decode(record), SceneGapError("scene 3 came too early"))

    dead = fixture.dead[0]
    assert (dead.topic, dead.key, dead.value) == ("scene.requested.dlq", record.key, record.value)
    assert dead.partition == record.partition
    assert dead.headers[: len(record.headers)] == record.headers
    headers = told(dead)
    assert headers["dlq-reason"] == "scene 3 came too early"
    assert headers["dlq-exception"] == "SceneGapError"
    assert headers["dlq-origin-topic"] == "scene.requested"
    assert headers["dlq-origin-partition"] == "2"
    assert headers["dlq-origin-offset"] == "17"
    assert headers["dlq-origin-timestamp"] == "1700000000000"
    assert headers["dlq-attempts"] == "1"
    assert headers["dlq-service"] == "generator"
    assert headers["dlq-service-version"]
    assert headers["dlq-failed-at"] == fixture.clock.now().isoformat()
    assert headers["dlq-first-failed-at"] == headers["dlq-failed-at"]
    assert fixture.failures[0].code == "gave_up"


async def test_a_record_that_cannot_be_read_is_a_dead_letter_and_no_jobs_failure(
    fixture: RouterFixture,
) -> None:
    """Nobody knows whose it was, or which run."""
    record = Record(topic="scene.requested", partition=0, offset=0, key=None, value=b"junk")
    await fixture.run(try_decode(record))

    assert fixture.dead[0].value == b"junk"
    assert "JSON" in told(fixture.dead[0])["dlq-reason"]
    assert fixture.failures == []
    assert fixture.handled == []


async def test_a_bug_is_a_dead_letter_with_its_traceback(fixture: RouterFixture) -> None:
    """It stops its job, never the partition; the job does not blame the client."""
    await fixture.run(try_decode(a_record()), ZeroDivisionError("division by zero"))

    failure = fixture.failures[0]
    assert failure.code == "internal_error"
    assert failure.message == "internal error: ZeroDivisionError: division by zero"
    assert failure.retryable
    stack = told(fixture.dead[0])["dlq-stack"]
    assert "test_router.py" in stack
    assert len(stack) <= STACK_CHARS_MAX


async def test_an_endless_traceback_is_cut_to_its_end(fixture: RouterFixture) -> None:
    """A header has a bound, and the last lines say most."""
    await fixture.run(try_decode(a_record()), ValueError("x" * 2 * STACK_CHARS_MAX + " the end"))

    stack = told(fixture.dead[0])["dlq-stack"]
    assert len(stack) == STACK_CHARS_MAX
    assert stack.rstrip().endswith("the end")


async def test_of_many_lanes_that_fail_at_once_no_more_are_given_up_than_the_limit(
    fixture: RouterFixture,
) -> None:
    """Whose fault came after the limit keeps its record, its run, and its good name."""

    async def fails(_envelope: Envelope) -> None:
        raise ValueError("bug")

    count = 5 * DEAD_LETTERS_MAX
    ends = await asyncio.gather(
        *(
            fixture.router.run(
                try_decode(a_record(job_id=f"job-{number}")),
                fails,
                wait_until_owned=partitions_owned,
            )
            for number in range(count)
        ),
        return_exceptions=True,
    )
    parked = [found.key async for found in fixture.store.list_objects("")]

    assert {type(end) for end in ends} <= {DeadLetterLimitError, type(None)}
    assert len(fixture.dead) == len(fixture.failures) == len(parked) == DEAD_LETTERS_MAX
    fixture.router.dead_letters.record_success()
    with pytest.raises(DeadLetterLimitError):
        await fixture.run(try_decode(a_record(job_id="one more")), ValueError("bug"))
    assert len(fixture.dead) == DEAD_LETTERS_MAX


async def test_later_records_of_the_run_are_parked_behind_its_dead_letter(
    fixture: RouterFixture,
) -> None:
    """Other runs and other jobs go on."""
    await fixture.run(try_decode(a_record(0)), InvalidEventError("wrong"))
    await fixture.run(try_decode(a_record(1)))
    assert len(fixture.handled) == 1
    assert told(fixture.dead[1])["dlq-attempts"] == "0"
    assert "behind" in told(fixture.dead[1])["dlq-reason"]
    assert len(fixture.failures) == 1, "said once"

    await fixture.run(try_decode(a_record(1, run=2)))
    await fixture.run(try_decode(a_record(1, job_id="other")))
    assert fixture.handled == ["job-1", "job-1", "other"]


async def test_a_parked_run_is_parked_for_the_next_process_too(fixture: RouterFixture) -> None:
    """The store says so, not the memory."""
    await fixture.run(try_decode(a_record(0)), InvalidEventError("wrong"))
    restarted = RouterFixture(fixture.store)
    await restarted.run(try_decode(a_record(1)))

    assert restarted.handled == []


async def test_a_released_run_goes_on_in_every_process(fixture: RouterFixture) -> None:
    """An operator releases it from a process of his own."""
    await fixture.run(try_decode(a_record(0)), InvalidEventError("wrong"))
    await fixture.run(try_decode(a_record(1)))
    await ParkedRuns(fixture.store).release("job-1", 1, "scene.requested")
    await fixture.run(try_decode(a_record(0)))

    assert len(fixture.handled) == 2


async def test_a_row_of_dead_letters_stops_the_consumer(fixture: RouterFixture) -> None:
    """Then the fault is ours; the topic keeps what is left. The last one is kept, too."""
    for number in range(DEAD_LETTERS_MAX - 1):
        await fixture.run(try_decode(a_record(job_id=f"job-{number}")), ValueError("bug"))
    with pytest.raises(DeadLetterLimitError, match="4 dead letters in a row, the last: bug"):
        await fixture.run(try_decode(a_record(job_id="one-more")), ValueError("bug"))

    assert len(fixture.dead) == DEAD_LETTERS_MAX


async def test_one_success_breaks_the_row(fixture: RouterFixture) -> None:
    """The fault is theirs, then."""
    for number in range(3 * DEAD_LETTERS_MAX):
        await fixture.run(try_decode(a_record(job_id=f"job-{number}")), ValueError("bug"))
        await fixture.run(try_decode(a_record(job_id=f"well-{number}")))

    assert len(fixture.dead) == 3 * DEAD_LETTERS_MAX


async def test_what_is_parked_behind_a_dead_letter_is_not_another_fault(
    fixture: RouterFixture,
) -> None:
    """A job of a thousand scenes must not stop the consumer."""
    await fixture.run(try_decode(a_record(0)), ValueError("bug"))
    for _ in range(3 * DEAD_LETTERS_MAX):
        await fixture.run(try_decode(a_record(1)))

    assert len(fixture.dead) == 1 + 3 * DEAD_LETTERS_MAX


@pytest.mark.parametrize("fault", [JobError("cannot be made"), ValueError("bug")])
async def test_what_must_be_said_is_said_when_kafka_is_back(
    fixture: RouterFixture, fault: Exception
) -> None:
    """Nothing is let go before: without a broker there is nothing else to do."""
    fixture.publisher.busy = 50
    await fixture.run(try_decode(a_record()), fault)

    assert len(fixture.failures) == 1
    assert len(fixture.clock.slept) == 50
    assert max(fixture.clock.slept) <= 8.0


async def test_the_failure_is_said_before_the_dead_letter_is_kept(fixture: RouterFixture) -> None:
    """A crash between the two repeats both; the other way round the job would hang for ever."""
    await fixture.run(try_decode(a_record()), ValueError("bug"))

    assert [record.topic for record in fixture.publisher.records] == [
        "job.failed",
        "scene.requested.dlq",
    ]


async def test_upstreams_video_has_no_run_that_could_fail(fixture: RouterFixture) -> None:
    """Its dead letter is all there is to say."""
    value = json.dumps({"job_id": "v", "scenes": [{"duration_s": 1}]}).encode()
    record = Record(topic="video.stitched", partition=0, offset=0, key=b"v", value=value)
    await fixture.run(try_decode(record), ValueError("bug"))

    assert fixture.failures == []
    assert fixture.dead[0].topic == "video.stitched.dlq"


async def test_a_cancelled_lane_leaves_nothing_behind(fixture: RouterFixture) -> None:
    """Its record is somebody else's: no failure, no dead letter."""
    with pytest.raises(asyncio.CancelledError):
        await fixture.run(try_decode(a_record()), asyncio.CancelledError())  # type: ignore[arg-type]

    assert fixture.publisher.records == []
