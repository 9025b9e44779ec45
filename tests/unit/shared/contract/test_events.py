"""Events and their records: validation, ids and encoding."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from shared.contract.events import EVENTS, Event, JobFailed, SceneRequested, Stage, VideoStitched
from shared.contract.params import AudioParams, Scene, SyncMode, VideoRef
from shared.contract.topics import EVENT_TOPICS, topic_named, topic_of
from shared.errors import UndecodableError
from shared.kafka.codec import Headers, Record, Unreadable, decode, encode, lane_key, try_decode
from tests.support.event_builders import a_scene, a_segment
from tools.contract.event_examples import EXAMPLES

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BARE: dict[str, Any] = {"job_id": 42, "scene_index": 0, "scene_count": 2, "duration_s": 1.7}


def a_record(
    value: Any, *, topic: str = "scene.requested", headers: Headers = (), key: bytes | None = b"42"
) -> Record:
    """Return a record as a consumer receives it."""
    raw = value if isinstance(value, bytes) or value is None else json.dumps(value).encode()
    return Record(topic=topic, partition=0, offset=0, key=key, value=raw, headers=headers)


# --- models -------------------------------------------------------------------------------------


def test_missing_fields_get_the_contracts_defaults() -> None:
    """A minimal request is complete."""
    scene = SceneRequested.model_validate(BARE)

    assert scene.job_id == "42"
    assert scene.run == 1
    assert scene.params == AudioParams(
        fade_duration=1.0, sync_mode=SyncMode.TRIM, merge_with_video=False
    )
    assert scene.params.error_strategy == "continue_with_silence"
    assert scene.params.transition == "auto"


def test_unknown_fields_are_ignored() -> None:
    """A newer producer does not break an older consumer."""
    value = {**BARE, "shiny": 1, "params": {"fade_duration": 2, "shinier": True}}

    assert SceneRequested.model_validate(value).params.fade_duration == 2.0


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), "soon", None])
def test_a_duration_is_positive_and_finite(seconds: object) -> None:
    """Other values are rejected with the name of the field."""
    with pytest.raises(ValidationError, match="duration_s"):
        SceneRequested.model_validate({**BARE, "duration_s": seconds})


@pytest.mark.parametrize(
    ("field", "value"),
    [("run", 0), ("scene_index", -1), ("scene_count", 0), ("scene_index", 2)],
)
def test_run_and_scene_numbers_have_bounds(field: str, value: int) -> None:
    """A scene's index is below the count; a run counts from 1."""
    with pytest.raises(ValidationError, match=field):
        SceneRequested.model_validate({**BARE, field: value})


@pytest.mark.parametrize("fade", [-0.1, 30.1, float("nan"), float("-inf")])
def test_a_fade_is_between_0_and_30_seconds(fade: float) -> None:
    """Both limits are included."""
    with pytest.raises(ValidationError, match="fade_duration"):
        AudioParams(fade_duration=fade)
    assert [AudioParams(fade_duration=end).fade_duration for end in (0, 30)] == [0.0, 30.0]


@pytest.mark.parametrize("mode", ["", "TRIM", "loop", 1])
def test_an_unknown_sync_mode_is_rejected_with_the_known_ones(mode: object) -> None:
    """The message lists the valid values."""
    with pytest.raises(ValidationError, match="'trim', 'stretch' or 'compress'"):
        AudioParams.model_validate({"sync_mode": mode})


def test_start_and_end_give_the_exact_duration() -> None:
    """0.3 - 0.1 is 0.2."""
    scene = Scene.model_validate({"start_s": 0.1, "end_s": 0.3})

    assert scene.duration_s == 0.2


