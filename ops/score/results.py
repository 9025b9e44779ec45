"""Downloads what a run made and writes it, with the image of its track and a report.

I/O: HTTP, files.
"""

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ops.cli.exit_codes import CommandError, Exit
from ops.cli.output import scene_numbers
from ops.cli.terminal import shown
from ops.score.api_client import ApiClient
from ops.score.outputs import IMAGE, TRACK, VIDEO, OutputFolder
from ops.score.track_image import draw_track
from services.api.http.schemas import StatusResponse


@dataclass(frozen=True, kw_only=True)
class ReportDetails:
    """What the report has besides the status of the run."""

    descriptions: Sequence[str | None] = ()  #: of the scenes
    asked: dict[str, Any] | None = None  #: audio parameters; None: another command requested it
    film: dict[str, Any] | None = None
    notes: Sequence[str] = field(default_factory=tuple)


def write_results(
    api: ApiClient, status: StatusResponse, output: OutputFolder, details: ReportDetails
) -> dict[str, Any]:
    """Write the files of an ended run, and return the report.

    Raises:
        CommandError: the run failed; the files that could be made are written.
    """
    for name, link, facts in (
        (TRACK, status.links.download, status.track),
        (VIDEO, status.links.video, status.video),
    ):
        if link is None or facts is None:  # a link without facts belongs to an earlier run
            continue
        if api.download(link, output.staging / name)["sha256"] != facts.sha256:
            raise CommandError(Exit.FAILED, f"{name}: SHA-256 differs from the api's; try again")
    if status.track is not None:
        draw_track(output.staging / TRACK, output.staging / IMAGE, status)
    report = output.publish(_report(api, status, details))
    if status.audio_status.status != "completed":
        raise CommandError(Exit.FAILED, _failure_message(status, report), detail={"report": report})
    return report


@contextmanager
def resumable(job_id: str, folder: Path) -> Iterator[None]:
    """Say after Ctrl-C, or if a file cannot be written, how to get the job's files later."""
    job = shlex.quote(job_id)
    later = f"segue fetch {job} --out {shlex.quote(shown(folder))}"
    try:
        yield
    except KeyboardInterrupt as error:
        raise CommandError(
            Exit.INTERRUPTED,
            f"interrupted; job {job_id} continues while a stack runs (segue up). "
            f"To follow it: segue status {job} --watch. To write its files: {later}",
        ) from error
    except BrokenPipeError:
        raise
    except OSError as error:
        place = shown(error.filename or folder)
        raise CommandError(
            Exit.FAILED,
            f"{place}: {error.strerror}; job {job_id} keeps its files, write them later: {later}",
        ) from error


def _report(api: ApiClient, status: StatusResponse, details: ReportDetails) -> dict[str, Any]:
    facts = status.model_dump(mode="json", exclude={"links"})
    scenes = facts["progress"]["scenes"]
    for scene in scenes:
        scene.pop("links")
    for scene, description in zip(scenes, details.descriptions, strict=False):
        scene["description"] = description
    return {
        **facts,
        "film": details.film,
        "asked": details.asked,
        "notes": list(details.notes),
        "api_url": api.url,
    }


def _failure_message(status: StatusResponse, report: dict[str, Any]) -> str:
    if status.failure is not None:
        reason = f"{status.failure.stage}: {status.failure.message} ({status.failure.code})"
    else:
        reason = status.audio_status.error or status.audio_status.status
    files = report["files"]
    track = f"; the track was made: {shown(files[TRACK]['path'])}" if TRACK in files else ""
    return scene_numbers(f"job {status.job_id} {status.audio_status.status}: {reason}{track}")
