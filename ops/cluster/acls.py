"""Acls: what each service may do at Kafka, derived from the table of topics.

A service is a user of its own, `segue-NAME`. It may write what it publishes, read what it
consumes in its own group, and park what it cannot work off; nothing else. `segue-prepare` may
make topics, and touch no record. `segue-operator` may look at everything, and say records again.

Pure: says the commands of Kafka's own tool, runs none.
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
    """One user's right on one kind of thing."""

    user: str
    kind: str  #: topic, group, or cluster
    operations: tuple[str, ...]
    names: tuple[str, ...]  #: empty: of a cluster

    def command(self, bootstrap: str, config: str) -> str:
        """The line for a shell."""
        words = ["kafka-acls", "--bootstrap-server", bootstrap, "--command-config", config]
        words += ["--add", "--allow-principal", f"User:{self.user}"]
        words += [part for one in self.operations for part in ("--operation", one)]
        words += [part for name in self.names for part in (f"--{self.kind}", name)]
        return shlex.join([*words, *([] if self.names else [f"--{self.kind}"])])


def grants(kafka: KafkaSettings) -> Iterator[Grant]:
    """Every right that the services need, by user."""
    for service in SERVICES:
        yield from _of_service(service, kafka.topic_prefix)
    every = [topic.name for topic in (*EVENT_TOPICS, CHANGELOG)]
    every += [topic.dead_letters for topic in EVENT_TOPICS]
    yield _grant(PREPARE, "topic", ("Create", "Describe"), kafka.topic_prefix, every)
    yield from _of_operator(kafka.topic_prefix)


def _of_service(service: str, prefix: str) -> Iterator[Grant]:
    read = [topic for topic in EVENT_TOPICS if service in topic.read_by]
    written = [topic.name for topic in EVENT_TOPICS if service in topic.written_by]
    written += [topic.dead_letters for topic in read]
    names = [topic.name for topic in read]
    if service in CHANGELOG.written_by:
        names.append(CHANGELOG.name)
        written.append(CHANGELOG.name)
    yield _grant(service, "topic", ("Read", "Describe"), prefix, names)
    yield _grant(service, "topic", ("Write", "Describe"), prefix, written)
    yield _grant(service, "group", ("Read", "Describe"), prefix, [f"segue-{service}"])


def _of_operator(prefix: str) -> Iterator[Grant]:
    names = [topic.name for topic in EVENT_TOPICS]
    read = names + [topic.dead_letters for topic in EVENT_TOPICS]
    yield _grant(OPERATOR, "topic", ("Read", "Describe"), prefix, read)
    yield _grant(OPERATOR, "topic", ("Write", "Describe"), prefix, names)
    groups = [f"segue-{service}" for service in SERVICES]
    yield _grant(OPERATOR, "group", ("Describe",), prefix, groups)


def _grant(
    service: str, kind: str, operations: tuple[str, ...], prefix: str, names: list[str]
) -> Grant:
    return Grant(
        user=f"segue-{service}",
        kind=kind,
        operations=operations,
        names=tuple(prefix + name for name in names),
    )
