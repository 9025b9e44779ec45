"""Tests of ops/cluster/topic_diff.py: which differences are changed, and which are refused."""

import pytest

from ops.cluster.topic_diff import (
    ActualTopic,
    RequiredTopic,
    Verdict,
    compare,
    config_changes,
    format_value,
    missing_topics,
    with_source_partitions,
)

DAYS_14, DAYS_1 = "1209600000", "86400000"
EVENTS = RequiredTopic(
    name="audio.merged", partitions=4, replication=3, configs={"retention.ms": DAYS_14}
)
TABLE = RequiredTopic(
    name="table", partitions=4, replication=3, configs={"cleanup.policy": "compact"}
)
TWO_REPLICAS = RequiredTopic(
    name="audio.merged", partitions=4, replication=3, configs={"min.insync.replicas": "2"}
)
REQUIRED_CONFIGS = {"cleanup.policy": "delete", "retention.ms": DAYS_14}


def actual(partitions: int = 4, replication: int = 3, **configs: str) -> ActualTopic:
    """Return a topic of the cluster; underscores in `configs` become dots."""
    overrides = {name.replace("_", "."): value for name, value in configs.items()}
    return ActualTopic(
        partitions=partitions, replication=replication, configs={**REQUIRED_CONFIGS, **overrides}
    )


def test_topics_as_required_have_no_differences() -> None:
    """Nor has a topic of a broker that does not support reading configurations."""
    no_configs = ActualTopic(partitions=4, replication=3, configs=None)

    assert compare([EVENTS], {"audio.merged": actual()}) == []
    assert compare([EVENTS], {"audio.merged": no_configs}) == []


def test_a_missing_topic_is_created() -> None:
    """It is created with its configurations, so none is set afterwards."""
    [difference] = differences = compare([EVENTS], {})

    assert (difference.what, difference.have, difference.verdict) == ("topic", None, Verdict.DO)
    assert missing_topics(differences) == ["audio.merged"]
    assert config_changes(differences) == {}


@pytest.mark.parametrize(
    ("topic", "verdict", "why"),
    [
        (actual(partitions=2), Verdict.REFUSE, "move keys"),
        (actual(partitions=8), Verdict.FINE, "never lowered"),
        (actual(replication=1), Verdict.REFUSE, "kafka-reassign-partitions"),
        (actual(retention_ms=DAYS_1), Verdict.DO, ""),
        (actual(retention_ms="-1"), Verdict.FINE, "unlimited"),
        (actual(retention_ms="9999999999"), Verdict.FINE, "more than required"),
        (actual(cleanup_policy="compact,delete"), Verdict.DO, "all records of a job but its last"),
        (actual(cleanup_policy="compact"), Verdict.REFUSE, "older than the retention"),
    ],
)
def test_a_change_that_keeps_more_is_made_and_a_harmful_one_is_refused(
    topic: ActualTopic, verdict: Verdict, why: str
) -> None:
    """A refusal has the reason and what to do."""
    [difference] = compare([EVENTS], {"audio.merged": topic})

    assert difference.verdict is verdict
    assert why in difference.why


def test_only_allowed_configurations_are_set() -> None:
    """A short retention is raised; a cleanup policy that needs a decision is not changed."""
    topics = {"audio.merged": actual(retention_ms=DAYS_1, cleanup_policy="compact")}

    assert config_changes(compare([EVENTS], topics)) == {"audio.merged": {"retention.ms": DAYS_14}}


def test_a_changelog_that_deletes_records_is_changed_to_compact() -> None:
    """The newest record of each key is the state of a job."""
    [difference] = compare([TABLE], {"table": actual(cleanup_policy="delete")})

    assert (difference.verdict, difference.want) == (Verdict.DO, "compact")


def test_two_in_sync_replicas_are_refused_with_two_replicas_or_fewer() -> None:
    """One unavailable broker would stop every producer."""
    enough = compare([TWO_REPLICAS], {"audio.merged": actual(min_insync_replicas="1")})
    too_few = compare(
        [TWO_REPLICAS], {"audio.merged": actual(replication=2, min_insync_replicas="1")}
    )

    assert [difference.verdict for difference in enough] == [Verdict.DO]
    assert [difference.what for difference in too_few] == ["replication", "min.insync.replicas"]
    assert {difference.verdict for difference in too_few} == {Verdict.REFUSE}


def test_a_changelog_is_created_with_the_partitions_of_its_source() -> None:
    """Faust rejects another number, whatever the settings are."""
    topics = {"audio.merged": actual(partitions=8)}

    of_source = with_source_partitions(
        [EVENTS, TABLE], topics, table="table", source="audio.merged"
    )
    of_settings = with_source_partitions([EVENTS, TABLE], {}, table="table", source="audio.merged")

    assert [topic.partitions for topic in of_source] == [4, 8]
    assert [topic.partitions for topic in of_settings] == [4, 4]


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("retention.ms", DAYS_14, "14 days"),
        ("retention.ms", "-1", "unlimited"),
        ("retention.ms", "1000", "1000 ms"),
        ("cleanup.policy", "compact", "compact"),
    ],
)
def test_retention_is_shown_in_days(key: str, value: str, text: str) -> None:
    """Other values are shown as they are."""
    assert format_value(key, value) == text
