"""Prints the results of commands as text.

I/O: standard output.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from ops.cli.check import Check
from ops.cli.exit_codes import print_json
from ops.cli.layout import Hanging, Line
from ops.cli.terminal import print_lines, shown
from services.api.http.schemas import StatusResponse
from services.api.operators import dollars

_FIELD_OF_SCENE = re.compile(r"scenes\[(\d+)\](?:\.(\w+))?")
_MARKS = {"ok": "ok", "missing": "MISSING", "optional": "-"}


def dry_run(effect: str, action: str) -> str:
    """Return the last sentence of every dry run."""
    return f"Dry run: {effect}. To {action}: add --apply --reason TEXT."


def show_files(report: dict[str, Any], *, as_json: bool) -> None:
    """Print the cost, the warnings and the files of a report."""
    if as_json:
        print_json(report)
        return
    estimate = (report.get("estimate") or {}).get("cost_usd")
    cost = money(report["cost_usd"], saved_usd=report.get("saved_usd"), estimate_usd=estimate)
    if cost:
        print(cost)
    print_lines(Hanging("note: ", scene_numbers(warning)) for warning in report["warnings"])
    for file in (*report["files"].values(), {"path": report["report"]}):
        print(shown(file["path"]))


def scene_numbers(text: str) -> str:
    """Return a message of the api with scenes as people count them: `scenes[0]` is scene 1."""
    return _FIELD_OF_SCENE.sub(
        lambda match: f"scene {int(match[1]) + 1}" + (f", {match[2]}" if match[2] else ""), text
    )


def show_status(job_status: StatusResponse) -> None:
    """Print the status of a job."""
    print_lines(status_lines(job_status))


def status_lines(job_status: StatusResponse) -> Iterator[Line]:
    """Yield the status of a job as text."""
    audio = job_status.audio_status
    stage = "" if job_status.state == audio.status else f" ({job_status.state})"
    yield (
        f"job {job_status.job_id}, run {job_status.run}: {audio.status}{stage}, "
        f"{job_status.progress.percentage} %"
    )
    for scene in job_status.progress.scenes:
        origin = f"{scene.origin.value}" if scene.origin else scene.state
        cost = money(scene.cost_usd, saved_usd=scene.saved_usd)
        waiting = f"waiting: {scene.waiting.reason}" if scene.waiting else ""
        details = "; ".join(filter(None, (cost, scene.reason, waiting)))
        head = f"scene {scene.index + 1:>3}  {origin:<10} "
        yield Hanging(head, details) if details else head.rstrip()
    estimate = job_status.estimate.cost_usd if job_status.estimate else None
    total = money(job_status.cost_usd, saved_usd=job_status.saved_usd, estimate_usd=estimate)
    if total:
        yield total
    if audio.error:
        yield Hanging("error: ", audio.error)
    yield from (Hanging("note: ", warning) for warning in job_status.warnings)


def money(
    cost_usd: float | None, *, saved_usd: float | None, estimate_usd: float | None = None
) -> str:
    """Return cost, estimate and savings as text; "" if there is none."""
    if not any((cost_usd, saved_usd, estimate_usd)):
        return ""
    cost = "cost unknown" if cost_usd is None else f"cost {dollars(cost_usd)}"
    estimated = "" if estimate_usd is None else f" (estimated {dollars(estimate_usd)})"
    saved = f", saved {dollars(saved_usd)}" if saved_usd else ""
    return f"{cost}{estimated}{saved}"


def clock(time_s: float) -> str:
    """Return a time of the film: `1:02.5`, or `1:01:02.5` from one hour."""
    tenths = round(time_s * 10)
    minutes, seconds = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    start = f"{hours}:{minutes:02}" if hours else f"{minutes}"
    return f"{start}:{seconds // 10:02}.{seconds % 10}"


def show_checks(checks: Sequence[Check]) -> None:
    """Print the checks of `segue doctor`."""
    print_lines(check_lines(checks))


def check_lines(checks: Sequence[Check]) -> Iterator[Line]:
    """Yield the checks of `segue doctor` as text."""
    for check in checks:
        yield Hanging(f"{_MARKS[check.state]:<9}{check.name:<20}", check.found)
        if not check.ok:
            yield Hanging(f"{'':<29}-> ", check.advice)
