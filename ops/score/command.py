"""The `segue score` command: scores a video and writes the results to files.

The command uploads the video, starts a run, follows it, and writes `scored.mp4`, `track.mp3`,
`track.png` and `report.json` into the film's folder; earlier results stay in its `runs`. A failed
run still leaves its track, if there is one, and the report with the reason. Everything that can be
checked is checked before anything is started or paid.

I/O: HTTP, files.
"""

import os
from pathlib import Path
from typing import Any

from rich.console import Console

from ops.cli import options
from ops.cli.exit_codes import CommandError, Exit, print_json, report_errors
from ops.cli.film import check_film
from ops.cli.layout import count_of
from ops.cli.options import ApiUrl, DataDir, Json, Provider
from ops.cli.output import show_files
from ops.cli.progress import JobProgress, progress_console
from ops.cli.settings import CommandSettings
from ops.cli.terminal import shown
from ops.scenes.detect import detect_scenes, scene_entries
from ops.score.api_client import ApiClient
from ops.score.dry_run import check_against_limits, plan, plan_lines
from ops.score.follow import follow
from ops.score.local_stack import open_api
from ops.score.outputs import TRACK_BYTES_PER_S, OutputFolder, folder_name, open_output
from ops.score.provider import announce
from ops.score.regenerate import SceneRequest, regenerate
from ops.score.request import ScoreRequest, check_request, film_entry
from ops.score.results import ReportDetails, resumable, write_results
from ops.score.scenes_file import STANDARD_INPUT, read_scenes, scenes_file_of
from services.api.http.schemas import GenerateResponse
from services.api.operators import dollars
from shared.contract.params import Scene
from shared.media.video import VideoInfo
from shared.scene_detection.scenes import SceneLimits


def score(
    *,
    video: options.Video = None,
    scenes: options.Scenes = None,
    scene: options.SceneNumber = None,
    prompt: options.Prompt = None,
    prompt_style: options.PromptWords = None,
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
    force: options.Force = False,
    job_id: options.JobId = None,
    api: ApiUrl = None,
    provider: Provider = None,
    data_dir: DataDir = None,
    timeout: options.Timeout = None,
    dry_run: options.DryRun = False,
    as_json: Json = False,
) -> None:
    """Score VIDEO: write scored.mp4, track.mp3, track.png and report.json."""
    params: dict[str, Any] = {"prompt": prompt, "prompt_style": prompt_style}
    params |= {"sync_mode": sync_mode, "fade_duration": fade_duration, "transition": transition}
    params |= {"error_strategy": error_strategy, "use_cache": False if no_cache else None}
    params |= {"max_cost": max_cost, "on_max_cost": on_max_cost}
    with report_errors(as_json=as_json):
        film = _checked_video(video, no_video=no_video)
        settings = CommandSettings.of_options(api=api, data_dir=data_dir, timeout_s=timeout)
        run = _Command(settings, out=out, force=force, provider=provider, quiet=as_json)
        if not dry_run:
            announce(settings, provider, console=run.console)
        if scene is not None:
            _check_alone({**params, "scenes": scenes, "style": style, "dry_run": dry_run or None})
            show_files(run.regenerate(film, scene, job_id=job_id), as_json=as_json)
            return
        found = _scenes(scenes, video, run.console)
        request = ScoreRequest.of(
            **found, video=film, audio_params=params, style=style, job_id=job_id
        )
        notes = check_request(request, run.console)
        if dry_run:
            _print_plan(plan(request, settings, provider=provider), as_json=as_json)
        else:
            show_files(run.score(request, notes, named=video), as_json=as_json)


class _Command:
    """One invocation of `segue score` with its options."""

    def __init__(
        self,
        settings: CommandSettings,
        *,
        out: Path | None,
        force: bool,
        provider: str | None,
        quiet: bool,
    ) -> None:
        self._settings = settings
        self._out = out
        self._force = force
        self._provider = provider
        self.console = progress_console(quiet=quiet)

    def score(
        self, request: ScoreRequest, notes: list[str], *, named: Path | None
    ) -> dict[str, Any]:
        """Run the request on the named api, or on the local stack; return the report.

        `named` is the film of the command line, which `--no-video` does not use.
        """
        settings, console = self._settings, self.console
        if settings.api_url is None:
            check_against_limits(request)
        folder = self._folder(request.video, request.given_job_id or _stem(request.scenes_file))
        with (
            open_output(
                folder,
                inputs=[*request.inputs, *filter(None, [named])],
                force=self._force,
                needed_bytes=_needed_bytes(request),
            ) as output,
            open_api(settings, provider=self._provider, notify=console.print) as api,
        ):
            return run_score(
                api,
                request,
                output=output,
                timeout_s=settings.score_s,
                console=console,
                notes=notes,
            )

    def regenerate(self, film: Path | None, number: int, *, job_id: str | None) -> dict[str, Any]:
        """Regenerate one scene of the newest result; return the report."""
        if film is not None:
            check_film(film)
        folder = self._folder(film, job_id or "track")
        inputs = [] if film is None else [film]
        with open_output(folder, inputs=inputs, force=self._force) as output:
            request = SceneRequest(
                film=None if film is None else film_entry(film), number=number, job_id=job_id
            )
            return regenerate(
                request,
                self._settings,
                output,
                provider=self._provider,
                console=self.console,
            )

    def _folder(self, film: Path | None, otherwise: str) -> Path:
        """Return the output folder: one per film."""
        return self._out or Path("out") / folder_name(otherwise if film is None else film.stem)


