"""Letters: what lies behind a dead letter of a run stays behind it. One rule of the checker.

A run that has a dead letter is parked: whatever comes of it on that topic afterwards lies on
the dead-letter topic too, in the order in which it was asked for. What was said twice counts
once, because a death may repeat it on either side.

Pure.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from shared.contract.topics import DLQ_SUFFIX

Fact = dict[str, Any]
Lane = tuple[str, str | None, int]  # topic, job, run


def parked_behind(history: Sequence[Fact]) -> Iterator[str]:
    """Nothing of a run is worked off behind its dead letter."""
    said: dict[Lane, list[str]] = defaultdict(list)
    for fact in sorted(_publishes(history), key=lambda fact: (fact["partition"], fact["offset"])):
        value = fact["value"]
        said[fact["topic"], value.get("job_id"), value.get("run", 1)].append(fact["event_id"])
    for (topic, job_id, run), letters in list(said.items()):
        if not topic.endswith(DLQ_SUFFIX):
            continue
        asked = said[topic.removesuffix(DLQ_SUFFIX), job_id, run]
        if letters[0] not in asked:
            yield f"parked: a dead letter of {job_id}/{run} that nobody wrote"
            continue
        behind = list(dict.fromkeys(asked[asked.index(letters[0]) :]))
        if (kept := list(dict.fromkeys(letters))) != behind:
            yield f"parked: of {job_id}/{run} {len(kept)} dead letters, but {len(behind)} were due"


def _publishes(history: Sequence[Fact]) -> list[Fact]:
    return [
        fact
        for fact in history
        if fact["kind"] == "publish" and isinstance(fact["value"], dict) and fact["value"]
    ]
