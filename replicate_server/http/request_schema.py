"""Schema: what a request to create a prediction may say, checked as Replicate checks it.

The wording and the shape of a refusal are those that the API was seen to give: one line per
fault in `detail`, one entry per fault in `invalid_fields`. A null is no value of any field, a
float is no integer (not even 4.0), keys of the body that it does not know are refused, keys of
`input` that the model does not know are not.

Units: whole seconds. Pure.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from typing_extensions import TypedDict

MODEL = "meta/musicgen"
VERSION = "671ac645ce5e552cc63a54a2bbff63fcf798043055d2dac5fc9e36a837eedcfb"
EVENTS = ("start", "output", "logs", "completed")
_MODELS = ("stereo-melody-large", "stereo-large", "melody-large", "large")
_SCHEMES = ("http://", "https://", "data:")


class InvalidField(TypedDict):
    """One entry of `invalid_fields`."""

    type: str
    field: str
    description: str


@dataclass(frozen=True, slots=True)
class _Spec:
    """What a field may hold."""

    kind: str  #: JSON's name of its type
    minimum: int | None = None
    choices: tuple[str, ...] = ()
    is_uri: bool = False


_BODY = {
    "version": _Spec("string"),
    "input": _Spec("object"),
    "webhook": _Spec("string", is_uri=True),
    "webhook_events_filter": _Spec("array"),
    "stream": _Spec("boolean"),
}
_INPUT = {
    "model_version": _Spec("string", choices=_MODELS),
    "prompt": _Spec("string"),
    "input_audio": _Spec("string", is_uri=True),
    "duration": _Spec("integer"),
    "continuation": _Spec("boolean"),
    "continuation_start": _Spec("integer", minimum=0),
    "continuation_end": _Spec("integer", minimum=0),
    "multi_band_diffusion": _Spec("boolean"),
    "normalization_strategy": _Spec("string", choices=("loudness", "clip", "peak", "rms")),
    "top_k": _Spec("integer"),
    "top_p": _Spec("number"),
    "temperature": _Spec("number"),
    "classifier_free_guidance": _Spec("integer"),
    "output_format": _Spec("string", choices=("wav", "mp3")),
    "seed": _Spec("integer"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """The model's inputs, with its own defaults."""

    model_version: str = "stereo-melody-large"
    prompt: str | None = None
    input_audio: str | None = None
    duration: int = 8  #: whole seconds of the output, the window included
    continuation: bool = False
    continuation_start: int = 0
    continuation_end: int | None = None  #: None: the end of the file
    multi_band_diffusion: bool = False
    normalization_strategy: str = "loudness"
    output_format: str = "wav"
    seed: int | None = None

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """The inputs in a valid `input` object."""
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in given.items() if name in known})


def invalid_fields(body: object) -> list[InvalidField]:
    """What is wrong with the body of a create request; nothing of a good one."""
    if not isinstance(body, dict):
        return [_wrong_type("", "object", body)]
    found = [
        InvalidField(type="required", field="", description=f"{name} is required")
        for name in ("version", "input")
        if name not in body
    ]
    found += [
        InvalidField(
            type="additional_property_not_allowed",
            field="",
            description=f"Additional property {name} is not allowed",
        )
        for name in body
        if name not in _BODY
    ]
    for name, value in body.items():
        if name in _BODY:
            found += _faults(name, name, value, _BODY[name])
    events = body.get("webhook_events_filter")
    for at, event in enumerate(events if isinstance(events, list) else []):
        spec = _Spec("string", choices=EVENTS)
        found += _faults(f"webhook_events_filter.{at}", str(at), event, spec)
    inputs = body.get("input")
    for name, value in (inputs if isinstance(inputs, dict) else {}).items():
        if name in _INPUT:
            found += _faults(f"input.{name}", name, value, _INPUT[name])
    return found


def is_permitted(version: str) -> bool:
    """Whether `version` names the one model and version that is here."""
    return version in {VERSION, f"{MODEL}:{VERSION}"}


def detail_of(found: list[InvalidField]) -> str:
    """The `detail` that goes with `invalid_fields`: a line each."""
    lines = [
        f"- {one['field']}: {one['description']}\n" if one["field"] else f"- {one['description']}\n"
        for one in found
    ]
    return "".join(lines)


def _faults(place: str, name: str, value: object, spec: _Spec) -> Iterator[InvalidField]:
    given = _kind_of(value)
    if given != spec.kind and not (spec.kind == "number" and given == "integer"):
        yield _wrong_type(place, spec.kind, value)
        return
    if spec.choices and value not in spec.choices:
        allowed = ", ".join(f'"{choice}"' for choice in spec.choices)
        yield InvalidField(
            type="enum", field=place, description=f"{name} must be one of the following: {allowed}"
        )
    if spec.minimum is not None and isinstance(value, int) and value < spec.minimum:
        yield InvalidField(
            type="number_gte",
            field=place,
            description=f"Must be greater than or equal to {spec.minimum}",
        )
    if spec.is_uri and not str(value).startswith(_SCHEMES):
        yield InvalidField(type="format", field=place, description="Does not match format 'uri'")


def _wrong_type(place: str, expected: str, value: object) -> InvalidField:
    description = f"Invalid type. Expected: {expected}, given: {_kind_of(value)}"
    return InvalidField(type="invalid_type", field=place, description=description)


def _kind_of(value: object) -> str:
    names = {bool: "boolean", int: "integer", float: "number", str: "string"}
    names |= {list: "array", dict: "object", type(None): "null"}
    return names[type(value)]
