"""Follow: ask for a job's status until it has ended, within a deadline.

A poll that fails is not a job that failed: an api that restarts is waited for.

Units: seconds. I/O: HTTP, the clock.
"""

import shlex
import time
from collections.abc import Callable

from ops.cli.exit_codes import CommandError, Exit
from ops.score.api_client import ApiClient
from services.api.http.schemas import StatusAnswer

_POLL_FIRST_S = 0.25
_POLL_S_MAX = 2.0
_AWAY_S = 30.0  # a restart takes a few
ENDED = frozenset({"completed", "failed", "cancelled"})


def follow(
    api: ApiClient,
    job_id: str,
    *,
    run: int | None,
    tell: Callable[[StatusAnswer], None],
    within_s: float,
) -> StatusAnswer:
    """The status of `run` once it has ended; None: whichever run is the newest.

    Raises:
        CommandError: it did not end in time, was superseded, or the api went away.
    """
    end = time.monotonic() + within_s
    answered = time.monotonic()
    pause_s = _POLL_FIRST_S
    waits: str | None = None
    while True:
        try:
            status = api.status(job_id)
            waits = status.waiting.reason if status.waiting else None
            answered = time.monotonic()
        except CommandError as error:
            if error.code is not Exit.UNREACHABLE or time.monotonic() - answered > _AWAY_S:
                raise
        else:
            _check_run(status, run)
            tell(status)
            if status.audio_status.status in ENDED:
                return status
        if time.monotonic() > end:
            raise CommandError(
                Exit.UNREACHABLE,
                f"job {job_id} did not end within {within_s:g} s (SEGUE_SCORE_TIMEOUT_S)"
                f"{f', it waits: {waits}' if waits else ''}; "
                f"follow it with: segue status {shlex.quote(job_id)} --watch",
            )
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, _POLL_S_MAX)


def _check_run(status: StatusAnswer, run: int | None) -> None:
    if run is not None and status.run > run:
        raise CommandError(
            Exit.FAILED,
            f"run {run} of job {status.job_id} was superseded: somebody asked for run {status.run}",
        )
