"""Field types of requests: validation and OpenAPI description of job ids, texts and URLs.

Pure.
"""

import re
from decimal import Decimal
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from shared.contract import ids

SCENE_S_MIN = 0.02  # one frame at 50 fps
TEXT_CHARS_MAX = 10_000  # every scene's record repeats the prompt; a record holds 1 MB
URL_CHARS_MAX = 8_192  # signed URLs are long
KEY_PART_CHARS_MAX = 200  # file systems allow 255 bytes per name
#: One segment of a URL path: no slash, no control character, no leading or trailing space.
JOB_ID_PATTERN = r"^(?!\.{1,2}$)[^/\\\s\x00-\x1f\x7f-\x9f]([^/\\\x00-\x1f\x7f-\x9f\u2028\u2029]*[^/\\\s\x00-\x1f\x7f-\x9f])?$"  # noqa: E501 - one pattern

_JOB_ID_TEXT: dict[str, Any] = {
    "type": "string",
    "minLength": 1,
    "maxLength": ids.JOB_ID_CHARS_MAX,
    "pattern": JOB_ID_PATTERN,
}
JobIdText = Annotated[
    str,
    BeforeValidator(ids.check_job_id),
    WithJsonSchema({**_JOB_ID_TEXT, "examples": ["123"]}),
]
JobIdBody = Annotated[
    str,
    BeforeValidator(ids.check_job_id),
    WithJsonSchema(
        {
            "anyOf": [_JOB_ID_TEXT, {"type": "integer"}],
            "description": "A string or an integer; stored and returned as text.",
        }
    ),
]


def job_not_found(job_id: str) -> str:
    """Return the message about an unknown job, in HTTP responses and commands."""
    return (
        f"job {job_id} not found: check its id (segue jobs lists them), or create it with "
        "POST /api/v3/audio/generate-scenes"
    )


def _storable(text: str) -> str:
    if "\x00" in text:
        raise ValueError("must not contain the character NUL")
    return text


def _web(url: str) -> str:
    if len(url) > URL_CHARS_MAX:
        raise ValueError(f"has {len(url)} characters, at most {URL_CHARS_MAX} are allowed")
    scheme, _, rest = url.partition("://")
    if scheme.lower() not in {"http", "https"} or not rest.strip("/") or not url.isprintable():
        raise ValueError("must be an http or https URL")
    try:
        port = urlsplit(url).port
    except ValueError as error:
        raise ValueError("must be an http or https URL with a valid port") from error
    if port == 0:
        raise ValueError("must be an http or https URL with a valid port")
    return url


_NO_NUL = {"pattern": r"^[^\x00]*$"}
Text = Annotated[
    str,
    Field(max_length=TEXT_CHARS_MAX, json_schema_extra=_NO_NUL),
    AfterValidator(_storable),
]
WebUrl = Annotated[
    str,
    Field(
        description=f"http or https, at most {URL_CHARS_MAX} characters.",
        json_schema_extra={"pattern": r"^https?://[!-.0-~][!-~]*$"},
    ),
    AfterValidator(_web),
]
ObjectKey = Annotated[
    str,
    Field(
        description="Object key, at most 512 characters.",
        json_schema_extra={"pattern": r"^[A-Za-z0-9_-]{1,200}(/[A-Za-z0-9_-]{1,200})*$"},
    ),
]
Seconds = Annotated[float, Field(allow_inf_nan=False, description="Seconds.")]

_TIMECODE = r"^[0-9]{1,3}(:[0-5]?[0-9]){1,2}([.,][0-9]{1,9})?$"


def _seconds(value: Any) -> Any:
    """Return a timecode such as `00:01:02.5` as seconds; any other value but text unchanged."""
    if not isinstance(value, str):
        return value
    if re.fullmatch(_TIMECODE, value) is None:
        raise ValueError("must be a number of seconds, or a timecode such as 00:01:02.5")
    seconds = Decimal(0)
    for part in value.replace(",", ".").split(":"):
        seconds = seconds * 60 + Decimal(part)
    return float(seconds)


def _time_schema(**bound: float) -> WithJsonSchema:
    number = {"type": "number", **bound}
    timecode = {"type": "string", "pattern": _TIMECODE, "examples": ["00:01:02.5"]}
    return WithJsonSchema({"anyOf": [number, timecode], "description": "Seconds, or a timecode."})


#: A length or a time of a scene: seconds, or a timecode.
Duration = Annotated[
    float,
    BeforeValidator(_seconds),
    Field(ge=SCENE_S_MIN, allow_inf_nan=False),
    _time_schema(minimum=SCENE_S_MIN),
]
StartTime = Annotated[
    float, BeforeValidator(_seconds), Field(ge=0, allow_inf_nan=False), _time_schema(minimum=0)
]
EndTime = Annotated[
    float,
    BeforeValidator(_seconds),
    Field(gt=0, allow_inf_nan=False),
    _time_schema(exclusiveMinimum=0),
]
