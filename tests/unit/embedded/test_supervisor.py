"""A service that fails is started again, but not for ever."""

import asyncio

import pytest
import structlog

from embedded.supervisor import STEADY_S, Service, ServiceFailedError, keep_running
from shared.errors import SettingsError
from shared.processing.retry import RetryPolicy
from tests.fakes.clock import FakeClock

POLICY = RetryPolicy(first_s=1, max_s=4, attempts_max=3)
LOG = structlog.get_logger()


class Patient:
    """A service that fails `failures` times, `after_s` each, and then serves."""

    def __init__(self, clock: FakeClock, *, failures: int, after_s: float = 0) -> None:
        self.runs = 0
        self._clock = clock
        self._failures = failures
        self._after_s = after_s

    async def __call__(self, *, stop: asyncio.Event, ready: asyncio.Event) -> None:
        """One run."""
        self.runs += 1
        if self.runs <= self._failures:
            self._clock.jump(self._after_s)
            raise OSError("the world is bad")
        ready.set()
        await stop.wait()


async def test_a_service_comes_back_after_failures() -> None:
    """Twice it fails, the third time it serves."""
    clock = FakeClock()
    run = Patient(clock, failures=2)
    service = Service(name="merger", run=run)

    keeping = asyncio.ensure_future(keep_running(service, clock=clock, log=LOG, policy=POLICY))
    await service.ready.wait()
    service.stop.set()
    await keeping

    assert run.runs == 3
    assert len(clock.slept) == 2
    assert clock.slept[1] > 1


async def test_a_service_that_fails_again_and_again_is_given_up() -> None:
    """A crash loop is never a policy; the error says who and why."""
    clock = FakeClock()
    run = Patient(clock, failures=99)

    with pytest.raises(ServiceFailedError, match=r"merger failed 3 times.*the world is bad"):
        await keep_running(Service(name="merger", run=run), clock=clock, log=LOG, policy=POLICY)

    assert run.runs == 3


async def test_a_service_that_worked_for_a_while_has_a_clean_record() -> None:
    """Four failures, a minute apart each, are four first ones."""
    clock = FakeClock()
    run = Patient(clock, failures=4, after_s=STEADY_S + 1)
    service = Service(name="merger", run=run)

    keeping = asyncio.ensure_future(keep_running(service, clock=clock, log=LOG, policy=POLICY))
    await service.ready.wait()
    service.stop.set()
    await keeping

    assert run.runs == 5


async def test_wrong_settings_are_not_tried_again() -> None:
    """They stay wrong."""

    async def refuse(*, stop: asyncio.Event, ready: asyncio.Event) -> None:
        raise SettingsError("SEGUE_API_PORT", "taken")

    with pytest.raises(SettingsError, match="SEGUE_API_PORT"):
        await keep_running(Service(name="api", run=refuse), clock=FakeClock(), log=LOG)


async def test_a_service_that_ends_by_itself_has_failed() -> None:
    """Only `stop` is a good reason to end."""

    async def leave(*, stop: asyncio.Event, ready: asyncio.Event) -> None:
        return

    with pytest.raises(ServiceFailedError, match="ended by itself"):
        await keep_running(
            Service(name="muxer", run=leave), clock=FakeClock(), log=LOG, policy=POLICY
        )
