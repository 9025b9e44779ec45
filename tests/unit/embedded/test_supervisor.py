"""Tests of embedded/supervisor.py: a failed service is restarted, a limited number of times."""

import asyncio

import pytest
import structlog

from embedded.supervisor import STEADY_S, Service, ServiceFailedError, keep_running
from shared.errors import SettingsError
from shared.processing.retry import RetryPolicy
from tests.fakes.clock import FakeClock

POLICY = RetryPolicy(first_s=1, max_s=4, attempts_max=3)
LOG = structlog.get_logger()


class FlakyService:
    """A service that fails `failures` times, each after `after_s`, and then serves."""

    def __init__(self, clock: FakeClock, *, failures: int, after_s: float = 0) -> None:
        self.runs = 0
        self._clock = clock
        self._failures = failures
        self._after_s = after_s

    async def __call__(self, *, stop: asyncio.Event, ready: asyncio.Event) -> None:
        """Fail, or serve until `stop`."""
        self.runs += 1
        if self.runs <= self._failures:
            self._clock.jump(self._after_s)
            raise OSError("disk on fire")
        ready.set()
        await stop.wait()


async def test_a_failed_service_is_restarted() -> None:
    """It fails twice and serves the third time."""
    clock = FakeClock()
    run = FlakyService(clock, failures=2)
    service = Service(name="merger", run=run)

    keeping = asyncio.ensure_future(keep_running(service, clock=clock, log=LOG, policy=POLICY))
    await service.ready.wait()
    service.stop.set()
    await keeping

    assert run.runs == 3
    assert len(clock.slept) == 2
    assert clock.slept[1] > 1


async def test_a_service_that_fails_too_often_is_not_restarted() -> None:
    """The error names the service and the reason."""
    clock = FakeClock()
    run = FlakyService(clock, failures=99)

    with pytest.raises(ServiceFailedError, match=r"merger failed 3 times.*disk on fire"):
        await keep_running(Service(name="merger", run=run), clock=clock, log=LOG, policy=POLICY)

    assert run.runs == 3


async def test_failures_far_apart_are_not_counted_together() -> None:
    """Four failures, each after a minute, are four first failures."""
    clock = FakeClock()
    run = FlakyService(clock, failures=4, after_s=STEADY_S + 1)
    service = Service(name="merger", run=run)

    keeping = asyncio.ensure_future(keep_running(service, clock=clock, log=LOG, policy=POLICY))
    await service.ready.wait()
    service.stop.set()
    await keeping

    assert run.runs == 5


async def test_a_service_with_wrong_settings_is_not_restarted() -> None:
    """A restart cannot correct them."""

    async def refuse(*, stop: asyncio.Event, ready: asyncio.Event) -> None:
        raise SettingsError("SEGUE_API_PORT", "taken")

    with pytest.raises(SettingsError, match="SEGUE_API_PORT"):
        await keep_running(Service(name="api", run=refuse), clock=FakeClock(), log=LOG)


async def test_a_service_that_ends_without_stop_has_failed() -> None:
    """It is restarted like one that raised an error."""

    async def leave(*, stop: asyncio.Event, ready: asyncio.Event) -> None:
        return

    with pytest.raises(ServiceFailedError, match="ended by itself"):
        await keep_running(
            Service(name="muxer", run=leave), clock=FakeClock(), log=LOG, policy=POLICY
        )
