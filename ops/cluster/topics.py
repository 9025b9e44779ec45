"""Topics: the command that holds the cluster's topics against ours, and makes what is missing.

Dry by default. With `--apply` it makes topics and raises limits; what would move keys, stop
writers or delete records it refuses, and says why (`topic_rules.py`). `segue prepare` makes
topics too, before there is a database to audit in.

I/O: Kafka; PostgreSQL for the audit.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import typer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from rich.table import Table

from ops.cli.exit_codes import CommandError, Exit
from ops.cli.operator import Operator, audited_action, operator_command
from ops.cli.options import Apply, DataDir, Json, Reason
from ops.cli.output import dry_run, wide
from ops.cluster.topic_diff import (
    KEYS,
    Difference,
    Found,
    Verdict,
    Wanted,
    changes,
    compare,
    missing,
    settled,
    shown,
)
from shared.contract.events import SceneRequested
from shared.contract.topics import CHANGELOG
from shared.kafka.admin import (
    TopicDescription,
    admin_client,
    create_topics,
    describe_topics,
    required_topics,
    supports_describe_configs,
)
from shared.settings import KafkaSettings

_WORDS = {Verdict.DO: "would be done", Verdict.REFUSE: "refused", Verdict.FINE: "stays"}
STAND_IN = (
    "this broker is the stand-in of the embedded stack: it makes each topic on first use, with "
    "partitions of its own, and cannot be asked how topics are configured, or told"
)


def topics(
    *,
    apply: Apply = False,
    reason: Reason = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Say which topics are not as they should be; --apply makes and raises, and lowers nothing."""
    with operator_command(
        apply=apply, reason=reason, data_dir=data_dir, as_json=as_json
    ) as command:
        told = command.run(_topics, lines=_lines)
        if any(is_left(one, applied=told["applied"]) for one in told["differences"]):
            raise typer.Exit(Exit.FAILED)


@dataclass(frozen=True, kw_only=True)
class Compared:
    """The cluster's topics held against ours."""

    wanted: Sequence[Wanted]
    differences: Sequence[Difference]
    can_tell: bool  #: False: the stand-in, which cannot be asked for everything, nor told


async def compared(admin: AIOKafkaAdminClient, settings: KafkaSettings) -> Compared:
    """Hold them against each other.

    Raises:
        KafkaError: we may not ask.
    """
    want = [
        Wanted(
            name=one.name,
            partitions=one.num_partitions,
            replication=one.replication_factor,
            configs=one.topic_configs,
        )
        for one in required_topics(settings)
    ]
    facts = await describe_topics(admin, [one.name for one in want], keys=KEYS)
    found = {name: _found(one) for name, one in facts.items()}
    prefix = settings.topic_prefix
    want = settled(want, found, table=prefix + CHANGELOG.name, source=prefix + SceneRequested.kind)
    can_tell = await supports_describe_configs(admin, want[0].name)
    if not can_tell:  # it makes each when it is needed
        want = [one for one in want if one.name in found]
    return Compared(wanted=want, differences=compare(want, found), can_tell=can_tell)


async def _topics(operator: Operator) -> dict[str, Any]:
    async with admin_client(operator.kafka) as admin:
        found = await compared(admin, operator.kafka)
        told = _told(found)
        if not operator.apply:
            return told
        if not found.can_tell:
            raise CommandError(Exit.REFUSED, STAND_IN)
        arguments = {"partitions": operator.kafka.partitions}
        from shared.kafka.alter_configs import (  # noqa: PLC0415 - loads librdkafka
            set_topic_configs,
        )

        async with audited_action(operator, "topics", arguments=arguments) as row:
            names, set_to = set(missing(found.differences)), changes(found.differences)
            await create_topics(admin, [_new(one) for one in found.wanted if one.name in names])
            await set_topic_configs(operator.kafka, set_to)
            done = {"made": sorted(names), "set": set_to}
            await row.save_progress(done)
    return {**told, "applied": True, **done}


def _told(found: Compared) -> dict[str, Any]:
    return {
        "topics": len(found.wanted),
        "differences": [one.as_json() for one in found.differences],
        "note": None if found.can_tell else STAND_IN,
        "applied": False,
    }


def _new(want: Wanted) -> NewTopic:
    return NewTopic(want.name, want.partitions, want.replication, topic_configs=dict(want.configs))


def is_left(difference: Mapping[str, Any], *, applied: bool) -> bool:
    """Whether it is still not as it should be."""
    verdict = Verdict(difference["verdict"])
    return verdict is Verdict.REFUSE or (verdict is Verdict.DO and not applied)


def _found(facts: TopicDescription) -> Found:
    return Found(partitions=facts.partitions, replication=facts.replication, configs=facts.configs)


def _lines(told: dict[str, Any]) -> Iterator[str | Table]:
    if told["differences"]:
        table = wide("topic", "what", "have", "want", "outcome", folds={"topic", "want"})
        for one in told["differences"]:
            have = "" if one["have"] is None else shown(one["what"], one["have"])
            word = _WORDS[Verdict(one["verdict"])]
            if told["applied"] and one["verdict"] is Verdict.DO:
                word = "done"
            table.add_row(one["topic"], one["what"], have, shown(one["what"], one["want"]), word)
        yield table
    for why in dict.fromkeys(one["why"] for one in told["differences"] if one["why"]):
        which = sorted({one["what"] for one in told["differences"] if one["why"] == why})
        yield f"{', '.join(which)}: {why}"
    if told["note"]:
        yield f"note: {told['note']}"
    yield _last_line(told)


def _last_line(told: dict[str, Any]) -> str:
    if not told["differences"]:
        return f"{told['topics']} topics are as they should be"
    to_do = sum(one["verdict"] is Verdict.DO for one in told["differences"])
    if told["applied"]:
        return f"{to_do} of {len(told['differences'])} differences are gone"
    count = len(told["differences"])
    if not to_do:
        return f"0 of {count} differences can be corrected by this command"
    return dry_run(f"{to_do} of {count} differences would be corrected", "correct them")
