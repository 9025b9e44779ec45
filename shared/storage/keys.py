"""Returns object keys, one function per kind of object, from job, run and scene.

The job id is hashed, so a key contains nothing that a client chose. Pure.
"""

import re

from shared.contract import ids

_UPLOAD = re.compile(r"^uploads/[A-Za-z0-9._-]{1,200}$")
UPLOADS_PREFIX = "uploads/"
_OWN_PREFIXES = ("jobs/", "cache/", "health/")
_LEGAL = re.compile(r"^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$")
KEY_CHARS_MAX = 512
PART_CHARS_MAX = 255  # the limit of file names


def check_key(key: str) -> str:
    """Return `key` if it is a relative path of plain names.

    Raises:
        ValueError: it could leave the store, or is too long.
    """
    plain = _LEGAL.match(key) and len(key) <= KEY_CHARS_MAX
    parts = key.split("/")
    if not plain or any(set(part) == {"."} or len(part) > PART_CHARS_MAX for part in parts):
        raise ValueError(f"not an object key: {key[:100]!r}")
    return key


def check_prefix(prefix: str) -> str:
    """Return `prefix` if it is valid: empty, a key, or a key with a trailing `/`.

    Raises:
        ValueError: it could leave the store.
    """
    if prefix:
        check_key(prefix.removesuffix("/"))
    return prefix


def job_prefix(job_id: str) -> str:
    """Return the prefix of a job's objects."""
    return f"jobs/{ids.job_uuid(job_id)}"


def run_prefix(job_id: str, run: int) -> str:
    """Return the prefix of a run's objects."""
    return f"{job_prefix(job_id)}/runs/{run}"


def scene_prefix(job_id: str, run: int, scene_index: int) -> str:
    """Return the prefix of a scene's objects; sorts by index."""
    return f"{run_prefix(job_id, run)}/scenes/{scene_index:05d}"


def trial_key(name: str) -> str:
    """Return the key of a temporary object that tests the store."""
    return f"health/trial-{name}"


def claim_key(job_id: str, run: int, scene_index: int, attempt: int) -> str:
    """Return the key of a claim: its creator may pay for the scene."""
    return f"{scene_prefix(job_id, run, scene_index)}/claim-{attempt}"


def prediction_key(job_id: str, run: int, scene_index: int, attempt: int) -> str:
    """Return the key of the prediction id that belongs to a claim."""
    return f"{scene_prefix(job_id, run, scene_index)}/prediction-{attempt}"


def clip_key(job_id: str, run: int, scene_index: int, attempt: int) -> str:
    """Return the key of the provider's clip, before any fade, gain or trim."""
    return f"{scene_prefix(job_id, run, scene_index)}/clip-{attempt}.mp3"


def segment_key(job_id: str, run: int, scene_index: int) -> str:
    """Return the key of a finished scene's event; it exists if the segment does."""
    return f"{scene_prefix(job_id, run, scene_index)}/segment.json"


def style_key(job_id: str, run: int) -> str:
    """Return the key of the style clip: the end of the user's audio, as it is sent."""
    return f"{run_prefix(job_id, run)}/style.mp3"


def style_facts_key(job_id: str, run: int) -> str:
    """Return the key of the style sample's facts; decided once per run."""
    return f"{run_prefix(job_id, run)}/style.json"


def cache_key(digest: str) -> str:
    """Return the key of a cached clip; `digest`: of the request."""
    return f"cache/{digest}/clip.mp3"


def cached_facts_key(digest: str) -> str:
    """Return the key of a cached clip's facts; it exists if the clip is complete."""
    return f"cache/{digest}/facts.json"


def track_key(job_id: str, run: int) -> str:
    """Return the key of a run's track."""
    return f"{run_prefix(job_id, run)}/track.mp3"


def merged_key(job_id: str, run: int) -> str:
    """Return the key of the finished track's event."""
    return f"{run_prefix(job_id, run)}/merged.json"


def video_key(job_id: str, run: int) -> str:
    """Return the key of the video with its music."""
    return f"{run_prefix(job_id, run)}/video.mp4"


def muxed_key(job_id: str, run: int) -> str:
    """Return the key of the finished video's event."""
    return f"{run_prefix(job_id, run)}/muxed.json"


def parked_key(job_id: str, run: int, topic: str) -> str:
    """Return the key of a marker that exists while a dead letter parks the run."""
    return f"{run_prefix(job_id, run)}/parked-{topic}"


def dead_letter_key(digest: str) -> str:
    """Return the key of a record that is too large for its dead letter; `digest`: of the record."""
    return f"dead-letters/{digest}"


def upload_key(sha256: str) -> str:
    """Return the key of an uploaded video; the same bytes are stored once."""
    return f"{UPLOADS_PREFIX}{sha256}"


def is_upload_key(key: str) -> bool:
    """Return whether `key` is that of an uploaded file."""
    return _UPLOAD.fullmatch(key) is not None


def is_own_key(key: str) -> bool:
    """Return whether `key` is that of an object which Segue made: a client may not name it."""
    return key.startswith(_OWN_PREFIXES)
