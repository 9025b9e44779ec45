"""The `segue status` command; polls a job until its run has ended.

A failed poll is not a failed job: polling continues while the api restarts.

Units: seconds. I/O: HTTP, the clock.
"""

import shlex
import time
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from ops.cli.exit_codes import CommandError, Exit, print_json, report_errors
from ops.cli.layout import Hanging
from ops.cli.options import ApiUrl, DataDir, Json
from ops.cli.output import show_status
from ops.cli.progress import JobProgress, progress_console
from ops.cli.settings import CommandSettings
from ops.cli.terminal import print_lines
from ops.score.api_client import ApiClient
from ops.score.local_stack import running_api
from services.api.http.schemas import StatusResponse

_POLL_FIRST_S = 0.25
_POLL_S_MAX = 2.0
_UNREACHABLE_S_MAX = 30.0  # a restart takes a few
_UNCHANGED_S = 5.0  # then the api is asked for servers that are unavailable
ENDED = frozenset({"completed", "failed", "cancelled"})


def status(
    *,
    job_id: str,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the job to its end.")] = False,
    api: ApiUrl = None,
    data_dir: DataDir = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds that --watch waits.")] = None,
    as_json: Json = False,
) -> None:
    """Show the status of a job; with --watch, follow it to its end."""
    with report_errors(as_json=as_json):
        settings = CommandSettings.of_options(api=api, data_dir=data_dir, timeout_s=timeout)
        with ApiClient(running_api(settings)) as client:
            job_status = client.status(job_id)
            if watch:
                with JobProgress(progress_console(quiet=as_json)) as progress:
                    job_status = follow(
                        client,
                        job_id,
                        run=None,
                        on_status=progress.update,
                        on_problems=progress.show_problems,
                        timeout_s=settings.score_s,
                    )
            has_ended = job_status.audio_status.status in ENDED
            problems = [] if has_ended else client.problems()
        if as_json:
            print_json({**job_status.model_dump(mode="json"), "problems": problems})
        else:
            show_status(job_status)
            print_lines(Hanging("! ", problem) for problem in problems)
        if watch and job_status.audio_status.status != "completed":
            raise typer.Exit(Exit.FAILED)


def follow(
    api: ApiClient,
    job_id: str,
    *,
    run: int | None,
    on_status: Callable[[StatusResponse], None],
    on_problems: Callable[[Sequence[str]], None] = lambda _: None,
    timeout_s: float,
) -> StatusResponse:
    """Return the status of `run` (None: the newest) once it has ended.

    While it does not change, `on_problems` receives the servers that are unavailable.

    Raises:
        CommandError: it did not end in time, was superseded, or the api was unreachable too long.
    """
    end = time.monotonic() + timeout_s
    last_answer = time.monotonic()
    pause_s = _POLL_FIRST_S
    waiting_reason: str | None = None
    unchanged = Unchanged()
    while True:
        try:
            job_status = api.status(job_id)
            waiting_reason = job_status.waiting.reason if job_status.waiting else None
            last_answer = time.monotonic()
        except CommandError as error:
            unreachable_s = time.monotonic() - last_answer
            if error.code is not Exit.UNREACHABLE or unreachable_s > _UNREACHABLE_S_MAX:
                raise
        else:
            _check_run(job_status, run)
            on_status(job_status)
            if job_status.audio_status.status in ENDED:
                return job_status
            if unchanged.since_s(job_status) >= _UNCHANGED_S:
                on_problems(api.problems())
        if time.monotonic() > end:
            raise CommandError(
                Exit.UNREACHABLE,
                f"job {job_id} did not end within {timeout_s:g} s (SEGUE_SCORE_TIMEOUT_S)"
                f"{f'; waiting: {waiting_reason}' if waiting_reason else ''}. "
                f"To follow it: segue status {shlex.quote(job_id)} --watch",
            )
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, _POLL_S_MAX)


class Unchanged:
    """Measures how long a job's status has not changed."""

    def __init__(self) -> None:
        self._progress: object = None
        self._since_s = time.monotonic()

    def since_s(self, job_status: StatusResponse) -> float:
        """Return the seconds since the last change; 0.0 after one."""
        progress = (job_status.run, job_status.state, job_status.progress)
        if progress != self._progress:
            self._progress, self._since_s = progress, time.monotonic()
        return time.monotonic() - self._since_s


def _check_run(job_status: StatusResponse, run: int | None) -> None:
    if run is not None and job_status.run > run:
        raise CommandError(
            Exit.FAILED,
            f"run {run} of job {job_status.job_id} was superseded by run {job_status.run}",
        )
