"""Builds the AsyncAPI document of the topics.

AsyncAPI 3.0 with Kafka bindings 0.5.0: a channel for each topic and each dead-letter topic, an
operation for each sender and receiver, the models as schemas, an example of every event with its
headers. Built from `shared/contract/events.py`, `shared/contract/topics.py` and the default
settings, so it always matches the code.
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
_EXAMPLE_TIME = datetime(2026, 1, 5, 12, tzinfo=UTC)  # in the examples' headers
_CE_HEADERS = {
    "ce_specversion": "Version of CloudEvents.",
    "ce_id": "Derived from job, run, type and scene; an event published again keeps it.",
    "ce_type": "Name and version of the event.",
    "ce_source": "The service that published it.",
    "ce_time": "When it was published.",
    "ce_subject": "The job.",
    "content-type": "Content type of the value.",
}
_TRACEPARENT = "W3C trace context, if the request had one or tracing is on."
_TRACESTATE = "Vendor part of the trace context."
_DLQ_HEADERS = {
    "dlq-reason": "Why the record could not be processed.",
    "dlq-exception": "Class of the error.",
    "dlq-stack": "Its traceback, the last 4000 characters.",
    "dlq-origin-topic": "Topic of the original record.",
    "dlq-origin-partition": "Partition of the original record.",
    "dlq-origin-offset": "Offset of the original record.",
    "dlq-origin-timestamp": "Timestamp of the original record, milliseconds since 1970.",
    "dlq-attempts": "Number of attempts; 0: parked behind an earlier dead letter of its run.",
    "dlq-first-failed-at": "When the first attempt failed; kept when the record is requeued.",
    "dlq-failed-at": "When the last attempt failed.",
    "dlq-service": "The service that wrote the dead letter.",
    "dlq-service-version": "Version of that service.",
}
_ODD_HEADERS = {
    "dlq-truncated-from": "Bytes of the value, if the letter was truncated.",
    "dlq-original-object": "Key of the object with the whole record, if the letter was truncated.",
    "dlq-content": "What the value is, if it could not be decoded: batch, record or value.",
    "dlq-origin-last-offset": "The last offset that undecodable bytes cover.",
}
_REQUEUE_HEADERS = {
    "dlq-requeue": "Number of the requeue; kept if the record fails again.",
    "dlq-requeue-of": "The requeued dead letter: topic/partition/offset.",
    "dlq-requeues": "How often the record was requeued after it failed itself.",
    "dlq-first-origin": "The first original record: topic/partition/offset.",
    "dlq-requeue-last": "The last record of its run; once processed, it releases the run.",
}
_ABOUT = """\
The events of Segue, which generates music for a stitched video. Every record is keyed by `job_id`,
so the events of a job are ordered. Values are JSON; headers follow CloudEvents 1.0 in Kafka's
binary mode. A record without headers is read by its JSON value alone. Readers ignore unknown
fields; released fields never change. A setting can add a prefix to every topic name. A record that
cannot be processed is published, unchanged, to the dead-letter topic of its topic.
"""


def document() -> Node:
    """Return the AsyncAPI document."""
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
    """Return the example of this event."""
    return next(example for example in EXAMPLES if type(example) is event)


def example_headers(example: Event, topic: Topic) -> dict[str, str]:
    """Return the headers of the example; none for events that only upstream writes."""
    services = [writer for writer in topic.written_by if writer != UPSTREAM]
    if not services:
        return {}
    record = encode(example, source=services[0], now=_EXAMPLE_TIME)
    return {name: (value or b"").decode() for name, value in record.headers}


def _channels() -> Node:
    topics = {new.name: new for new in required_topics(KafkaSettings.model_construct())}
    channels: Node = {}
    for topic in EVENT_TOPICS:
        assert topic.event is not None, "event topics carry events"
        for name, message in (
            (topic.name, topic.event.__name__),
            (topic.dead_letters, "DeadLetter"),
        ):
            new = topics[name]
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
    """Return Kafka's configuration with the types of the binding."""
    configuration: Node = {
        name: int(value) if value.isdigit() else value for name, value in config.items()
    }
    configuration.setdefault("cleanup.policy", ["delete"])
    return configuration


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


def _operation(action: str, channel: str, topic: Topic, service: str) -> Node:
    assert topic.event is not None, "event topics carry events"
    message = topic.event.__name__ if channel == topic.name else "DeadLetter"
    binding: Node = {"bindingVersion": BINDING_VERSION}
    if action == "receive":
        binding["groupId"] = {"type": "string", "enum": [f"segue-{service}"]}
    pointer = channel.replace("~", "~0").replace("/", "~1")
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{pointer}"},
        "messages": [{"$ref": f"#/channels/{pointer}/messages/{message}"}],
        "tags": [{"name": service}],
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
        "headers": _headers(event, required=UPSTREAM not in topic.written_by),
        "payload": {"$ref": f"#/components/schemas/{event.__name__}"},
        "bindings": {"kafka": {"key": _key(), "bindingVersion": BINDING_VERSION}},
        "examples": [_example(example_of(event), topic)],
    }


def _example(example: Event, topic: Topic) -> Node:
    node: Node = {"name": example.kind, "payload": example.model_dump(mode="json")}
    headers = example_headers(example, topic)
    return {**node, "headers": headers} if headers else node


def summary_of(event: type[Event]) -> str:
    """Return the first paragraph of the event's docstring on one line."""
    return " ".join((event.__doc__ or "").split("\n\n")[0].split())


def _headers(event: type[Event], *, required: bool) -> Node:
    properties: Node = {
        name: {"type": "string", "description": meaning} for name, meaning in _CE_HEADERS.items()
    }
    if required:  # other producers may use type names of their own
        properties["ce_specversion"]["const"] = "1.0"
        properties["ce_type"]["const"] = event.ce_type()
    properties["traceparent"] = {"type": "string", "description": _TRACEPARENT}
    properties["tracestate"] = {"type": "string", "description": _TRACESTATE}
    schema = {"type": "object", "properties": properties}
    return {**schema, "required": list(_CE_HEADERS)} if required else schema


def _key() -> Node:
    return {"type": "string", "description": "The job id."}


def _dead_letter() -> Node:
    properties = {
        name: {"type": "string", "description": meaning}
        for name, meaning in {**_DLQ_HEADERS, **_ODD_HEADERS, **_REQUEUE_HEADERS}.items()
    }
    return {
        "name": "segue.dead-letter",
        "title": "DeadLetter",
        "summary": "A record that could not be processed: key, value and headers unchanged, "
        "with headers that state the reason.",
        "headers": {
            "type": "object",
            "properties": properties,
            "required": list(_DLQ_HEADERS),
        },
        "payload": {"description": "The value of the original record; not necessarily JSON."},
        "bindings": {"kafka": {"key": _key(), "bindingVersion": BINDING_VERSION}},
    }
