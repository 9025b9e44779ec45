"""Tests of the checker: it reports each kind of violation, and none in a correct history."""

from collections.abc import Callable

import pytest

from shared.contract.ids import scene_seed
from shared.storage.keys import claim_key, segment_key
from tests.faults.harness import checker, dead_letter_rule
from tests.faults.harness.history import Fact

SCENES = 3


def _segment(index: int) -> Fact:
    """Return the event of a scene."""
    key = f"clip-{index}"
    return {
        "job_id": "j",
        "run": 1,
        "scene_index": index,
        "object_key": key,
        "sha256": key,
        "output_url": "http://one",
    }


def _good() -> list[Fact]:
    """Return the facts of a run of three scenes without faults."""
    facts: list[Fact] = [
        {
            "kind": "wanted",
            "job_id": "j",
            "run": 1,
            "scene_count": SCENES,
            "events": ["segment.generated"],
            "excused": None,
        }
    ]
    for index in range(SCENES):
        call = {"job_id": "j", "run": 1, "scene_index": index, "attempt": 1}
        seed = scene_seed("j", 1, index, 1)
        request = {"job_id": "j", "run": 1, "scene_index": index}
        facts += [
            _published("scene.requested", index, request),
            {"kind": "call", "seed": seed, "status": "succeeded", "is_charged": True, **call},
            {"kind": "object", "key": claim_key("j", 1, index, 1), "sha256": "x", "document": None},
            {"kind": "object", "key": f"clip-{index}", "sha256": f"clip-{index}", "document": None},
            {
                "kind": "object",
                "key": segment_key("j", 1, index),
                "sha256": "y",
                "document": _segment(index),
            },
            _published("segment.generated", index, _segment(index)),
        ]
    facts.append({"kind": "commit", "topic": "scene.requested", "partition": 0, "offset": SCENES})
    facts += [
        {"kind": "status", "job_id": "j", "run": 1, "status": status}
        for status in ("submitted", "generating", "generating", "merging", "completed")
    ]
    facts.append({"kind": "row", "table": "runs", "key": "j/1", "values": {"status": "completed"}})
    return facts


def _published(topic: str, offset: int, value: Fact, *, event_id: str | None = None) -> Fact:
    return {
        "kind": "publish",
        "topic": topic,
        "partition": 0,
        "offset": offset,
        "key": "j",
        "event_id": event_id or f"{topic}-{value.get('scene_index')}",
        "value": value,
    }


def _drop(facts: list[Fact], kind: str, **fields: object) -> None:
    """Remove the facts with these fields."""
    facts[:] = [
        fact
        for fact in facts
        if fact["kind"] != kind or any(fact.get(name) != value for name, value in fields.items())
    ]


def _never_published(facts: list[Fact]) -> None:
    _drop(facts, "publish", topic="segment.generated", offset=2)


def _never_stored(facts: list[Fact]) -> None:
    _drop(facts, "object", key=segment_key("j", 1, 2))


def _track_never_published(facts: list[Fact]) -> None:
    facts[0]["events"].append("audio.merged")


def _paid_twice(facts: list[Fact]) -> None:
    (call,) = [f for f in facts if f["kind"] == "call" and f["scene_index"] == 1]
    facts.append({**call, "seed": scene_seed("j", 1, 1, 2), "attempt": 2})


def _never_paid(facts: list[Fact]) -> None:
    _drop(facts, "call", scene_index=1)


def _unrequested_prediction(facts: list[Fact]) -> None:
    facts.append({"kind": "call", "seed": 7, "is_charged": True, "job_id": None})


def _paid_for_an_unrequested_run(facts: list[Fact]) -> None:
    (call,) = [f for f in facts if f["kind"] == "call" and f["scene_index"] == 1]
    facts.append({**call, "run": 9})


def _out_of_order(facts: list[Fact]) -> None:
    for fact in facts:
        if fact["kind"] == "publish" and fact["topic"] == "segment.generated":
            fact["offset"] = SCENES - fact["offset"]


def _in_two_partitions(facts: list[Fact]) -> None:
    facts.append({**_published("segment.generated", 9, _segment(2)), "partition": 1})


def _under_another_key(facts: list[Fact]) -> None:
    facts.append({**_published("segment.generated", 9, _segment(2)), "key": "k"})


def _republished_with_other_content(facts: list[Fact]) -> None:
    facts.append(_published("segment.generated", 9, {**_segment(1), "output_url": "http://two"}))


def _published_with_another_id(facts: list[Fact]) -> None:
    facts.append(_published("segment.generated", 9, _segment(1), event_id="new"))


def _stored_document_differs(facts: list[Fact]) -> None:
    for fact in facts:
        if fact.get("key") == segment_key("j", 1, 1):
            fact["document"] = {**fact["document"], "output_url": "http://two"}


def _clip_overwritten(facts: list[Fact]) -> None:
    for fact in facts:
        if fact.get("key") == "clip-1":
            fact["sha256"] = "other"


def _committed_unfinished(facts: list[Fact]) -> None:
    _drop(facts, "publish", topic="segment.generated", offset=1)


def _dead_letter(facts: list[Fact]) -> None:
    facts.append(_published("scene.requested.dlq", 0, {"job_id": "j", "scene_index": 1}))


def _processed_after_its_dead_letter(facts: list[Fact]) -> None:
    dead = _published("scene.requested.dlq", 0, {"job_id": "j"}, event_id="scene.requested-1")
    facts.append(dead)


