"""Compares two JSON schemas of an event; finds changes that are not fully compatible.

Compatibility is full (backward and forward): topics retain old records for weeks and services are
upgraded one after another, so new consumers read old records and old consumers read new ones. Of
a released field only the description may change; a new field must be optional (consumers ignore
unknown fields). Every other change needs a new version of the event.

Supports JSON schema as pydantic generates it; any other keyword that differs is incompatible. Pure.
"""

import json
from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]

_ANNOTATIONS = frozenset(
    {"$schema", "$id", "$defs", "title", "description", "examples", "deprecated", "default", "type"}
)
_LOWER = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_UPPER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_WALKED = frozenset({"properties", "required", "items", "enum", "const", *_LOWER, *_UPPER})
_OLD_RECORDS = "old records may contain it"
_OLD_CONSUMERS = "old consumers reject"


def compatible(old_schema: Schema, new_schema: Schema) -> list[str]:
    """Return the incompatible changes, one sentence each; empty if there are none."""
    old, new = _inlined(old_schema, old_schema), _inlined(new_schema, new_schema)
    return list(_value("", old, new))


def _inlined(node: Any, root: Schema) -> Any:
    """Return `node` with every reference replaced by its definition."""
    if isinstance(node, list):
        return [_inlined(item, root) for item in node]
    if not isinstance(node, dict):
        return node
    plain = {name: _inlined(item, root) for name, item in node.items() if name != "$defs"}
    reference = plain.pop("$ref", None)
    if reference is None:
        return plain
    assert reference.startswith("#/$defs/"), "pydantic generates no other reference"
    return {**_inlined(root["$defs"][reference.removeprefix("#/$defs/")], root), **plain}


def _value(path: str, old: Schema, new: Schema) -> Iterator[str]:
    before, after = _by_type(old), _by_type(new)
    for kind in sorted(before.keys() - after.keys()):
        yield f"{path or 'value'}: {kind} is no longer accepted, {_OLD_RECORDS}"
    for kind in sorted(after.keys() - before.keys()):
        yield f"{path or 'value'}: may now be {kind}, which {_OLD_CONSUMERS}"
    for kind in sorted(before.keys() & after.keys()):
        yield from _constraints(path, before[kind], after[kind])
        yield from _fields(path, before[kind], after[kind])
        if "items" in before[kind] and "items" in after[kind]:
            yield from _value(f"{path}[]", before[kind]["items"], after[kind]["items"])
        elif before[kind].get("items") != after[kind].get("items"):
            yield f"{path}: the items of the list changed"


def _by_type(schema: Schema) -> dict[str, Schema]:
    """Return the schema of each type that the value may have."""
    if "type" in schema:
        kinds = schema["type"]
        return dict.fromkeys([kinds] if isinstance(kinds, str) else kinds, schema)
    options = schema.get("anyOf") or schema.get("oneOf")
    if not options:
        return {"anything": schema}
    pairs = [pair for option in options for pair in _by_type(option).items()]
    # Two options of the same type are not distinguishable: the schema is compared as a whole.
    return dict(pairs) if len(dict(pairs)) == len(pairs) else {"anything": schema}


def _constraints(path: str, old: Schema, new: Schema) -> Iterator[str]:
    place = path or "value"
    for name in _LOWER + _UPPER:
        before, after = old.get(name), new.get(name)
        if before == after:
            continue
        tighter = before is None or (after is not None and (after > before) == (name in _LOWER))
        effect = (
            "old records may be out of range" if tighter else f"{_OLD_CONSUMERS} the added values"
        )
        yield f"{place}: {name} changed from {before} to {after}, {effect}"
    yield from _choices(place, old, new)
    for name in sorted((old.keys() | new.keys()) - _ANNOTATIONS - _WALKED):
        if old.get(name) != new.get(name):
            yield f"{place}: {name} changed from {_json(old, name)} to {_json(new, name)}"


def _choices(place: str, old: Schema, new: Schema) -> Iterator[str]:
    before, after = _allowed(old), _allowed(new)
    if before is None and after is None:
        return
    if before is None or after is None:
        yield f"{place}: choices changed from {before or 'any'} to {after or 'any'}"
        return
    for choice in before:
        if choice not in after:
            yield f"{place}: {choice!r} is no longer accepted, {_OLD_RECORDS}"
    for choice in after:
        if choice not in before:
            yield f"{place}: {choice!r} is new, {_OLD_CONSUMERS} it"


def _allowed(schema: Schema) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    allowed: list[Any] | None = schema.get("enum")
    return allowed


def _fields(path: str, old: Schema, new: Schema) -> Iterator[str]:
    before, after = old.get("properties", {}), new.get("properties", {})
    required_before, required_after = set(old.get("required", ())), set(new.get("required", ()))
    for name in before:
        field = f"{path}.{name}".lstrip(".")
        if name not in after:
            yield f"{field}: was removed, a released field must stay"
            continue
        if name in required_after - required_before:
            yield f"{field}: is now required, old records may lack it"
        if name in required_before - required_after:
            yield f"{field}: is now optional, {_OLD_CONSUMERS} records without it"
        if not _same_default(before[name], after[name]):
            change = f"{_json(before[name], 'default')} to {_json(after[name], 'default')}"
            yield f"{field}: default changed from {change}, records without it change their meaning"
        yield from _value(field, before[name], after[name])
    for name in after.keys() - before.keys():
        field = f"{path}.{name}".lstrip(".")
        if name in required_after:
            yield f"{field}: is new and required, old records lack it"
        if old.get("additionalProperties") is False:
            yield f"{field}: is new, {_OLD_CONSUMERS} unknown fields"


def _same_default(old: Schema, new: Schema) -> bool:
    if ("default" in old) != ("default" in new):
        return False
    return _contained(old.get("default"), new.get("default"))


def _contained(old: Any, new: Any) -> bool:
    """Return whether `new` equals `old`; an object may have more fields (their defaults)."""
    if isinstance(old, dict) and isinstance(new, dict):
        return all(name in new and _contained(value, new[name]) for name, value in old.items())
    return bool(old == new)


def _json(schema: Schema, name: str) -> str:
    return json.dumps(schema[name]) if name in schema else "nothing"
