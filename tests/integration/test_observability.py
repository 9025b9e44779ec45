"""Alert rules and dashboard, checked by promtool and by Grafana's types."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from tests.support import servers
from tests.support.alert_rules import ALERTS, DASHBOARD, OBSERVABILITY, ROOT, run_tool

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]
SHAPE = ROOT / "tests" / "deployment" / "grafana"
FETCH_S, COMPILE_S = 120.0, 90.0


def test_prometheus_accepts_the_alert_rules(promtool: Path) -> None:
    """Prometheus would read them at its start."""
    run_tool([promtool, "check", "rules", ALERTS])


def test_each_alert_fires_only_when_it_should(promtool: Path) -> None:
    """On the series of alerts.test.yml."""
    run_tool([promtool, "test", "rules", OBSERVABILITY / "alerts.test.yml"])


def test_prometheus_accepts_the_queries_of_the_panels(promtool: Path, tmp_path: Path) -> None:
    """Each expression is checked as a recording rule."""
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    queries = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    recorded = [{"record": f"panel:{n}", "expr": expr} for n, expr in enumerate(queries)]
    rules = tmp_path / "panels.yml"
    groups = [{"name": "panels", "rules": recorded}]
    rules.write_text(yaml.safe_dump({"groups": groups}), encoding="utf-8")

    run_tool([promtool, "check", "rules", rules])
    assert len(queries) > 40


def test_prometheus_accepts_its_configuration(promtool: Path, tmp_path: Path) -> None:
    """The compose file's, with the rules that it names."""
    for name in ("prometheus.yml", "alerts.yml"):
        shutil.copy(OBSERVABILITY / name, tmp_path / name)

    run_tool([promtool, "check", "config", tmp_path / "prometheus.yml"])


@pytest.fixture(scope="module")
def compiler(npm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with Grafana's types and the compiler, installed from their lock file."""
    folder = tmp_path_factory.mktemp("grafana")
    shutil.copytree(SHAPE, folder, dirs_exist_ok=True)
    try:
        run_tool([npm, "ci", "--no-audit", "--no-fund"], cwd=folder, timeout_s=FETCH_S)
    except (AssertionError, subprocess.TimeoutExpired) as error:
        if "npm" in servers.REQUIRED:
            raise
        pytest.skip(f"no npm packages: {error}")
    return folder


def compiled(folder: Path, dashboard: dict[str, Any]) -> str:
    """Return the compiler's messages for a dashboard; empty if it is valid."""
    value = json.dumps(dashboard, indent=1)
    checked = 'import type { Checked } from "./shape.js";\n\n'
    checked += f"export const dashboard: Checked = {value};\n"
    (folder / "checked.ts").write_text(checked, encoding="utf-8")
    tsc = folder / "node_modules" / "typescript" / "bin" / "tsc"
    done = subprocess.run(
        ["node", tsc, "--project", folder],
        capture_output=True,
        text=True,
        timeout=COMPILE_S,
        check=False,
    )
    return done.stdout + done.stderr


def test_the_dashboard_is_valid_by_grafanas_types(compiler: Path) -> None:
    """Unknown fields are errors, so a misspelt one is found."""
    dashboard: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    assert compiled(compiler, dashboard) == ""

    dashboard["refersh"] = dashboard.pop("refresh")
    assert "refersh" in compiled(compiler, dashboard)
