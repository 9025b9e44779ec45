"""The checker finds each kind of broken promise in a made-up history, and none in a good one."""

from collections.abc import Callable

import pytest

from shared.contract.ids import scene_seed
from shared.storage.keys import claim_key, segment_key
from tests.faults.harness import checker, dead_letter_rule
from tests.faults.harness.history import Fact

SCENES = 3


def _segment(index: int) -> Fact:
    """What is said of a scene."""
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
    """A run of three scenes to which nothing happened."""
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
        whose = {"job_id": "j", "run": 1, "scene_index": index, "attempt": 1}
        seed = scene_seed("j", 1, index, 1)
        asked = {"job_id": "j", "run": 1, "scene_index": index}
        facts += [
            _published("scene.requested", index, asked),
            {"kind": "call", "seed": seed, "status": "succeeded", "is_charged": True, **whose},
            {"kind": "object", "key": claim_key("j", 1, index, 1), "sha256": "x", "said": None},
            {"kind": "object", "key": f"clip-{index}", "sha256": f"clip-{index}", "said": None},
            {
                "kind": "object",
                "key": segment_key("j", 1, index),
                "sha256": "y",
                "said": _segment(index),
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
    """Take away the facts that look like this."""
    facts[:] = [
        fact
        for fact in facts
        if fact["kind"] != kind or any(fact.get(name) != value for name, value in fields.items())
    ]


def _never_said(facts: list[Fact]) -> None:
    _drop(facts, "publish", topic="segment.generated", offset=2)


def _never_stored(facts: list[Fact]) -> None:
    _drop(facts, "object", key=segment_key("j", 1, 2))


def _track_never_said(facts: list[Fact]) -> None:
    facts[0]["events"].append("audio.merged")


def _paid_twice(facts: list[Fact]) -> None:
    (call,) = [f for f in facts if f["kind"] == "call" and f["scene_index"] == 1]
    facts.append({**call, "seed": scene_seed("j", 1, 1, 2), "attempt": 2})


def _never_paid(facts: list[Fact]) -> None:
    _drop(facts, "call", scene_index=1)


def _paid_by_a_stranger(facts: list[Fact]) -> None:
    facts.append({"kind": "call", "seed": 7, "is_charged": True, "job_id": None})


def _paid_for_a_run_that_is_none(facts: list[Fact]) -> None:
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


def _said_with_other_words(facts: list[Fact]) -> None:
    facts.append(_published("segment.generated", 9, {**_segment(1), "output_url": "http://two"}))


def _said_under_another_id(facts: list[Fact]) -> None:
    facts.append(_published("segment.generated", 9, _segment(1), event_id="new"))


def _stored_otherwise(facts: list[Fact]) -> None:
    for fact in facts:
        if fact.get("key") == segment_key("j", 1, 1):
            fact["said"] = {**fact["said"], "output_url": "http://two"}


def _clip_overwritten(facts: list[Fact]) -> None:
    for fact in facts:
        if fact.get("key") == "clip-1":
            fact["sha256"] = "other"


def _committed_unfinished(facts: list[Fact]) -> None:
    _drop(facts, "publish", topic="segment.generated", offset=1)


def _dead_letter(facts: list[Fact]) -> None:
    facts.append(_published("scene.requested.dlq", 0, {"job_id": "j", "scene_index": 1}))


def _past_its_dead_letter(facts: list[Fact]) -> None:
    dead = _published("scene.requested.dlq", 0, {"job_id": "j"}, event_id="scene.requested-1")
    facts.append(dead)


def _failed(facts: list[Fact]) -> None:
    facts.append(_published("job.failed", 0, {"job_id": "j", "message": "m"}))


def _status_goes_back(facts: list[Fact]) -> None:
    facts.append({"kind": "status", "job_id": "j", "run": 1, "status": "generating"})


def _end_is_no_end(facts: list[Fact]) -> None:
    facts.append({"kind": "status", "job_id": "j", "run": 1, "status": "failed"})


def _older_run_comes_back(facts: list[Fact]) -> None:
    facts.append({"kind": "status", "job_id": "j", "run": 2, "status": "submitted"})
    facts.append({"kind": "status", "job_id": "j", "run": 1, "status": "completed"})


BROKEN: dict[Callable[[list[Fact]], None], tuple[checker.Rule, str]] = {
    _never_said: (checker.lost, "scene 2 of j/1 was never published"),
    _never_stored: (checker.lost, "scene 2 of j/1 has no segment"),
    _track_never_said: (checker.lost, "audio.merged of j/1"),
    _paid_twice: (checker.charged_once, "scene 1 of j/1 2 times"),
    _never_paid: (checker.charged_once, "scene 1 of j/1 0 times"),
    _paid_by_a_stranger: (checker.charged_once, "nobody asked for"),
    _paid_for_a_run_that_is_none: (checker.charged_once, "not wanted"),
    _out_of_order: (checker.in_order, "came after"),
    _in_two_partitions: (checker.one_partition, "partitions [0, 1]"),
    _under_another_key: (checker.one_partition, "a record of 'j' as 'k'"),
    _said_with_other_words: (checker.one_content, "['output_url']"),
    _said_under_another_id: (checker.one_content, "two ids"),
    _stored_otherwise: (checker.said_is_stored, "otherwise than it is stored"),
    _clip_overwritten: (checker.said_is_stored, "not there as it says"),
    _committed_unfinished: (checker.committed_is_done, "scene 1 of j/1 at 0/1"),
    _dead_letter: (checker.no_dead_letters, "scene.requested.dlq"),
    _past_its_dead_letter: (
        dead_letter_rule.parked_behind,
        "of j/1 1 dead letters, but 2 were due",
    ),
    _failed: (checker.no_dead_letters, "failed: j: m"),
    _status_goes_back: (checker.never_backwards, "completed of 1 to generating"),
    _end_is_no_end: (checker.never_backwards, "completed of 1 to failed"),
    _older_run_comes_back: (checker.never_backwards, "submitted of 2 to completed"),
}


def test_a_good_history_breaks_nothing() -> None:
    """Also when its events are said twice, and a claim led to nothing."""
    good = _good()

    again = [*good, _published("segment.generated", 9, _segment(1))]

    assert checker.violations(good) == []
    assert checker.violations(again) == []
    assert checker.figures(again)["said again"] == 1


def test_a_history_in_which_nothing_happened_breaks_the_promises() -> None:
    """What was wanted is the measure."""
    (wanted,) = [fact for fact in _good() if fact["kind"] == "wanted"]

    found = checker.violations([wanted])

    assert sum(line.startswith("lost") for line in found) == 2 * SCENES + 1
    assert sum(line.startswith("charged") for line in found) == SCENES


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__.strip("_"))
def test_every_broken_promise_is_found(broken: Callable[[list[Fact]], None]) -> None:
    """By the rule that is there for it."""
    facts = _good()
    rule, words = BROKEN[broken]

    broken(facts)

    assert any(words in line for line in rule(facts)), checker.violations(facts)
    assert set(rule(facts)) <= set(checker.violations(facts))


def test_every_rule_has_a_history_that_breaks_it() -> None:
    """A rule that nothing breaks proves nothing."""
    assert {rule for rule, _ in BROKEN.values()} == set(checker.RULES)


def test_an_excused_run_may_stop_and_may_have_paid_for_what_it_had_begun() -> None:
    """But never twice for a scene."""
    facts = _good()
    facts[0]["excused"] = "superseded"
    _drop(facts, "publish", topic="segment.generated", offset=2)

    once = checker.violations(facts)
    _paid_twice(facts)

    assert once == []
    assert any("scene 1 of j/1 2 times" in line for line in checker.charged_once(facts))


def test_a_claim_without_a_call_is_lost() -> None:
    """The next one made the scene."""
    facts = _good()
    for fact in facts:
        if fact["kind"] == "call" and fact["scene_index"] == 1:
            fact["attempt"] = 2
    key = claim_key("j", 1, 1, 2)
    facts.append({"kind": "object", "key": key, "sha256": "x", "said": None})

    assert checker.lost_claims(_good()) == frozenset()
    assert checker.lost_claims(facts) == {("j", 1, 1, 1)}


def test_final_objects_and_rows_are_compared_but_not_when_and_by_whom_they_were_made() -> None:
    """Another clip, a missing or extra object and another row are found; another URL is none."""
    same, other = _good(), _good()
    for fact in same:
        if fact.get("key") == segment_key("j", 1, 1):
            fact["said"] = {**fact["said"], "output_url": "http://two"}
    _clip_overwritten(other)
    _drop(other, "object", key="clip-2")
    other.append({"kind": "object", "key": "clip-3", "sha256": "x", "said": None})
    for fact in other:
        if fact["kind"] == "row":
            fact["values"] = {"status": "failed"}

    assert checker.differences(same, _good()) == []
    assert checker.differences(other, _good()) == [
        "final object: clip-2 is missing",
        "final object: clip-3 is too much",
        "final object: clip-1 differs",
        "final row: runs j/1 differs",
    ]
