"""The alert rules and the dashboard of deploy/observability, and the tools that check them."""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

ROOT = Path(__file__).resolve().parents[2]
OBSERVABILITY = ROOT / "deploy" / "observability"
ALERTS = OBSERVABILITY / "alerts.yml"
DASHBOARD = OBSERVABILITY / "grafana" / "dashboards" / "segue.json"
TOOL_S = 60.0


def rules() -> list[dict[str, Any]]:
    """Return every alert rule."""
    document = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))
    return [rule for group in document["groups"] for rule in group["rules"]]


def run_tool(
    command: Sequence[str | Path],
    *,
    given: str | None = None,
    cwd: Path | None = None,
    timeout_s: float = TOOL_S,
) -> str:
    """Run a tool; return its output. Fails unless the tool exits with 0."""
    done = subprocess.run(
        command,
        input=given,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    return output
