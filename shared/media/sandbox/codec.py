"""Encodes arguments and results of calls into a child process, as JSON and binary parts.

A child that read hostile media may be under its control, so the caller never unpickles what it
returns: values are plain JSON, checked against the type hints of the called function. Samples and
files travel beside the JSON as bytes.

Supported: dataclasses, what pydantic validates from JSON, `bytes` and `Audio`; the last two as an
argument, as a result, or as a field of a dataclass.
"""

import dataclasses
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
from pydantic import TypeAdapter

from shared.media.samples import Audio

_SAMPLE_BYTES = 4  # float32


class BinaryParts:
    """The binary parts of a received message, taken in order."""

    def __init__(self, data: bytearray) -> None:
        self._data = data
        self._taken = 0

    def take(self, size_bytes: int) -> memoryview:
        """Return the next part.

        Raises:
            ValueError: the message is shorter than its JSON says.
        """
        end = self._taken + size_bytes
        if size_bytes < 0 or end > len(self._data):
            raise ValueError("the message is shorter than its parts")
        part = memoryview(self._data)[self._taken : end]
        self._taken = end
        return part


def to_plain(value: Any, parts: list[bytes | memoryview]) -> Any:
    """Return `value` as JSON types; append its samples and bytes to `parts`."""
    if isinstance(value, np.ndarray):
        parts.append(np.ascontiguousarray(value, dtype=np.float32).data.cast("B"))
        return list(value.shape)
    if isinstance(value, bytes):
        parts.append(value)
        return len(value)
    if dataclasses.is_dataclass(value):
        return {
            field.name: to_plain(getattr(value, field.name), parts)
            for field in dataclasses.fields(value)
        }
    if isinstance(value, list | tuple):
        return [to_plain(item, parts) for item in value]
    return str(value) if isinstance(value, Path | Fraction) else value


def from_plain(kind: Any, value: Any, parts: BinaryParts) -> Any:
    """Return the value of type `kind` that `to_plain` encoded.

    Raises:
        ValueError: the value is not of this type.
    """
    if kind is bytes:
        return bytes(parts.take(int(value)))
    if kind == Audio:
        channels, samples = (int(length) for length in value)
        data = parts.take(channels * samples * _SAMPLE_BYTES)
        return np.frombuffer(data, dtype=np.float32).reshape(channels, samples)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints = hints_of(kind)
        names = [field.name for field in dataclasses.fields(kind)]
        return kind(**{name: from_plain(hints[name], value[name], parts) for name in names})
    return _adapter(kind).validate_python(value)


@cache
def hints_of(kind: Any) -> dict[str, Any]:
    """Return the type hints of a function or class."""
    return get_type_hints(kind)


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
