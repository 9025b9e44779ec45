"""Builds `docs/events.md`, the reference of every event, from the models."""

import json
from typing import Any

from shared.contract.events import Event
from shared.contract.topics import DAY_MS, EVENT_TOPICS, Topic
from shared.kafka.admin import required_topics
from shared.settings import KafkaSettings
from tools.contract.asyncapi import example_headers, example_of, summary_of

Schema = dict[str, Any]
_HEAD = """\
# Events

Generated from `shared/contract/events.py` and `shared/contract/topics.py` by `make schemas`;
do not edit.

Every record is keyed by `job_id`, so the events of one job are in order. The value is JSON, the
headers follow CloudEvents 1.0 in Kafka's binary mode (`ce_…`). Upstream may write JSON without
headers. Readers ignore unknown fields; of a released field only the description changes.
Machine-readable: [asyncapi.yaml](asyncapi.yaml), and one JSON schema per event in `tests/schemas`.

| Topic | Written by | Read by | Meaning |
|---|---|---|---|
"""
_DEAD_LETTERS = """\
## Dead letters

Each topic has a dead-letter topic `<topic>.dlq`. A record that cannot be processed is published
there with its key, value and headers unchanged, and with headers for the reason (`dlq-reason`,
`dlq-exception`, `dlq-stack`), the original record (`dlq-origin-topic`, `dlq-origin-partition`,
`dlq-origin-offset`, `dlq-origin-timestamp`), the number of attempts (`dlq-attempts`; 0: parked
behind an earlier dead letter of its run), the times of the first and the last failure
(`dlq-first-failed-at`, `dlq-failed-at`) and the service (`dlq-service`, `dlq-service-version`).
Later records of the same run on the same topic are parked behind it.

A record that is too large for its dead letter is truncated: `dlq-truncated-from` is the size of its
value, `dlq-original-object` the object with the whole record. Bytes that could not be decoded have
`dlq-content` (`batch`, `record`, or `value` if only header names are invalid) and
`dlq-origin-last-offset`, the last of the offsets that they cover.

A record that an operator requeues (`segue dlq requeue`) is published again to its topic and
partition, with its original key, value and headers and six more headers: the requeue
(`dlq-requeue`), the dead letter (`dlq-requeue-of`), how often the record was requeued after it
failed itself (`dlq-requeues`), its first failure and first original record (`dlq-first-failed-at`,
`dlq-first-origin`), and a mark on the last record of its run (`dlq-requeue-last`). They are kept if
it fails again. Other readers may ignore them.
"""


def page() -> str:
    """Return the text of the page."""
    parts = [_HEAD + "".join(_row(topic) for topic in EVENT_TOPICS)]
    values: dict[str, Schema] = {}
    for topic in EVENT_TOPICS:
        assert topic.event is not None, "event topics carry events"
        schema = topic.event.model_json_schema(mode="validation")
        values.update(schema.get("$defs", {}))
        parts.append(_event(topic, topic.event, schema))
    parts.append("## Values\n")
    parts.extend(_part(name, schema) for name, schema in sorted(values.items()))
    parts.append(_DEAD_LETTERS)
    return "\n".join(parts)


def _row(topic: Topic) -> str:
    assert topic.event is not None, "event topics carry events"
    writers, readers = ", ".join(topic.written_by), ", ".join(topic.read_by)
    anchor = topic.name.replace(".", "")
    return f"| [`{topic.name}`](#{anchor}) | {writers} | {readers} | {summary_of(topic.event)} |\n"


def _event(topic: Topic, event: type[Event], schema: Schema) -> str:
    example = example_of(event)
    headers = example_headers(example, topic)
    header_lines = [f"{name}: {value}" for name, value in headers.items()]
    head = "\n".join([*header_lines, "", ""]) if header_lines else ""
    value = json.dumps(example.model_dump(mode="json"), indent=2, ensure_ascii=False)
    lines = [
        f"## {topic.name}\n",
        f"{_about(event)}\n",
        (
            f"Type `{event.ce_type()}`, retention {_retention(topic)}, "
            f"dead letters on `{topic.dead_letters}`.\n"
        ),
        _fields(schema),
        "```json" if not header_lines else "```",
        f"{head}{value}",
        "```\n",
    ]
    return "\n".join(lines)


def _about(event: type[Event]) -> str:
    paragraphs = (event.__doc__ or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _retention(topic: Topic) -> str:
    topics = {new.name: new for new in required_topics(KafkaSettings.model_construct())}
    config = topics[topic.name].topic_configs
    return f"{int(config['retention.ms']) // DAY_MS} days"


def _part(name: str, schema: Schema) -> str:
    about = " ".join(schema.get("description", "").split())
    if "enum" in schema:
        choices = ", ".join(f"`{choice}`" for choice in schema["enum"])
        return f"### {name}\n\n{about} One of {choices}.\n"
    return f"### {name}\n\n{about}\n\n{_fields(schema)}"


def _fields(schema: Schema) -> str:
    required = set(schema.get("required", ()))
    rows = ["| Field | Type | Default | Meaning |", "|---|---|---|---|"]
    for name, field in schema["properties"].items():
        default = "required" if name in required else _default(field)
        rows.append(f"| `{name}` | {_type(field)} | {default} | {field.get('description', '')} |")
    return "\n".join([*rows, ""])


def _default(field: Schema) -> str:
    if "default" not in field or field["default"] is None:
        return ""
    default = field["default"]
    return "default object" if isinstance(default, dict) else f"`{json.dumps(default)}`"


def _type(field: Schema) -> str:
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in field:
        return " or ".join(_type(option) for option in field["anyOf"])
    if "const" in field or "enum" in field:
        choices = field.get("enum", [field.get("const")])
        return " or ".join(f"`{choice}`" for choice in choices)
    if field["type"] == "array":
        return f"list of {_type(field['items'])}"
    return f"{field['type']}{_bounds(field)}"


def _bounds(field: Schema) -> str:
    words = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{word} {field[name]}" for name, word in words.items() if name in field]
    return " " + ", ".join(bounds) if bounds else ""
