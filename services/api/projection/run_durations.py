"""Measures how long runs took that ended in a batch.

The durations are computed from the times of the events, so a batch that is read late counts right.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

from services.api.database.runs import RunKey
from services.api.domain.run_view import UNFINISHED, AnyRunEvent, RunView
from shared.telemetry.metrics import JOB_SECONDS


def ended_in(
    before: Mapping[RunKey, RunView],
    after: Mapping[RunKey, RunView],
    events: Sequence[tuple[AnyRunEvent, datetime]],
) -> list[tuple[str, float]]:
    """Return the outcome and duration in seconds of each run that ended."""
    times = {(event.job_id, event.run): moment for event, moment in events}
    ended = []
    for key, moment in times.items():
        previous, view = before.get(key), after[key]
        was_done = previous is not None and previous.status not in UNFINISHED
        if view.status not in UNFINISHED and not was_done:
            seconds = max(0.0, (moment - view.started_at).total_seconds())
            ended.append((view.status.value, seconds))
    return ended


def observe(ended: Sequence[tuple[str, float]]) -> None:
    """Record the durations, after the transaction has committed."""
    for outcome, seconds in ended:
        JOB_SECONDS.labels(outcome).observe(seconds)
