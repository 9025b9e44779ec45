"""Records every prediction and its cost; tests of double payment check against it.

A prediction is charged if it worked: it succeeded, failed, or was canceled after it started. One
that never started (aborted, or canceled while `starting`) costs nothing.

Units: seconds, US dollars. Pure.
"""

from collections import Counter, deque
from collections.abc import Callable, Hashable
from dataclasses import asdict, dataclass
from typing import Any

_ENTRIES_MAX = 100_000


@dataclass(slots=True, kw_only=True)
class Entry:
    """One prediction on the bill; kept longer than the prediction."""

    id: str
    client: str  #: the caller's User-Agent
    created_s: float  #: on the emulator's monotonic clock
    prompt: str | None
    seed: int  #: the seed that was used
    duration_s: int  #: as requested, window included
    window_s: tuple[int, int | None] | None  #: continuation_start and continuation_end
    input_from: str | None  #: source of input_audio: "output" (the emulator's), "data", "url"
    status: str = "starting"
    predict_s: float = 0.0
    cost_usd: float = 0.0
    is_charged: bool = False


class Ledger:
    """All entries, oldest first."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._order: deque[str] = deque()

    def open(self, entry: Entry) -> None:
        """Record a new prediction."""
        self._entries[entry.id] = entry
        self._order.append(entry.id)
        if len(self._order) > _ENTRIES_MAX:
            del self._entries[self._order.popleft()]

    def close(
        self, prediction_id: str, *, status: str, predict_s: float | None, price_usd_per_s: float
    ) -> float:
        """Record the end of a prediction; return its cost. `predict_s` None: never started."""
        entry = self._entries.get(prediction_id)
        if entry is None:
            return 0.0
        entry.status, entry.predict_s = status, predict_s or 0.0
        entry.is_charged = predict_s is not None
        entry.cost_usd = entry.predict_s * price_usd_per_s
        return entry.cost_usd

    @property
    def entries(self) -> list[Entry]:
        """Every prediction, oldest first."""
        return list(self._entries.values())

    @property
    def charged(self) -> list[Entry]:
        """The predictions that were charged, oldest first."""
        return [entry for entry in self._entries.values() if entry.is_charged]

    @property
    def total_usd(self) -> float:
        """The cost of all predictions."""
        return sum(entry.cost_usd for entry in self._entries.values())

    def charged_by(self, key: Callable[[Entry], Hashable]) -> Counter[Hashable]:
        """Return the number of charges by key: `charged_by(lambda entry: entry.prompt)`."""
        return Counter(key(entry) for entry in self.charged)

    def view(self) -> dict[str, Any]:
        """Return the body of `GET /_fake/ledger`."""
        return {
            "created": len(self._entries),
            "charged": len(self.charged),
            "total_usd": self.total_usd,
            "entries": [asdict(entry) for entry in self._entries.values()],
        }
