"""The published contract: generated files are up to date, released schemas stay readable."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from shared.contract.events import EVENTS, Event
from shared.contract.topics import EVENT_TOPICS
from tests.schemas.compat import compatible
from tools.contract.event_examples import EXAMPLES
from tools.contract.schemas import event_schema, generated, write

ROOT = Path(__file__).resolve().parents[3]
RELEASED = ROOT / "tests" / "schemas" / "released"
KINDS = {event.kind: event for event in EVENTS}
Schema = dict[str, Any]


@pytest.mark.parametrize("name", generated())
def test_a_generated_file_is_up_to_date(name: str) -> None:
    """After a change of an event, run `make schemas`."""
    assert (ROOT / name).read_text(encoding="utf-8") == generated()[name], "run `make schemas`"


def test_writing_changes_only_outdated_files(tmp_path: Path) -> None:
    """A second run changes nothing; a modified file is written again."""
    assert len(write(tmp_path)) == len(generated())
    assert write(tmp_path) == []

    (tmp_path / "docs" / "events.md").write_text("old", encoding="utf-8")

    assert write(tmp_path) == [tmp_path / "docs" / "events.md"]


@pytest.mark.parametrize(
    "path", sorted(RELEASED.rglob("*.json")), ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_an_event_is_compatible_with_its_released_schema(path: Path) -> None:
    """Topics contain old records, and services are upgraded one after another."""
    released = json.loads(path.read_text(encoding="utf-8"))

    assert compatible(released, event_schema(KINDS[path.stem])) == []


def test_every_event_of_the_first_release_is_checked() -> None:
    """The released schemas are all present."""
    assert {path.stem for path in (RELEASED / "v1").iterdir()} >= {
        "audio.merged",
        "job.cancelled",
        "job.failed",
        "scene.requested",
        "segment.generated",
        "video.muxed",
        "video.stitched",
    }


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.kind)
def test_an_example_is_valid_and_decodes_to_itself(example: Event) -> None:
    """The examples in the documents can be copied."""
    value = json.loads(example.model_dump_json())

    Draft202012Validator(event_schema(type(example))).validate(value)
    assert type(example).model_validate_json(json.dumps(value)) == example


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("video.stitched", {"job_id": 7, "scenes": [{"start_s": 0, "end_s": 1.5}]}),
        ("scene.requested", {"job_id": 7, "scene_index": 0, "scene_count": 1, "duration_s": 2}),
    ],
)
def test_the_schema_allows_what_upstream_may_write(kind: str, value: Schema) -> None:
    """Integers as job ids, and times instead of a duration, are part of the contract."""
    Draft202012Validator(event_schema(KINDS[kind])).validate(value)
    KINDS[kind].model_validate(value)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("video.stitched", {"job_id": 7, "scenes": []}),
        ("video.stitched", {"job_id": 7, "scenes": [{"start_s": 0}]}),
        ("video.stitched", {"job_id": 7, "scenes": [{"duration_s": 0}]}),
        ("video.stitched", {"job_id": 7, "scenes": [{"duration_s": 1}], "video": {}}),
        (
            "video.stitched",
            {"job_id": 7, "scenes": [{"duration_s": 1}], "video": {"url": "a", "object": "b"}},
        ),
        ("scene.requested", {"job_id": 7, "scene_index": -1, "scene_count": 1, "duration_s": 2}),
        ("scene.requested", {"job_id": 7.5, "scene_index": 0, "scene_count": 1, "duration_s": 2}),
    ],
)
def test_the_schema_rejects_what_the_consumer_rejects(kind: str, value: Schema) -> None:
    """A value that the published schema accepts does not become a dead letter."""
    assert not Draft202012Validator(event_schema(KINDS[kind])).is_valid(value)
    with pytest.raises(ValueError, match="validation error"):
        KINDS[kind].model_validate(value)


# --- schema compatibility -------------------------------------------------------------------


def _at(schema: Any, path: str) -> Any:
    for part in path.split("/"):
        schema = schema[part]
    return schema


def _without(path: str) -> Callable[[Schema], object]:
    parent, _, name = path.rpartition("/")
    return lambda schema: _at(schema, parent).pop(name)


def _with(path: str, **changes: Any) -> Callable[[Schema], object]:
    return lambda schema: _at(schema, path).update(changes)


def _requiring(name: str) -> Callable[[Schema], object]:
    return lambda schema: schema["required"].append(name)


BREAKS: dict[str, tuple[Callable[[Schema], object], str]] = {
    "a field removed": (_without("properties/mood"), "mood: was removed"),
    "a nested field removed": (
        _without("$defs/AudioParams/properties/transition"),
        "params.transition: was removed",
    ),
    "a field now required": (_requiring("mood"), "mood: is now required"),
    "a new required field": (
        lambda s: (s["properties"].update(key={"type": "string"}), s["required"].append("key")),
        "key: is new and required",
    ),
    "a required field now optional": (
        lambda s: s["required"].remove("duration_s"),
        "duration_s: is now optional",
    ),
    "another type": (
        _with("properties/description", type="integer"),
        "string is no longer accepted",
    ),
    "a narrower type": (
        _with("properties/duration_s", type="integer"),
        "number is no longer accepted",
    ),
    "a wider type": (_with("properties/scene_index", type="number"), "may now be number"),
    "null no longer accepted": (
        _with("properties/mood", anyOf=[{"type": "string"}]),
        "mood: null is no longer accepted",
    ),
    "null now accepted": (
        lambda s: s["properties"].update(
            description={"default": "", "anyOf": [{"type": "string"}, {"type": "null"}]}
        ),
        "description: may now be null",
    ),
    "a choice removed": (
        lambda s: _at(s, "$defs/SyncMode/enum").remove("stretch"),
        "params.sync_mode: 'stretch' is no longer accepted",
    ),
    "a choice added": (
        lambda s: _at(s, "$defs/SyncMode/enum").append("loop"),
        "params.sync_mode: 'loop' is new",
    ),
    "choices for a free text": (_with("properties/description", enum=["a"]), "choices changed"),
    "a bound raised": (
        _with("properties/scene_index", minimum=1),
        "old records may be out of range",
    ),
    "a bound lowered": (_with("properties/scene_index", minimum=-1), "old consumers reject"),
    "a new upper bound": (_with("properties/run", maximum=9), "old records may be out of range"),
    "an upper bound removed": (
        _without("$defs/AudioParams/properties/fade_duration/maximum"),
        "params.fade_duration: maximum changed from 30",
    ),
    "a length bound": (_with("properties/description", maxLength=10), "maxLength"),
    "a pattern": (_with("properties/description", pattern="^a"), "pattern changed from nothing"),
    "another default": (_with("properties/run", default=2), "run: default changed from 1 to 2"),
    "a nested default": (
        lambda s: _at(s, "properties/params/default").update(transition="fade"),
        "params: default changed",
    ),
    "an unsupported keyword": (
        _with("$defs/VideoRef", oneOf=[{"required": ["url"]}]),
        "video: oneOf changed",
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_an_incompatible_change_is_found(name: str) -> None:
    """Every kind of incompatible change of a real event is reported with its field."""
    change, message = BREAKS[name]
    old = event_schema(KINDS["scene.requested"])
    new = copy.deepcopy(old)
    change(new)

    problems = compatible(old, new)

    assert [line for line in problems if message in line], problems


def test_the_items_of_a_list_are_compared() -> None:
    """The scenes of `video.stitched` are part of the contract."""
    old = event_schema(KINDS["video.stitched"])
    new = copy.deepcopy(old)
    del new["$defs"]["Scene"]["properties"]["mood"]

    assert compatible(old, new) == ["scenes[].mood: was removed, a released field must stay"]


def test_a_new_optional_field_is_compatible() -> None:
    """So are its default inside a nested default, and a new description."""
    old = event_schema(KINDS["scene.requested"])
    new = copy.deepcopy(old)
    params = new["$defs"]["AudioParams"]["properties"]
    params["style"] = {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None}
    new["properties"]["params"]["default"]["style"] = None
    new["properties"]["run"]["description"] = "another text"

    assert compatible(old, new) == []


def test_a_closed_object_cannot_grow() -> None:
    """A new field breaks readers that reject unknown fields."""
    old = {"type": "object", "additionalProperties": False, "properties": {}}
    new = {**old, "properties": {"a": {"type": "string"}}}

    assert compatible(old, new) == ["a: is new, old consumers reject unknown fields"]


_bounds = st.fixed_dictionaries(
    {"type": st.just("integer")},
    optional={"minimum": st.integers(-2, 2), "maximum": st.integers(-2, 2)},
)
_choices = st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True).map(
    lambda choices: {"type": "string", "enum": choices}
)
_plain = st.one_of(_bounds, _choices, st.just({"type": "null"}), st.just({"type": "number"}))
_fields = st.one_of(
    _plain,
    st.lists(_plain, min_size=2, max_size=2).map(lambda options: {"anyOf": options}),
    _plain.map(lambda items: {"type": "array", "items": items}),
)


@st.composite
def _schemas(draw: st.DrawFn) -> Schema:
    properties = draw(st.dictionaries(st.sampled_from("xy"), _fields, min_size=1, max_size=2))
    required = [name for name in sorted(properties) if draw(st.booleans())]
    return {"type": "object", "properties": properties, "required": required}


_values = st.one_of(
    st.none(),
    st.integers(-3, 3),
    st.just(0.5),
    st.sampled_from("abcd"),
    st.lists(st.integers(-3, 3)),
)


@st.composite
def _changes(draw: st.DrawFn) -> tuple[Schema, Schema]:
    """Return a schema, and the same with one field added, changed, or its `required` inverted."""
    old = draw(_schemas())
    new = copy.deepcopy(old)
    name = draw(st.sampled_from("xy"))
    if draw(st.booleans()):
        new["properties"][name] = draw(_fields)
    required = {*new["required"]} ^ ({name} if draw(st.booleans()) else set())
    new["required"] = sorted(required & new["properties"].keys())
    return old, new


@settings(max_examples=300)
@given(change=_changes(), value=st.dictionaries(st.sampled_from("xy"), _values))
def test_compatible_schemas_accept_the_same_values(
    change: tuple[Schema, Schema], value: dict[str, Any]
) -> None:
    """A JSON schema validator accepts a value with both schemas, or with neither.

    `value` has only fields that both schemas define.
    """
    old, new = change
    known = old["properties"].keys() & new["properties"].keys()
    value = {name: item for name, item in value.items() if name in known}
    if compatible(old, new):
        return
    verdicts = [Draft202012Validator(schema).is_valid(value) for schema in (old, new)]
    assert verdicts[0] == verdicts[1], (old, new, value)


@given(schema=_schemas())
def test_a_schema_is_compatible_with_itself(schema: Schema) -> None:
    """For any schema."""
    assert compatible(schema, copy.deepcopy(schema)) == []


# --- the AsyncAPI document ------------------------------------------------------------------


@pytest.fixture(scope="module")
def asyncapi() -> Schema:
    """Return the committed document."""
    document: Schema = yaml.safe_load((ROOT / "docs" / "asyncapi.yaml").read_text(encoding="utf-8"))
    return document


def _references(node: Any) -> list[str]:
    if isinstance(node, list):
        return [reference for item in node for reference in _references(item)]
    if not isinstance(node, dict):
        return []
    own = [node["$ref"]] if "$ref" in node else []
    return own + [reference for item in node.values() for reference in _references(item)]


def test_every_reference_of_the_document_resolves(asyncapi: Schema) -> None:
    """No reference is dangling."""
    references = _references(asyncapi)

    assert references
    for reference in references:
        assert _at(asyncapi, reference.removeprefix("#/"))


def test_every_topic_and_its_dead_letters_are_channels(asyncapi: Schema) -> None:
    """They have the partitions and the retention that the admin client sets."""
    channels = asyncapi["channels"]
    assert set(channels) == {
        name for topic in EVENT_TOPICS for name in (topic.name, topic.dead_letters)
    }
    for name, channel in channels.items():
        kafka = channel["bindings"]["kafka"]
        assert (channel["address"], kafka["topic"], kafka["bindingVersion"]) == (
            name,
            name,
            "0.5.0",
        )
        assert kafka["partitions"] == 4
        days = 90 if name.endswith(".dlq") else 14
        assert kafka["topicConfiguration"]["retention.ms"] == days * 86_400_000


def test_every_writer_and_reader_has_its_operation(asyncapi: Schema) -> None:
    """As in `shared/contract/topics.py`; a reader also sends dead letters."""
    documented = {
        (operation["tags"][0]["name"], operation["action"], operation["channel"]["$ref"])
        for operation in asyncapi["operations"].values()
    }
    expected = set()
    for topic in EVENT_TOPICS:
        here, dead = f"#/channels/{topic.name}", f"#/channels/{topic.dead_letters}"
        expected |= {(writer, "send", here) for writer in topic.written_by}
        expected |= {(reader, "receive", here) for reader in topic.read_by}
        expected |= {(reader, "send", dead) for reader in topic.read_by}
    assert documented == expected


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.kind)
def test_every_message_has_a_valid_example(asyncapi: Schema, event: type[Event]) -> None:
    """Payload and headers are valid; the key is the job id as text."""
    message = asyncapi["components"]["messages"][event.__name__]
    assert message["name"] == event.ce_type()
    assert message["bindings"]["kafka"]["key"]["type"] == "string"
    for example in message["examples"]:
        for part in ("payload", "headers"):
            schema = {**message[part], "components": asyncapi["components"]}
            if part in example:
                Draft202012Validator(schema).validate(example[part])
    assert message["examples"]
