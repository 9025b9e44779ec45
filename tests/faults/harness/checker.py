"""Checker: judges a history, afterwards and from outside. The checker is the product here.

Each rule is one function from a history to what broke it; `RULES` are all of them, and
`violations` is empty where every promise was kept. Everything is measured against what was
wanted, so that a history in which nothing happened breaks them all.

Pure.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from shared.storage.keys import claim_key
from tests.faults.harness.dead_letter_rule import parked_behind

Fact = dict[str, Any]
History = Sequence[Fact]
Scene = tuple[str, int, int]  # job, run, index
Rule = Callable[[History], Iterator[str]]

#: what tells one making from another, not one music from another
VOLATILE = frozenset(
    {
        "prediction_id",
        "output_url",
        "output_url_born_at",
        "generation_s",
        "cost_usd",
        "saved_usd",
    }
)
POISON = "poison"  #: excuses a run that must end among the dead letters
_BOOKKEEPING = ("/claim-", "/prediction-")  # who paid, not what was made
#: of a run's status, in the order in which it may only rise (docs/job-states.md)
RANKS = (
    "submitted",
    "generating",
    "merging",
    "muxing",
    "failed",
    "cancelled",
    "superseded",
    "completed",
)


def violations(history: History) -> list[str]:
    """Everything that broke a promise, the worst rule first."""
    return [found for rule in RULES for found in rule(history)]


def lost(history: History) -> Iterator[str]:
    """Every scene that was wanted has its segment on the log and in the store."""
    said = {_scene(fact["value"]) for fact in _said(history, "segment.generated")}
    kept = {_scene(fact["said"]) for fact in _of(history, "object") if _is_segment(fact["key"])}
    for scene in _wanted(history):
        if scene not in said:
            yield f"lost: {_name(scene)} was never published"
        if scene not in kept:
            yield f"lost: {_name(scene)} has no segment in the store"
    for want in _of(history, "wanted"):
        for kind in () if want["excused"] else want["events"]:
            runs = {(f["value"]["job_id"], f["value"]["run"]) for f in _said(history, kind)}
            if (want["job_id"], want["run"]) not in runs:
                yield f"lost: {kind} of {want['job_id']}/{want['run']} was never published"


def charged_once(history: History) -> Iterator[str]:
    """Every scene that was wanted was charged exactly once, and nothing else was."""
    bill = [fact for fact in _of(history, "call") if fact["is_charged"]]
    charged = Counter(_scene(fact) for fact in bill if fact["job_id"] is not None)
    if strangers := sum(1 for fact in bill if fact["job_id"] is None):
        yield f"charged: {strangers} predictions that nobody asked for"
    for scene in _wanted(history):
        if (times := charged.pop(scene, 0)) != 1:
            yield f"charged: {_name(scene)} {times} times"
    excused = {(fact["job_id"], fact["run"]) for fact in _of(history, "wanted") if fact["excused"]}
    for scene, times in charged.items():
        if scene[:2] not in excused or times > 1:
            yield f"charged: {_name(scene)} {times} times, and it was not wanted"


def in_order(history: History) -> Iterator[str]:
    """A scene is first heard of after all before it in its run."""
    heard: dict[tuple[str, int], int] = defaultdict(lambda: -1)
    for fact in sorted(_said(history, "segment.generated"), key=_place):
        job_id, run, index = _scene(fact["value"])
        if index > heard[job_id, run] + 1:
            yield f"order: {_name((job_id, run, index))} came after {heard[job_id, run]}"
        heard[job_id, run] = max(heard[job_id, run], index)


def one_partition(history: History) -> Iterator[str]:
    """All records of a job on a topic lie in one partition, under the job's name."""
    places: dict[tuple[str, str], set[int]] = defaultdict(set)
    for fact in _of(history, "publish"):
        if isinstance(fact["value"], dict) and fact["key"] != fact["value"].get("job_id"):
            about = fact["value"].get("job_id")
            yield f"key: {fact['topic']} has a record of {about!r} as {fact['key']!r}"
        places[fact["topic"], fact["key"]].add(fact["partition"])
    for (topic, key), partitions in places.items():
        if len(partitions) > 1:
            yield f"key: {key} lies in partitions {sorted(partitions)} of {topic}"


def one_content(history: History) -> Iterator[str]:
    """An event that is said again says the same, under the same id."""
    contents: dict[tuple[str, str], Fact] = {}
    ids: dict[tuple[str, Scene], str] = {}
    for fact in _of(history, "publish"):
        first = contents.setdefault((fact["topic"], fact["event_id"]), fact["value"])
        if first != fact["value"]:
            names = sorted(k for k in first if first[k] != fact["value"].get(k))
            yield f"content: {fact['topic']} {fact['event_id']} said anew with other {names}"
        if fact["topic"] == "segment.generated":
            scene = _scene(fact["value"])
            if ids.setdefault((fact["topic"], scene), fact["event_id"]) != fact["event_id"]:
                yield f"content: {_name(scene)} was said under two ids"


def said_is_stored(history: History) -> Iterator[str]:
    """What was published is what lies in the store."""
    stored = {
        _scene(fact["said"]): fact["said"]
        for fact in _of(history, "object")
        if _is_segment(fact["key"])
    }
    hashes = {fact["key"]: fact["sha256"] for fact in _of(history, "object")}
    for fact in _said(history, "segment.generated"):
        scene = _scene(fact["value"])
        if scene in stored and stored[scene] != fact["value"]:
            yield f"stored: {_name(scene)} was published otherwise than it is stored"
    for fact in _of(history, "publish"):
        value = fact["value"] or {}
        key = value.get("object_key")
        if key is not None and hashes.get(key) != value.get("sha256"):
            yield f"stored: {fact['topic']} names {key}, which is not there as it says"


