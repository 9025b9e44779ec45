"""Topic rules: what differs between the topics we want and those there are, and what may be done.

What is done only ever keeps more: a missing topic is made, a limit or a time is raised. What
would move keys, stop writers or delete records is said, with its reason and the way out, and
left to a person. Nothing is lowered, and nothing deleted.

Pure.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from shared.contract.topics import DAY_MS

RETENTION, POLICY, LARGEST, COPIES = (
    "retention.ms",
    "cleanup.policy",
    "max.message.bytes",
    "min.insync.replicas",
)
#: what is compared of every topic
KEYS = (POLICY, RETENTION, LARGEST, COPIES)
_FOR_EVER = -1  # of retention.ms
_DELETE, _COMPACT = "delete", "compact"


class Verdict(StrEnum):
    """What becomes of a difference."""

    DO = "do"  #: `--apply` does it
    REFUSE = "refuse"  #: it would do harm: a person decides
    FINE = "fine"  #: more than is wanted: it stays


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One topic as `shared/contract/topics.py` and the settings want it."""

    name: str  #: with prefix
    partitions: int
    replication: int
    configs: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One topic as it is."""

    partitions: int
    replication: int
    configs: Mapping[str, str] | None  #: None: the broker cannot be asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing that is not as it is wanted."""

    topic: str
    what: str  #: "topic", "partitions", "replication", or the key of a configuration
    have: str | None  #: None: it is not there
    want: str
    verdict: Verdict
    why: str = ""  #: and the way out

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        return asdict(self)


def settled(
    wanted: Sequence[Wanted], found: Mapping[str, Found], *, table: str, source: str
) -> list[Wanted]:
    """`wanted`, with as many partitions for `table` as `source` really has: Faust asks for that."""
    there = found.get(source)
    if there is None:
        return list(wanted)
    return [
        replace(one, partitions=there.partitions) if one.name == table else one for one in wanted
    ]


def compare(wanted: Sequence[Wanted], found: Mapping[str, Found]) -> list[Difference]:
    """Every difference, topic by topic."""
    return [one for topic in wanted for one in _of_topic(topic, found.get(topic.name))]


def changes(differences: Sequence[Difference]) -> dict[str, dict[str, str]]:
    """The configuration that is to be set, by topic."""
    told: dict[str, dict[str, str]] = {}
    for one in differences:
        if one.verdict is Verdict.DO and one.have is not None:
            told.setdefault(one.topic, {})[one.what] = one.want
    return told


def missing(differences: Sequence[Difference]) -> list[str]:
    """The topics that are to be made."""
    return [one.topic for one in differences if one.have is None]


def _of_topic(want: Wanted, have: Found | None) -> Iterator[Difference]:
    if have is None:
        told = f"{want.partitions} partitions, {want.replication} copies"
        yield Difference(topic=want.name, what="topic", have=None, want=told, verdict=Verdict.DO)
        return
    if want.partitions != have.partitions:
        yield _partitions(want, have)
    if have.replication < want.replication:
        yield Difference(
            topic=want.name,
            what="replication",
            have=str(have.replication),
            want=str(want.replication),
            verdict=Verdict.REFUSE,
            why="brokers would have to be chosen and copied to: kafka-reassign-partitions does it",
        )
    if have.configs is not None:
        yield from _configs(want, have, have.configs)


def _partitions(want: Wanted, have: Found) -> Difference:
    if have.partitions > want.partitions:
        verdict = Verdict.FINE
        why = f"never lowered: let SEGUE_PARTITIONS say {have.partitions}, for topics made later"
    else:
        verdict = Verdict.REFUSE
        why = (
            "more partitions move keys: records of one job would lie on two, out of order. "
            "Drain the line, stop its services, then kafka-topics --alter on every topic, the "
            f"changelog too; or let SEGUE_PARTITIONS say {have.partitions}"
        )
    return Difference(
        topic=want.name,
        what="partitions",
        have=str(have.partitions),
        want=str(want.partitions),
        verdict=verdict,
        why=why,
    )


def _configs(want: Wanted, have: Found, configs: Mapping[str, str]) -> Iterator[Difference]:
    asked = {POLICY: _DELETE, **want.configs}  # events are facts: compaction would lose them
    for key, value in asked.items():
        there = configs.get(key)
        if there is None or there == value:
            continue
        verdict, why = _judged(key, there, value, have)
        yield Difference(
            topic=want.name, what=key, have=there, want=value, verdict=verdict, why=why
        )


def _judged(key: str, have: str, want: str, found: Found) -> tuple[Verdict, str]:
    """What becomes of a configuration that differs, and why."""
    if key == POLICY:
        return _policy(have, want)
    if key == RETENTION and int(have) == _FOR_EVER:
        return Verdict.FINE, "kept for ever: it stays"
    if int(have) >= int(want):
        return Verdict.FINE, "more than is wanted: it stays"
    if key == COPIES and found.replication <= int(want):
        why = f"with {found.replication} copies, one broker away would stop every writer"
        return Verdict.REFUSE, f"{why}: raise the replication first"
    return Verdict.DO, ""


def _policy(have: str, want: str) -> tuple[Verdict, str]:
    if want == _COMPACT:
        return Verdict.DO, "the newest record of each key is kept, instead of none after a time"
    if _DELETE in have.split(","):
        return Verdict.DO, "compaction would lose all records of a job but its last"
    why = "compaction loses all records of a job but its last; but without it, what is older "
    why += "than the retention is deleted: look at it, then kafka-configs --alter"
    return Verdict.REFUSE, why


def shown(key: str, value: str) -> str:
    """A value as people read it."""
    if key != RETENTION:
        return value
    if int(value) == _FOR_EVER:
        return "for ever"
    return f"{int(value) / DAY_MS:g} days" if int(value) >= DAY_MS else f"{value} ms"
