"""Schema compatibility: would a changed event break somebody who speaks the older one?

Both directions count, because topics keep old records for weeks and services are upgraded one
after another: today's readers read old records, and older readers read today's. So of a field
that was released nothing may change but its description; a new field may come if it can be left
out (readers ignore what they do not know). Anything else is a new version of the event.

Understands JSON schema as pydantic writes it; what it does not understand counts as a break
when it differs. Pure.
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
_REFUSED = "older readers refuse"


def compatible(old_schema: Schema, new_schema: Schema) -> list[str]:
    """What would break between the two, a sentence each with its field; empty: nothing."""
    old, new = _inlined(old_schema, old_schema), _inlined(new_schema, new_schema)
    return list(_value("", old, new))


def _inlined(node: Any, root: Schema) -> Any:
    """`node` with every reference replaced by what it names."""
    if isinstance(node, list):
        return [_inlined(item, root) for item in node]
    if not isinstance(node, dict):
        return node
    plain = {name: _inlined(item, root) for name, item in node.items() if name != "$defs"}
    reference = plain.pop("$ref", None)
    if reference is None:
        return plain
    assert reference.startswith("#/$defs/"), "pydantic refers to nothing else"
    return {**_inlined(root["$defs"][reference.removeprefix("#/$defs/")], root), **plain}


def _value(path: str, old: Schema, new: Schema) -> Iterator[str]:
    before, after = _by_type(old), _by_type(new)
    for kind in sorted(before.keys() - after.keys()):
        yield f"{path or 'value'}: {kind} is no longer read, old records may hold it"
    for kind in sorted(after.keys() - before.keys()):
        yield f"{path or 'value'}: may now be {kind}, which {_REFUSED}"
    for kind in sorted(before.keys() & after.keys()):
        yield from _constraints(path, before[kind], after[kind])
        yield from _fields(path, before[kind], after[kind])
        if "items" in before[kind] and "items" in after[kind]:
            yield from _value(f"{path}[]", before[kind]["items"], after[kind]["items"])
        elif before[kind].get("items") != after[kind].get("items"):
            yield f"{path}: what the list holds has changed"


def _by_type(schema: Schema) -> dict[str, Schema]:
    """The schema of each type that the value may have."""
    if "type" in schema:
        kinds = schema["type"]
        return dict.fromkeys([kinds] if isinstance(kinds, str) else kinds, schema)
    options = schema.get("anyOf") or schema.get("oneOf")
    if not options:
        return {"anything": schema}
    found = [pair for option in options for pair in _by_type(option).items()]
    # Two options of one type cannot be told apart here: compared as a whole instead.
    return dict(found) if len(dict(found)) == len(found) else {"anything": schema}


def _constraints(path: str, old: Schema, new: Schema) -> Iterator[str]:
    place = path or "value"
    for name in _LOWER + _UPPER:
        before, after = old.get(name), new.get(name)
        if before == after:
            continue
        tighter = before is None or (after is not None and (after > before) == (name in _LOWER))
        told = "old records may lie outside" if tighter else f"{_REFUSED} what lies between"
        yield f"{place}: {name} went from {before} to {after}, {told}"
    yield from _choices(place, old, new)
    for name in sorted((old.keys() | new.keys()) - _ANNOTATIONS - _WALKED):
        if old.get(name) != new.get(name):
            yield f"{place}: {name} went from {_told(old, name)} to {_told(new, name)}"


def _choices(place: str, old: Schema, new: Schema) -> Iterator[str]:
    before, after = _allowed(old), _allowed(new)
    if before is None and after is None:
        return
    if before is None or after is None:
        yield f"{place}: choices went from {before or 'any'} to {after or 'any'}"
        return
    for choice in before:
        if choice not in after:
            yield f"{place}: {choice!r} is no longer read, old records may hold it"
    for choice in after:
        if choice not in before:
            yield f"{place}: {choice!r} is new, {_REFUSED} it"


def _allowed(schema: Schema) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    allowed: list[Any] | None = schema.get("enum")
    return allowed


def _fields(path: str, old: Schema, new: Schema) -> Iterator[str]:
    before, after = old.get("properties", {}), new.get("properties", {})
    needed_before, needed_after = set(old.get("required", ())), set(new.get("required", ()))
    for name in before:
        field = f"{path}.{name}".lstrip(".")
        if name not in after:
            yield f"{field}: was removed, fields stay for ever"
            continue
        if name in needed_after - needed_before:
            yield f"{field}: is needed now, old records may lack it"
        if name in needed_before - needed_after:
            yield f"{field}: may be left out now, {_REFUSED} that"
        if not _same_default(before[name], after[name]):
            told = f"{_told(before[name], 'default')} to {_told(after[name], 'default')}"
            yield f"{field}: default went from {told}, records without it change their meaning"
        yield from _value(field, before[name], after[name])
    for name in after.keys() - before.keys():
        field = f"{path}.{name}".lstrip(".")
        if name in needed_after:
            yield f"{field}: is new and needed, old records lack it"
        if old.get("additionalProperties") is False:
            yield f"{field}: is new, {_REFUSED} fields that they do not know"


def _same_default(old: Schema, new: Schema) -> bool:
    if ("default" in old) != ("default" in new):
        return False
    return _contained(old.get("default"), new.get("default"))


def _contained(old: Any, new: Any) -> bool:
    """Whether `new` says what `old` says; an object may say more (its new fields' defaults)."""
    if isinstance(old, dict) and isinstance(new, dict):
        return all(name in new and _contained(value, new[name]) for name, value in old.items())
    return bool(old == new)


def _told(schema: Schema, name: str) -> str:
    return json.dumps(schema[name]) if name in schema else "nothing"
