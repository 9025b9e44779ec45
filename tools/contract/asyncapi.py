"""AsyncAPI: the document that tells other teams what travels on the topics.

AsyncAPI 3.0 with Kafka bindings 0.5.0: a channel for each topic and each dead-letter topic, an
operation for everyone who sends or receives there, the models as schemas, an example of every
event with its headers. Built from `shared/contract/events.py`, `shared/contract/topics.py` and the
default settings, so it cannot say anything else than the code. Pure.
"""

from datetime import UTC, datetime
from typing import Any

from shared.contract.events import Event
from shared.contract.topics import EVENT_TOPICS, Topic
from shared.kafka.admin import required_topics
from shared.kafka.codec import encode
from shared.settings import KafkaSettings
from tools.contract.event_examples import EXAMPLES

Node = dict[str, Any]
BINDING_VERSION = "0.5.0"
UPSTREAM = "upstream"
_TOLD_AT = datetime(2026, 1, 5, 12, tzinfo=UTC)  # in the examples' headers
_CE_HEADERS = {
    "ce_specversion": "Version of CloudEvents.",
    "ce_id": "Derived from job, run, type and scene: the same event said again has the same.",
    "ce_type": "Name and version of the event.",
    "ce_source": "Who wrote it.",
    "ce_time": "When it was written.",
    "ce_subject": "The job.",
    "content-type": "Of the value.",
}
_TRACEPARENT = "W3C trace context, when the request had one or is traced."
_TRACESTATE = "What vendors add to the trace context."
_DLQ_HEADERS = {
    "dlq-reason": "Why the record could not be worked off.",
    "dlq-exception": "Class of the error.",
    "dlq-stack": "Its traceback, the last 4000 characters.",
    "dlq-origin-topic": "Where the record was.",
    "dlq-origin-partition": "Its partition there.",
    "dlq-origin-offset": "Its offset there.",
    "dlq-origin-timestamp": "Its time stamp there, milliseconds since 1970.",
    "dlq-attempts": "Tries; 0: parked behind an earlier dead letter of its run.",
    "dlq-first-failed-at": "When its first try failed; of one that was put back: its very first.",
    "dlq-failed-at": "When it was given up.",
    "dlq-service": "Who gave it up.",
    "dlq-service-version": "In which version.",
}
_REQUEUE_HEADERS = {
    "dlq-requeue": "Number of the requeue that put the record back; kept when it dies again.",
    "dlq-requeue-of": "Which dead letter it was: topic/partition/offset.",
    "dlq-requeues": "How often it was put back after it had failed itself.",
    "dlq-first-origin": "Where it lay before that: topic/partition/offset.",
    "dlq-requeue-last": "Nothing of its run comes behind it: worked off, it releases the run.",
}
_ABOUT = """\
The events of Segue, which gives a stitched video its music. Every record is keyed by `job_id`, so
the events of a job are ordered. Values are JSON; headers follow CloudEvents 1.0 in Kafka's binary
mode. A record with a bare JSON value and no headers is read on its value alone. Readers ignore
fields they do not know; released fields never change. A setting may put a prefix before every
topic name. A record that cannot be worked off goes, whole, to the dead-letter topic beside its
topic.
"""


def document() -> Node:
    """The AsyncAPI document, ready to be written."""
    schemas: Node = {}
    messages = {
        topic.event.__name__: _message(topic, schemas) for topic in EVENT_TOPICS if topic.event
    }
    return {
        "asyncapi": "3.0.0",
        "id": "urn:segue:events",
        "info": {
            "title": "Segue events",
            "version": "1.0.0",
            "description": _ABOUT,
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "kafka": {
                "host": KafkaSettings.model_fields["bootstrap_servers"].default,
                "protocol": "kafka",
                "description": "The cluster that KAFKA_BOOTSTRAP_SERVERS names.",
                "bindings": {"kafka": {"bindingVersion": BINDING_VERSION}},
            }
        },
        "channels": _channels(),
        "operations": _operations(),
        "components": {"messages": {**messages, "DeadLetter": _dead_letter()}, "schemas": schemas},
    }


def example_of(event: type[Event]) -> Event:
    """The example of this event."""
    return next(example for example in EXAMPLES if type(example) is event)


def example_headers(example: Event, topic: Topic) -> dict[str, str]:
    """The headers under which Segue publishes the example; none of what only upstream writes."""
    ours = [writer for writer in topic.written_by if writer != UPSTREAM]
    if not ours:
        return {}
    record = encode(example, source=ours[0], now=_TOLD_AT)
    return {name: value.decode() for name, value in record.headers}


