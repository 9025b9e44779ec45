"""Ids: everything is a function of (job, run, scene), so a replay repeats it.

Pure.
"""

import unicodedata
import uuid

#: The root of every derived id; changing it would make every id anew.
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://segue.example/ids")

JOB_ID_CHARS_MAX = 200
_FORBIDDEN = frozenset("/\\")  # a job id is one segment of a URL path
_CONTROL = frozenset({"Cc", "Cs", "Zl", "Zp"})  # what cannot travel in headers and logs; emoji can


def check_job_id(value: object) -> str:
    """`value` as a job id: any text but slashes and control characters; a number is its digits.

    Raises:
        ValueError: what is wrong with it, and what would be right.
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
    """The job's name in object keys: hexadecimal, safe whatever the client chose as id."""
    return uuid.uuid5(NAMESPACE, job_id).hex


def event_id(job_id: str, run: int, kind: str, *parts: object) -> str:
    """The id of one fact; the same fact said again has the same id."""
    return str(uuid.uuid5(NAMESPACE, "\n".join([job_id, str(run), kind, *map(str, parts)])))


def scene_seed(job_id: str, run: int, scene_index: int, attempt: int) -> int:
    """A seed from 1 to 2**32 - 1 (0 means "random"), unique: a lost prediction is found by it."""
    name = f"seed\n{job_id}\n{run}\n{scene_index}\n{attempt}"
    return uuid.uuid5(NAMESPACE, name).int % (2**32 - 1) + 1
