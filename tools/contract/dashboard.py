"""Dashboard: Grafana's `segue.json`, made of the panels that `panels.yml` names.

A test holds it against Grafana's own types, and its expressions against the metrics there are.

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
    """The dashboard as Grafana reads it."""
    return {
        "uid": "segue",
        "title": "Segue",
        "description": "Made of panels.yml by make schemas.",
        "tags": ["segue"],
        "timezone": "browser",
        "schemaVersion": 41,
        "version": 1,
        "refresh": "30s",
        "editable": True,
        "time": {"from": "now-6h", "to": "now"},
        "annotations": {"list": []},
        "templating": {"list": []},
        "panels": _laid(yaml.safe_load(PANELS.read_text(encoding="utf-8"))),
    }


def page() -> str:
    """The file."""
    return json.dumps(dashboard(), indent=2) + "\n"


def _laid(rows: list[Json]) -> list[Json]:
    """Rows and panels, each at its place."""
    panels: list[Json] = []
    y = 0
    for row in rows:
        panels.append(_row(row["row"], number=len(panels) + 1, y=y))
        y += 1
        for index, panel in enumerate(row["panels"]):
            down, across = divmod(index, _ACROSS)
            place = {"h": _HEIGHT, "w": _WIDTH, "x": across * _WIDTH, "y": y + down * _HEIGHT}
            panels.append(_panel(panel, number=len(panels) + 1, place=place))
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


def _panel(panel: Json, *, number: int, place: Json) -> Json:
    legend = {"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": True}
    return {
        "id": number,
        "type": "timeseries",
        "title": panel["title"],
        "description": panel["about"],
        "datasource": _SOURCE,
        "gridPos": place,
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
