"""Alert rules and dashboard: one with the metrics there are, their tests, and the runbook."""

import json
import re
from collections.abc import Sequence
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from tests.support.alert_rules import DASHBOARD, OBSERVABILITY, ROOT, rules
from tools.contract.metrics_page import catalogue, labels_of

#: Prometheus' own, and its client's
NOT_OURS = {"up", "process_resident_memory_bytes", "process_start_time_seconds"}
_ENDINGS = ("_bucket", "_count", "_sum")


def panels() -> list[dict[str, Any]]:
    """The panels that show something."""
    told = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return [panel for panel in told if panel["type"] != "row"]


def asked(expressions: Sequence[str]) -> set[str]:
    """The metrics that expressions name, without the endings of histograms."""
    word = re.compile(r"\b(segue_\w+|process_\w+|up)\b")
    found = set()
    for name in (name for text in expressions for name in word.findall(text)):
        ending = next((one for one in _ENDINGS if name.endswith(one)), "")
        found.add(name.removesuffix(ending))
    return found


def of_panels() -> list[str]:
    """Every expression of the dashboard."""
    return [target["expr"] for panel in panels() for target in panel["targets"]]


def test_dashboard_and_alerts_ask_for_metrics_that_there_are() -> None:
    """A renamed metric turns a panel empty without a word."""
    ours = {name for name, _ in catalogue()}
    found = asked([*of_panels(), *(rule["expr"] for rule in rules())])

    assert found - ours - NOT_OURS == set()


def test_the_dashboard_shows_every_metric() -> None:
    """What nobody can see is not worth counting."""
    ours = {name for name, _ in catalogue()}

    assert ours - asked(of_panels()) == set()


def test_no_metric_has_a_label_that_a_client_chooses() -> None:
    """A million jobs would be a million series."""
    labels = {label for _, metric in catalogue() for label in labels_of(metric)}

    assert labels <= {
        "code", "reason", "kind", "method", "origin", "outcome", "provider", "route",
        "server", "service", "status", "topic", "version",
    }  # fmt: skip


def test_every_alert_has_a_test_in_which_it_fires_and_one_in_which_it_is_quiet() -> None:
    """Promtool runs them; here, that there are any."""
    told = yaml.safe_load((OBSERVABILITY / "alerts.test.yml").read_text(encoding="utf-8"))
    cases = [(one["name"], case) for one in told["tests"] for case in one["alert_rule_test"]]
    fires = {case["alertname"] for _, case in cases if case["exp_alerts"]}
    quiet = {case["alertname"] for name, case in cases if "is quiet" in name}

    alerts = {rule["alert"] for rule in rules()}
    assert fires == alerts
    assert quiet == alerts


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alert_says_how_bad_it_is_and_where_the_runbook_has_it(rule: dict[str, Any]) -> None:
    """A severity of two, a sentence, and a heading that there is."""
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    text = (ROOT / page).read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)

    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert rule["annotations"]["summary"]
    assert anchor in {_anchor(heading) for heading in headings}


def test_every_panel_says_what_it_shows() -> None:
    """In words, with a unit, and each curve with a name."""
    for panel in panels():
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert all(target["legendFormat"] for target in panel["targets"])


def _anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
