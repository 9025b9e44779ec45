"""`segue dlq list` and `segue dlq show` on real servers."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from shared.clock import SystemClock
from shared.errors import InvalidEventError, UndecodableError
from shared.kafka.codec import Record
from shared.kafka.dead_letters import DeadLetters
from shared.kafka.producer import Publisher
from tests.support.operator_commands import OperatorFixture, operator_fixture
from tests.support.servers import Database, KafkaServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]
MOMENT = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp() * 1000)


@pytest.fixture
async def fixture(
    kafka: KafkaServer, postgres: Database, topic_prefix: str, store_folder: Path
) -> AsyncIterator[OperatorFixture]:
    """Three dead letters of two jobs, and no service."""
    async with operator_fixture(kafka.bootstrap, postgres, topic_prefix, store_folder) as fixture:
        publisher = Publisher(fixture.kafka, source="test", clock=SystemClock())
        await publisher.start()
        letters = DeadLetters(publisher, service="merger", clock=SystemClock(), consecutive_max=99)
        try:
            await letters.publish(a_record("a", 7), UndecodableError("no JSON"), attempts=1)
            await letters.publish(a_record("b", 8), UndecodableError("no JSON"), attempts=1)
            await letters.publish(a_record("b", 9), InvalidEventError("wrong scene"), attempts=3)
        finally:
            await publisher.stop()
        yield fixture


def a_record(job_id: str, offset: int) -> Record:
    """Return a record as a service read it."""
    return Record(
        topic="segment.generated",
        partition=0,
        offset=offset,
        key=job_id.encode(),
        value=b'{"half',
        headers=(("ce_id", b"an id"),),
        timestamp_ms=MOMENT,
    )


async def test_dead_letters_are_counted_by_reason_and_filtered(fixture: OperatorFixture) -> None:
    """All, those of a topic, of a job, of a reason."""
    whole = await fixture.segue("dlq", "list")
    other = await fixture.segue("dlq", "list", "audio.merged")
    of_job = await fixture.segue("dlq", "list", "segment.generated", "--job", "b")
    reason = await fixture.segue("dlq", "list", "--reason", "wrong", "--limit", "1")
    unknown = await fixture.segue("dlq", "list", "nothing")

    assert (whole[0], whole[1]["count"]) == (0, 3)
    assert whole[1]["reasons"] == {"UndecodableError": 2, "InvalidEventError": 1}
    assert (other[1]["count"], of_job[1]["count"], reason[1]["count"]) == (0, 2, 1)
    [letter] = reason[1]["letters"]
    assert (letter["job_id"], letter["origin"]) == ("b", "segment.generated/0/9")
    assert (letter["reason"], letter["attempts"]) == ("wrong scene", "3")
    assert (unknown[0], "topic nothing not found" in unknown[1]["error"]) == (2, True)


async def test_show_prints_one_letter_in_full_and_rejects_unknown_places(
    fixture: OperatorFixture,
) -> None:
    """The original key, value and headers come first, then the dead-letter headers."""
    [place] = [
        letter["place"]
        for letter in (await fixture.segue("dlq", "list", "--job", "a"))[1]["letters"]
    ]
    shown = await fixture.segue("dlq", "show", place)
    gone = await fixture.segue("dlq", "show", "segment.generated.dlq/0/99")
    wrong = await fixture.segue("dlq", "show", "somewhere")

    assert shown[0] == 0
    assert (shown[1]["key"], shown[1]["value"]) == ("a", '{"half')
    assert shown[1]["headers"][0] == ["ce_id", "an id"]
    assert ["dlq-reason", "no JSON"] in shown[1]["headers"]
    assert (gone[0], "not found" in gone[1]["error"]) == (4, True)
    assert (wrong[0], "TOPIC/PARTITION/OFFSET" in wrong[1]["error"]) == (2, True)
