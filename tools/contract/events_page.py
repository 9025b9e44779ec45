"""Events page: `docs/events.md`, every event for people, from the same models.

Pure.
"""

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
headers follow CloudEvents 1.0 in Kafka's binary mode (`ce_…`). Upstream may write bare JSON with no
headers at all. Readers ignore fields they do not know; of a released field nothing but its
description changes. The same for machines: [asyncapi.yaml](asyncapi.yaml) and one JSON schema per
event in `tests/schemas`.

| Topic | Written by | Read by | Says |
|---|---|---|---|
"""
_DEAD_LETTERS = """\
## Dead letters

Beside each topic lies `<topic>.dlq`. A record that cannot be worked off goes there whole: its key,
value and headers as they were, with headers that say why (`dlq-reason`, `dlq-exception`,
`dlq-stack`), where it was (`dlq-origin-topic`, `dlq-origin-partition`, `dlq-origin-offset`,
`dlq-origin-timestamp`), how often it was tried (`dlq-attempts`; 0 means that it was parked behind
an earlier dead letter of its run), when it first failed and when it was given up
(`dlq-first-failed-at`, `dlq-failed-at`) and by whom (`dlq-service`, `dlq-service-version`). Later
records of the same run on the same topic are parked behind it.

A record that an operator put back (`segue dlq requeue`) lies on its topic and partition once more,
with its key, value and headers as they were first and six headers of ours: which requeue it was
(`dlq-requeue`), of which dead letter (`dlq-requeue-of`), how often the record was put back after it
had failed itself (`dlq-requeues`), when it failed first and where it lay then
(`dlq-first-failed-at`, `dlq-first-origin`), and, on the last one of its run, that nothing comes
behind it (`dlq-requeue-last`). They stay if it dies again. Other readers may ignore them.
"""


def page() -> str:
    """The whole page."""
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
    told = [f"{name}: {value}" for name, value in headers.items()]
    shown = "\n".join([*told, "", ""]) if told else ""
    value = json.dumps(example.model_dump(mode="json"), indent=2, ensure_ascii=False)
    lines = [
        f"## {topic.name}\n",
        f"{_about(event)}\n",
        f"Type `{event.ce_type()}`, kept {_kept(topic)}, dead letters on `{topic.dead_letters}`.\n",
        _fields(schema),
        "```json" if not told else "```",
        f"{shown}{value}",
        "```\n",
    ]
    return "\n".join(lines)


def _about(event: type[Event]) -> str:
    paragraphs = (event.__doc__ or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _kept(topic: Topic) -> str:
    made = {new.name: new for new in required_topics(KafkaSettings.model_construct())}
    config = made[topic.name].topic_configs
    return f"{int(config['retention.ms']) // DAY_MS} days"


def _part(name: str, schema: Schema) -> str:
    about = " ".join(schema.get("description", "").split())
    if "enum" in schema:
        choices = ", ".join(f"`{choice}`" for choice in schema["enum"])
        return f"### {name}\n\n{about} One of {choices}.\n"
    return f"### {name}\n\n{about}\n\n{_fields(schema)}"


def _fields(schema: Schema) -> str:
    needed = set(schema.get("required", ()))
    rows = ["| Field | Type | Default | Meaning |", "|---|---|---|---|"]
    for name, field in schema["properties"].items():
        default = "needed" if name in needed else _default(field)
        rows.append(f"| `{name}` | {_type(field)} | {default} | {field.get('description', '')} |")
    return "\n".join([*rows, ""])


def _default(field: Schema) -> str:
    if "default" not in field or field["default"] is None:
        return ""
    default = field["default"]
    return "its own" if isinstance(default, dict) else f"`{json.dumps(default)}`"


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
    told = [f"{word} {field[name]}" for name, word in words.items() if name in field]
    return " " + ", ".join(told) if told else ""
