"""Runs a service that writes and reads events as the first release did.

    python -m tests.faults.harness.previous_release generator

It neither writes nor reads fields that the released schemas lack, and rejects events that they do
not allow. It emulates a process of the previous release during a rolling upgrade.

I/O: reads the released schemas.
"""

import json
import runpy
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from shared.contract.events import EVENTS, Event

RELEASED = Path(__file__).parents[2] / "schemas" / "released" / "v1"


@cache
def released(kind: str) -> Mapping[str, Any] | None:
    """Return the released schema of an event; None if the event is newer."""
    path = RELEASED / f"{kind}.json"
    return json.loads(path.read_text()) if path.is_file() else None


def refused(kind: str, value: Any) -> list[str]:
    """Return why the previous release rejects `value`; empty if it does not."""
    schema = released(kind)
    if schema is None:
        return []
    return [error.message for error in Draft202012Validator(schema).iter_errors(value)]


def known(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any] | None = None) -> Any:
    """Return `value` without the fields that `schema` lacks, at any depth."""
    root = root or schema
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return known(value, root["$defs"][name], root)
    for option in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        if isinstance(value, dict) and ("$ref" in option or "properties" in option):
            return known(value, option, root)
    if isinstance(value, dict) and "properties" in schema:
        fields = schema["properties"]
        return {
            name: known(item, fields[name], root) for name, item in value.items() if name in fields
        }
    if isinstance(value, list) and "items" in schema:
        return [known(item, schema["items"], root) for item in value]
    return value


@contextmanager
def previous_release() -> Iterator[None]:
    """Write and read events as the release did, in this process."""
    dump, validate = Event.model_dump_json, Event.model_validate_json.__func__  # type: ignore[attr-defined]

    def write(event: Event, **given: Any) -> str:
        schema = released(event.kind)
        text = dump(event, **given)
        return text if schema is None else json.dumps(known(json.loads(text), schema))

    def read(event: type[Event], /, data: str | bytes, **given: Any) -> Event:
        schema = released(event.kind)
        if schema is not None:
            value = json.loads(data)
            if reasons := refused(event.kind, value):
                raise AssertionError(f"the previous release cannot read {event.kind}: {reasons}")
            data = json.dumps(known(value, schema))
        decoded: Event = validate(event, data, **given)
        return decoded

    assert {event.kind for event in EVENTS if released(event.kind)}, "nothing was released"
    current = {name: vars(Event).get(name) for name in ("model_dump_json", "model_validate_json")}
    Event.model_dump_json = write  # type: ignore[method-assign,assignment]
    Event.model_validate_json = classmethod(read)  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        for name, method in current.items():
            delattr(Event, name) if method is None else setattr(Event, name, method)


if __name__ == "__main__":
    with previous_release():
        runpy.run_module(f"services.{sys.argv[1]}", run_name="__main__")
