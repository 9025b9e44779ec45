"""Sweeping: what goes, and what stays whatever its age."""

from datetime import UTC, datetime, timedelta

import pytest

from ops.store.retention import Kind, Known, RetentionSettings, needless
from shared.contract import ids
from shared.errors import SettingsError
from shared.storage import ObjectStat
from shared.storage import keys as k

NOW = datetime(2026, 6, 1, tzinfo=UTC)
ENDED, OPEN, GONE = "ended", "open", "gone"
NAMED, UNNAMED = k.upload_key("a" * 64), k.upload_key("b" * 64)
KNOWN = Known(
    jobs=frozenset({ids.job_uuid(ENDED), ids.job_uuid(OPEN)}),
    unfinished=frozenset({(ids.job_uuid(OPEN), 2)}),
    named=frozenset({NAMED}),
)
SETTINGS = RetentionSettings(clip_days=90, claim_days=30, cache_days=180, orphan_days=7)
EVER = 5000  # days


def judged(key: str, days: float) -> Kind | None:
    """What is said of an object of this age."""
    at = NOW - timedelta(days=days)
    stat = ObjectStat(key=key, size_bytes=1, etag="e", content_type="x/y", modified_at=at)
    return needless(stat, KNOWN, SETTINGS, now=NOW)


@pytest.mark.parametrize(
    ("key", "kind", "days"),
    [
        (k.clip_key(ENDED, 1, 0, 1), Kind.CLIP, 90),
        (k.style_key(ENDED, 1), Kind.CLIP, 90),
        (k.clip_key(OPEN, 1, 0, 1), Kind.CLIP, 90),
        (k.claim_key(ENDED, 1, 0, 1), Kind.CLAIM, 30),
        (k.prediction_key(ENDED, 1, 0, 2), Kind.CLAIM, 30),
        (k.cache_key("d" * 64), Kind.CACHE, 180),
        (k.cached_facts_key("d" * 64), Kind.CACHE, 180),
        (UNNAMED, Kind.UPLOAD, 7),
        (k.segment_key(GONE, 1, 0), Kind.ORPHAN, 7),
        (k.video_key(GONE, 1), Kind.ORPHAN, 7),
    ],
)
def test_what_is_needless_goes_once_it_is_old_enough(key: str, kind: Kind, days: int) -> None:
    """To the moment."""
    assert judged(key, days) is kind
    assert judged(key, days - 0.001) is None


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
        NAMED,
        "health/writable",
        "something/of/a/later/version",
        f"jobs/{ids.job_uuid(ENDED)}/of-a-later-version",
    ],
)
def test_what_somebody_needs_stays_for_ever(key: str) -> None:
    """Results of known jobs, everything of a run under way, and what is not ours."""
    assert judged(key, EVER) is None


def test_claims_may_not_be_forgotten_while_their_topic_can_be_replayed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A replay would pay again."""
    monkeypatch.setenv("SEGUE_CLAIM_RETENTION_DAYS", "14")

    with pytest.raises(SettingsError, match="SEGUE_CLAIM_RETENTION_DAYS"):
        RetentionSettings.from_environment()
