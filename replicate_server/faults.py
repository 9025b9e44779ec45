"""A script of faults: which fault happens, how often, and where.

Faults are used in the order in which they were added, each `times` times, where their place
matches. A response has at most one fault; a prediction takes one of each prediction fault when it
is created; a `completed` webhook takes one of each webhook fault.

======================  ==========================================  =======================
kind                    effect                                      `value`
======================  ==========================================  =======================
**responses** (`place`: create, get, list, cancel, secret, account, delivery, any)
`lost_answer`           executed; the connection closes without a
                        response
`500_after`             executed; the response is a 500
`500_before`            not executed; the response is a 500
`dropped`               not executed; the connection closes
`429`                   not executed; throttled                     retry_after, s (10)
`404`                   not executed; not found
`hang`                  executed; no response while the client
                        is connected                                at most, s (3600)
`slow`                  executed; the response is late              s (5)
`wrong_json`            executed; the response is 200 with invalid
                        JSON
`truncated`             half of the body, then the connection closes
**everything** (for a period; `times` is ignored)
`down`                  every connection closes without a response  how long, s (required)
`unavailable`           every response is a 503                     how long, s (required)
**predictions**
`status`                the prediction ends with this status        failed, canceled, aborted
`fail_with`             the prediction fails                        the `error` (required)
`stuck`                 it stays `processing` forever
`cold_start`            `starting` lasts longer                     additional s (required)
`slow_work`             `processing` lasts longer                   additional s (required)
`output_shape`          the form of `output`                        list, data_url, null, string
`clip_shape`            the form of the clip                        see `clip_shapes.py` (required)
`dead_output`           its URL is expired from the start
`purged`                its data is removed as soon as it ends
**webhooks** (`completed` only)
`webhook_lost`          never sent
`webhook_doubled`       sent twice with one `webhook-id`
`webhook_forged`        preceded by a `failed` webhook with an
                        invalid signature
`webhook_late`          sent late, with a current timestamp         s (required)
`webhook_stale`         signed with an old timestamp                age, s (600)
======================  ==========================================  =======================

The seconds of `hang` and `slow` are real time, all others the emulator's. Pure.
"""

from collections import Counter
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from replicate_server.model.clip_shapes import SHAPES

Place = Literal["create", "get", "list", "cancel", "secret", "account", "delivery", "any"]
_PENDING_MAX = 1000


class FaultKind(StrEnum):
    """Kinds of faults; see the table above."""

    LOST_ANSWER = "lost_answer"
    ERROR_AFTER = "500_after"
    ERROR_BEFORE = "500_before"
    DROPPED = "dropped"
    THROTTLED = "429"
    NOT_FOUND = "404"
    HANG = "hang"
    SLOW = "slow"
    WRONG_JSON = "wrong_json"
    TRUNCATED = "truncated"
    DOWN = "down"
    UNAVAILABLE = "unavailable"
    STATUS = "status"
    FAIL_WITH = "fail_with"
    STUCK = "stuck"
    COLD_START = "cold_start"
    SLOW_WORK = "slow_work"
    OUTPUT_SHAPE = "output_shape"
    CLIP_SHAPE = "clip_shape"
    DEAD_OUTPUT = "dead_output"
    PURGED = "purged"
    WEBHOOK_LOST = "webhook_lost"
    WEBHOOK_DOUBLED = "webhook_doubled"
    WEBHOOK_FORGED = "webhook_forged"
    WEBHOOK_LATE = "webhook_late"
    WEBHOOK_STALE = "webhook_stale"


