"""Trace: which request a piece of work belongs to, and, where it is wanted, how long it took.

The W3C context of a request travels on whether tracing is on or not: what came in goes out, in
the headers of records (`shared/kafka/tracing.py`). With tracing on, spans are made and each
record carries the span that sent it. `otel.py` alone knows OpenTelemetry, and is imported when
tracing is on; off, a span costs a fraction of a microsecond. See ADR-0019.

Spans have no payloads and no addresses: names are constant, job, run and scene are attributes.
"""

import importlib
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Protocol, Self

from shared.settings import TelemetrySettings

CLOSE_S = 1.5  # for what was not exported yet; a stop is over within ten seconds all the same
TRACESTATE_CHARS_MAX = 512  # what W3C asks everyone to hand on
Kind = Literal["internal", "server", "client", "producer", "consumer"]
Value = str | int | float | bool | None  #: None: left out
Attributes = Mapping[str, Value]
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?"
)


@dataclass(frozen=True, slots=True)
class Carried:
    """A W3C trace context as it travels."""

    traceparent: str
    tracestate: str | None = None

    @classmethod
    def of(cls, traceparent: str | None, tracestate: str | None = None) -> Self | None:
        """What these headers carry; None: nothing that W3C would have continued."""
        if traceparent is None or not _TRACEPARENT.fullmatch(traceparent):
            return None
        fits = tracestate and len(tracestate) <= TRACESTATE_CHARS_MAX and tracestate.isprintable()
        return cls(traceparent, tracestate if fits else None)

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits."""
        return self.traceparent.split("-")[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """Whose work this is."""

    service: str = "segue"
    topic_prefix: str = ""


class Span(Protocol):
    """A piece of work with a beginning and an end."""

    def name(self, name: str) -> None:
        """What it turned out to be."""
        ...

    def set(self, attributes: Attributes) -> None:
        """What became known of it."""
        ...

    def failed(self, error: BaseException | str) -> None:
        """It did not do what it was to do."""
        ...

    def end(self) -> None:
        """It is over; only of those that `begin` began."""
        ...


class Tracer(Protocol):
    """Makes spans: `otel.py`."""

    def span(
        self, serving: Serving, name: str, *, kind: Kind, parent: Carried | None, about: Attributes
    ) -> AbstractContextManager[Span]:
        """A span that everything inside belongs to."""
        ...

    def begin(
        self, serving: Serving, name: str, *, kind: Kind, parent: Carried | None, about: Attributes
    ) -> Span:
        """A span that stands beside what goes on; `end` it."""
        ...

    def current(self) -> Span | None:
        """The span that goes on."""
        ...

    def carried(self) -> Carried | None:
        """Its context."""
        ...

    def close(self, *, within_s: float) -> None:
        """Export what is left, for as long as that."""
        ...


class _NoSpan:
    """Tracing is off."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Whatever it was goes on."""

    def name(self, name: str) -> None:
        """Nobody asks."""

    def set(self, attributes: Attributes) -> None:
        """Nobody asks."""

    def failed(self, error: BaseException | str) -> None:
        """Nobody asks."""

    def end(self) -> None:
        """Nobody asks."""


NO_SPAN = _NoSpan()
_tracer: Tracer | None = None
_process = Serving()
_serving: ContextVar[Serving | None] = ContextVar("serving", default=None)
_came_in: ContextVar[Carried | None] = ContextVar("came_in", default=None)


def configure(settings: TelemetrySettings, *, service: str) -> None:
    """Turn tracing on if the environment asks for it; once per process.

    `service`: whose work it is where nobody said (`serves`), as in threads of libraries.
    """
    global _process  # noqa: PLW0603 - one per process
    _process = Serving(service=service)
    if settings.traces_wanted:
        otel = importlib.import_module("shared.telemetry.otel")
        install(otel.OpenTelemetry())


def install(tracer: Tracer | None) -> None:
    """Have `tracer` make spans from here on; None: nobody."""
    global _tracer  # noqa: PLW0603 - one per process, as the log is
    _tracer = tracer


def close(*, within_s: float = CLOSE_S) -> None:
    """Export what is left and end tracing; returns in time, whatever the collector does."""
    tracer = _tracer
    install(None)
    if tracer is not None:
        tracer.close(within_s=within_s)


def is_on() -> bool:
    """Whether spans are made."""
    return _tracer is not None


def serves(service: str, *, topic_prefix: str = "") -> None:
    """What this task and those that it starts do is the work of `service`."""
    _serving.set(Serving(service=service, topic_prefix=topic_prefix))


def serving() -> Serving:
    """Whose work this is."""
    return _serving.get() or _process


def span(
    name: str,
    about: Attributes | None = None,
    *,
    kind: Kind = "internal",
    parent: Carried | None = None,
) -> AbstractContextManager[Span]:
    """A span that everything inside belongs to; `parent` None: inside the one that goes on."""
    if _tracer is None:
        return NO_SPAN
    return _tracer.span(serving(), name, kind=kind, parent=parent, about=about or {})


def begin(name: str, about: Attributes, *, kind: Kind, parent: Carried | None) -> Span:
    """A span that stands beside what goes on; `end` it."""
    if _tracer is None:
        return NO_SPAN
    return _tracer.begin(serving(), name, kind=kind, parent=parent, about=about)


@contextmanager
def continuing(
    carried: Carried | None, name: str, about: Attributes | None = None, *, kind: Kind
) -> Iterator[Span]:
    """Work on what came in with `carried`: it belongs to that trace, or begins one of its own."""
    token = _came_in.set(carried)
    try:
        with span(name, about, kind=kind, parent=carried) as made:
            yield made
    finally:
        _came_in.reset(token)


def outgoing() -> Carried | None:
    """What goes out from here carries this; with tracing off, what came in."""
    if _tracer is not None and (carried := _tracer.carried()) is not None:
        return carried
    return _came_in.get()


def note(attributes: Attributes) -> None:
    """The span that goes on is about this."""
    if _tracer is not None and (current := _tracer.current()) is not None:
        current.set(attributes)


def failed(error: BaseException | str) -> None:
    """The span that goes on did not do what it was to do."""
    if _tracer is not None and (current := _tracer.current()) is not None:
        current.failed(error)
