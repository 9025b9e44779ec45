"""The `segue topics` command: compares the cluster's topics with the required ones.

With `--apply` it creates topics and raises limits; a change that would move keys, stop producers
or delete records is refused with the reason (`topic_diff.py`). `segue prepare` creates topics too,
when there is no database for the audit yet.

I/O: Kafka; PostgreSQL for the audit.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import typer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from ops.cli.exit_codes import CommandError, Exit
from ops.cli.layout import Hanging, Line, Listing, count_of, is_or_are
from ops.cli.operator import Operator, audited_action, operator_command
from ops.cli.options import Apply, DataDir, Json, Reason
from ops.cli.output import dry_run
from ops.cluster.topic_diff import (
    KEYS,
    ActualTopic,
    Difference,
    RequiredTopic,
    Verdict,
    compare,
    config_changes,
    format_value,
    missing_topics,
    with_source_partitions,
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

_NO_CHANGE = {Verdict.REFUSE: "refused", Verdict.FINE: "not changed"}
EMBEDDED_BROKER = (
    "embedded broker: it creates each topic on first use, with its own number of partitions, and "
    "supports neither reading nor setting the configuration of topics"
)


def topics(
    *,
    apply: Apply = False,
    reason: Reason = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Compare the topics with the required ones; --apply creates and raises, lowers nothing."""
    with operator_command(
        apply=apply, reason=reason, data_dir=data_dir, as_json=as_json
    ) as command:
        result = command.run(_run, lines=lines)
        if any(is_open(row, applied=result["applied"]) for row in result["differences"]):
            raise typer.Exit(Exit.FAILED)


@dataclass(frozen=True, kw_only=True)
class TopicComparison:
    """The required topics, and the differences of the cluster's."""

    required: Sequence[RequiredTopic]
    differences: Sequence[Difference]
    is_supported: bool  #: False: the embedded broker supports no topic configuration


async def compare_topics(admin: AIOKafkaAdminClient, settings: KafkaSettings) -> TopicComparison:
    """Return the comparison of the cluster's topics with the required ones.

    Raises:
        KafkaError: Kafka is unavailable, or the user is not authorized.
    """
    required = [
        RequiredTopic(
            name=topic.name,
            partitions=topic.num_partitions,
            replication=topic.replication_factor,
            configs=topic.topic_configs,
        )
        for topic in required_topics(settings)
    ]
    descriptions = await describe_topics(admin, [topic.name for topic in required], keys=KEYS)
    actual = {name: _actual_topic(topic) for name, topic in descriptions.items()}
    prefix = settings.topic_prefix
    required = with_source_partitions(
        required, actual, table=prefix + CHANGELOG.name, source=prefix + SceneRequested.kind
    )
    is_supported = await supports_describe_configs(admin, required[0].name)
    if not is_supported:  # the embedded broker creates each topic on first use
        required = [topic for topic in required if topic.name in actual]
    return TopicComparison(
        required=required, differences=compare(required, actual), is_supported=is_supported
    )


def is_open(difference: Mapping[str, Any], *, applied: bool) -> bool:
    """Return whether the difference still needs a change."""
    verdict = Verdict(difference["verdict"])
    return verdict is Verdict.REFUSE or (verdict is Verdict.DO and not applied)


async def _run(operator: Operator) -> dict[str, Any]:
    async with admin_client(operator.kafka) as admin:
        comparison = await compare_topics(admin, operator.kafka)
        result = _as_json(comparison)
        if not operator.apply:
            return result
        if not comparison.is_supported:
            raise CommandError(Exit.REFUSED, EMBEDDED_BROKER)
        arguments = {"partitions": operator.kafka.partitions}
        from shared.kafka.alter_configs import (  # noqa: PLC0415 - loads librdkafka
            set_topic_configs,
        )

        async with audited_action(operator, "topics", arguments=arguments) as row:
            names = set(missing_topics(comparison.differences))
            configs = config_changes(comparison.differences)
            await create_topics(
                admin, [_new_topic(topic) for topic in comparison.required if topic.name in names]
            )
            await set_topic_configs(operator.kafka, configs)
            changes = {"made": sorted(names), "set": configs}
            await row.save_progress(changes)
    return {**result, "applied": True, **changes}


def _as_json(comparison: TopicComparison) -> dict[str, Any]:
    return {
        "topics": len(comparison.required),
        "differences": [difference.as_json() for difference in comparison.differences],
        "note": None if comparison.is_supported else EMBEDDED_BROKER,
        "applied": False,
    }


def _new_topic(topic: RequiredTopic) -> NewTopic:
    return NewTopic(
        topic.name, topic.partitions, topic.replication, topic_configs=dict(topic.configs)
    )


def _actual_topic(topic: TopicDescription) -> ActualTopic:
    return ActualTopic(
        partitions=topic.partitions, replication=topic.replication, configs=topic.configs
    )


def lines(result: dict[str, Any]) -> Iterator[Line | Listing]:
    """Yield the result as text."""
    differences = result["differences"]
    if differences:
        table = Listing(
            "topic", "property", "actual", "required", "outcome", wraps={"actual", "required"}
        )
        for row in differences:
            actual = "" if row["have"] is None else format_value(row["what"], row["have"])
            required = format_value(row["what"], row["want"])
            table.add_row(row["topic"], row["what"], actual, required, _outcome(row, result))
        yield table
    for reason in dict.fromkeys(row["why"] for row in differences if row["why"]):
        properties = sorted({row["what"] for row in differences if row["why"] == reason})
        yield f"{', '.join(properties)}: {reason}"
    if result["note"]:
        yield Hanging("note: ", result["note"])
    yield _summary(result)


def _outcome(difference: dict[str, Any], result: dict[str, Any]) -> str:
    verdict = Verdict(difference["verdict"])
    if verdict is not Verdict.DO:
        return _NO_CHANGE[verdict]
    change = "created" if difference["have"] is None else "changed"
    return change if result["applied"] else f"would be {change}"


def _summary(result: dict[str, Any]) -> str:
    count = len(result["differences"])
    if not count:
        return f"{count_of(result['topics'], 'topic')} {is_or_are(result['topics'])} as required"
    changeable = sum(row["verdict"] is Verdict.DO for row in result["differences"])
    if result["applied"]:
        return f"{changeable} of {count} differences were corrected"
    if not changeable:
        return f"0 of {count} differences can be corrected by this command"
    return dry_run(f"{changeable} of {count} differences would be corrected", "correct them")