@pytest.mark.parametrize(
    ("times", "problem"),
    [
        ({}, "duration_s, or both start_s and end_s"),
        ({"start_s": 1}, "duration_s, or both start_s and end_s"),
        ({"start_s": 2, "end_s": 2}, "duration_s"),
        ({"start_s": 3, "end_s": 2}, "duration_s"),
        ({"start_s": -1, "end_s": 2}, "start_s"),
        ({"start_s": "a", "end_s": 2}, "numbers of seconds"),
        ({"start_s": [], "end_s": {}}, "numbers of seconds"),
        ({"start_s": "nan", "end_s": 2}, "finite"),
        ({"start_s": "inf", "end_s": "inf"}, "numbers of seconds"),
        (
            {"start_s": 0, "end_s": 2, "duration_s": 3},
            "duration_s is 3.0, but end_s - start_s is 2",
        ),
    ],
)
def test_invalid_times_are_rejected(times: dict[str, object], problem: str) -> None:
    """Missing, reversed or contradicting times; the error names the field."""
    with pytest.raises(ValidationError, match=problem):
        Scene.model_validate(times)


@pytest.mark.parametrize("value", [{}, {"url": "https://a/v.mp4", "object": "uploads/x"}])
def test_a_video_has_exactly_one_reference(value: dict[str, str]) -> None:
    """None and two are rejected."""
    with pytest.raises(ValidationError, match='give either "url" or "object"'):
        VideoRef.model_validate(value)


def test_a_stitched_video_without_scenes_is_rejected() -> None:
    """There is nothing to score."""
    with pytest.raises(ValidationError, match="scenes"):
        VideoStitched.model_validate({"job_id": "a", "scenes": []})


def test_events_are_immutable() -> None:
    """Assigning a field fails."""
    with pytest.raises(ValidationError, match="frozen"):
        a_scene().run = 2  # type: ignore[misc]


# --- ids ----------------------------------------------------------------------------------------


def test_an_event_published_again_has_the_same_id() -> None:
    """Also if its other fields differ: a rerun may measure other seconds and costs."""
    assert a_segment(1).event_id() == a_segment(1, generation_s=9.0, attempts=2).event_id()
    assert a_scene().event_id() == a_scene(description="other words").event_id()


def test_different_events_have_different_ids() -> None:
    """They differ by scene, run, job and kind; failures also by stage and scene."""
    failures = [
        JobFailed(job_id="job-1", run=1, stage=stage, code="c", message="m", scene_index=index)
        for stage in (Stage.MERGE, Stage.GENERATION)
        for index in (None, 0)
    ]
    events = [a_scene(0), a_scene(1), a_scene(0, run=2), a_scene(0, job_id="b"), a_segment(0)]

    ids = [event.event_id() for event in [*events, *failures, *EXAMPLES]]

    assert len(set(ids)) == len(ids)


def test_ids_of_published_events_never_change() -> None:
    """External consumers drop duplicates by these ids."""
    assert {event.kind: event.event_id() for event in EXAMPLES} == {
        "video.stitched": "1786aa05-a846-534d-90d7-1a61e12e8028",
        "scene.requested": "4759df73-b414-55c2-9331-d4ad0e7cec10",
        "segment.generated": "c12b65f2-47a8-5794-bf97-318353117bd4",
        "audio.merged": "299d55f6-2b88-5bb2-95c8-59aaf5139fd3",
        "video.muxed": "699df110-025e-5ae0-95cf-a4eb0ccef9cc",
        "job.failed": "1b644095-e796-5607-936f-2ff39fd62141",
        "prediction.ended": "88ebe50b-d72e-545e-9c8f-f92a6bbc1cbd",
        "scene.delayed": "071f3056-f63d-5408-b911-1b3613b7cdad",
        "job.cancelled": "ac9167ab-8536-59b8-8e64-ffe1e51ec1f4",
    }


# --- topics -------------------------------------------------------------------------------------


def test_every_event_has_one_topic() -> None:
    """Every topic has one event and a dead-letter topic."""
    assert {topic.event for topic in EVENT_TOPICS} == set(EVENTS)
    for event in EVENTS:
        assert topic_of(event).event is event
        assert topic_named(event.kind) is topic_of(event)
        assert topic_of(event).dead_letters == f"{event.kind}.dlq"
    assert topic_named("scene.requested.dlq") is None


