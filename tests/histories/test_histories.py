"""Recorded topics of real runs are decoded, planned and projected as when they were recorded.

Each file was recorded from running services and is never edited: its first line has the expected
results, each other line is a record of the broker. Published events must stay readable: a change
that breaks a history breaks replays.
"""

import json
import random
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from services.api.domain.run_view import RunView, project, run_event
from services.generator.scene.plan import Continuation, plan_scene
from shared.contract.events import Event, SceneRequested, SegmentGenerated
from shared.kafka.codec import Envelope, Record, Unreadable, encode, try_decode

FILES = sorted(Path(__file__).parent.glob("*.jsonl"))
NAMES = [path.stem for path in FILES]
WINDOW_S = 1  # the generator's default when they were recorded


@dataclass(frozen=True)
class History:
    """The records of a run, in the order of the broker, and the expected results."""

    expected: dict[str, Any]
    records: tuple[Record, ...]

    @property
    def events(self) -> list[tuple[Event, datetime]]:
        """Return the decodable events with their timestamps."""
        return [
            (received.event, _timestamp(received.record))
            for received in map(try_decode, self.records)
            if isinstance(received, Envelope)
        ]


def _timestamp(record: Record) -> datetime:
    assert record.timestamp_ms is not None, "the broker sets the timestamp"
    return datetime.fromtimestamp(record.timestamp_ms / 1000, UTC)


@cache
def history(name: str) -> History:
    """Return the history of this name."""
    path = next(path for path in FILES if path.stem == name)
    head, *lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return History(head["expected"], tuple(_record(line) for line in lines))


def _record(line: dict[str, Any]) -> Record:
    return Record(
        topic=line["topic"],
        partition=line["partition"],
        offset=line["offset"],
        key=None if line["key"] is None else line["key"].encode(),
        value=None if line["value"] is None else line["value"].encode(),
        headers=tuple((name, value.encode()) for name, value in line["headers"]),
        timestamp_ms=line["timestamp_ms"],
    )


def projected(events: list[tuple[Event, datetime]]) -> RunView:
    """Return the view that the api shows after these events."""
    view: RunView | None = None
    for event, at in events:
        if (of_run := run_event(event)) is not None:
            view = project(view, of_run, at=at).view
    assert view is not None, "a history has events of a run"
    return view


def test_the_histories_exist() -> None:
    """Without files, the other tests would not run."""
    assert {"classic", "bare_upstream", "silence_and_failure"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_record_is_decoded_as_when_it_was_recorded(name: str) -> None:
    """The same records are undecodable."""
    recorded = history(name)
    unreadable = [r for r in map(try_decode, recorded.records) if isinstance(r, Unreadable)]

    assert len(unreadable) == recorded.expected["unreadable"]
    assert {event.job_id for event, _ in recorded.events} == {recorded.expected["job_id"]}


@pytest.mark.parametrize("name", NAMES)
def test_an_event_keeps_its_id(name: str) -> None:
    """The derived id is the recorded one: consumers that deduplicate still recognise the event."""
    for record in history(name).records:
        received = try_decode(record)
        if isinstance(received, Envelope) and record.header("ce_id") is not None:
            assert received.event.event_id() == record.header("ce_id")


@pytest.mark.parametrize("name", NAMES)
def test_a_republished_event_is_equal(name: str) -> None:
    """Encoding and decoding with today's code loses nothing."""
    for event, at in history(name).events:
        encoded = encode(event, source="test", now=at)
        record = Record(
            topic=encoded.topic, partition=0, offset=0, key=encoded.key, value=encoded.value
        )
        received = try_decode(record)
        assert isinstance(received, Envelope)
        assert received.event == event


@pytest.mark.parametrize("name", NAMES)
def test_the_projection_ends_in_the_recorded_state(name: str) -> None:
    """Run, status and percentage are the recorded ones."""
    recorded = history(name)
    view = projected(recorded.events)

    assert (view.job_id, view.run) == (recorded.expected["job_id"], recorded.expected["run"])
    assert view.status == recorded.expected["status"]
    assert view.percentage == recorded.expected["percentage"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(20))
def test_the_projection_ends_in_the_recorded_state_in_any_order(name: str, seed: int) -> None:
    """Topics are consumed independently, and records are redelivered."""
    recorded = history(name)
    chance = random.Random(seed)
    events = recorded.events + chance.sample(recorded.events, 3)
    chance.shuffle(events)

    assert projected(events).status == recorded.expected["status"]


@pytest.mark.parametrize("name", NAMES)
def test_the_generator_plans_the_scenes_as_recorded(name: str) -> None:
    """The place of a segment on the track, and its window, follow from the segments before it."""
    events = [event for event, _ in history(name).events]
    segments = {event.scene_index: event for event in events if isinstance(event, SegmentGenerated)}
    scenes = [event for event in events if isinstance(event, SceneRequested)]
    state = Continuation(run=history(name).expected["run"])
    for scene in sorted(scenes, key=lambda scene: scene.scene_index):
        segment = segments[scene.scene_index]
        plan = plan_scene(state, scene, window_s=WINDOW_S)
        assert plan.start_samples == segment.start_samples
        assert plan.samples == segment.samples
        assert plan.join_samples == segment.join_samples
        assert plan.window_samples == segment.window_samples
        state = state.after(segment)
    assert state.scene_done == len(segments) - 1 >= 0
