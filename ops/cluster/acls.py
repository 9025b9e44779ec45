"""Derives the Kafka ACLs of each service from the table of topics.

A service is a user of its own, `segue-NAME`. It may write what it publishes, read what it consumes
in its own group, and write its dead letters; nothing else. `segue-prepare` may create topics, but
read and write no record. `segue-operator` may read everything, and publish records again.

Pure: returns the commands of Kafka's own tool, runs none.
"""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from shared.contract.topics import CHANGELOG, EVENT_TOPICS
from shared.settings import KafkaSettings

SERVICES = ("api", "generator", "merger", "muxer")
PREPARE, OPERATOR = "prepare", "operator"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """The operations of one user on resources of one type."""

    user: str
    resource_type: str  #: topic, group, or cluster
    operations: tuple[str, ...]
    names: tuple[str, ...]  #: empty for a cluster

    def command(self, bootstrap: str, config: str) -> str:
        """Return the kafka-acls command for a shell."""
        argv = ["kafka-acls", "--bootstrap-server", bootstrap, "--command-config", config]
        argv += ["--add", "--allow-principal", f"User:{self.user}"]
        argv += [part for operation in self.operations for part in ("--operation", operation)]
        argv += [part for name in self.names for part in (f"--{self.resource_type}", name)]
        return shlex.join([*argv, *([] if self.names else [f"--{self.resource_type}"])])


def grants(kafka: KafkaSettings) -> Iterator[Grant]:
    """Yield every grant that the services and the operator need."""
    for service in SERVICES:
        yield from _service_grants(service, kafka.topic_prefix)
    topics = [topic.name for topic in (*EVENT_TOPICS, CHANGELOG)]
    topics += [topic.dead_letters for topic in EVENT_TOPICS]
    yield _grant(PREPARE, "topic", ("Create", "Describe"), kafka.topic_prefix, topics)
    yield from _operator_grants(kafka.topic_prefix)


def _service_grants(service: str, prefix: str) -> Iterator[Grant]:
    consumed = [topic for topic in EVENT_TOPICS if service in topic.read_by]
    writable = [topic.name for topic in EVENT_TOPICS if service in topic.written_by]
    writable += [topic.dead_letters for topic in consumed]
    readable = [topic.name for topic in consumed]
    if service in CHANGELOG.written_by:
        readable.append(CHANGELOG.name)
        writable.append(CHANGELOG.name)
    yield _grant(service, "topic", ("Read", "Describe"), prefix, readable)
    yield _grant(service, "topic", ("Write", "Describe"), prefix, writable)
    yield _grant(service, "group", ("Read", "Describe"), prefix, [f"segue-{service}"])


def _operator_grants(prefix: str) -> Iterator[Grant]:
    writable = [topic.name for topic in EVENT_TOPICS]
    readable = writable + [topic.dead_letters for topic in EVENT_TOPICS]
    yield _grant(OPERATOR, "topic", ("Read", "Describe"), prefix, readable)
    yield _grant(OPERATOR, "topic", ("Write", "Describe"), prefix, writable)
    groups = [f"segue-{service}" for service in SERVICES]
    yield _grant(OPERATOR, "group", ("Describe",), prefix, groups)


def _grant(
    service: str, resource_type: str, operations: tuple[str, ...], prefix: str, names: list[str]
) -> Grant:
    return Grant(
        user=f"segue-{service}",
        resource_type=resource_type,
        operations=operations,
        names=tuple(prefix + name for name in names),
    )
