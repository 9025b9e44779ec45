"""Runs: which generation of a job still counts, as far as this process has heard.

A newer run supersedes an older one the moment its first record is seen, before that record's
turn in the lane comes, so that nothing more is spent on the old one. The book is a shortcut:
what it forgets (it is bounded) costs work, never correctness, because every object and event
is a function of its run and the projection takes only the newest.

Pure.
"""

from collections import OrderedDict

JOBS_MAX = 100_000  # some 100 bytes each


class RunBook:
    """The newest run of each job, and whether it was cancelled."""

    def __init__(self, *, jobs_max: int = JOBS_MAX) -> None:
        self._newest: OrderedDict[str, tuple[int, bool]] = OrderedDict()
        self._jobs_max = jobs_max

    def note(self, job_id: str, run: int) -> None:
        """A record of this run was seen."""
        newest, cancelled = self._newest.pop(job_id, (0, False))
        self._newest[job_id] = (run, False) if run > newest else (newest, cancelled)
        while len(self._newest) > self._jobs_max:
            self._newest.popitem(last=False)

    def cancel(self, job_id: str, run: int) -> None:
        """This run is to end; an older cancel does not touch a newer run."""
        self.note(job_id, run)
        if self._newest[job_id][0] == run:
            self._newest[job_id] = (run, True)

    def counts(self, job_id: str, run: int) -> bool:
        """Whether work on this run is still wanted."""
        newest, cancelled = self._newest.get(job_id, (run, False))
        return run >= newest and not (cancelled and run == newest)
