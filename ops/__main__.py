"""The `segue` command: everything a person at a terminal does with Segue.

Each command is thin: options in, one function of a sibling file, words or JSON out. Exit codes
are in `ops/cli/exit_codes.py`, and in the help.
"""

import os
import shlex
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ops.cli import options
from ops.cli.exit_codes import HELP, CommandError, Exit, print_json, report_errors
from ops.cli.options import ApiUrl, DataDir, Json, Provider
from ops.cli.output import show_checks, show_files, show_status
from ops.cli.progress import JobProgress
from ops.cli.settings import CommandSettings
from ops.cluster.commands import acls, prepare
from ops.cluster.topics import topics
from ops.dead_letters.commands import dlq
from ops.doctor.machine import examine
from ops.jobs.cancel import cancel
from ops.jobs.history import job
from ops.jobs.list import jobs
from ops.jobs.rebuild import rebuild
from ops.jobs.redrive import redrive
from ops.kafka_log.lag import lag
from ops.kafka_log.replay import replay
from ops.score.api_client import ApiClient
from ops.score.command import ScoreRequest, check
from ops.score.command import score as run_score
from ops.score.demo import demo as run_demo
from ops.score.dry_run import lines, plan
from ops.score.follow import follow
from ops.score.local_stack import HOUSE, a_stack, stack_command
from ops.score.scenes_file import read_scenes
from ops.store.commands import store
from ops.watch.command import watch
from shared.local_stack import DataDirSettings, find_stack
from tools.contract import schemas as generated

app = typer.Typer(
    help="Gives a stitched video its music, scene by scene.",
    epilog=HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command(epilog=HELP)(prepare)
app.command(epilog=HELP)(acls)
app.command(epilog=HELP)(rebuild)
app.command(epilog=HELP)(cancel)
app.command(epilog=HELP)(replay)
app.command(epilog=HELP)(redrive)
app.command(epilog=HELP)(jobs)
app.command(epilog=HELP)(job)
app.command(epilog=HELP)(lag)
app.command(epilog=HELP)(topics)
app.command(epilog=HELP)(watch)
app.add_typer(store, name="store", epilog=HELP)
app.add_typer(dlq, name="dlq", epilog=HELP)


@app.command(epilog=HELP)
def up(
    provider: Provider = None,
    port: Annotated[int | None, typer.Option(help="Of the api; 0: any free one.")] = None,
    data_dir: DataDir = None,
    stack: Annotated[
        str | None,
        typer.Option(help="Which servers: embedded, native (real ones), external (SEGUE_STACK)."),
    ] = None,
) -> None:
    """Run the whole of Segue on this machine until Ctrl-C."""
    folder = None if data_dir is None else data_dir.absolute()
    command = stack_command(folder=folder, port=port, provider=provider, kind=stack)
    if folder is None:  # a relative SEGUE_DATA_DIR means from here, not from where the code lies
        with report_errors(as_json=False):
            command += ["--data-dir", str(DataDirSettings.from_environment().folder)]
    os.chdir(HOUSE)
    os.execv(command[0], command)  # noqa: S606 - our own program takes this process's place


@app.command(epilog=HELP)
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
    """Score VIDEO: writes scored.mp4, track.mp3 and report.json."""
    wishes: dict[str, Any] = {
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
        if video is None and not no_video:
            raise CommandError(Exit.USAGE, "name a VIDEO, or ask for the track with --no-video")
        request = ScoreRequest.of(
            video=None if no_video else video,
            scenes=read_scenes(scenes),
            wishes=wishes,
            style=style,
            job_id=job_id,
        )
        settings = _settings(api=api, data_dir=data_dir, timeout=timeout)
        if dry_run:
            _show_plan(request, settings, provider=provider, as_json=as_json)
            return
        report = _scored(request, settings, out=out, provider=provider, quiet=as_json)
        show_files(report, as_json=as_json)


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
    with report_errors(as_json=as_json):
        report = run_demo(
            video=video, scenes=scenes, out=out, provider=provider, console=_console(quiet=as_json)
        )
        show_files(report, as_json=as_json)


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
    with report_errors(as_json=as_json):
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
            show_status(found)
        if watch and found.audio_status.status != "completed":
            raise typer.Exit(Exit.FAILED)


@app.command(epilog=HELP)
def doctor(*, as_json: Json = False) -> None:
    """Look at this machine: what is there, what is missing, what to do about it."""
    with report_errors(as_json=as_json):
        checks = examine(CommandSettings.from_environment())
        ok = all(check.ok for check in checks if check.needed)
        if as_json:
            print_json({"ok": ok, "checks": [check.as_json() for check in checks]})
        else:
            show_checks(checks)
        if not ok:
            raise typer.Exit(Exit.FAILED)


@app.command(name="schemas", epilog=HELP)
def write_schemas() -> None:
    """Write what is generated (JSON schemas, AsyncAPI, docs, dashboard) into the checkout."""
    generated.main()


def _settings(*, api: str | None, data_dir: Path | None, timeout: float | None) -> CommandSettings:
    """The environment's settings; options win."""
    given: dict[str, Any] = {"api_url": api, "score_s": timeout}
    if data_dir is not None:
        given["home"] = DataDirSettings.from_environment(data_dir=data_dir)
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


def _show_plan(
    request: ScoreRequest, settings: CommandSettings, *, provider: str | None, as_json: bool
) -> None:
    check(request, _console(quiet=as_json))
    told = plan(request, settings, provider=provider)
    if as_json:
        print_json(told)
        return
    for line in lines(told):
        print(line)


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


def main() -> None:
    """Run the command line; the installed `segue` calls this."""
    app(prog_name="segue")


if __name__ == "__main__":
    main()