_K = FaultKind
OF_ANSWERS = frozenset(
    {_K.LOST_ANSWER, _K.ERROR_AFTER, _K.ERROR_BEFORE, _K.DROPPED, _K.THROTTLED, _K.NOT_FOUND}
    | {_K.HANG, _K.SLOW, _K.WRONG_JSON, _K.TRUNCATED}
)
OF_TIME = frozenset({_K.DOWN, _K.UNAVAILABLE})
OF_WEBHOOKS = frozenset(
    {_K.WEBHOOK_LOST, _K.WEBHOOK_DOUBLED, _K.WEBHOOK_FORGED, _K.WEBHOOK_LATE, _K.WEBHOOK_STALE}
)
OF_WORK = frozenset(_K) - OF_ANSWERS - OF_TIME - OF_WEBHOOKS
_SECONDS: dict[FaultKind, float | None] = {  # default; None: required
    _K.THROTTLED: 10.0,
    _K.HANG: 3600.0,
    _K.SLOW: 5.0,
    _K.DOWN: None,
    _K.UNAVAILABLE: None,
    _K.COLD_START: None,
    _K.SLOW_WORK: None,
    _K.WEBHOOK_LATE: None,
    _K.WEBHOOK_STALE: 600.0,
}
_CHOICES: dict[FaultKind, tuple[str, ...]] = {
    _K.STATUS: ("failed", "canceled", "aborted"),
    _K.OUTPUT_SHAPE: ("list", "data_url", "null", "string"),
    _K.CLIP_SHAPE: SHAPES,
}


class Fault(BaseModel):
    """One fault of the script."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: FaultKind
    times: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    value: float | str | None = None
    place: Place = "create"  #: of response faults only

    @model_validator(mode="after")
    def _check_value(self) -> Self:
        if self.kind in _SECONDS:
            is_required = _SECONDS[self.kind] is None
            if isinstance(self.value, str) or (is_required and self.value is None):
                raise ValueError(f"{self.kind} takes seconds as its value")
        elif choices := _CHOICES.get(self.kind):
            if self.value not in choices:
                raise ValueError(f"{self.kind} takes one of {', '.join(choices)}")
        elif self.kind is FaultKind.FAIL_WITH:
            if not isinstance(self.value, str):
                raise ValueError("fail_with takes the text of the error")
        elif self.value is not None:
            raise ValueError(f"{self.kind} takes no value")
        return self

    @property
    def seconds(self) -> float:
        """The value of a fault with a duration."""
        if isinstance(self.value, float):
            return self.value
        default = _SECONDS[self.kind]
        assert default is not None, "validated"
        return default

    @property
    def text(self) -> str:
        """The value of a fault with a text or a choice."""
        assert isinstance(self.value, str), "validated"
        return self.value


class Faults:
    """The pending faults, and how often each kind has happened."""

    def __init__(self) -> None:
        self._pending: list[tuple[Fault, int]] = []
        self.struck: Counter[str] = Counter()

    def put(self, fault: Fault) -> None:
        """Add a fault.

        Raises:
            ValueError: too many faults are pending.
        """
        if len(self._pending) >= _PENDING_MAX:
            raise ValueError(f"{_PENDING_MAX} faults are already pending")
        self._pending.append((fault, fault.times))

    def take(self, kinds: frozenset[FaultKind], *, place: str | None = None) -> Fault | None:
        """Use and return the next fault of these kinds for this place."""
        for index, (fault, left) in enumerate(self._pending):
            if fault.kind in kinds and (place is None or fault.place in {place, "any"}):
                if left > 1:
                    self._pending[index] = (fault, left - 1)
                else:
                    del self._pending[index]
                self.struck[str(fault.kind)] += 1
                return fault
        return None

    def take_each(self, kinds: frozenset[FaultKind]) -> dict[FaultKind, Fault]:
        """Use and return the next fault of each of these kinds."""
        faults = {kind: self.take(frozenset({kind})) for kind in sorted(kinds)}
        return {kind: fault for kind, fault in faults.items() if fault is not None}

    def pending(self) -> list[dict[str, Any]]:
        """Return the pending faults with the times that are left."""
        return [fault.model_dump(mode="json") | {"times": left} for fault, left in self._pending]

    def clear(self) -> None:
        """Remove all pending faults."""
        self._pending.clear()
