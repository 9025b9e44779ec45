"""The `segue` command: everything a person at a terminal does with Segue.

Each command is thin: options in, one function of a sibling file, words or JSON out. Exit codes
are in `ops/exits.py`, and in the help.
"""

import os
import shlex
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ops import schemas as generated
from ops.client import ApiClient
from ops.demo import demo as run_demo
from ops.doctor import Check, examine
from ops.exits import HELP, CommandError, Exit, answering, print_json
from ops.follow import follow
from ops.progress import JobProgress
from ops.scenes import read_scenes
from ops.score import ScoreRequest, check
from ops.score import score as run_score
from ops.settings import CommandSettings
from ops.stacks import HOUSE, a_stack, stack_command
from services.api.schemas import StatusAnswer
from shared.brief import ErrorStrategy, SyncMode, Transition
from shared.running import HomeSettings, find_stack

app = typer.Typer(
    help="Gives a stitched video its music, scene by scene.",
    epilog=HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
ApiUrl = Annotated[
    str | None, typer.Option("--api", help="A running api (SEGUE_API_URL); else this machine's.")
]
DataDir = Annotated[
    Path | None, typer.Option(help="Where the embedded stack keeps its data (SEGUE_DATA_DIR).")
]
Provider = Annotated[
    str | None, typer.Option(help="Who makes the music: synth or silence (MUSIC_PROVIDER).")
]
_MARKS = {"ok": "ok", "missing": "MISSING", "optional": "-"}


@app.command(epilog=HELP)
def up(
    provider: Provider = None,
    port: Annotated[int | None, typer.Option(help="Of the api; 0: any free one.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Run the whole of Segue on this machine until Ctrl-C."""
    folder = None if data_dir is None else data_dir.absolute()
    command = stack_command(folder=folder, port=port, provider=provider)
    if folder is None:  # a relative SEGUE_DATA_DIR means from here, not from where the code lies
        with answering(as_json=False):
            command += ["--data-dir", str(HomeSettings.from_environment().folder)]
    os.chdir(HOUSE)
    os.execv(command[0], command)  # noqa: S606 - our own program takes this process's place


@app.command(epilog=HELP)
def score(
    *,
    video: Annotated[
        Path | None, typer.Argument(metavar="VIDEO", help="The stitched video.")
    ] = None,
    scenes: Annotated[
        Path, typer.Option(help="JSON: description and duration_s (or start_s, end_s) of each.")
    ],
    prompt: Annotated[str | None, typer.Option(help="For scenes without their own.")] = None,
    sync_mode: Annotated[SyncMode | None, typer.Option(help="How it fits the picture.")] = None,
    fade_duration: Annotated[float | None, typer.Option(help="Seconds, 0 to 30.")] = None,
    transition: Annotated[Transition | None, typer.Option(help="auto splices music.")] = None,
    error_strategy: Annotated[ErrorStrategy | None, typer.Option(help="For a scene.")] = None,
    no_video: Annotated[bool, typer.Option("--no-video", help="The track alone.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder; default out/JOB.")] = None,
    job_id: Annotated[str | None, typer.Option(help="Default: made from the content.")] = None,
    api: ApiUrl = None,
    provider: Provider = None,
    data_dir: DataDir = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds (SEGUE_SCORE_TIMEOUT_S).")] = None,
    as_json: Json = False,
) -> None:
    """Score VIDEO: writes scored.mp4, track.mp3 and report.json."""
    wishes: dict[str, Any] = {
        "prompt": prompt,
        "sync_mode": sync_mode and sync_mode.value,
        "fade_duration": fade_duration,
        "transition": transition and transition.value,
        "error_strategy": error_strategy and error_strategy.value,
    }
    with answering(as_json=as_json):
        if video is None and not no_video:
            raise CommandError(Exit.USAGE, "name a VIDEO, or ask for the track with --no-video")
        request = ScoreRequest(
            video=None if no_video else video,
            scenes=read_scenes(scenes),
            audio_params={name: value for name, value in wishes.items() if value is not None},
            job_id=job_id,
        )
        settings = _settings(api=api, data_dir=data_dir, timeout=timeout)
        report = _scored(request, settings, out=out, provider=provider, quiet=as_json)
        _show_files(report, as_json=as_json)


@app.command(epilog=HELP)
def demo(
    *,
    video: Annotated[Path | None, typer.Option(help="Instead of the demo's own.")] = None,
    scenes: Annotated[Path | None, typer.Option(help="The scenes of --video.")] = None,
    out: Annotated[Path, typer.Option(help="Folder.")] = Path("out/demo"),
    provider: Annotated[str, typer.Option(help="Who makes the music.")] = "synth",
    as_json: Json = False,
) -> None:
    """Score a video made here, on a stack of its own: something to listen to."""
    with answering(as_json=as_json):
        report = run_demo(
            video=video, scenes=scenes, out=out, provider=provider, console=_console(quiet=as_json)
        )
        _show_files(report, as_json=as_json)


@app.command(epilog=HELP)
def status(
    *,
    job_id: str,
    watch: Annotated[bool, typer.Option("--watch", help="Until the job has ended.")] = False,
    api: ApiUrl = None,
    data_dir: DataDir = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds that --watch waits.")] = None,
    as_json: Json = False,
) -> None:
    """Show how a job stands; with --watch, follow it to its end."""
    with answering(as_json=as_json):
        settings = _settings(api=api, data_dir=data_dir, timeout=timeout)
        with ApiClient(_running_api(settings)) as client:
            found = client.status(job_id)
            if watch:
                with JobProgress(_console(quiet=as_json)) as progress:
                    found = follow(
                        client, job_id, run=None, tell=progress.update, within_s=settings.score_s
                    )
        if as_json:
            print_json(found.model_dump(mode="json"))
        else:
            _show_status(found)
        if watch and found.audio_status.status != "completed":
            raise typer.Exit(Exit.FAILED)


@app.command(epilog=HELP)
def doctor(*, as_json: Json = False) -> None:
    """Look at this machine: what is there, what is missing, what to do about it."""
    with answering(as_json=as_json):
        checks = examine(CommandSettings.from_environment())
        ok = all(check.ok for check in checks if check.needed)
        if as_json:
            print_json({"ok": ok, "checks": [check.as_json() for check in checks]})
        else:
            _show_checks(checks)
        if not ok:
            raise typer.Exit(Exit.FAILED)


@app.command(name="schemas", epilog=HELP)
def write_schemas() -> None:
    """Write the generated contract (JSON schemas, AsyncAPI, docs/events.md) into the checkout."""
    generated.main()


def _settings(*, api: str | None, data_dir: Path | None, timeout: float | None) -> CommandSettings:
    """The environment's settings; options win."""
    given: dict[str, Any] = {"api_url": api, "score_s": timeout}
    if data_dir is not None:
        given["home"] = HomeSettings.from_environment(data_dir=data_dir)
    said = {name: value for name, value in given.items() if value is not None}
    return CommandSettings.from_environment(**said)


def _scored(
    request: ScoreRequest,
    settings: CommandSettings,
    *,
    out: Path | None,
    provider: str | None,
    quiet: bool,
) -> dict[str, Any]:
    console = _console(quiet=quiet)
    check(request, console)
    place = out or Path("out") / request.named_job
    with ExitStack() as open_:
        url = settings.api_url
        if url is None:
            stack = a_stack(settings.home.folder, provider=provider, say=console.print)
            url = open_.enter_context(stack).api_url
        api = open_.enter_context(ApiClient(url))
        try:
            return run_score(api, request, out=place, within_s=settings.score_s, console=console)
        except KeyboardInterrupt as error:
            job = request.named_job
            raise CommandError(
                Exit.INTERRUPTED,
                f"interrupted; job {job} goes on while a stack runs (segue up): "
                f"follow it with: segue status {shlex.quote(job)} --watch",
            ) from error


def _running_api(settings: CommandSettings) -> str:
    if settings.api_url is not None:
        return settings.api_url
    found = find_stack(settings.home.folder)
    if found is None:
        raise CommandError(
            Exit.UNREACHABLE,
            f"no stack runs on {settings.home.folder}: start it with `segue up`, or name --api",
        )
    return found.api_url


def _console(*, quiet: bool) -> Console:
    return Console(quiet=quiet, soft_wrap=True)


def _show_files(report: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(report)
        return
    for warning in report["warnings"]:
        print(f"note: {warning}")
    for file in (*report["files"].values(), {"path": report["report"]}):
        print(file["path"])


def _show_status(found: StatusAnswer) -> None:
    said = found.audio_status
    line = f"job {found.job_id}, run {found.run}: {said.status} ({found.state})"
    print(f"{line}, {found.progress.percentage} %")
    for scene in found.progress.scenes:
        how = f"{scene.origin.value}" if scene.origin else scene.state
        print(f"scene {scene.index + 1:>3}  {how:<10} {scene.reason or ''}".rstrip())
    if said.error:
        print(f"error: {said.error}")
    for warning in found.warnings:
        print(f"note: {warning}")


def _show_checks(checks: list[Check]) -> None:
    for one in checks:
        print(f"{_MARKS[one.state]:<9}{one.name:<20}{one.found}")
        if not one.ok:
            print(f"{'':<29}-> {one.advice}")


def main() -> None:
    """Run the command line; the installed `segue` calls this."""
    app(prog_name="segue")


if __name__ == "__main__":
    main()
