"""Writes the published contract from the models (`make schemas`).

One JSON schema per event (`tests/schemas`), the AsyncAPI document, the reference pages and
Grafana's dashboard. A test fails if one of them is out of date. Released schemas are stored in
`tests/schemas/released` and never change.

I/O: writes below the given root.
"""

import json
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from typing_extensions import override

from shared.contract.events import EVENTS, Event
from tools.contract import dashboard, metrics_page
from tools.contract.asyncapi import document, example_of
from tools.contract.events_page import page

_YAML_HEAD = "# Generated from the models in shared/contract by `make schemas`; do not edit.\n"
_WIDTH = 100
DASHBOARD = "deploy/observability/grafana/dashboards/segue.json"


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]  # PyYAML is untyped
    """Writes no YAML aliases, which are hard to read."""

    @override
    def ignore_aliases(self, data: object) -> bool:
        return True


def event_schema(event: type[Event]) -> dict[str, Any]:
    """Return the JSON schema of `event`, with an example."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:{event.ce_type().replace('.', ':')}",
        **event.model_json_schema(mode="validation"),
        "examples": [example_of(event).model_dump(mode="json")],
    }


def generated() -> dict[str, str]:
    """Return every generated file: its path below the root, and its text."""
    files = {f"tests/schemas/{event.kind}.json": _json(event_schema(event)) for event in EVENTS}
    asyncapi = yaml.dump(
        document(), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_WIDTH
    )
    return {
        **files,
        "docs/asyncapi.yaml": _YAML_HEAD + asyncapi,
        "docs/events.md": page(),
        "docs/metrics.md": metrics_page.page(),
        DASHBOARD: dashboard.page(),
    }


def write(root: Path) -> list[Path]:
    """Write the missing and outdated files below `root`; return the changed ones."""
    changed = []
    for name, text in generated().items():
        path = root / name
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        changed.append(path)
    return changed


def main() -> None:
    """Write into the checkout of this file."""
    root = Path(__file__).resolve().parents[2]
    changed = write(root)
    for path in changed:
        print(f"wrote {path.relative_to(root)}")
    if not changed:
        print("all generated files are up to date")


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    main()
