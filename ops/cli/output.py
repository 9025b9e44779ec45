"""Showing: what the commands say at their end, for people; scripts ask for `--json`.

I/O: standard output.
"""

from collections.abc import Collection
from typing import Any

from rich.console import Console
from rich.table import Table

from ops.cli.check import Check
from ops.cli.exit_codes import print_json
from services.api.http.schemas import StatusAnswer
from services.api.operators import dollars

WIDTH = 120  # where there is no terminal that has one
_MARKS = {"ok": "ok", "missing": "MISSING", "optional": "-"}


def dry_run(effect: str, action: str) -> str:
    """Return the last sentence of every dry run."""
    return f"Dry run: {effect}. To {action}: add --apply --reason TEXT."


def show_files(report: dict[str, Any], *, as_json: bool) -> None:
    """The files of a report, each on a line."""
    if as_json:
        print_json(report)
        return
    estimate = (report.get("estimate") or {}).get("cost_usd")
    if said := money(report["cost_usd"], saved_usd=report.get("saved_usd"), estimate_usd=estimate):
        print(said)
    for warning in report["warnings"]:
        print(f"note: {warning}")
    for file in (*report["files"].values(), {"path": report["report"]}):
        print(file["path"])


def show_status(found: StatusAnswer) -> None:
    """How a job stands."""
    said = found.audio_status
    line = f"job {found.job_id}, run {found.run}: {said.status} ({found.state})"
    print(f"{line}, {found.progress.percentage} %")
    for scene in found.progress.scenes:
        how = f"{scene.origin.value}" if scene.origin else scene.state
        cost = money(scene.cost_usd, saved_usd=scene.saved_usd)
        waits = f"waits: {scene.waiting.reason}" if scene.waiting else ""
        told = "; ".join(part for part in (cost, scene.reason, waits) if part)
        print(f"scene {scene.index + 1:>3}  {how:<10} {told}".rstrip())
    estimate = found.estimate.cost_usd if found.estimate else None
    if told := money(found.cost_usd, saved_usd=found.saved_usd, estimate_usd=estimate):
        print(told)
    if said.error:
        print(f"error: {said.error}")
    for warning in found.warnings:
        print(f"note: {warning}")


def money(
    cost_usd: float | None, *, saved_usd: float | None, estimate_usd: float | None = None
) -> str:
    """What was spent and spared; "" where nothing was counted, or nothing costs anything."""
    if not any((cost_usd, saved_usd, estimate_usd)):
        return ""
    cost = "cost not known" if cost_usd is None else f"cost {dollars(cost_usd)}"
    estimated = "" if estimate_usd is None else f" (estimated {dollars(estimate_usd)})"
    saved = f", saved {dollars(saved_usd)}" if saved_usd else ""
    return f"{cost}{estimated}{saved}"


def plain() -> Console:
    """Standard output for tables: as wide as the terminal, `WIDTH` where there is none."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDTH)


def wide(
    *columns: str,
    right: Collection[str] = (),
    folds: Collection[str] = (),
    rest: str | None = None,
) -> Table:
    """A table without lines: numbers stand `right`, what `folds` is never cut off.

    `rest` is the column that has what the others leave of the width.
    """
    table = Table(box=None, pad_edge=False, expand=rest is not None)
    for name in columns:
        table.add_column(
            name,
            justify="right" if name in right else "left",
            overflow="fold" if name in folds else "ellipsis",
            no_wrap=name not in folds,
            ratio=1 if name == rest else None,
        )
    return table


def show_checks(checks: list[Check]) -> None:
    """What `segue doctor` found."""
    for one in checks:
        print(f"{_MARKS[one.state]:<9}{one.name:<20}{one.found}")
        if not one.ok:
            print(f"{'':<29}-> {one.advice}")
