"""Reads the figures of `segue watch` from Kafka, PostgreSQL and the services.

The connections are opened for each snapshot, so that a server that was unavailable is found again;
each server has `READ_S` to answer.

I/O: Kafka, PostgreSQL, HTTP to health ports.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

import httpx
from aiokafka.errors import KafkaError

from ops.cli.operator import Operator
from ops.cli.servers import check_provider, problem_of
from ops.cluster.consumer_groups import SERVICES, count_members
from ops.dead_letters.count import count_waiting
from ops.kafka_log.lag import Lag, projection_positions, service_lags
from ops.watch.snapshot import (
    DatabaseFigures,
    KafkaFigures,
    ServerState,
    ServiceFigures,
    Snapshot,
)
from services.api.operators import UNFINISHED, Connection, CostTotals, job_list, overview
from shared.errors import RetryableError
from shared.http.probes import Ready
from shared.kafka.client import unavailable
from shared.kafka.log_reader import open_log_reader

READ_S = 10.0
HEALTH_S = 2.0
#: totals are read again after this many times the duration of the last query: at once with a
#: thousand runs, after half a minute with a million
TOTALS_PAUSE_FACTOR = 30
OLDEST_JOBS = 8
F = TypeVar("F")


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthFigures:
    """The figures of the health ports of one service, summed over its processes."""

    lanes: int | None = None
    in_flight: int | None = None
    slots: int | None = None
    slots_taken: int | None = None
    unready: str | None = None  #: why the service is not ready


@dataclass(kw_only=True)
class Collector:
    """Reads one snapshot after the other."""

    operator: Operator
    urls: Sequence[tuple[str, str]] = ()  #: service and URL of its health port
    _totals: CostTotals | None = None
    _totals_due_s: float = 0.0

    async def collect(self) -> Snapshot:
        """Return the current figures."""
        kafka, database, store = await asyncio.gather(
            self._state(self._kafka),
            self._state(self._database),
            problem_of(self.operator.store.check),
        )
        provider = None
        if database.problem is None:  # waiting scenes report a provider that is paused
            provider = await problem_of(lambda: check_provider(self.operator))
        return Snapshot(
            at=self.operator.clock.now(),
            kafka=kafka,
            database=database,
            store=store,
            provider=provider,
        )

    async def _state(self, read: Callable[[], Awaitable[F]]) -> ServerState[F]:
        now = self.operator.clock.now()
        try:
            async with asyncio.timeout(READ_S):
                return ServerState(figures=await read(), at=now)
        except TimeoutError:
            return ServerState(problem=f"no answer within {READ_S:g} s")
        except KafkaError as error:
            return ServerState(problem=str(unavailable(self.operator.kafka, error)))
        except (RetryableError, OSError) as error:
            return ServerState(problem=(str(error) or repr(error)).splitlines()[0])

    async def _kafka(self) -> KafkaFigures:
        health = await self._health()
        try:
            projected = await projection_positions(self.operator)
        except RetryableError:
            projected = None  # reported as the state of PostgreSQL
        async with open_log_reader(self.operator.kafka, client_id="segue-ops") as reader:
            members = await count_members(reader.admin, self.operator.kafka)
            lags = await service_lags(self.operator, reader, projected)
            letters = await count_waiting(self.operator, reader)
        return KafkaFigures(
            services=[
                service_figures(name, members, lags, health.get(name, HealthFigures()))
                for name in SERVICES
            ],
            dead_letters=letters,
        )

    async def _database(self) -> DatabaseFigures:
        async with self.operator.database.connection() as connection:
            counts = await overview.current_counts(connection)
            oldest = await job_list.oldest(connection, UNFINISHED, count=OLDEST_JOBS)
            totals = await self._cost_totals(connection)
        return DatabaseFigures(counts=counts, totals=totals, oldest=oldest)

    async def _cost_totals(self, connection: Connection) -> CostTotals:
        """Return the totals; read again when they are due."""
        clock = self.operator.clock
        began_s = clock.monotonic()
        if self._totals is None or began_s >= self._totals_due_s:
            self._totals = await overview.cost_totals(connection, today=_midnight(clock.now()))
            ended_s = clock.monotonic()
            self._totals_due_s = ended_s + TOTALS_PAUSE_FACTOR * (ended_s - began_s)
        return self._totals

    async def _health(self) -> dict[str, HealthFigures]:
        """Return the figures of the health ports, by service."""
        if not self.urls:
            return {}
        async with httpx.AsyncClient(timeout=HEALTH_S, trust_env=False) as client:
            responses = await asyncio.gather(*(_readyz(client, url) for _, url in self.urls))
        by_service: dict[str, list[Ready | None]] = {}
        for (name, _), response in zip(self.urls, responses, strict=True):
            by_service.setdefault(name, []).append(response)
        return {name: sum_health(responses) for name, responses in by_service.items()}


def service_figures(
    name: str,
    members: Mapping[str, int] | None,
    service_lags: Sequence[Lag],
    health: HealthFigures,
) -> ServiceFigures:
    """Return the figures of one service."""
    own = [lag for lag in service_lags if lag.service == name]
    worst = max(own, key=lambda lag: (lag.seconds, lag.records), default=None)
    return ServiceFigures(
        name=name,
        members=None if members is None else members[name],
        records=sum(lag.records for lag in own) if own else None,
        seconds=worst.seconds if worst else 0.0,
        behind_on=worst.topic if worst and worst.records else None,
        lanes=health.lanes,
        in_flight=health.in_flight,
        slots=health.slots,
        slots_taken=health.slots_taken,
        unready=health.unready,
    )


def sum_health(responses: Sequence[Ready | None]) -> HealthFigures:
    """Return the sums over the processes of a service; None: no response."""
    answered = [response for response in responses if response is not None]
    silent = len(responses) - len(answered)
    problems = [f"{silent} of {len(responses)} do not answer"] if silent else []
    problems += [
        f"{name}: {check.detail}"
        for response in answered
        for name, check in response.checks.items()
        if check.required and not check.ok
    ]
    return HealthFigures(
        lanes=_sum(answered, "lanes"),
        in_flight=_sum(answered, "records_in_flight"),
        slots=_sum(answered, "slots"),
        slots_taken=_sum(answered, "slots_taken"),
        unready="; ".join(problems) or None,
    )


def _sum(responses: Sequence[Ready], figure: str) -> int | None:
    values = [response.figures[figure] for response in responses if figure in response.figures]
    return sum(values) if values else None


async def _readyz(client: httpx.AsyncClient, url: str) -> Ready | None:
    """Return the response of one health port; None if it is not Segue's."""
    try:
        response = await client.get(f"{url.rstrip('/')}/readyz")
        return Ready.model_validate_json(response.content)
    except (httpx.HTTPError, ValueError):
        return None


def _midnight(now: datetime) -> datetime:
    """Return the start of the day, in UTC."""
    return now.replace(hour=0, minute=0, second=0, microsecond=0)
