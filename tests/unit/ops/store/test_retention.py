"""Tests of ops/store/retention.py: which objects are eligible for deletion."""

from datetime import UTC, datetime, timedelta

import pytest

from ops.store.retention import ObjectKind, References, RetentionSettings, eligible_kind
from shared.contract import ids
from shared.errors import SettingsError
from shared.storage import ObjectStat
from shared.storage import keys as k

NOW = datetime(2026, 6, 1, tzinfo=UTC)
ENDED, OPEN, GONE = "ended", "open", "gone"
REFERENCED, UNREFERENCED = k.upload_key("a" * 64), k.upload_key("b" * 64)
REFERENCES = References(
    jobs=frozenset({ids.job_uuid(ENDED), ids.job_uuid(OPEN)}),
    unfinished=frozenset({(ids.job_uuid(OPEN), 2)}),
    uploads=frozenset({REFERENCED}),
)
SETTINGS = RetentionSettings(clip_days=90, claim_days=30, cache_days=180, orphan_days=7)
OLD_DAYS = 5000


def kind_at_age(key: str, days: float) -> ObjectKind | None:
    """Return the kind of an eligible object of this age."""
    at = NOW - timedelta(days=days)
    stat = ObjectStat(key=key, size_bytes=1, etag="e", content_type="x/y", modified_at=at)
    return eligible_kind(stat, REFERENCES, SETTINGS, now=NOW)


@pytest.mark.parametrize(
    ("key", "kind", "days"),
    [
        (k.clip_key(ENDED, 1, 0, 1), ObjectKind.CLIP, 90),
        (k.style_key(ENDED, 1), ObjectKind.CLIP, 90),
        (k.clip_key(OPEN, 1, 0, 1), ObjectKind.CLIP, 90),
        (k.claim_key(ENDED, 1, 0, 1), ObjectKind.CLAIM, 30),
        (k.prediction_key(ENDED, 1, 0, 2), ObjectKind.CLAIM, 30),
        (k.cache_key("d" * 64), ObjectKind.CACHE, 180),
        (k.dead_letter_key("d" * 64), ObjectKind.DEAD_LETTER, 90),
        (k.cached_facts_key("d" * 64), ObjectKind.CACHE, 180),
        (UNREFERENCED, ObjectKind.UPLOAD, 7),
        (k.segment_key(GONE, 1, 0), ObjectKind.ORPHAN, 7),
        (k.video_key(GONE, 1), ObjectKind.ORPHAN, 7),
    ],
)
def test_an_object_is_eligible_after_its_retention(key: str, kind: ObjectKind, days: int) -> None:
    """It is not eligible a moment earlier."""
    assert kind_at_age(key, days) is kind
    assert kind_at_age(key, days - 0.001) is None


@pytest.mark.parametrize(
    "key",
    [
        k.clip_key(OPEN, 2, 0, 1),
        k.claim_key(OPEN, 2, 0, 1),
        k.prediction_key(OPEN, 2, 0, 1),
        k.segment_key(ENDED, 1, 0),
        k.style_facts_key(ENDED, 1),
        k.track_key(ENDED, 1),
        k.merged_key(ENDED, 1),
        k.video_key(ENDED, 1),
        k.muxed_key(ENDED, 1),
        k.parked_key(ENDED, 1, "scene.requested"),
        REFERENCED,
        "health/writable",
        "something/of/a/later/version",
        f"jobs/{ids.job_uuid(ENDED)}/of-a-later-version",
    ],
)
def test_an_object_in_use_is_never_eligible(key: str) -> None:
    """Results of jobs in the database, everything of an unfinished run, and unknown keys."""
    assert kind_at_age(key, OLD_DAYS) is None


def test_claims_are_kept_while_their_topic_can_be_replayed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without its claim a replayed scene would be paid for again."""
    monkeypatch.setenv("SEGUE_CLAIM_RETENTION_DAYS", "14")

    with pytest.raises(SettingsError, match="SEGUE_CLAIM_RETENTION_DAYS"):
        RetentionSettings.from_environment()
