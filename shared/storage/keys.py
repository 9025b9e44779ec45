"""Keys: one function per kind of object; each is a function of (job, run, scene).

A job's id is hashed, so a key holds nothing a client chose. Pure.
"""

import re

from shared.contract import ids

_LEGAL = re.compile(r"^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$")
KEY_CHARS_MAX = 512
PART_CHARS_MAX = 255  # what a file system takes for a name


def check_key(key: str) -> str:
    """`key` if it is a relative path of plain names, as every key here is.

    Raises:
        ValueError: it could leave its place, or no store could hold it.
    """
    plain = _LEGAL.match(key) and len(key) <= KEY_CHARS_MAX
    parts = key.split("/")
    if not plain or any(set(part) == {"."} or len(part) > PART_CHARS_MAX for part in parts):
        raise ValueError(f"not an object key: {key[:100]!r}")
    return key


def check_prefix(prefix: str) -> str:
    """`prefix` if it is the beginning of keys: nothing, a key, or one with `/` at its end.

    Raises:
        ValueError: it could lead out of the store.
    """
    if prefix:
        check_key(prefix.removesuffix("/"))
    return prefix


def job_prefix(job_id: str) -> str:
    """Everything of a job lies below."""
    return f"jobs/{ids.job_uuid(job_id)}"


def run_prefix(job_id: str, run: int) -> str:
    """Everything of one run lies below."""
    return f"{job_prefix(job_id)}/runs/{run}"


def scene_prefix(job_id: str, run: int, scene_index: int) -> str:
    """Everything of one scene lies below; sorts by index."""
    return f"{run_prefix(job_id, run)}/scenes/{scene_index:05d}"


def trial_key(name: str) -> str:
    """An object that is made to see what a store does, and removed."""
    return f"health/trial-{name}"


def claim_key(job_id: str, run: int, scene_index: int, attempt: int) -> str:
    """Whoever creates this object may pay for the scene."""
    return f"{scene_prefix(job_id, run, scene_index)}/claim-{attempt}"


def prediction_key(job_id: str, run: int, scene_index: int, attempt: int) -> str:
    """The id of the prediction that a claim led to."""
    return f"{scene_prefix(job_id, run, scene_index)}/prediction-{attempt}"


def clip_key(job_id: str, run: int, scene_index: int, attempt: int) -> str:
    """What the provider sent, before any fade, gain or trim."""
    return f"{scene_prefix(job_id, run, scene_index)}/clip-{attempt}.mp3"


def segment_key(job_id: str, run: int, scene_index: int) -> str:
    """The event of the finished scene; there is a segment where there is this object."""
    return f"{scene_prefix(job_id, run, scene_index)}/segment.json"


def style_key(job_id: str, run: int) -> str:
    """The end of the user's own audio that the first scene continues, as it is sent."""
    return f"{run_prefix(job_id, run)}/style.mp3"


def style_facts_key(job_id: str, run: int) -> str:
    """Whether the style sample can be continued; decided once for a run."""
    return f"{run_prefix(job_id, run)}/style.json"


def cache_key(digest: str) -> str:
    """A clip that can be used again wherever the same is asked for; `digest` of what was asked."""
    return f"cache/{digest}/clip.mp3"


def cached_facts_key(digest: str) -> str:
    """What is known of the clip beside it; there is a cached clip where there is this object."""
    return f"cache/{digest}/facts.json"


def track_key(job_id: str, run: int) -> str:
    """The track of a run."""
    return f"{run_prefix(job_id, run)}/track.mp3"


def merged_key(job_id: str, run: int) -> str:
    """The event of the finished track."""
    return f"{run_prefix(job_id, run)}/merged.json"


def video_key(job_id: str, run: int) -> str:
    """The video with its music."""
    return f"{run_prefix(job_id, run)}/video.mp4"


def muxed_key(job_id: str, run: int) -> str:
    """The event of the finished video."""
    return f"{run_prefix(job_id, run)}/muxed.json"


def parked_key(job_id: str, run: int, topic: str) -> str:
    """There while a dead letter holds up this run on this topic."""
    return f"{run_prefix(job_id, run)}/parked-{topic}"


def upload_key(sha256: str) -> str:
    """A video that a client handed in; the same bytes are stored once."""
    return f"uploads/{sha256}"
