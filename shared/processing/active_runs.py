"""Tracks the newest run of each job, and whether it was cancelled.

A newer run supersedes an older one when its first record is received, before that record's turn
in its lane, so that nothing more is spent on the old run. This is an optimisation: a job evicted
from the bounded map costs work, never correctness, because every object and event is a function
of its run and the projection applies only the newest.

Pure.
"""

from collections import OrderedDict

JOBS_MAX = 100_000  # about 100 bytes each


class ActiveRuns:
    """The newest run of each job. Keeps the `jobs_max` most recently observed jobs."""

    def __init__(self, *, jobs_max: int = JOBS_MAX) -> None:
        self._newest: OrderedDict[str, tuple[int, bool]] = OrderedDict()
        self._jobs_max = jobs_max

    def observe(self, job_id: str, run: int) -> None:
        """Record that an event of this run was received."""
        newest, is_cancelled = self._newest.pop(job_id, (0, False))
        self._newest[job_id] = (run, False) if run > newest else (newest, is_cancelled)
        while len(self._newest) > self._jobs_max:
            self._newest.popitem(last=False)

    def cancel(self, job_id: str, run: int) -> None:
        """Mark this run cancelled, unless a newer run was observed."""
        self.observe(job_id, run)
        if self._newest[job_id][0] == run:
            self._newest[job_id] = (run, True)

    def is_current(self, job_id: str, run: int) -> bool:
        """Return False if the run was cancelled or a newer run was observed."""
        newest, is_cancelled = self._newest.get(job_id, (run, False))
        return run >= newest and not (is_cancelled and run == newest)
