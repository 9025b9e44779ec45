"""Derives ids and seeds from job, run and scene, so that a replay repeats them.

Pure.
"""

import unicodedata
import uuid

#: The root of every derived id; changing it changes every id.
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://segue.example/ids")

JOB_ID_CHARS_MAX = 200
_FORBIDDEN = frozenset("/\\")  # a job id is one segment of a URL path
_CONTROL = frozenset({"Cc", "Cs", "Zl", "Zp"})  # unsafe in headers and logs; emoji are safe


def check_job_id(value: object) -> str:
    """Return `value` as a job id: text without slashes and control characters, or an integer.

    Raises:
        ValueError: `value` is no valid job id; the message names the rule.
    """
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError("must be a string or an integer")  # noqa: TRY004 - pydantic wants ValueError
    text = str(value)
    if not text.strip():
        raise ValueError("must not be empty")
    if len(text) > JOB_ID_CHARS_MAX:
        raise ValueError(f"has {len(text)} characters, at most {JOB_ID_CHARS_MAX} are allowed")
    if text in {".", ".."} or not _FORBIDDEN.isdisjoint(text):
        raise ValueError('must not contain "/" or "\\": it is one segment of a URL')
    if text != text.strip() or any(unicodedata.category(c) in _CONTROL for c in text):
        raise ValueError("must not contain control characters or begin or end with a space")
    return text


def job_uuid(job_id: str) -> str:
    """Return the job's name in object keys: hexadecimal, safe for any job id."""
    return uuid.uuid5(NAMESPACE, job_id).hex


def event_id(job_id: str, run: int, kind: str, *parts: object) -> str:
    """Return the id of one event; the same event published again has the same id."""
    return str(uuid.uuid5(NAMESPACE, "\n".join([job_id, str(run), kind, *map(str, parts)])))


def scene_seed(job_id: str, run: int, scene_index: int, attempt: int) -> int:
    """Return the seed of one attempt, 1 to 2**32 - 1 (0 means "random").

    It is unique per attempt: the generator finds a lost prediction by its seed.
    """
    name = f"seed\n{job_id}\n{run}\n{scene_index}\n{attempt}"
    return uuid.uuid5(NAMESPACE, name).int % (2**32 - 1) + 1