def _channels() -> Node:
    made = {new.name: new for new in required_topics(KafkaSettings.model_construct())}
    channels: Node = {}
    for topic in EVENT_TOPICS:
        assert topic.event is not None, "event topics carry events"
        for name, message in (
            (topic.name, topic.event.__name__),
            (topic.dead_letters, "DeadLetter"),
        ):
            new = made[name]
            channels[name] = {
                "address": name,
                "title": name,
                "messages": {message: {"$ref": f"#/components/messages/{message}"}},
                "bindings": {
                    "kafka": {
                        "topic": name,
                        "partitions": new.num_partitions,
                        "replicas": new.replication_factor,
                        "topicConfiguration": _configuration(new.topic_configs),
                        "bindingVersion": BINDING_VERSION,
                    }
                },
            }
    return channels


def _configuration(config: dict[str, str]) -> Node:
    """Kafka's strings as the types that the binding wants."""
    told: Node = {name: int(value) if value.isdigit() else value for name, value in config.items()}
    told.setdefault("cleanup.policy", ["delete"])
    return told


def _operations() -> Node:
    operations: Node = {}
    for topic in EVENT_TOPICS:
        assert topic.event is not None, "event topics carry events"
        for writer in topic.written_by:
            operations[f"{writer}.sends.{topic.name}"] = _operation(
                "send", topic.name, topic, writer
            )
        for reader in topic.read_by:
            operations[f"{reader}.receives.{topic.name}"] = _operation(
                "receive", topic.name, topic, reader
            )
            operations[f"{reader}.sends.{topic.dead_letters}"] = _operation(
                "send", topic.dead_letters, topic, reader
            )
    return operations


def _operation(action: str, channel: str, topic: Topic, who: str) -> Node:
    assert topic.event is not None, "event topics carry events"
    message = topic.event.__name__ if channel == topic.name else "DeadLetter"
    binding: Node = {"bindingVersion": BINDING_VERSION}
    if action == "receive":
        binding["groupId"] = {"type": "string", "enum": [f"segue-{who}"]}
    pointer = channel.replace("~", "~0").replace("/", "~1")
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{pointer}"},
        "messages": [{"$ref": f"#/channels/{pointer}/messages/{message}"}],
        "tags": [{"name": who}],
        "bindings": {"kafka": binding},
    }


def _message(topic: Topic, schemas: Node) -> Node:
    event = topic.event
    assert event is not None, "event topics carry events"
    schema = event.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(schema.pop("$defs", {}))
    schemas[event.__name__] = schema
    return {
        "name": event.ce_type(),
        "title": event.__name__,
        "summary": summary_of(event),
        "contentType": "application/json",
        "headers": _headers(event, needed=UPSTREAM not in topic.written_by),
        "payload": {"$ref": f"#/components/schemas/{event.__name__}"},
        "bindings": {"kafka": {"key": _key(), "bindingVersion": BINDING_VERSION}},
        "examples": [_example(example_of(event), topic)],
    }


def _example(example: Event, topic: Topic) -> Node:
    told: Node = {"name": example.kind, "payload": example.model_dump(mode="json")}
    headers = example_headers(example, topic)
    return {**told, "headers": headers} if headers else told


def summary_of(event: type[Event]) -> str:
    """The first sentences of the event's docstring, on one line."""
    return " ".join((event.__doc__ or "").split("\n\n")[0].split())


def _headers(event: type[Event], *, needed: bool) -> Node:
    properties: Node = {
        name: {"type": "string", "description": meaning} for name, meaning in _CE_HEADERS.items()
    }
    if needed:  # a producer of its own may have type names of its own
        properties["ce_specversion"]["const"] = "1.0"
        properties["ce_type"]["const"] = event.ce_type()
    properties["traceparent"] = {"type": "string", "description": _TRACEPARENT}
    properties["tracestate"] = {"type": "string", "description": _TRACESTATE}
    told = {"type": "object", "properties": properties}
    return {**told, "required": list(_CE_HEADERS)} if needed else told


def _key() -> Node:
    return {"type": "string", "description": "The job's id."}


def _dead_letter() -> Node:
    properties = {
        name: {"type": "string", "description": meaning}
        for name, meaning in {**_DLQ_HEADERS, **_REQUEUE_HEADERS}.items()
    }
    return {
        "name": "segue.dead-letter",
        "title": "DeadLetter",
        "summary": "A record that could not be worked off: key, value and headers as they were, "
        "and headers that say why.",
        "headers": {
            "type": "object",
            "properties": properties,
            "required": list(_DLQ_HEADERS),
        },
        "payload": {"description": "Whatever the record held; perhaps not even JSON."},
        "bindings": {"kafka": {"key": _key(), "bindingVersion": BINDING_VERSION}},
    }