def run_score(
    api: ApiClient,
    request: ScoreRequest,
    *,
    output: OutputFolder,
    timeout_s: float,
    console: Console,
    notes: list[str] | None = None,
) -> dict[str, Any]:
    """Run the request, write the files into `output`, and return the report.

    Raises:
        CommandError: the run failed; the files that could be made are in `output`.
    """
    job_id = request.job_id
    body = request.body(job_id)
    if request.video is not None:
        console.print(f"Uploading {shown(request.video)}")
        body["video"] = api.upload(request.video).video.model_dump(exclude_none=True)
    if request.style is not None:
        console.print(f"Uploading {shown(request.style)}")
        style = api.upload_style(request.style).style_audio
        body["audio_params"]["style_audio"] = style.model_dump(exclude_none=True)
    started = api.start(body)
    console.print(f"job {job_id}, run {started.run}, at {api.url}")
    print_start(started, console)
    details = ReportDetails(
        descriptions=[scene.description for scene in request.scenes],
        asked=request.body(job_id)["audio_params"],
        film=request.film,
        notes=notes or (),
    )
    with resumable(job_id, output.path):
        with JobProgress(console) as progress:
            status = follow(
                api,
                job_id,
                run=started.run,
                on_status=progress.update,
                on_problems=progress.show_problems,
                timeout_s=timeout_s,
            )
        return write_results(api, status, output, details)


def print_start(started: GenerateResponse, console: Console) -> None:
    """Print what the run costs at most, its limit, and the prompt of each scene."""
    estimate = started.estimate
    if estimate is not None:
        limit = "" if started.max_cost is None else f", limit {dollars(started.max_cost)}"
        cost = f"Cost: at most {dollars(estimate.cost_usd)} by {estimate.provider}{limit}"
        console.print(cost)
    for warning in started.warnings:
        console.print(f"note: {warning}")
    count = len(started.prompts)
    for number, prompt in enumerate(started.prompts, start=1):
        line = f"prompt of scene {number:>{len(str(count))}}/{count}: {prompt}"
        console.print(line)


def _checked_video(video: Path | None, *, no_video: bool) -> Path | None:
    if video is None and not no_video:
        raise CommandError(
            Exit.USAGE, "no VIDEO was given; name one, or make only the track with --no-video"
        )
    return None if no_video else video


def _scenes(path: Path | None, film: Path | None, console: Console) -> dict[str, Any]:
    """Return the scenes of the file, or of the film, and the file, as `ScoreRequest` needs them."""
    if path is not None:
        is_file = str(path) != STANDARD_INPUT
        return {"scenes": read_scenes(path), "scenes_file": path if is_file else None}
    if film is None:
        raise CommandError(
            Exit.USAGE,
            "no scenes and no film were given; name the film to detect its scenes, or use --scenes",
        )
    info = check_film(film)
    return {"scenes": detected_scenes(film, info, console), "info": info}


def detected_scenes(film: Path, info: VideoInfo, console: Console) -> list[Scene]:
    """Return the scenes that are detected in the film."""
    beside = scenes_file_of(film)
    if beside is not None:
        console.print(f"note: {shown(beside)} is not used; to use it: --scenes FILE")
    found = detect_scenes(film, info, SceneLimits(), console).scenes
    count = count_of(len(found), "scene")
    console.print(f"Detected {count}; to edit them: segue scenes FILM --out scenes.json")
    return [Scene.model_validate(entry) for entry in scene_entries(found)]


def _check_alone(given: dict[str, Any]) -> None:
    """Raise if an option was given that a regenerated scene takes from its earlier run."""
    options = [f"--{name.replace('_', '-')}" for name, value in given.items() if value is not None]
    if options:
        raise CommandError(
            Exit.USAGE,
            f"--scene keeps the scenes and parameters of the earlier run: leave out "
            f"{', '.join(options)}; to change them, score the film again",
        )


def _needed_bytes(request: ScoreRequest) -> int:
    """Return about how much the results need: the film again, and its track twice."""
    length_s = sum(scene.duration_s for scene in request.scenes)
    film_bytes = 0 if request.video is None else request.video.stat().st_size
    return film_bytes + 2 * int(length_s * TRACK_BYTES_PER_S)


def _stem(path: Path | None) -> str:
    return "track" if path is None else os.fspath(path.stem)


def _print_plan(planned: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(planned)
        return
    for line in plan_lines(planned):
        print(line)
