"""Histories: what real runs put on the topics is read, planned and projected as it was then.

Each file was recorded from the running services and is never edited: its first line says what it
is and how it ended, every other is a record as the broker had it. Old events stay readable for
ever; whoever breaks one of these would break somebody's replay.
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
    """One recorded stream, in the order in which the broker took it."""

    expected: dict[str, Any]
    records: tuple[Record, ...]

    @property
    def events(self) -> list[tuple[Event, datetime]]:
        """What could be read, and when it was said."""
        return [
            (one.event, _moment(one.record))
            for one in map(try_decode, self.records)
            if isinstance(one, Envelope)
        ]


def _moment(record: Record) -> datetime:
    assert record.timestamp_ms is not None, "brokers stamp every record"
    return datetime.fromtimestamp(record.timestamp_ms / 1000, UTC)


@cache
def history(name: str) -> History:
    """The history of this name."""
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


def folded(events: list[tuple[Event, datetime]]) -> RunView:
    """The view that the api would show after these events."""
    view: RunView | None = None
    for event, at in events:
        if (told := run_event(event)) is not None:
            view = project(view, told, at=at).view
    assert view is not None, "a history tells of a run"
    return view


def test_there_are_histories() -> None:
    """Tests over no files would pass."""
    assert {"classic", "bare_upstream", "silence_and_failure"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_record_is_read_as_it_was(name: str) -> None:
    """Unreadable are those that were it then."""
    told = history(name)
    unreadable = [one for one in map(try_decode, told.records) if isinstance(one, Unreadable)]

    assert len(unreadable) == told.expected["unreadable"]
    assert {event.job_id for event, _ in told.events} == {told.expected["job_id"]}


@pytest.mark.parametrize("name", NAMES)
def test_an_event_keeps_its_id(name: str) -> None:
    """Derived then, derived now: whoever drops repetitions still recognises them."""
    for record in history(name).records:
        received = try_decode(record)
        if isinstance(received, Envelope) and record.header("ce_id") is not None:
            assert received.event.event_id() == record.header("ce_id")


@pytest.mark.parametrize("name", NAMES)
def test_an_event_said_again_says_the_same(name: str) -> None:
    """A replay through today's code loses nothing of it."""
    for event, at in history(name).events:
        again = encode(event, source="test", now=at)
        record = Record(topic=again.topic, partition=0, offset=0, key=again.key, value=again.value)
        received = try_decode(record)
        assert isinstance(received, Envelope)
        assert received.event == event


@pytest.mark.parametrize("name", NAMES)
def test_the_run_ends_as_it_did(name: str) -> None:
    """Through the projection of today."""
    told = history(name)
    view = folded(told.events)

    assert (view.job_id, view.run) == (told.expected["job_id"], told.expected["run"])
    assert view.status == told.expected["status"]
    assert view.percentage == told.expected["percentage"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(20))
def test_it_ends_so_in_any_order_and_with_repetitions(name: str, seed: int) -> None:
    """Topics are read side by side, and records come again."""
    told = history(name)
    chance = random.Random(seed)
    events = told.events + chance.sample(told.events, 3)
    chance.shuffle(events)

    assert folded(events).status == told.expected["status"]


@pytest.mark.parametrize("name", NAMES)
def test_the_scenes_would_be_planned_as_they_were(name: str) -> None:
    """Where a segment lies on its track, and its window, follow from what came before it."""
    events = [event for event, _ in history(name).events]
    made = {event.scene_index: event for event in events if isinstance(event, SegmentGenerated)}
    scenes = [event for event in events if isinstance(event, SceneRequested)]
    state = Continuation(run=history(name).expected["run"])
    for scene in sorted(scenes, key=lambda scene: scene.scene_index):
        segment = made[scene.scene_index]
        plan = plan_scene(state, scene, window_s=WINDOW_S)
        assert plan.start_samples == segment.start_samples
        assert plan.samples == segment.samples
        assert plan.join_samples == segment.join_samples
        assert plan.window_samples == segment.window_samples
        state = state.after(segment)
    assert state.scene_done == len(made) - 1 >= 0
