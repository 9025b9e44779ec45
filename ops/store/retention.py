"""Sweeping: what in the store nobody needs any more, and how long that must be so.

Kept whatever its age: the segments, track, video and facts of every job that is known, everything
of a run that has not ended, and every handed-in file that a job names. What a service may be
writing at this moment is too young to be looked at.

Pure.
"""

import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from pydantic import Field

from shared.contract.topics import RETENTION_DAYS
from shared.settings import SettingsGroup
from shared.storage import ObjectStat

_OF_RUN = re.compile(r"^jobs/(?P<job>[0-9a-f]{32})/(?:runs/(?P<run>\d+)/(?:(?P<name>.+))?)?")
_CLIP = re.compile(r"^(scenes/\d+/clip-\d+\.mp3|style\.mp3)$")
_CLAIM = re.compile(r"^scenes/\d+/(claim|prediction)-\d+$")


class RetentionSettings(SettingsGroup):
    """How many days something stays that is needed for nothing but another try."""

    #: clips of ended runs; without them a scene of the run can be neither heard alone nor redriven
    clip_days: int = Field(
        90, gt=RETENTION_DAYS, le=3650, validation_alias="SEGUE_CLIP_RETENTION_DAYS"
    )
    #: claims of ended runs: as long as their topic may be replayed they spare a second payment
    claim_days: int = Field(
        30, gt=RETENTION_DAYS, le=3650, validation_alias="SEGUE_CLAIM_RETENTION_DAYS"
    )
    #: entries of the cache of scenes, since they were made
    cache_days: int = Field(180, ge=1, le=3650, validation_alias="SEGUE_CACHE_RETENTION_DAYS")
    #: what no job names: handed-in files, and objects of jobs that PostgreSQL does not know
    orphan_days: int = Field(7, ge=2, le=3650, validation_alias="SEGUE_ORPHAN_RETENTION_DAYS")


class Kind(StrEnum):
    """What is swept."""

    ORPHAN = "orphans"  #: of a job that nobody knows
    UPLOAD = "uploads"  #: handed in, and named by no job
    CLIP = "clips"
    CLAIM = "claims"
    CACHE = "cache"


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What the rows say."""

    jobs: frozenset[str]  #: as keys name them
    unfinished: frozenset[tuple[str, int]]
    named: frozenset[str] = field(default=frozenset())  #: handed-in files


def needless(
    found: ObjectStat, known: Known, settings: RetentionSettings, *, now: datetime
) -> Kind | None:
    """As what an object may go; None: it stays."""
    kind = _kind_of(found.key, known)
    if kind is None or now - found.modified_at < timedelta(days=_days(settings)[kind]):
        return None
    return kind


def _days(settings: RetentionSettings) -> dict[Kind, int]:
    return {
        Kind.ORPHAN: settings.orphan_days,
        Kind.UPLOAD: settings.orphan_days,
        Kind.CLIP: settings.clip_days,
        Kind.CLAIM: settings.claim_days,
        Kind.CACHE: settings.cache_days,
    }


def _kind_of(key: str, known: Known) -> Kind | None:
    if key.startswith("cache/"):
        return Kind.CACHE
    if key.startswith("uploads/"):
        return None if key in known.named else Kind.UPLOAD
    place = _OF_RUN.match(key)
    return None if place is None else _kind_of_run(place, known)  # None: not ours, or a newer one's


def _kind_of_run(place: re.Match[str], known: Known) -> Kind | None:
    if place["job"] not in known.jobs:
        return Kind.ORPHAN
    if place["run"] is None or (place["job"], int(place["run"])) in known.unfinished:
        return None
    name = place["name"] or ""
    if _CLIP.match(name):
        return Kind.CLIP
    return Kind.CLAIM if _CLAIM.match(name) else None
