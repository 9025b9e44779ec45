"""Decides which objects of the store are eligible for deletion.

Never eligible, at any age: the segments, track, video and facts of every job in the database,
everything of a run that has not ended, and every uploaded file that a job references. Younger
objects than the retention stay, because a service may be writing them.

No I/O.
"""

import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from pydantic import Field

from shared.contract.topics import DEAD_LETTER_DAYS, RETENTION_DAYS
from shared.settings import SettingsGroup
from shared.storage import ObjectStat

_JOB_KEY = re.compile(r"^jobs/(?P<job>[0-9a-f]{32})/(?:runs/(?P<run>\d+)/(?:(?P<name>.+))?)?")
_CLIP = re.compile(r"^(scenes/\d+/clip-\d+\.mp3|style\.mp3)$")
_CLAIM = re.compile(r"^scenes/\d+/(claim|prediction)-\d+$")


class RetentionSettings(SettingsGroup):
    """Retention in days of objects for a retry, a redrive or a replay."""

    #: clips of ended runs; without them a scene can be neither played alone nor redriven
    clip_days: int = Field(
        90, gt=RETENTION_DAYS, le=3650, validation_alias="SEGUE_CLIP_RETENTION_DAYS"
    )
    #: claims of ended runs; they prevent a second payment while their topic can be replayed
    claim_days: int = Field(
        30, gt=RETENTION_DAYS, le=3650, validation_alias="SEGUE_CLAIM_RETENTION_DAYS"
    )
    #: entries of the scene cache, since they were written
    cache_days: int = Field(180, ge=1, le=3650, validation_alias="SEGUE_CACHE_RETENTION_DAYS")
    #: uploads that no job references, and objects of jobs that are not in PostgreSQL
    orphan_days: int = Field(7, ge=2, le=3650, validation_alias="SEGUE_ORPHAN_RETENTION_DAYS")


class ObjectKind(StrEnum):
    """Kinds of objects that can be eligible for deletion."""

    ORPHAN = "orphans"  #: its job is not in the database
    UPLOAD = "uploads"  #: referenced by no job
    CLIP = "clips"
    CLAIM = "claims"
    CACHE = "cache"
    DEAD_LETTER = "dead letters"  #: records too large for their dead letter


@dataclass(frozen=True, slots=True, kw_only=True)
class References:
    """The jobs, unfinished runs and uploads that the database references."""

    jobs: frozenset[str]  #: as in object keys
    unfinished: frozenset[tuple[str, int]]  #: job and run
    uploads: frozenset[str] = field(default=frozenset())  #: object keys


def eligible_kind(
    stat: ObjectStat, references: References, settings: RetentionSettings, *, now: datetime
) -> ObjectKind | None:
    """Return the kind of an object eligible for deletion; None if it stays."""
    kind = _kind(stat.key, references)
    if kind is None or now - stat.modified_at < timedelta(days=_retention_days(settings)[kind]):
        return None
    return kind


def _retention_days(settings: RetentionSettings) -> dict[ObjectKind, int]:
    return {
        ObjectKind.ORPHAN: settings.orphan_days,
        ObjectKind.UPLOAD: settings.orphan_days,
        ObjectKind.CLIP: settings.clip_days,
        ObjectKind.CLAIM: settings.claim_days,
        ObjectKind.CACHE: settings.cache_days,
        ObjectKind.DEAD_LETTER: DEAD_LETTER_DAYS,
    }


def _kind(key: str, references: References) -> ObjectKind | None:
    if key.startswith("cache/"):
        return ObjectKind.CACHE
    if key.startswith("dead-letters/"):
        return ObjectKind.DEAD_LETTER
    if key.startswith("uploads/"):
        return None if key in references.uploads else ObjectKind.UPLOAD
    match = _JOB_KEY.match(key)
    # an unknown key belongs to another program, or to a newer version
    return None if match is None else _job_object_kind(match, references)


def _job_object_kind(match: re.Match[str], references: References) -> ObjectKind | None:
    if match["job"] not in references.jobs:
        return ObjectKind.ORPHAN
    if match["run"] is None or (match["job"], int(match["run"])) in references.unfinished:
        return None
    name = match["name"] or ""
    if _CLIP.match(name):
        return ObjectKind.CLIP
    return ObjectKind.CLAIM if _CLAIM.match(name) else None