# --- records ------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda event: event.kind)
def test_an_encoded_event_decodes_to_the_same_event(event: Event) -> None:
    """Value, key, id and trace context are equal."""
    encoded = encode(event, source="test", now=NOW, traceparent="00-aa-bb-01")

    decoded = decode(
        a_record(encoded.value, topic=encoded.topic, headers=encoded.headers, key=encoded.key)
    )

    assert decoded.event == event
    assert decoded.event_id == event.event_id()
    assert decoded.traceparent == "00-aa-bb-01"
    assert encoded.topic == event.kind
    assert encoded.key == event.job_id.encode()


def test_the_headers_follow_cloudevents_binary_mode() -> None:
    """Names and values are those of the Kafka binding."""
    headers = dict(encode(a_scene(job_id="häuser 🎬"), source="api", now=NOW).headers)

    assert headers == {
        "ce_specversion": b"1.0",
        "ce_id": a_scene(job_id="häuser 🎬").event_id().encode(),
        "ce_type": b"segue.scene.requested.v1",
        "ce_source": b"/segue/api",
        "ce_time": b"2026-01-01T00:00:00+00:00",
        "ce_subject": "häuser 🎬".encode(),
        "content-type": b"application/json",
    }


def test_a_record_without_headers_is_decoded() -> None:
    """Upstream may write no headers; the event gets its derived id."""
    decoded = decode(a_record(BARE, key=None))

    assert decoded.event == SceneRequested.model_validate(BARE)
    assert decoded.event_id == decoded.event.event_id()
    assert decoded.traceparent is None


@pytest.mark.parametrize("ce_type", ["com.example.scene", "scene.requested", ""])
def test_another_producers_type_is_ignored(ce_type: str) -> None:
    """The topic determines the event, and the value is validated."""
    headers = (("ce_type", ce_type.encode()), ("ce_id", b"theirs"))

    assert decode(a_record(BARE, headers=headers)).event_id == "theirs"


@pytest.mark.parametrize(
    ("ce_type", "problem"),
    [
        ("segue.scene.requested.v2", "a version this service does not know"),
        ("segue.audio.merged.v1", "does not belong on this topic"),
        ("segue.scene.requested.vX", "does not belong on this topic"),
    ],
)
def test_segues_own_types_are_checked(ce_type: str, problem: str) -> None:
    """A newer version and an event of another topic are rejected."""
    with pytest.raises(UndecodableError, match=problem):
        decode(a_record(BARE, headers=(("ce_type", ce_type.encode()),)))


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (None, "no value"),
        (b"", "no value"),
        (b"not json", "JSON"),
        (b"\xff\xfe", "JSON"),
        (b"[" * 100_000, "JSON"),
        (b"[]", "value: "),
        (b"{}", "job_id: is required; duration_s: is required; scene_index: is required"),
        (b'{"job_id": "a/b"}', "job_id: must not contain"),
        (b'{"job_id": "' + "🎵".encode() * 2560 + b'"}', "2560 characters"),
        (b'{"job_id": 1.5}', "job_id: must be a string or an integer"),
        (b'{"job_id": "\\ud83d"}', "JSON|job_id"),
        (b'{"job_id": 1, "scene_index": 0, "scene_count": 1, "duration_s": NaN}', "duration_s"),
        (b'{"job_id": 1, "scene_index": 0, "scene_count": 1, "duration_s": 1e999}', "duration_s"),
        (b" " * 1_000_001, "1000001 bytes"),
    ],
)
def test_an_invalid_value_is_rejected_with_its_field(value: bytes | None, problem: str) -> None:
    """The reason is stored with the dead letter."""
    with pytest.raises(UndecodableError, match=problem):
        decode(a_record(value))


def test_an_invalid_nested_field_is_named_by_its_path() -> None:
    """For example `scenes[1].duration_s`."""
    value = {"job_id": "a", "scenes": [{"duration_s": 1}, {"duration_s": -1}]}

    with pytest.raises(UndecodableError, match=r"scenes\[1\]\.duration_s: .*greater than 0"):
        decode(a_record(value, topic="video.stitched"))


