"""The result of one `segue doctor` check.

Pure.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check: what was found, and what to do if it failed."""

    name: str
    ok: bool
    found: str
    needed: bool = True  #: False: optional
    advice: str = ""  #: what to do if it failed

    @property
    def state(self) -> str:
        """Return `ok`, `missing` or `optional`."""
        return "ok" if self.ok else ("missing" if self.needed else "optional")

    def as_json(self) -> dict[str, object]:
        """Return the check for `--json`."""
        return {
            "name": self.name,
            "state": self.state,
            "found": self.found,
            "needed": self.needed,
            "advice": "" if self.ok else self.advice,
        }
