"""Dying: a service that ends its own process at a named step, as a power cut there would.

    python -m tests.faults.harness.dying_service generator --at after:claim --scene 1
    python -m tests.faults.harness.dying_service generator --at sent:post --scene 1 --freeze

It is the service itself, started as `python -m services.generator` starts it; the doors that the
step names (`steps.py`) are wrapped in this process before it runs, and the product knows nothing
of it. `--freeze` stops the process (SIGSTOP) instead of killing it; whoever started it thaws it.
The death is written to `--history` first.

I/O: signals to this very process; the history.
"""

import argparse
import functools
import importlib
import inspect
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx

from shared.service_process import main as start
from tests.faults.harness.history import append
from tests.faults.harness.removed_protections import PROTECTIONS, switch_off
from tests.faults.harness.steps import Point, Step, Target, place_of, step_named

SETTINGS = {
    "api": "ApiSettings",
    "generator": "GeneratorSettings",
    "merger": "MergerSettings",
    "muxer": "MuxerSettings",
}
_SENT = "send_request_body.complete"  # httpcore's name for the moment; `http11.` before it


class Trap:
    """Ends this process at one point. `end` does it; it returns when a frozen one was thawed."""

    def __init__(
        self, service: str, point: Point, *, target: Target, end: Callable[[Point], None]
    ) -> None:
        self._point = point
        self._target = target
        self._end = end
        self._step = step_named(service, point.step)
        self._before: Step | None = None
        if self._step.follows is not None:
            self._before = step_named(service, self._step.follows)
        self._armed = self._before is None
        self._met = 0

    def lay(self) -> None:
        """Wrap the doors of the step, and of the one it follows."""
        for step in filter(None, (self._step, self._before)):
            for door in step.doors:
                holder, name = place_of(door)
                setattr(holder, name, self._watched(getattr(holder, name), step))

    def _watched(self, call: Callable[..., Any], step: Step) -> Callable[..., Any]:
        signature = inspect.signature(call)

        def met(moment: str, arguments: dict[str, Any]) -> None:
            if step is self._before:
                self._armed |= moment == "after" and step.picks(arguments, self._target)
            elif self._armed and moment == self._point.moment:
                if not step.picks(arguments, self._target):
                    return
                self._met += 1
                if self._met == self._point.nth:
                    self._end(self._point)

        @functools.wraps(call)
        async def awaited(*given: Any, **named: Any) -> Any:
            arguments = signature.bind(*given, **named).arguments
            met("before", arguments)
            request = arguments.get("request")
            if self._point.moment == "sent" and isinstance(request, httpx.Request):
                _on_sent(request, lambda: met("sent", arguments))
            result = await call(*given, **named)
            met("after", arguments)
            return result

        @functools.wraps(call)
        def called(*given: Any, **named: Any) -> Any:
            arguments = signature.bind(*given, **named).arguments
            met("before", arguments)
            result = call(*given, **named)
            met("after", arguments)
            return result

        return awaited if inspect.iscoroutinefunction(call) else called


def _on_sent(request: httpx.Request, sent: Callable[[], None]) -> None:
    """Call `sent` when the kernel has the whole request."""

    async def trace(event: str, _about: dict[str, Any]) -> None:
        if event.endswith(_SENT):
            sent()

    request.extensions = {**request.extensions, "trace": trace}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the service until it dies, or is stopped; without `--at` it does not die by itself."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.harness.dying_service")
    parser.add_argument("service", choices=sorted(SETTINGS))
    parser.add_argument("--at", type=Point.of, help="after:poll:2, say; none: nowhere")
    parser.add_argument("--job", help="of which job; none: of any")
    parser.add_argument("--scene", type=int, default=0, help="of which scene, from 0")
    parser.add_argument("--freeze", action="store_true", help="SIGSTOP instead of SIGKILL")
    parser.add_argument("--history", type=Path, help="a line about the end goes there")
    parser.add_argument("--without", choices=sorted(PROTECTIONS), help="lacks this protection")
    told = parser.parse_args(arguments)

    def end(point: Point) -> None:
        if told.history is not None:
            how = "frozen" if told.freeze else "killed"
            append(told.history, kind="end", service=told.service, at=str(point), how=how)
        os.kill(os.getpid(), signal.SIGSTOP if told.freeze else signal.SIGKILL)

    if told.without is not None:
        switch_off(told.without)
    if told.at is not None:
        target = Target(job_id=told.job, scene=told.scene)
        Trap(told.service, told.at, target=target, end=end).lay()
    app = importlib.import_module(f"services.{told.service}.app")
    settings = importlib.import_module(f"services.{told.service}.settings")
    start(told.service, getattr(settings, SETTINGS[told.service]).from_environment, app.run)


if __name__ == "__main__":
    main()