def _failed(facts: list[Fact]) -> None:
    facts.append(_published("job.failed", 0, {"job_id": "j", "message": "m"}))


def _status_moves_back(facts: list[Fact]) -> None:
    facts.append({"kind": "status", "job_id": "j", "run": 1, "status": "generating"})


def _status_changes_after_the_end(facts: list[Fact]) -> None:
    facts.append({"kind": "status", "job_id": "j", "run": 1, "status": "failed"})


def _run_moves_back(facts: list[Fact]) -> None:
    facts.append({"kind": "status", "job_id": "j", "run": 2, "status": "submitted"})
    facts.append({"kind": "status", "job_id": "j", "run": 1, "status": "completed"})


BROKEN: dict[Callable[[list[Fact]], None], tuple[checker.Rule, str]] = {
    _never_published: (checker.lost, "scene 2 of j/1 was never published"),
    _never_stored: (checker.lost, "scene 2 of j/1 has no segment"),
    _track_never_published: (checker.lost, "audio.merged of j/1"),
    _paid_twice: (checker.charged_once, "scene 1 of j/1 2 times"),
    _never_paid: (checker.charged_once, "scene 1 of j/1 0 times"),
    _unrequested_prediction: (checker.charged_once, "1 predictions that were not requested"),
    _paid_for_an_unrequested_run: (checker.charged_once, "but it was not requested"),
    _out_of_order: (checker.in_order, "came after"),
    _in_two_partitions: (checker.one_partition, "partitions [0, 1]"),
    _under_another_key: (checker.one_partition, "a record of 'j' with key 'k'"),
    _republished_with_other_content: (checker.one_content, "['output_url']"),
    _published_with_another_id: (checker.one_content, "two ids"),
    _stored_document_differs: (checker.published_is_stored, "differs between topic and store"),
    _clip_overwritten: (checker.published_is_stored, "which is missing or differs"),
    _committed_unfinished: (checker.committed_is_done, "scene 1 of j/1 at 0/1"),
    _dead_letter: (checker.no_dead_letters, "scene.requested.dlq"),
    _processed_after_its_dead_letter: (
        dead_letter_rule.parked_behind,
        "of j/1 1 dead letters, but 2 were due",
    ),
    _failed: (checker.no_dead_letters, "failed: j: m"),
    _status_moves_back: (checker.never_backwards, "completed of 1 to generating"),
    _status_changes_after_the_end: (checker.never_backwards, "completed of 1 to failed"),
    _run_moves_back: (checker.never_backwards, "submitted of 2 to completed"),
}


def test_a_correct_history_has_no_violations() -> None:
    """Republished events are no violation."""
    good = _good()

    republished = [*good, _published("segment.generated", 9, _segment(1))]

    assert checker.violations(good) == []
    assert checker.violations(republished) == []
    assert checker.figures(republished)["republished"] == 1


def test_a_history_without_events_has_violations() -> None:
    """Every requested scene is lost and not charged."""
    (wanted,) = [fact for fact in _good() if fact["kind"] == "wanted"]

    found = checker.violations([wanted])

    assert sum(text.startswith("lost") for text in found) == 2 * SCENES + 1
    assert sum(text.startswith("charged") for text in found) == SCENES


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__.strip("_"))
def test_the_checker_reports_every_violation(broken: Callable[[list[Fact]], None]) -> None:
    """By the rule for it."""
    facts = _good()
    rule, words = BROKEN[broken]

    broken(facts)

    assert any(words in line for line in rule(facts)), checker.violations(facts)
    assert set(rule(facts)) <= set(checker.violations(facts))


def test_every_rule_has_a_history_that_violates_it() -> None:
    """A rule without a violation proves nothing."""
    assert {rule for rule, _ in BROKEN.values()} == set(checker.RULES)


def test_an_excused_run_may_stop_and_may_have_paid_for_started_scenes() -> None:
    """But not twice for one scene."""
    facts = _good()
    facts[0]["excused"] = "superseded"
    _drop(facts, "publish", topic="segment.generated", offset=2)

    once = checker.violations(facts)
    _paid_twice(facts)

    assert once == []
    assert any("scene 1 of j/1 2 times" in line for line in checker.charged_once(facts))


def test_a_claim_without_a_call_is_lost() -> None:
    """The next claim generated the scene."""
    facts = _good()
    for fact in facts:
        if fact["kind"] == "call" and fact["scene_index"] == 1:
            fact["attempt"] = 2
    key = claim_key("j", 1, 1, 2)
    facts.append({"kind": "object", "key": key, "sha256": "x", "document": None})

    assert checker.lost_claims(_good()) == frozenset()
    assert checker.lost_claims(facts) == {("j", 1, 1, 1)}


def test_differences_compares_final_objects_and_rows_without_volatile_fields() -> None:
    """Other clips, missing or extra objects and other rows differ; another output URL does not."""
    same, other = _good(), _good()
    for fact in same:
        if fact.get("key") == segment_key("j", 1, 1):
            fact["document"] = {**fact["document"], "output_url": "http://two"}
    _clip_overwritten(other)
    _drop(other, "object", key="clip-2")
    other.append({"kind": "object", "key": "clip-3", "sha256": "x", "document": None})
    for fact in other:
        if fact["kind"] == "row":
            fact["values"] = {"status": "failed"}

    assert checker.differences(same, _good()) == []
    assert checker.differences(other, _good()) == [
        "final object: clip-2 is missing",
        "final object: clip-3 is not expected",
        "final object: clip-1 differs",
        "final row: runs j/1 differs",
    ]
