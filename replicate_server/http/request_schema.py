"""Validates requests to create a prediction, with Replicate's own error messages.

Text and form of an error are as recorded: one line per invalid field in `detail`, one entry per
field in `invalid_fields`. A null is not a value of any field, a float is not an integer (not even
4.0), unknown keys of the body are rejected, unknown keys of `input` are ignored.

Units: whole seconds. Pure.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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
    """Type and range of a field."""

    kind: str  #: JSON name of its type
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
    """Inputs of the model, with its defaults."""

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
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Return the inputs of a valid `input` object."""
        known = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})


def invalid_fields(body: object) -> list[InvalidField]:
    """Return the invalid fields of the body of a create request."""
    if not isinstance(body, dict):
        return [_wrong_type("", "object", body)]
    invalid = [
        InvalidField(type="required", field="", description=f"{name} is required")
        for name in ("version", "input")
        if name not in body
    ]
    invalid += [
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
            invalid += _check_field(name, name, value, _BODY[name])
    events = body.get("webhook_events_filter")
    for index, event in enumerate(events if isinstance(events, list) else []):
        spec = _Spec("string", choices=EVENTS)
        invalid += _check_field(f"webhook_events_filter.{index}", str(index), event, spec)
    inputs = body.get("input")
    for name, value in (inputs if isinstance(inputs, dict) else {}).items():
        if name in _INPUT:
            invalid += _check_field(f"input.{name}", name, value, _INPUT[name])
    return invalid


def is_permitted(version: str) -> bool:
    """Return whether `version` is the pinned model and version."""
    return version in {VERSION, f"{MODEL}:{VERSION}"}


def detail_of(fields: list[InvalidField]) -> str:
    """Return the `detail` for `invalid_fields`: one line each."""
    lines = [
        f"- {field['field']}: {field['description']}\n"
        if field["field"]
        else f"- {field['description']}\n"
        for field in fields
    ]
    return "".join(lines)


def _check_field(place: str, name: str, value: object, spec: _Spec) -> Iterator[InvalidField]:
    actual = _kind_of(value)
    if actual != spec.kind and not (spec.kind == "number" and actual == "integer"):
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
