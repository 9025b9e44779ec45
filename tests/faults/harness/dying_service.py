"""Runs a service that kills or freezes its own process at a named step.

    python -m tests.faults.harness.dying_service generator --at after:claim --scene 1
    python -m tests.faults.harness.dying_service generator --at sent:post --scene 1 --freeze

It starts the service as `python -m services.generator` does. Before that it wraps the functions of
the step (`steps.py`) in this process; the product has no code for it. `--freeze` sends SIGSTOP
instead of SIGKILL; the test resumes the process. The kill is written to `--history` first.

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
from tests.faults.harness.steps import Point, Step, Target, resolve, step_named

SETTINGS = {
    "api": "ApiSettings",
    "generator": "GeneratorSettings",
    "merger": "MergerSettings",
    "muxer": "MuxerSettings",
}
_SENT = "send_request_body.complete"  # httpcore's trace event, with a prefix like `http11.`


class KillTrap:
    """Calls `end` at one point of a service; `end` returns when a frozen process is resumed."""

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
        self._calls = 0

    def lay(self) -> None:
        """Wrap the functions of the step and of the step that it follows."""
        for step in filter(None, (self._step, self._before)):
            for function in step.functions:
                holder, name = resolve(function)
                setattr(holder, name, self._watched(getattr(holder, name), step))

    def _watched(self, call: Callable[..., Any], step: Step) -> Callable[..., Any]:
        signature = inspect.signature(call)

        def reach(moment: str, arguments: dict[str, Any]) -> None:
            if step is self._before:
                self._armed |= moment == "after" and step.matches(arguments, self._target)
            elif self._armed and moment == self._point.moment:
                if not step.matches(arguments, self._target):
                    return
                self._calls += 1
                if self._calls == self._point.nth:
                    self._end(self._point)

        @functools.wraps(call)
        async def awaited(*args: Any, **named: Any) -> Any:
            arguments = signature.bind(*args, **named).arguments
            reach("before", arguments)
            request = arguments.get("request")
            if self._point.moment == "sent" and isinstance(request, httpx.Request):
                _on_sent(request, lambda: reach("sent", arguments))
            result = await call(*args, **named)
            reach("after", arguments)
            return result

        @functools.wraps(call)
        def called(*args: Any, **named: Any) -> Any:
            arguments = signature.bind(*args, **named).arguments
            reach("before", arguments)
            result = call(*args, **named)
            reach("after", arguments)
            return result

        return awaited if inspect.iscoroutinefunction(call) else called


def _on_sent(request: httpx.Request, sent: Callable[[], None]) -> None:
    """Call `sent` when the whole request was written to the socket."""

    async def trace(event: str, _about: dict[str, Any]) -> None:
        if event.endswith(_SENT):
            sent()

    request.extensions = {**request.extensions, "trace": trace}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the service; without `--at` it does not kill itself."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.harness.dying_service")
    parser.add_argument("service", choices=sorted(SETTINGS))
    parser.add_argument("--at", type=Point.of, help="the point, for example after:poll:2")
    parser.add_argument("--job", help="the job; default: any")
    parser.add_argument("--scene", type=int, default=0, help="the scene, from 0")
    parser.add_argument("--freeze", action="store_true", help="SIGSTOP instead of SIGKILL")
    parser.add_argument("--history", type=Path, help="file to which the kill is appended")
    parser.add_argument("--without", choices=sorted(PROTECTIONS), help="protection to switch off")
    options = parser.parse_args(arguments)

    def end(point: Point) -> None:
        if options.history is not None:
            how = "frozen" if options.freeze else "killed"
            append(options.history, kind="end", service=options.service, at=str(point), how=how)
        os.kill(os.getpid(), signal.SIGSTOP if options.freeze else signal.SIGKILL)

    if options.without is not None:
        switch_off(options.without)
    if options.at is not None:
        target = Target(job_id=options.job, scene=options.scene)
        KillTrap(options.service, options.at, target=target, end=end).lay()
    app = importlib.import_module(f"services.{options.service}.app")
    settings = importlib.import_module(f"services.{options.service}.settings")
    start(options.service, getattr(settings, SETTINGS[options.service]).from_environment, app.run)


if __name__ == "__main__":
    main()
