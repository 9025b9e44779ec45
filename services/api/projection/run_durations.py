"""Durations: which runs came to an end in a batch, and how long each had taken.

By the moments of the events, so a batch that is read late says what really was.

Pure but for the metric.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

from services.api.domain.run_view import UNFINISHED, AnyRunEvent, RunView
from shared.telemetry.metrics import JOB_SECONDS

RunKey = tuple[str, int]  #: job, run


def ended_in(
    before: Mapping[RunKey, RunView],
    after: Mapping[RunKey, RunView],
    events: Sequence[tuple[AnyRunEvent, datetime]],
) -> list[tuple[str, float]]:
    """How each run ended that did, and after how many seconds."""
    last = {(event.job_id, event.run): moment for event, moment in events}
    found = []
    for key, moment in last.items():
        known, view = before.get(key), after[key]
        was_done = known is not None and known.status not in UNFINISHED
        if view.status not in UNFINISHED and not was_done:
            seconds = max(0.0, (moment - view.started_at).total_seconds())
            found.append((view.status.value, seconds))
    return found


def observe(ended: Sequence[tuple[str, float]]) -> None:
    """Count them, once their transaction is committed."""
    for outcome, seconds in ended:
        JOB_SECONDS.labels(outcome).observe(seconds)
