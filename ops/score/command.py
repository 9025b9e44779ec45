"""The `segue score` command: scores a video and writes the results to files.

The command uploads the video, starts a run, follows it, and writes `scored.mp4`, `track.mp3` and
`report.json`. A failed run still leaves its track, if there is one, and the report with the
reason. Each file is written under a temporary name and renamed.

I/O: HTTP, files.
"""

import json
import shlex
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console

from ops.cli import options
from ops.cli.exit_codes import CommandError, Exit, print_json, report_errors
from ops.cli.options import ApiUrl, DataDir, Json, Provider
from ops.cli.output import show_files
from ops.cli.progress import JobProgress
from ops.cli.settings import CommandSettings
from ops.score.api_client import ApiClient
from ops.score.dry_run import plan, plan_lines
from ops.score.follow import follow, progress_console
from ops.score.local_stack import use_stack
from ops.score.request import ScoreRequest, check_request
from ops.score.scenes_file import read_scenes
from services.api.http.schemas import StatusResponse

TRACK, VIDEO, REPORT = "track.mp3", "scored.mp4", "report.json"


def score(
    *,
    video: options.Video = None,
    scenes: options.Scenes,
    prompt: options.Prompt = None,
    sync_mode: options.Sync = None,
    fade_duration: options.FadeDuration = None,
    transition: options.TransitionKind = None,
    error_strategy: options.OnError = None,
    style: options.Style = None,
    max_cost: options.MaxCost = None,
    on_max_cost: options.OnOverCost = None,
    no_cache: options.NoCache = False,
    no_video: options.NoVideo = False,
    out: options.Out = None,
    job_id: options.JobId = None,
    api: ApiUrl = None,
    provider: Provider = None,
    data_dir: DataDir = None,
    timeout: options.Timeout = None,
    dry_run: options.DryRun = False,
    as_json: Json = False,
) -> None:
    """Score VIDEO: write scored.mp4, track.mp3 and report.json."""
    audio_params: dict[str, Any] = {
        "prompt": prompt,
        "sync_mode": sync_mode,
        "fade_duration": fade_duration,
        "transition": transition,
        "error_strategy": error_strategy,
        "max_cost": max_cost,
        "on_max_cost": on_max_cost,
        "use_cache": False if no_cache else None,
    }
    with report_errors(as_json=as_json):
        request = ScoreRequest.of(
            video=_checked_video(video, no_video=no_video),
            scenes=read_scenes(scenes),
            audio_params=audio_params,
            style=style,
            job_id=job_id,
        )
        settings = CommandSettings.of_options(api=api, data_dir=data_dir, timeout_s=timeout)
        check_request(request, progress_console(quiet=as_json))
        if dry_run:
            _print_plan(plan(request, settings, provider=provider), as_json=as_json)
            return
        report = _score_on_stack(request, settings, out=out, provider=provider, quiet=as_json)
        show_files(report, as_json=as_json)


def run_score(
    api: ApiClient, request: ScoreRequest, *, out: Path, timeout_s: float, console: Console
) -> dict[str, Any]:
    """Run the request, write the files into `out`, and return the report.

    Raises:
        CommandError: the run failed; the files that could be made are in `out`.
    """
    job_id = request.job_id
    body = request.body(job_id)
    _make_folder(out, request.video)
    if request.video is not None:
        console.print(f"Uploading {request.video}", highlight=False)
        body["video"] = api.upload(request.video).video.model_dump(exclude_none=True)
    if request.style is not None:
        console.print(f"Uploading {request.style}", highlight=False)
        style = api.upload_style(request.style).style_audio
        body["audio_params"]["style_audio"] = style.model_dump(exclude_none=True)
    started = api.start(body)
    console.print(f"job {job_id}, run {started.run}, at {api.url}", highlight=False)
    with JobProgress(console) as progress:
        status = follow(
            api, job_id, run=started.run, on_status=progress.update, timeout_s=timeout_s
        )
    files = _download(api, status, out)
    report = {**_report(api, request, status, files), "report": str(out / REPORT)}
    _write(out / REPORT, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    if status.audio_status.status != "completed":
        raise CommandError(Exit.FAILED, _failure_message(status, files), detail={"report": report})
    return report


def _checked_video(video: Path | None, *, no_video: bool) -> Path | None:
    if video is None and not no_video:
        raise CommandError(
            Exit.USAGE, "no VIDEO was given; name one, or make only the track with --no-video"
        )
    return None if no_video else video


def _score_on_stack(
    request: ScoreRequest,
    settings: CommandSettings,
    *,
    out: Path | None,
    provider: str | None,
    quiet: bool,
) -> dict[str, Any]:
    """Run the request on the named api, or on the local stack."""
    console = progress_console(quiet=quiet)
    folder = out or Path("out") / request.job_id
    with ExitStack() as resources:
        url = settings.api_url
        if url is None:
            stack = use_stack(settings.home.folder, provider=provider, notify=console.print)
            url = resources.enter_context(stack).api_url
        api = resources.enter_context(ApiClient(url))
        try:
            return run_score(api, request, out=folder, timeout_s=settings.score_s, console=console)
        except KeyboardInterrupt as error:
            job = request.job_id
            raise CommandError(
                Exit.INTERRUPTED,
                f"interrupted; job {job} continues while a stack runs (segue up). "
                f"To follow it: segue status {shlex.quote(job)} --watch",
            ) from error


def _print_plan(planned: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(planned)
        return
    for line in plan_lines(planned):
        print(line)


def _make_folder(out: Path, video: Path | None) -> None:
    if video is not None and video.resolve() == (out / VIDEO).resolve():
        raise CommandError(
            Exit.USAGE, f"{video} would be overwritten by its own result; change --out"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(
            Exit.USAGE, f"--out: {out} cannot be created ({error.strerror})"
        ) from error


def _download(api: ApiClient, status: StatusResponse, out: Path) -> dict[str, dict[str, Any]]:
    """Download what the run made; remove the files of an earlier run."""
    files: dict[str, dict[str, Any]] = {}
    for name, link, facts in (
        (TRACK, status.links.download, status.track),
        (VIDEO, status.links.video, status.video),
    ):
        (out / name).unlink(missing_ok=True)
        if link is None or facts is None:  # a link without facts belongs to an earlier run
            continue
        files[name] = api.download(link, out / name)
        if files[name]["sha256"] != facts.sha256:
            raise CommandError(
                Exit.FAILED, f"{out / name}: SHA-256 differs from the api's; try again"
            )
    return files


def _report(
    api: ApiClient, request: ScoreRequest, status: StatusResponse, files: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Return the status of the run with its scene descriptions, parameters and files."""
    facts = status.model_dump(mode="json", exclude={"links"})
    for scene, requested in zip(facts["progress"]["scenes"], request.scenes, strict=False):
        scene.pop("links")
        scene["description"] = requested.description
    audio_params = request.body(status.job_id)["audio_params"]
    return {**facts, "asked": audio_params, "api_url": api.url, "files": files}


def _write(path: Path, text: str) -> None:
    half = path.with_name(f".{path.name}.half")
    half.write_text(text, encoding="utf-8")
    half.rename(path)


def _failure_message(status: StatusResponse, files: dict[str, dict[str, Any]]) -> str:
    if status.failure is not None:
        reason = f"{status.failure.stage}: {status.failure.message} ({status.failure.code})"
    else:
        reason = status.audio_status.error or status.audio_status.status
    track = f"; the track was made: {files[TRACK]['path']}" if TRACK in files else ""
    return f"job {status.job_id} {status.audio_status.status}: {reason}{track}"
