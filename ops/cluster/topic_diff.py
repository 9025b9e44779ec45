"""Compares required and actual topics, and decides what may be changed.

A change may only keep more: a missing topic is created, a limit or a retention time is raised. A
change that would move keys, stop producers or delete records is refused, with the reason and the
manual procedure. Nothing is lowered or deleted.

Pure.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from shared.contract.topics import DAY_MS

RETENTION, CLEANUP_POLICY, MESSAGE_BYTES_MAX, MIN_ISR = (
    "retention.ms",
    "cleanup.policy",
    "max.message.bytes",
    "min.insync.replicas",
)
#: the configurations that are compared
KEYS = (CLEANUP_POLICY, RETENTION, MESSAGE_BYTES_MAX, MIN_ISR)
_UNLIMITED = -1  # of retention.ms
_DELETE, _COMPACT = "delete", "compact"


class Verdict(StrEnum):
    """What is done about a difference."""

    DO = "do"  #: `--apply` changes it
    REFUSE = "refuse"  #: the change would do harm: the operator decides
    FINE = "fine"  #: the cluster has more than is required: it stays


@dataclass(frozen=True, slots=True, kw_only=True)
class RequiredTopic:
    """A topic as `shared/contract/topics.py` and the settings require it."""

    name: str  #: with prefix
    partitions: int
    replication: int
    configs: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ActualTopic:
    """A topic of the cluster."""

    partitions: int
    replication: int
    configs: Mapping[str, str] | None  #: None: the broker does not support the request


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One property of a topic that is not as required."""

    topic: str
    what: str  #: "topic", "partitions", "replication", or the key of a configuration
    have: str | None  #: None: the topic does not exist
    want: str
    verdict: Verdict
    why: str = ""  #: the reason, and what to do

    def as_json(self) -> dict[str, Any]:
        """Return the difference for `--json`."""
        return asdict(self)


def with_source_partitions(
    required: Sequence[RequiredTopic],
    actual: Mapping[str, ActualTopic],
    *,
    table: str,
    source: str,
) -> list[RequiredTopic]:
    """Return `required` with the partitions of `source` for `table`, as Faust demands."""
    source_topic = actual.get(source)
    if source_topic is None:
        return list(required)
    return [
        replace(topic, partitions=source_topic.partitions) if topic.name == table else topic
        for topic in required
    ]


def compare(
    required: Sequence[RequiredTopic], actual: Mapping[str, ActualTopic]
) -> list[Difference]:
    """Return every difference, topic by topic."""
    return [
        difference
        for topic in required
        for difference in _compare_topic(topic, actual.get(topic.name))
    ]


def config_changes(differences: Sequence[Difference]) -> dict[str, dict[str, str]]:
    """Return the configurations to set, by topic."""
    configs: dict[str, dict[str, str]] = {}
    for difference in differences:
        if difference.verdict is Verdict.DO and difference.have is not None:
            configs.setdefault(difference.topic, {})[difference.what] = difference.want
    return configs


def missing_topics(differences: Sequence[Difference]) -> list[str]:
    """Return the topics to create."""
    return [difference.topic for difference in differences if difference.have is None]


def format_value(key: str, value: str) -> str:
    """Return a configuration value for a terminal: retention in days."""
    if key != RETENTION:
        return value
    if int(value) == _UNLIMITED:
        return "unlimited"
    return f"{int(value) / DAY_MS:g} days" if int(value) >= DAY_MS else f"{value} ms"


def _compare_topic(want: RequiredTopic, have: ActualTopic | None) -> Iterator[Difference]:
    if have is None:
        shape = f"{want.partitions} partitions, {want.replication} replicas"
        yield Difference(topic=want.name, what="topic", have=None, want=shape, verdict=Verdict.DO)
        return
    if want.partitions != have.partitions:
        yield _compare_partitions(want, have)
    if have.replication < want.replication:
        yield Difference(
            topic=want.name,
            what="replication",
            have=str(have.replication),
            want=str(want.replication),
            verdict=Verdict.REFUSE,
            why="the operator chooses the brokers: use kafka-reassign-partitions",
        )
    if have.configs is not None:
        yield from _compare_configs(want, have, have.configs)


def _compare_partitions(want: RequiredTopic, have: ActualTopic) -> Difference:
    if have.partitions > want.partitions:
        verdict = Verdict.FINE
        why = f"never lowered: set SEGUE_PARTITIONS={have.partitions} for topics created later"
    else:
        verdict = Verdict.REFUSE
        why = (
            "more partitions move keys: records of one job would be on two, out of order. "
            "Wait until all jobs have ended, stop the services, then use kafka-topics --alter on "
            "every topic, the changelog too; or set "
            f"SEGUE_PARTITIONS={have.partitions}"
        )
    return Difference(
        topic=want.name,
        what="partitions",
        have=str(have.partitions),
        want=str(want.partitions),
        verdict=verdict,
        why=why,
    )


def _compare_configs(
    want: RequiredTopic, have: ActualTopic, configs: Mapping[str, str]
) -> Iterator[Difference]:
    required = {CLEANUP_POLICY: _DELETE, **want.configs}  # compaction would lose events
    for key, value in required.items():
        current = configs.get(key)
        if current is None or current == value:
            continue
        verdict, why = _decide_config(key, current, value, have)
        yield Difference(
            topic=want.name, what=key, have=current, want=value, verdict=verdict, why=why
        )


def _decide_config(key: str, have: str, want: str, topic: ActualTopic) -> tuple[Verdict, str]:
    """Return what is done about a configuration that differs, and why."""
    if key == CLEANUP_POLICY:
        return _decide_cleanup_policy(have, want)
    if key == RETENTION and int(have) == _UNLIMITED:
        return Verdict.FINE, "unlimited retention: not changed"
    if int(have) >= int(want):
        return Verdict.FINE, "more than required: not changed"
    if key == MIN_ISR and topic.replication <= int(want):
        why = f"with {topic.replication} replicas, one unavailable broker would stop every producer"
        return Verdict.REFUSE, f"{why}: raise the replication first"
    return Verdict.DO, ""


def _decide_cleanup_policy(have: str, want: str) -> tuple[Verdict, str]:
    if want == _COMPACT:
        return Verdict.DO, "deletion would lose the newest record of a key after the retention"
    if _DELETE in have.split(","):
        return Verdict.DO, "compaction would lose all records of a job but its last"
    why = "compaction loses all records of a job but its last; but without it, what is older "
    why += "than the retention is deleted: check the topic, then use kafka-configs --alter"
    return Verdict.REFUSE, why
