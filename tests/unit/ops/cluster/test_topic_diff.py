"""What is done about topics that are not as they should be, and what is left to a person."""

import pytest

from ops.cluster.topic_diff import Found, Verdict, Wanted, changes, compare, missing, settled, shown

DAYS_14, DAYS_1 = "1209600000", "86400000"
EVENTS = Wanted(name="audio.merged", partitions=4, replication=3, configs={"retention.ms": DAYS_14})
TABLE = Wanted(name="table", partitions=4, replication=3, configs={"cleanup.policy": "compact"})
COPIES = Wanted(
    name="audio.merged", partitions=4, replication=3, configs={"min.insync.replicas": "2"}
)
GOOD = {"cleanup.policy": "delete", "retention.ms": DAYS_14}


def found(partitions: int = 4, replication: int = 3, **configs: str) -> Found:
    """A topic as it is; underscores stand for dots."""
    said = {name.replace("_", "."): value for name, value in configs.items()}
    return Found(partitions=partitions, replication=replication, configs={**GOOD, **said})


def test_topics_as_they_should_be_differ_in_nothing() -> None:
    """Nor does one whose configuration nobody can be asked for."""
    blind = Found(partitions=4, replication=3, configs=None)

    assert compare([EVENTS], {"audio.merged": found()}) == []
    assert compare([EVENTS], {"audio.merged": blind}) == []


def test_a_topic_that_is_not_there_is_made() -> None:
    """And nothing is set of it afterwards: it is made as it should be."""
    [one] = told = compare([EVENTS], {})

    assert (one.what, one.have, one.verdict) == ("topic", None, Verdict.DO)
    assert missing(told) == ["audio.merged"]
    assert changes(told) == {}


@pytest.mark.parametrize(
    ("there", "verdict", "why"),
    [
        (found(partitions=2), Verdict.REFUSE, "move keys"),
        (found(partitions=8), Verdict.FINE, "never lowered"),
        (found(replication=1), Verdict.REFUSE, "kafka-reassign-partitions"),
        (found(retention_ms=DAYS_1), Verdict.DO, ""),
        (found(retention_ms="-1"), Verdict.FINE, "for ever"),
        (found(retention_ms="9999999999"), Verdict.FINE, "more than is wanted"),
        (found(cleanup_policy="compact,delete"), Verdict.DO, "all records of a job but its last"),
        (found(cleanup_policy="compact"), Verdict.REFUSE, "older than the retention"),
    ],
)
def test_what_keeps_more_is_done_and_what_would_harm_is_refused(
    there: Found, verdict: Verdict, why: str
) -> None:
    """One difference each; a refusal says why, and the way out."""
    [one] = compare([EVENTS], {"audio.merged": there})

    assert one.verdict is verdict
    assert why in one.why


def test_only_what_may_be_done_is_set() -> None:
    """A time that is too short is raised; a policy that a person must look at is not touched."""
    there = {"audio.merged": found(retention_ms=DAYS_1, cleanup_policy="compact")}

    assert changes(compare([EVENTS], there)) == {"audio.merged": {"retention.ms": DAYS_14}}


def test_a_table_that_forgets_is_made_to_keep() -> None:
    """Its newest record of each key is the state of a job."""
    [one] = compare([TABLE], {"table": found(cleanup_policy="delete")})

    assert (one.verdict, one.want) == (Verdict.DO, "compact")


def test_two_copies_are_not_asked_for_where_there_are_two_or_one() -> None:
    """One broker away would stop every writer."""
    enough = compare([COPIES], {"audio.merged": found(min_insync_replicas="1")})
    too_few = compare([COPIES], {"audio.merged": found(replication=2, min_insync_replicas="1")})

    assert [one.verdict for one in enough] == [Verdict.DO]
    assert [one.what for one in too_few] == ["replication", "min.insync.replicas"]
    assert {one.verdict for one in too_few} == {Verdict.REFUSE}


def test_a_table_is_made_with_as_many_partitions_as_its_source_has() -> None:
    """Faust refuses another number, whatever the settings say."""
    there = {"audio.merged": found(partitions=8)}

    of_source = settled([EVENTS, TABLE], there, table="table", source="audio.merged")
    of_settings = settled([EVENTS, TABLE], {}, table="table", source="audio.merged")

    assert [one.partitions for one in of_source] == [4, 8]
    assert [one.partitions for one in of_settings] == [4, 4]


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("retention.ms", DAYS_14, "14 days"),
        ("retention.ms", "-1", "for ever"),
        ("retention.ms", "1000", "1000 ms"),
        ("cleanup.policy", "compact", "compact"),
    ],
)
def test_a_value_is_shown_as_people_read_it(key: str, value: str, told: str) -> None:
    """Milliseconds of two weeks are no number for people."""
    assert shown(key, value) == told