def test_many_problems_are_shortened() -> None:
    """The message has five problems and the number of the others."""
    value = {"scenes": [{"duration_s": -1}]}  # and nine required fields are missing

    with pytest.raises(UndecodableError, match=r"(; [^;]+){4} \(and \d more\)$"):
        decode(a_record(value, topic="audio.merged"))


@pytest.mark.parametrize("topic", ["scene.requested.dlq", "weather"])
def test_a_topic_without_events_is_rejected(topic: str) -> None:
    """Dead-letter topics and unknown topics."""
    with pytest.raises(UndecodableError, match="carries no events"):
        decode(a_record(BARE, topic=topic))


def test_an_undecodable_record_has_the_lane_of_its_key() -> None:
    """Without a key it has the lane of the empty key."""
    assert lane_key(try_decode(a_record(BARE, key=b"other"))) == "42"
    assert lane_key(try_decode(a_record(b"junk", key="häuser".encode()))) == "häuser"
    assert lane_key(try_decode(a_record(b"junk", key=b"\xff"))) == "�"
    assert lane_key(try_decode(a_record(b"junk", key=None))) == ""


_junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
EVENTS_BY_KIND = {event.kind: event for event in EVENTS}
_FIELDS = sorted({name for event in EVENTS for name in event.model_fields})
_values = st.binary() | st.dictionaries(st.sampled_from(_FIELDS), _junk).map(
    lambda value: json.dumps(value).encode()
)
_values |= st.fixed_dictionaries({}, optional=dict.fromkeys(BARE, _junk)).map(
    lambda changes: json.dumps({**BARE, **changes}).encode()  # often an event
)
_headers = st.lists(
    st.tuples(st.sampled_from(["ce_type", "ce_id", "traceparent"]), st.binary() | st.none())
)


@given(topic=st.sampled_from([event.kind for event in EVENTS]), value=_values, headers=_headers)
def test_any_record_is_decoded_to_its_event_or_rejected_with_a_reason(
    topic: str, value: bytes, headers: Any
) -> None:
    """Nothing else is raised; a value that the event's model rejects is never an event."""
    record = a_record(value, topic=topic, headers=tuple(headers))
    got = try_decode(record)
    try:
        expected = EVENTS_BY_KIND[topic].model_validate_json(value)
    except ValidationError:
        expected = None

    assert got.record is record
    if isinstance(got, Unreadable):
        assert str(got.error)
        assert expected is None or record.header("ce_type") is not None
    else:
        assert expected is not None
        assert got.event == expected


@given(
    index=st.integers(0, 3),
    text=st.text(st.characters(exclude_categories=["Cs"])),
    seconds=st.floats(1e-6, 86_400),
    run=st.integers(1, 10**6),
)
def test_any_valid_event_decodes_to_itself(index: int, text: str, seconds: float, run: int) -> None:
    """Text and numbers survive JSON encoding."""
    event = a_scene(index, description=text, prompt=text, duration_s=seconds, run=run)
    encoded = encode(event, source="test", now=NOW)

    assert decode(a_record(encoded.value, headers=encoded.headers)).event == event


@pytest.mark.parametrize(
    ("topic", "name"),
    [
        ("video.stitched", "scenes"),
        ("audio.merged", "seams"),
        ("audio.merged", "silent_scenes"),
        ("segment.generated", "warnings"),
        ("video.muxed", "warnings"),
    ],
)
def test_a_list_of_many_invalid_items_is_rejected_at_its_first(topic: str, name: str) -> None:
    """A megabyte of them blocked a service for 12 s and took 550 MB: one error each."""
    value = b'{"job_id": "j", "' + name.encode() + b'": [' + b"{}," * 300_000 + b"{}]}"
    with pytest.raises(ValidationError) as caught:
        EVENTS_BY_KIND[topic].model_validate_json(value)
    indexes = [error["loc"][1] for error in caught.value.errors() if error["loc"][:2] == (name, 0)]

    assert set(indexes) == {0}
    assert not [error for error in caught.value.errors() if error["loc"][:2] == (name, 1)]
    assert caught.value.error_count() < 20
    with pytest.raises(UndecodableError):
        decode(a_record(value, topic=topic))
