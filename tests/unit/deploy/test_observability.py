"""Tests of the alert rules and the dashboard: consistent with the metrics and the runbook."""

import json
import re
from collections.abc import Sequence
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from tests.support.alert_rules import DASHBOARD, OBSERVABILITY, ROOT, rules
from tools.contract.metrics_page import catalogue, labels_of

#: metrics of Prometheus and its client
EXTERNAL = {"up", "process_resident_memory_bytes", "process_start_time_seconds"}
_SUFFIXES = ("_bucket", "_count", "_sum")


def panels() -> list[dict[str, Any]]:
    """Return the panels with expressions."""
    content = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return [panel for panel in content if panel["type"] != "row"]


def metrics_in(expressions: Sequence[str]) -> set[str]:
    """Return the metrics that expressions use, without the suffixes of histograms."""
    word = re.compile(r"\b(segue_\w+|process_\w+|up)\b")
    used = set()
    for name in (name for text in expressions for name in word.findall(text)):
        suffix = next((text for text in _SUFFIXES if name.endswith(text)), "")
        used.add(name.removesuffix(suffix))
    return used


def panel_expressions() -> list[str]:
    """Return every expression of the dashboard."""
    return [target["expr"] for panel in panels() for target in panel["targets"]]


def test_dashboard_and_alerts_use_existing_metrics() -> None:
    """A renamed metric would leave a panel empty."""
    catalogued = {name for name, _ in catalogue()}
    used = metrics_in([*panel_expressions(), *(rule["expr"] for rule in rules())])

    assert used - catalogued - EXTERNAL == set()


def test_the_dashboard_shows_every_metric() -> None:
    """A metric without a panel is not needed."""
    catalogued = {name for name, _ in catalogue()}

    assert catalogued - metrics_in(panel_expressions()) == set()


def test_no_metric_has_a_label_that_a_client_chooses() -> None:
    """A million jobs would be a million time series."""
    labels = {label for _, metric in catalogue() for label in labels_of(metric)}

    assert labels <= {
        "code", "reason", "kind", "method", "origin", "outcome", "provider", "route",
        "server", "service", "status", "topic", "version",
    }  # fmt: skip


def test_every_alert_has_a_firing_and_a_quiet_test() -> None:
    """Promtool runs them."""
    content = yaml.safe_load((OBSERVABILITY / "alerts.test.yml").read_text(encoding="utf-8"))
    cases = [(test["name"], case) for test in content["tests"] for case in test["alert_rule_test"]]
    fires = {case["alertname"] for _, case in cases if case["exp_alerts"]}
    quiet = {case["alertname"] for name, case in cases if "is quiet" in name}

    alerts = {rule["alert"] for rule in rules()}
    assert fires == alerts
    assert quiet == alerts


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alert_has_a_severity_a_summary_and_a_runbook_section(rule: dict[str, Any]) -> None:
    """The section exists in the runbook."""
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    text = (ROOT / page).read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)

    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert rule["annotations"]["summary"]
    assert anchor in {_anchor(heading) for heading in headings}


def test_every_panel_has_a_description_a_unit_and_legends() -> None:
    """For every curve."""
    for panel in panels():
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert all(target["legendFormat"] for target in panel["targets"])


def _anchor(heading: str) -> str:
    """Return a heading's anchor as GitHub makes it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
