"""The history of a job: its lines, its cause, and which records are decoded."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ops.cli.layout import wrap
from ops.jobs.history import JobRecord, cause_of, lines, may_belong, summary_of
from services.api.operators import RunState, RunStatus
from shared.contract.events import Seam
from shared.kafka.codec import Record
from tests.support.event_builders import a_segment
from tests.support.run_builders import a_track

NOW = datetime(2026, 11, 30, 12, 0, 0, 123456, tzinfo=UTC)


def a_record(after_s: float = 0.0, **fields: Any) -> JobRecord:
    """Return a record of run 1."""
    defaults: dict[str, Any] = {
        "at": NOW + timedelta(seconds=after_s),
        "topic": "scene.requested",
        "partition": 0,
        "offset": 7,
        "summary": "scene 1/2 requested: 2 s",
        "run": 1,
    }
    return JobRecord(**{**defaults, **fields})


def a_letter(after_s: float, *, attempts: str, summary: str) -> JobRecord:
    """Return a dead letter, which has no run."""
    return a_record(
        after_s, topic="scene.requested.dlq", run=None, attempts=attempts, summary=summary
    )


def a_run(status: RunStatus) -> dict[int, RunState]:
    """Return the only run."""
    return {1: RunState(status=status, has_track=False, has_video=False, stored_scenes=frozenset())}


RECORDS = [
    a_record(),
    a_letter(1, attempts="0", summary="dead letter: parked"),
    a_letter(2, attempts="1", summary="dead letter: the cause"),
    a_letter(3, attempts="3", summary="dead letter: a later one"),
    a_record(4, topic="job.failed", summary="failed at generation: a gap"),
]


@pytest.mark.parametrize(
    ("records", "status", "cause"),
    [
        (RECORDS, RunStatus.FAILED, "dead letter: the cause"),
        (RECORDS, RunStatus.GENERATING, "dead letter: the cause"),
        (RECORDS[-1:], RunStatus.FAILED, "failed at generation: a gap"),
        (RECORDS, RunStatus.COMPLETED, None),
        (RECORDS, RunStatus.CANCELLED, None),
        (RECORDS[:1], RunStatus.GENERATING, None),
        ([a_letter(-9, attempts="1", summary="of an older run"), *RECORDS], RunStatus.FAILED,
         "dead letter: the cause"),
    ],
)  # fmt: skip
def test_the_cause_is_the_oldest_dead_letter_that_was_processed(
    records: list[JobRecord], status: RunStatus, cause: str | None
) -> None:
    """Parked records follow it; without a letter it is the failure of the run."""
    found = cause_of(records, a_run(status))

    assert (found and found.summary) == cause


def test_the_lines_name_the_cause_first_and_have_no_microseconds() -> None:
    """Servers that are unavailable follow it."""
    events = [record.as_json() for record in RECORDS]
    history = {
        "job_id": "film",
        "runs": [{"run": 1, "status": "failed"}],
        "cause": events[2],
        "redrives": [],
        "cost_usd": 0.5,
        "events": events,
        "problems": ["the store is unavailable: no answer within 2 s"],
    }

    text = [line for part in lines(history) for line in wrap(part, None)]

    assert text[:3] == [
        "film: run 1 failed, $0.50",
        "cause: dead letter: the cause",
        "! the store is unavailable: no answer within 2 s",
    ]
    assert text[3].startswith("2026-11-30T12:00:00Z  scene.requested/0/7")
    assert "(0 attempts)" not in "\n".join(text)
    assert "the cause (1 attempt)" in "\n".join(text)
    assert "a later one (3 attempts)" in "\n".join(text)


def test_an_event_shows_why_it_is_silent_and_how_rough_its_seams_are() -> None:
    """The runbook refers to both."""
    silent = a_segment(0, count=2).model_copy(update={"reason": "no credit"})
    seams = (
        Seam(scene_index=1, at_samples=5, kind="splice", level_step_db=0.2),
        Seam(scene_index=2, at_samples=9, kind="splice", level_step_db=-4.0),
    )
    track = a_track().model_copy(update={"duration_s": 7.5, "loudness_lufs": -14.0, "seams": seams})

    assert summary_of(silent).endswith("(no credit)")
    assert summary_of(track) == (
        "track: 7.5 s, -14.0 LUFS, 2 seams, largest step 4.0 dB before scene 3"
    )


@pytest.mark.parametrize(
    ("job_id", "key", "value", "belongs"),
    [
        ("film", b"film", b"{broken", True),
        ("film", b"other", b'{"job_id": "film"}', True),
        ("film", b"other", b'{"job_id": "serial"}', False),
        ("film", None, None, False),
        ("film", b"other", b'{"job_id": "\\u0066ilm"}', True),
        ("fi/lm", b"other", b'{"job_id": "fi\\/lm"}', True),
        ('a "b"', b"other", b"{}", True),
        ("\u00fcber", b"other", b"{}", True),
    ],
)
def test_a_record_that_cannot_belong_to_the_job_is_not_decoded(
    job_id: str, key: bytes | None, value: bytes | None, *, belongs: bool
) -> None:
    """An id that JSON may write in several ways is always decoded."""
    record = Record(topic="scene.requested", partition=0, offset=0, key=key, value=value)

    assert may_belong(record, job_id) is belongs
