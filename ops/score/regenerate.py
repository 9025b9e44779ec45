"""`segue score FILM --scene N`: regenerates one scene of a film's newest result.

The result in the output folder names the job. The rest of its newest run is kept; a kept scene
after the new one is bridged (see `segue redrive`).

I/O: HTTP, files; the servers of the stack on this machine.
"""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from ops.cli.exit_codes import CommandError, Exit
from ops.cli.operator import run_with_operator
from ops.cli.progress import JobProgress
from ops.cli.settings import CommandSettings
from ops.cli.terminal import shown
from ops.jobs.redrive import redrive_job
from ops.score.follow import ENDED, follow
from ops.score.local_stack import open_api
from ops.score.outputs import OutputFolder, read_report
from ops.score.results import ReportDetails, resumable, write_results
from services.api.http.schemas import StatusResponse
from services.api.operators import RedriveRequest, dollars


@dataclass(frozen=True, kw_only=True)
class SceneRequest:
    """The scene to regenerate."""

    film: dict[str, Any] | None  #: its entry in the report; None: only the track is made
    number: int  #: from 1
    job_id: str | None  #: None: the job of the result in the output folder


def regenerate(
    request: SceneRequest,
    settings: CommandSettings,
    output: OutputFolder,
    *,
    provider: str | None,
    console: Console,
) -> dict[str, Any]:
    """Regenerate the scene, write the files into `output`, and return the report.

    Raises:
        CommandError: there is no earlier result, the scene cannot be made, or the run failed.
    """
    earlier = read_report(output.path) or {}
    job_id = request.job_id or _job_of(earlier, request, output.path)
    if settings.api_url is not None:
        job = shlex.quote(job_id)
        raise CommandError(
            Exit.USAGE,
            "--scene needs the servers of the stack: leave out --api (SEGUE_API_URL), or run "
            f"'segue redrive {job}' where they are, then: segue fetch {job}",
        )
    _check_number(len(earlier.get("progress", {}).get("scenes", ())) or None, request.number)
    with open_api(settings, provider=provider, notify=console.print) as api:
        _check(api.status(job_id), request.number, output.path)
        number = _start(job_id, request, settings, console=console)
        is_of_job = earlier.get("job_id") == job_id
        details = _details(earlier if is_of_job else {}, request)
        with resumable(job_id, output.path):
            with JobProgress(console) as progress:
                status = follow(
                    api,
                    job_id,
                    run=number,
                    on_status=progress.update,
                    on_problems=progress.show_problems,
                    timeout_s=settings.score_s,
                )
            return write_results(api, status, output, details)


def _job_of(earlier: dict[str, Any], request: SceneRequest, folder: Path) -> str:
    """Return the job whose result is in `folder`."""
    if not earlier:
        raise CommandError(
            Exit.USAGE,
            f"--scene: {shown(folder)} has no result of segue; name its folder with --out, or the "
            "job with --job-id (segue jobs lists them)",
        )
    film, own = earlier.get("film") or {}, request.film or {}
    if film.get("sha256") != own.get("sha256"):
        raise CommandError(
            Exit.USAGE,
            f"--scene: the result in {shown(folder)} is of another film "
            f"({shown(film.get('path', 'unknown'))}); name its folder with --out",
        )
    return str(earlier["job_id"])


def _check_number(count: int | None, number: int) -> None:
    if count is not None and number > count:
        raise CommandError(Exit.USAGE, f"--scene {number}: the film has scenes 1 to {count}")


def _check(status: StatusResponse, number: int, folder: Path) -> None:
    _check_number(len(status.progress.scenes), number)
    if status.audio_status.status not in ENDED:
        job, out = shlex.quote(status.job_id), shlex.quote(str(folder))
        raise CommandError(
            Exit.REFUSED,
            f"run {status.run} of job {status.job_id} has not ended: wait for it with "
            f"segue fetch {job} --out {out}",
        )


def _start(
    job_id: str, request: SceneRequest, settings: CommandSettings, *, console: Console
) -> int:
    """Start the run that regenerates the scene; return its number."""
    result = run_with_operator(
        lambda operator: redrive_job(operator, job_id, RedriveRequest(scene=request.number - 1)),
        as_json=console.quiet,
        data_dir=settings.home.folder,
        apply=True,
        reason=f"segue score --scene {request.number}",
    )
    count, cost = len(result["scenes"]), dollars(result["cost_usd_at_most"])
    console.print(
        f"job {job_id}, run {result['run']}: regenerating scene {request.number} of {count} with "
        f"{result['provider']}, at most {cost}"
    )
    return int(result["run"])


def _details(earlier: dict[str, Any], request: SceneRequest) -> ReportDetails:
    """Return what the new report takes from the earlier one."""
    scenes = earlier.get("progress", {}).get("scenes", [])
    return ReportDetails(
        descriptions=[scene.get("description") for scene in scenes],
        asked=earlier.get("asked"),
        film=request.film,
    )
