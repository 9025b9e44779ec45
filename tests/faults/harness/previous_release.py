"""Previous: a service as it was when the events were released, as far as others can notice.

    python -m tests.faults.harness.previous_release generator

It writes no field that the released schemas lack, reads none, and takes no event that they do not
allow. Everything else is the service itself. It stands for a process of the release before, which
runs beside newer ones while an upgrade goes on.

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
    """The schema of an event as it was released; None: there was no such event."""
    place = RELEASED / f"{kind}.json"
    return json.loads(place.read_text()) if place.is_file() else None


def refused(kind: str, value: Any) -> list[str]:
    """Why the release before could not read `value`; empty: it can."""
    schema = released(kind)
    if schema is None:
        return []
    return [error.message for error in Draft202012Validator(schema).iter_errors(value)]


def known(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any] | None = None) -> Any:
    """`value` without the fields that `schema` lacks, at any depth."""
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
            name: known(one, fields[name], root) for name, one in value.items() if name in fields
        }
    if isinstance(value, list) and "items" in schema:
        return [known(one, schema["items"], root) for one in value]
    return value


@contextmanager
def previous_release() -> Iterator[None]:
    """Write and read events as the release did, in this process."""
    dump, validate = Event.model_dump_json, Event.model_validate_json.__func__  # type: ignore[attr-defined]

    def write(event: Event, **given: Any) -> str:
        schema = released(event.kind)
        told = dump(event, **given)
        return told if schema is None else json.dumps(known(json.loads(told), schema))

    def read(event: type[Event], /, data: str | bytes, **given: Any) -> Event:
        schema = released(event.kind)
        if schema is not None:
            value = json.loads(data)
            if reasons := refused(event.kind, value):
                raise AssertionError(f"the release before cannot read {event.kind}: {reasons}")
            data = json.dumps(known(value, schema))
        heard: Event = validate(event, data, **given)
        return heard

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
