"""Checks: one thing that `segue doctor` looked at, and what to do about it.

Pure.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    found: str
    needed: bool = True  #: False: only useful
    advice: str = ""  #: what to do when it is not ok

    @property
    def state(self) -> str:
        """In one word."""
        return "ok" if self.ok else ("missing" if self.needed else "optional")

    def as_json(self) -> dict[str, object]:
        """For scripts."""
        return {
            "name": self.name,
            "state": self.state,
            "found": self.found,
            "needed": self.needed,
            "advice": "" if self.ok else self.advice,
        }
