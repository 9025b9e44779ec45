"""Faults: what shall go wrong, how often, and where.

A script: each fault waits for its place and is used up `times` times, in the order in which
they were added. At most one fault strikes an answer; a prediction takes one of each kind of
work when it is created; a `completed` webhook takes one of each of its own.

======================  ==========================================  =======================
kind                    what happens                                `value`
======================  ==========================================  =======================
**answers** (`place`: create, get, list, cancel, secret, account, delivery, any)
`lost_answer`           it is done, the connection dies unanswered
`500_after`             it is done, the answer is a 500
`500_before`            nothing is done, the answer is a 500
`dropped`               nothing is done, the connection dies
`429`                   nothing is done, throttled                  retry_after, s (10)
`404`                   nothing is done, not there
`hang`                  it is done, no answer while the client is
                        there                                       at most so long, s (3600)
`slow`                  it is done, the answer comes late           s (5)
`wrong_json`            it is done, the answer is 200 and no JSON
`truncated`             half of the body, then the connection dies
**everything** (one stretch of time, `times` is ignored)
`down`                  every connection dies unanswered            how long, s (needed)
`unavailable`           every answer is a 503                       how long, s (needed)
**predictions**
`status`                it ends so                                  failed, canceled, aborted
`fail_with`             it fails                                    the `error` (needed)
`stuck`                 it is `processing` for ever
`cold_start`            `starting` lasts longer                     so much longer, s (needed)
`slow_work`             `processing` lasts longer                   so much longer, s (needed)
`output_shape`          how `output` is written                     list, data_url, null, string
`clip_shape`            what is in the clip                         see `shapes.py` (needed)
`dead_output`           its URL is dead from the start
`purged`                its data is removed as soon as it ended
**webhooks** (`completed` alone)
`webhook_lost`          never sent
`webhook_doubled`       sent twice under one `webhook-id`
`webhook_forged`        before it, another whose signature is bad
                        and that says the prediction failed
`webhook_late`          sent late, freshly stamped                  s (needed)
`webhook_stale`         signed with a time long past                so long past, s (600)
======================  ==========================================  =======================

The seconds of `hang` and `slow` are real ones, all others the fake's. Pure.
"""

from collections import Counter
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from replicate_server.model.clip_shapes import SHAPES

Place = Literal["create", "get", "list", "cancel", "secret", "account", "delivery", "any"]
_PENDING_MAX = 1000


class FaultKind(StrEnum):
    """What can go wrong; the table above says what each does."""

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
_SECONDS: dict[FaultKind, float | None] = {  # with the default; None: it must be said
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
    """One thing that shall go wrong."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: FaultKind
    times: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    value: float | str | None = None
    place: Place = "create"  #: of answers alone

    @model_validator(mode="after")
    def _has_its_value(self) -> Self:
        """A script with a slip of the pen is worth less than none."""
        if self.kind in _SECONDS:
            needed = _SECONDS[self.kind] is None
            if isinstance(self.value, str) or (needed and self.value is None):
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
        """The value of a fault that lasts or waits."""
        if isinstance(self.value, float):
            return self.value
        default = _SECONDS[self.kind]
        assert default is not None, "checked when it was made"
        return default

    @property
    def text(self) -> str:
        """The value of a fault that is worded or chosen."""
        assert isinstance(self.value, str), "checked when it was made"
        return self.value


class Faults:
    """The script, and how often each kind has struck."""

    def __init__(self) -> None:
        self._pending: list[tuple[Fault, int]] = []
        self.struck: Counter[str] = Counter()

    def add(
        self,
        kind: FaultKind | str,
        *,
        times: int = 1,
        value: float | str | None = None,
        place: Place = "create",
    ) -> None:
        """Let `kind` happen `times` times.

        Raises:
            pydantic.ValidationError: there is no such fault, or its value is none of it.
        """
        self.put(Fault(kind=FaultKind(kind), times=times, value=value, place=place))

    def put(self, fault: Fault) -> None:
        """Add a fault.

        Raises:
            ValueError: more than a thousand wait already.
        """
        if len(self._pending) >= _PENDING_MAX:
            raise ValueError(f"{_PENDING_MAX} faults wait already")
        self._pending.append((fault, fault.times))

    def take(self, kinds: frozenset[FaultKind], *, place: str | None = None) -> Fault | None:
        """The next fault of these kinds for this place, used up once."""
        for at, (fault, left) in enumerate(self._pending):
            if fault.kind in kinds and (place is None or fault.place in {place, "any"}):
                if left > 1:
                    self._pending[at] = (fault, left - 1)
                else:
                    del self._pending[at]
                self.struck[str(fault.kind)] += 1
                return fault
        return None

    def take_each(self, kinds: frozenset[FaultKind]) -> dict[FaultKind, Fault]:
        """The next fault of each of these kinds, each used up once."""
        taken = {kind: self.take(frozenset({kind})) for kind in sorted(kinds)}
        return {kind: fault for kind, fault in taken.items() if fault is not None}

    def pending(self) -> list[dict[str, Any]]:
        """What still waits, with the times that are left."""
        return [fault.model_dump(mode="json") | {"times": left} for fault, left in self._pending]

    def clear(self) -> None:
        """Forget what still waits."""
        self._pending.clear()
