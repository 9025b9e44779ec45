"""Undecodable records never stop a consumer; results that cannot be published are reported."""

from pathlib import Path

import pytest

from shared.errors import DeadLetterLimitError, JobError, PublishRejectedError
from shared.kafka.codec import Record, Undecodable, try_decode
from shared.kafka.probes import progress_probe
from shared.storage.filesystem import FolderStore
from tests.support.router_harness import (
    DEAD_LETTERS_MAX,
    RouterHarness,
    a_record,
    headers_of,
)


@pytest.fixture
def harness(tmp_path: Path) -> RouterHarness:
    """Return a router on an empty store."""
    return RouterHarness(FolderStore(tmp_path))


async def test_records_that_cannot_be_decoded_never_stop_the_consumer(
    harness: RouterHarness,
) -> None:
    """They say nothing about the service; the count of failures stays as it was."""
    garbage = Record(topic="scene.requested", partition=0, offset=7, key=None, value=b"{")
    for number in range(DEAD_LETTERS_MAX - 1):
        await harness.run(try_decode(a_record(job_id=f"job-{number}")), ValueError("bug"))
    for _ in range(3 * DEAD_LETTERS_MAX):
        await harness.run(try_decode(garbage))
    with pytest.raises(DeadLetterLimitError):
        await harness.run(try_decode(a_record(job_id="one-more")), ValueError("bug"))
    await harness.run(try_decode(garbage))

    assert len(harness.dead_letters) == 4 * DEAD_LETTERS_MAX + 1


async def test_undecodable_bytes_are_dead_lettered_with_both_offsets(
    harness: RouterHarness,
) -> None:
    """The first one is the origin; the last one is where the partition continued."""
    batch = Undecodable(b"\x00batch", reason="codec 6", first=5, last=9, content="batch")
    await harness.run(
        try_decode(Record(topic="scene.requested", partition=2, offset=9, key=None, value=batch))
    )

    [letter] = harness.dead_letters
    headers = headers_of(letter)
    assert letter.value == b"\x00batch"
    assert headers["dlq-reason"] == "offsets 5 to 9 cannot be decoded: codec 6"
    assert (headers["dlq-origin-offset"], headers["dlq-origin-last-offset"]) == ("5", "9")
    assert headers["dlq-content"] == "batch"


async def test_a_record_whose_result_cannot_be_published_is_reported(
    harness: RouterHarness,
) -> None:
    """In `readyz`, after a while; and no longer than it lasts."""
    probe = progress_probe(harness.router, lambda: 0.0, clock=harness.clock)
    slept = harness.clock.sleep
    problems: list[str | None] = []

    async def sleep(_seconds: float) -> None:
        await slept(31.0)
        problems.append(await probe.problem())

    harness.clock.sleep = sleep  # type: ignore[assignment,method-assign]
    harness.publisher.busy = 3
    await harness.run(try_decode(a_record()), JobError("no"))

    assert problems[:2] == [None, "a record has waited 62 s to be published: no broker answers"]
    await slept(31.0)
    assert await probe.problem() is None
    late = progress_probe(harness.router, lambda: 61.0, clock=harness.clock)
    assert "no offset could be committed for 61 s" in (await late.problem() or "")


async def test_a_record_that_kafka_rejects_for_good_is_not_retried(
    harness: RouterHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The consumer stops with the reason; nothing is committed."""
    attempts = 0

    async def send(**_: object) -> None:
        nonlocal attempts
        attempts += 1
        raise PublishRejectedError("no right to write")

    monkeypatch.setattr(harness.publisher, "send", send)
    with pytest.raises(PublishRejectedError):
        await harness.run(try_decode(a_record()), JobError("no"))
    assert attempts == 1
