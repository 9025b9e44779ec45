"""Checks a recorded history against the guarantees of Segue.

Each rule is a function that returns the violations of one guarantee; `RULES` has all of them.
A history is compared with the requested runs, so an empty history violates the rules, too.

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

#: fields that differ between two generations of the same music
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
POISON = "poison"  #: excuse of a run that must end in a dead letter
_BOOKKEEPING = ("/claim-", "/prediction-")  # of payments, not results
#: the statuses of a run; a status never moves back in this order (docs/job-states.md)
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
    """Return the violations of all rules, in the order of `RULES`."""
    return [violation for rule in RULES for violation in rule(history)]


def lost(history: History) -> Iterator[str]:
    """Every requested scene has its segment on the topic and in the store."""
    published = {_scene(fact["value"]) for fact in _published(history, "segment.generated")}
    stored = {
        _scene(fact["document"]) for fact in _of(history, "object") if _is_segment(fact["key"])
    }
    for scene in _wanted(history):
        if scene not in published:
            yield f"lost: {_name(scene)} was never published"
        if scene not in stored:
            yield f"lost: {_name(scene)} has no segment in the store"
    for want in _of(history, "wanted"):
        for kind in () if want["excused"] else want["events"]:
            runs = {(f["value"]["job_id"], f["value"]["run"]) for f in _published(history, kind)}
            if (want["job_id"], want["run"]) not in runs:
                yield f"lost: {kind} of {want['job_id']}/{want['run']} was never published"


def charged_once(history: History) -> Iterator[str]:
    """Every requested scene was charged exactly once, and nothing else was charged."""
    bill = [fact for fact in _of(history, "call") if fact["is_charged"]]
    charged = Counter(_scene(fact) for fact in bill if fact["job_id"] is not None)
    if unrequested := sum(1 for fact in bill if fact["job_id"] is None):
        yield f"charged: {unrequested} predictions that were not requested"
    for scene in _wanted(history):
        if (times := charged.pop(scene, 0)) != 1:
            yield f"charged: {_name(scene)} {times} times"
    excused = {(fact["job_id"], fact["run"]) for fact in _of(history, "wanted") if fact["excused"]}
    for scene, times in charged.items():
        if scene[:2] not in excused or times > 1:
            yield f"charged: {_name(scene)} {times} times, but it was not requested"


def in_order(history: History) -> Iterator[str]:
    """A scene is first published after all earlier scenes of its run."""
    latest: dict[tuple[str, int], int] = defaultdict(lambda: -1)
    for fact in sorted(_published(history, "segment.generated"), key=_position):
        job_id, run, index = _scene(fact["value"])
        if index > latest[job_id, run] + 1:
            yield f"order: {_name((job_id, run, index))} came after {latest[job_id, run]}"
        latest[job_id, run] = max(latest[job_id, run], index)


def one_partition(history: History) -> Iterator[str]:
    """All records of a job on a topic are in one partition and have the job id as key."""
    partitions_of_key: dict[tuple[str, str], set[int]] = defaultdict(set)
    for fact in _of(history, "publish"):
        if isinstance(fact["value"], dict) and fact["key"] != fact["value"].get("job_id"):
            job_id = fact["value"].get("job_id")
            yield f"key: {fact['topic']} has a record of {job_id!r} with key {fact['key']!r}"
        partitions_of_key[fact["topic"], fact["key"]].add(fact["partition"])
    for (topic, key), partitions in partitions_of_key.items():
        if len(partitions) > 1:
            yield f"key: {key} is in partitions {sorted(partitions)} of {topic}"


def one_content(history: History) -> Iterator[str]:
    """A republished event has the same content and the same id."""
    contents: dict[tuple[str, str], Fact] = {}
    ids: dict[tuple[str, Scene], str] = {}
    for fact in _of(history, "publish"):
        first = contents.setdefault((fact["topic"], fact["event_id"]), fact["value"])
        if first != fact["value"]:
            names = sorted(k for k in first if first[k] != fact["value"].get(k))
            yield f"content: {fact['topic']} {fact['event_id']} republished with different {names}"
        if fact["topic"] == "segment.generated":
            scene = _scene(fact["value"])
            if ids.setdefault((fact["topic"], scene), fact["event_id"]) != fact["event_id"]:
                yield f"content: {_name(scene)} was published with two ids"


def published_is_stored(history: History) -> Iterator[str]:
    """The published events are equal to the stored documents and objects."""
    stored = {
        _scene(fact["document"]): fact["document"]
        for fact in _of(history, "object")
        if _is_segment(fact["key"])
    }
    hashes = {fact["key"]: fact["sha256"] for fact in _of(history, "object")}
    for fact in _published(history, "segment.generated"):
        scene = _scene(fact["value"])
        if scene in stored and stored[scene] != fact["value"]:
            yield f"stored: {_name(scene)} differs between topic and store"
    for fact in _of(history, "publish"):
        value = fact["value"] or {}
        key = value.get("object_key")
        if key is not None and hashes.get(key) != value.get("sha256"):
            yield f"stored: {fact['topic']} refers to {key}, which is missing or differs"


def committed_is_done(history: History) -> Iterator[str]:
    """No committed record is unfinished."""
    published = {_scene(fact["value"]) for fact in _published(history, "segment.generated")}
    wanted = set(_wanted(history))
    committed = {
        fact["partition"]: fact["offset"] or 0
        for fact in _of(history, "commit")
        if fact["topic"] == "scene.requested"
    }
    for fact in _published(history, "scene.requested"):
        scene = _scene(fact["value"])
        if fact["offset"] < committed.get(fact["partition"], 0) and scene in wanted - published:
            yield f"committed: {_name(scene)} at {fact['partition']}/{fact['offset']}, unfinished"


def no_dead_letters(history: History) -> Iterator[str]:
    """Nothing but poison was dead-lettered or failed."""
    poisoned = {fact["job_id"] for fact in _of(history, "wanted") if fact["excused"] == POISON}
    for fact in _of(history, "publish"):
        if fact["key"] in poisoned:
            continue
        if fact["topic"].endswith(".dlq"):
            yield f"dead letter: {fact['topic']} of {fact['key']}"
        if fact["topic"] == "job.failed":
            yield f"failed: {fact['key']}: {fact['value'].get('message')}"


def never_backwards(history: History) -> Iterator[str]:
    """Neither the run nor its status, as the api returned them, moves back."""
    latest: dict[str, tuple[int, int]] = {}
    for fact in _of(history, "status"):
        now = (fact["run"], RANKS.index(fact["status"]))
        before = latest.setdefault(fact["job_id"], now)
        if now < before:
            was, run = RANKS[before[1]], before[0]
            yield f"status: {fact['job_id']} moved from {was} of {run} to {fact['status']}"
        latest[fact["job_id"]] = now


RULES: tuple[Rule, ...] = (
    lost,
    charged_once,
    in_order,
    one_partition,
    one_content,
    published_is_stored,
    committed_is_done,
    no_dead_letters,
    parked_behind,
    never_backwards,
)


def differences(history: History, undisturbed: History) -> list[str]:
    """Return where final objects and rows differ from those of a run without faults.

    `VOLATILE` fields are not compared.
    """
    differing: list[str] = []
    for what, view in (("object", _final_objects), ("row", _final_rows)):
        actual, expected = view(history), view(undisturbed)
        missing, extra = expected.keys() - actual.keys(), actual.keys() - expected.keys()
        differing += [f"final {what}: {key} is missing" for key in sorted(missing)]
        differing += [f"final {what}: {key} is not expected" for key in sorted(extra)]
        differing += [
            f"final {what}: {key} differs"
            for key in sorted(actual.keys() & expected.keys())
            if actual[key] != expected[key]
        ]
    return differing


def lost_claims(history: History) -> frozenset[tuple[str, int, int, int]]:
    """Return the claims without a call: their process died or froze before the request.

    The next claim then generates the scene with its own seed. A run without faults is comparable
    only if it finds the same claims used.
    """
    keys = {fact["key"] for fact in _of(history, "object")}
    called = {(*_scene(fact), fact["attempt"]) for fact in _of(history, "call") if fact["job_id"]}
    claims = set()
    for scene in _wanted(history):
        attempt = 1
        while claim_key(*scene, attempt) in keys:
            if (*scene, attempt) not in called:
                claims.add((*scene, attempt))
            attempt += 1
    return frozenset(claims)


def figures(history: History) -> dict[str, int]:
    """Return the figures of a report."""
    charged = [fact for fact in _of(history, "call") if fact["is_charged"]]
    events = _published(history, "segment.generated")
    scenes = _wanted(history)
    published = {_scene(fact["value"]) for fact in events}
    return {
        "runs": len(_of(history, "wanted")),
        "scenes": len(scenes),
        "lost": sum(1 for _ in lost(history)),
        "charged": len(charged),
        "republished": len(events) - len(published),
        "out of order": sum(1 for _ in in_order(history)),
        "ends": len(_of(history, "end")),
    }


def _final_objects(history: History) -> dict[str, Any]:
    return {
        fact["key"]: _without_volatile(fact["document"])
        if fact["document"] is not None
        else fact["sha256"]
        for fact in _of(history, "object")
        if not any(part in fact["key"] for part in _BOOKKEEPING)
    }


def _final_rows(history: History) -> dict[str, Any]:
    return {f"{fact['table']} {fact['key']}": fact["values"] for fact in _of(history, "row")}


def _without_volatile(document: Any) -> Any:
    if not isinstance(document, dict):
        return document
    return {name: value for name, value in document.items() if name not in VOLATILE}


def _of(history: History, kind: str) -> list[Fact]:
    return [fact for fact in history if fact["kind"] == kind]


def _published(history: History, topic: str) -> list[Fact]:
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


def _position(fact: Fact) -> tuple[int, int]:
    return fact["partition"], fact["offset"]


def _is_segment(key: str) -> bool:
    return key.endswith("/segment.json")
