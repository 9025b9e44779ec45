"""Health endpoints, and a start that waits for its servers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from shared.clock import SystemClock
from shared.errors import ProviderPausedError, RetryableError, SegueError, SettingsError
from shared.http.health import Health
from shared.http.probes import Probe, readiness
from shared.settings import HealthSettings
from shared.telemetry.log import logger_of
from tests.fakes.clock import FakeClock
from tests.support.api_fixture import free_port


def a_health(**given: Any) -> Health:
    """Return the health of a starting service."""
    fields = {
        "service": "test",
        "start_s": 5.0,
        "stop": asyncio.Event(),
        "ready": asyncio.Event(),
        "clock": SystemClock(),
        "log": logger_of("test"),
        **given,
    }
    return Health(**fields)


@asynccontextmanager
async def a_port(health: Health) -> AsyncIterator[httpx.AsyncClient]:
    """Serve the health port; yield a client of it."""
    port = free_port()
    async with (
        health.serve(HealthSettings(port=port)),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        yield client


async def _answers() -> None:
    """A server that answers."""


async def _away() -> None:
    raise RetryableError("connection refused")


async def test_port_serves_liveness_readiness_and_metrics() -> None:
    """Alive at once; ready once the service runs and every server answers."""
    probe = Probe(name="kafka", call=_answers, clock=SystemClock())
    health = a_health(probes=[probe], figures=lambda: {"lanes": 3})
    async with a_port(health) as client:
        alive = await client.get("/livez")
        before = await client.get("/readyz")
        health.ready.set()
        after = await client.get("/readyz")
        figures = await client.get("/metrics")

    assert alive.status_code == 200
    assert before.status_code == 503
    assert before.json()["checks"]["service"] == {
        "ok": False,
        "detail": "starting",
        "required": True,
    }
    assert after.status_code == 200
    assert after.json()["figures"] == {"lanes": 3}
    assert "segue_records_total" in figures.text


async def test_start_waits_for_a_server_and_reports_it() -> None:
    """The second attempt succeeds; livez answers all the time."""
    attempts: list[int] = []
    responses: list[httpx.Response] = []
    health = a_health()

    async def late() -> None:
        attempts.append(1)
        if len(attempts) == 1:
            raise RetryableError("connection refused")
        responses.append(await client.get("/readyz"))
        responses.append(await client.get("/livez"))

    async with a_port(health) as client:
        assert await health.wait_for("Kafka", late) is True

    assert [answer.status_code for answer in responses] == [503, 200]
    assert (
        responses[0].json()["checks"]["service"]["detail"]
        == "waiting for Kafka: connection refused"
    )


async def test_start_fails_at_its_deadline_with_the_server_and_the_setting() -> None:
    """By time, not by a number of attempts."""
    with pytest.raises(SegueError, match=r"SEGUE_START_DEADLINE_S.*: connection refused"):
        await a_health(start_s=0.5).wait_for("Kafka", _away)


async def test_start_fails_if_a_server_never_answers() -> None:
    """A frozen broker accepts the connection and never answers."""
    with pytest.raises(SegueError, match="no answer"):
        await a_health(start_s=0.2).wait_for("Kafka", asyncio.Event().wait)


async def test_start_has_one_deadline_for_all_servers() -> None:
    """The second server gets the time that the first one left."""
    clock = FakeClock()
    health = a_health(clock=clock, start_s=30.0)
    await health.wait_for("the store", _answers)
    clock.jump(29.5)

    with pytest.raises(SegueError, match="Kafka"):
        await health.wait_for("Kafka", _away)


@pytest.mark.parametrize("call", [_away, asyncio.Event().wait], ids=["refused", "hangs"])
async def test_stop_ends_the_wait_at_once(call: Any) -> None:
    """A stop does not wait for the deadline."""
    health = a_health(start_s=3600.0)
    waiting = asyncio.create_task(health.wait_for("Kafka", call))
    await asyncio.sleep(0)
    health.stop.set()

    async with asyncio.timeout(5):
        assert await waiting is False
    assert (await health.readiness()).checks["service"].detail == "stopping"


async def test_port_in_use_names_its_setting() -> None:
    """And the address."""
    port = free_port()
    async with a_health().serve(HealthSettings(port=port)):
        with pytest.raises(SettingsError, match=f"SEGUE_HEALTH_PORT: .*127.0.0.1:{port}"):
            async with a_health().serve(HealthSettings(port=port)):
                pass


async def test_port_is_closed_without_a_setting() -> None:
    """Several services may share a machine."""
    async with a_health().serve(HealthSettings()):
        assert HealthSettings().port is None


async def test_optional_check_does_not_affect_readiness() -> None:
    """The api accepts requests while the provider rejects them."""

    async def paused() -> None:
        raise ProviderPausedError("paused: Replicate wants credit")

    clock = SystemClock()
    probes = [Probe(name="kafka", call=_answers, clock=clock)]
    optional = Probe(name="provider", call=paused, clock=clock, required=False)
    required = Probe(name="provider", call=paused, clock=clock)

    result = await readiness([*probes, optional])

    assert result.ready is True
    assert result.checks["provider"].detail == "paused: Replicate wants credit"
    assert (await readiness([*probes, required])).ready is False