def committed_is_done(history: History) -> Iterator[str]:
    """Nothing that a group committed is unfinished."""
    said = {_scene(fact["value"]) for fact in _said(history, "segment.generated")}
    wanted = set(_wanted(history))
    committed = {
        fact["partition"]: fact["offset"] or 0
        for fact in _of(history, "commit")
        if fact["topic"] == "scene.requested"
    }
    for fact in _said(history, "scene.requested"):
        scene = _scene(fact["value"])
        if fact["offset"] < committed.get(fact["partition"], 0) and scene in wanted - said:
            yield f"committed: {_name(scene)} at {fact['partition']}/{fact['offset']}, unfinished"


def no_dead_letters(history: History) -> Iterator[str]:
    """Nothing was given up, but what was poison."""
    poisoned = {fact["job_id"] for fact in _of(history, "wanted") if fact["excused"] == POISON}
    for fact in _of(history, "publish"):
        if fact["key"] in poisoned:
            continue
        if fact["topic"].endswith(".dlq"):
            yield f"dead letter: {fact['topic']} of {fact['key']}"
        if fact["topic"] == "job.failed":
            yield f"failed: {fact['key']}: {fact['value'].get('message')}"


def never_backwards(history: History) -> Iterator[str]:
    """A status that a follower was told never goes back, and neither does the run."""
    told: dict[str, tuple[int, int]] = {}
    for fact in _of(history, "status"):
        now = (fact["run"], RANKS.index(fact["status"]))
        before = told.setdefault(fact["job_id"], now)
        if now < before:
            was, run = RANKS[before[1]], before[0]
            yield f"status: {fact['job_id']} went from {was} of {run} to {fact['status']}"
        told[fact["job_id"]] = now


RULES: tuple[Rule, ...] = (
    lost,
    charged_once,
    in_order,
    one_partition,
    one_content,
    said_is_stored,
    committed_is_done,
    no_dead_letters,
    parked_behind,
    never_backwards,
)


def differences(history: History, undisturbed: History) -> list[str]:
    """Where the final objects and rows are not those of a run that nothing disturbed.

    Of what says when and by which prediction it was made (`VOLATILE`) nothing is compared.
    """
    found: list[str] = []
    for what, view in (("object", _final_objects), ("row", _final_rows)):
        ours, theirs = view(history), view(undisturbed)
        found += [f"final {what}: {key} is missing" for key in sorted(theirs.keys() - ours.keys())]
        found += [f"final {what}: {key} is too much" for key in sorted(ours.keys() - theirs.keys())]
        found += [
            f"final {what}: {key} differs"
            for key in sorted(ours.keys() & theirs.keys())
            if ours[key] != theirs[key]
        ]
    return found


def lost_claims(history: History) -> frozenset[tuple[str, int, int, int]]:
    """Claims that led to no call: who made them died, or slept, before it could ask.

    The scene is then made by the next claim, with that one's seed: an undisturbed run is
    compared that found the same claims used up.
    """
    kept = {fact["key"] for fact in _of(history, "object")}
    called = {(*_scene(fact), fact["attempt"]) for fact in _of(history, "call") if fact["job_id"]}
    found = set()
    for scene in _wanted(history):
        attempt = 1
        while claim_key(*scene, attempt) in kept:
            if (*scene, attempt) not in called:
                found.add((*scene, attempt))
            attempt += 1
    return frozenset(found)


def figures(history: History) -> dict[str, int]:
    """What a report counts."""
    charged = [fact for fact in _of(history, "call") if fact["is_charged"]]
    said = _said(history, "segment.generated")
    scenes = _wanted(history)
    published = {_scene(fact["value"]) for fact in said}
    return {
        "runs": len(_of(history, "wanted")),
        "scenes": len(scenes),
        "lost": sum(1 for _ in lost(history)),
        "charged": len(charged),
        "said again": len(said) - len(published),
        "out of order": sum(1 for _ in in_order(history)),
        "ends": len(_of(history, "end")),
    }


def _final_objects(history: History) -> dict[str, Any]:
    return {
        fact["key"]: _lasting(fact["said"]) if fact["said"] is not None else fact["sha256"]
        for fact in _of(history, "object")
        if not any(part in fact["key"] for part in _BOOKKEEPING)
    }


def _final_rows(history: History) -> dict[str, Any]:
    return {f"{fact['table']} {fact['key']}": fact["values"] for fact in _of(history, "row")}


def _lasting(said: Any) -> Any:
    if not isinstance(said, dict):
        return said
    return {name: value for name, value in said.items() if name not in VOLATILE}


def _of(history: History, kind: str) -> list[Fact]:
    return [fact for fact in history if fact["kind"] == kind]


def _said(history: History, topic: str) -> list[Fact]:
    return [fact for fact in _of(history, "publish") if fact["topic"] == topic]


def _wanted(history: History) -> list[Scene]:
    return [
        (fact["job_id"], fact["run"], index)
        for fact in _of(history, "wanted")
        if fact["excused"] is None and "segment.generated" in fact["events"]
        for index in range(fact["scene_count"])
    ]


def _scene(value: Fact) -> Scene:
    return value["job_id"], value["run"], value["scene_index"]


def _name(scene: Scene) -> str:
    return f"scene {scene[2]} of {scene[0]}/{scene[1]}"


def _place(fact: Fact) -> tuple[int, int]:
    return fact["partition"], fact["offset"]


def _is_segment(key: str) -> bool:
    return key.endswith("/segment.json")
