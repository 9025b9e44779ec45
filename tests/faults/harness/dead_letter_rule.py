"""Checker rule: records of a run after its dead letter are dead-lettered, too.

A run with a dead letter is parked: its later records on that topic go to the dead-letter topic
in the order of the topic. Duplicates count once: a crash may repeat a record on either topic.

Pure.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from shared.contract.topics import DLQ_SUFFIX

Fact = dict[str, Any]
Lane = tuple[str, str | None, int]  # topic, job, run


def parked_behind(history: Sequence[Fact]) -> Iterator[str]:
    """No record of a run is processed after its dead letter."""
    records: dict[Lane, list[str]] = defaultdict(list)
    for fact in sorted(_publishes(history), key=lambda fact: (fact["partition"], fact["offset"])):
        value = fact["value"]
        records[fact["topic"], value.get("job_id"), value.get("run", 1)].append(fact["event_id"])
    for (topic, job_id, run), letters in list(records.items()):
        if not topic.endswith(DLQ_SUFFIX):
            continue
        source = records[topic.removesuffix(DLQ_SUFFIX), job_id, run]
        if letters[0] not in source:
            yield f"parked: a dead letter of {job_id}/{run} without a source record"
            continue
        expected = list(dict.fromkeys(source[source.index(letters[0]) :]))
        if (dead := list(dict.fromkeys(letters))) != expected:
            counts = f"{len(dead)} dead letters, but {len(expected)} were due"
            yield f"parked: of {job_id}/{run} {counts}"


def _publishes(history: Sequence[Fact]) -> list[Fact]:
    return [
        fact
        for fact in history
        if fact["kind"] == "publish" and isinstance(fact["value"], dict) and fact["value"]
    ]
