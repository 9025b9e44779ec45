"""Builds Grafana's dashboard `segue.json` from `panels.yml`.

A test validates it with Grafana's own types and checks its expressions against the metrics.

I/O: reads `panels.yml`.
"""

import json
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

Json = dict[str, Any]
PANELS = Path(__file__).resolve().parents[2] / "deploy" / "observability/grafana/panels.yml"
_SOURCE = {"type": "prometheus", "uid": "prometheus"}
_ACROSS, _WIDTH, _HEIGHT = 3, 8, 8  # a dashboard is 24 wide


def dashboard() -> Json:
    """Return the dashboard as Grafana imports it."""
    return {
        "uid": "segue",
        "title": "Segue",
        "description": "Generated from panels.yml by make schemas.",
        "tags": ["segue"],
        "timezone": "browser",
        "schemaVersion": 41,
        "version": 1,
        "refresh": "30s",
        "editable": True,
        "time": {"from": "now-6h", "to": "now"},
        "annotations": {"list": []},
        "templating": {"list": []},
        "panels": _layout(yaml.safe_load(PANELS.read_text(encoding="utf-8"))),
    }


def page() -> str:
    """Return the text of the file."""
    return json.dumps(dashboard(), indent=2) + "\n"


def _layout(rows: list[Json]) -> list[Json]:
    """Return rows and panels with their positions."""
    panels: list[Json] = []
    y = 0
    for row in rows:
        panels.append(_row(row["row"], number=len(panels) + 1, y=y))
        y += 1
        for index, panel in enumerate(row["panels"]):
            down, across = divmod(index, _ACROSS)
            position = {"h": _HEIGHT, "w": _WIDTH, "x": across * _WIDTH, "y": y + down * _HEIGHT}
            panels.append(_panel(panel, number=len(panels) + 1, position=position))
        y += -(-len(row["panels"]) // _ACROSS) * _HEIGHT
    return panels


def _row(title: str, *, number: int, y: int) -> Json:
    return {
        "id": number,
        "type": "row",
        "title": title,
        "collapsed": False,
        "gridPos": {"h": 1, "w": _ACROSS * _WIDTH, "x": 0, "y": y},
        "panels": [],
    }


def _panel(panel: Json, *, number: int, position: Json) -> Json:
    legend = {"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": True}
    return {
        "id": number,
        "type": "timeseries",
        "title": panel["title"],
        "description": panel["about"],
        "datasource": _SOURCE,
        "gridPos": position,
        "fieldConfig": {"defaults": {"unit": panel["unit"], "min": 0}, "overrides": []},
        "options": {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}},
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "expr": expression,
                "legendFormat": name,
                "datasource": _SOURCE,
            }
            for index, (name, expression) in enumerate(panel["curves"].items())
        ],
    }
