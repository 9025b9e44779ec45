"""Looking: asks Kafka, PostgreSQL and the services for the figures of one moment.

Each is asked anew every time, so that one that was away is found again; and none for longer than
`LOOK_S`.

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
from ops.cluster.consumer_groups import SERVICES, members
from ops.dead_letters.count import waiting
from ops.kafka_log.lag import Lag, lags, projection
from ops.watch.snapshot import DatabaseFigures, KafkaFigures, Service, Side, Snapshot
from services.api.operators import UNFINISHED, Connection, CostTotals, job_list, overview
from shared.errors import RetryableError
from shared.http.probes import Ready
from shared.kafka.log_reader import open_log_reader

LOOK_S = 10.0
HEALTH_S = 2.0
#: what ended is counted again after so many times what that took: at once among a thousand runs,
#: after half a minute among a million
BILL_REST = 30
OLDEST = 8
F = TypeVar("F")


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What the health ports of one service say, all of its processes together."""

    lanes: int | None = None
    in_flight: int | None = None
    slots: int | None = None
    slots_taken: int | None = None
    unready: str | None = None


@dataclass(kw_only=True)
class Watcher:
    """Looks again and again."""

    operator: Operator
    urls: Sequence[tuple[str, str]] = ()  #: service and where it answers
    _bill: CostTotals | None = None
    _bill_again_s: float = 0.0

    async def look(self) -> Snapshot:
        """The figures of now."""
        kafka, database = await asyncio.gather(self._side(self._kafka), self._side(self._database))
        return Snapshot(at=self.operator.clock.now(), kafka=kafka, database=database)

    async def _side(self, ask: Callable[[], Awaitable[F]]) -> Side[F]:
        now = self.operator.clock.now()
        try:
            async with asyncio.timeout(LOOK_S):
                return Side(figures=await ask(), at=now)
        except TimeoutError:
            return Side(problem=f"no answer within {LOOK_S:g} s")
        except (KafkaError, RetryableError, OSError) as error:
            return Side(problem=(str(error) or repr(error)).splitlines()[0])

    async def _kafka(self) -> KafkaFigures:
        said = await self._said()
        try:
            projected = await projection(self.operator)
        except RetryableError:
            projected = None  # the other side says so
        async with open_log_reader(self.operator.kafka, client_id="segue-ops") as reader:
            alive = await members(reader.admin, self.operator.kafka)
            behind = await lags(self.operator, reader, projected)
            letters = await waiting(self.operator, reader)
        return KafkaFigures(
            services=[service_of(name, alive, behind, said.get(name, Said())) for name in SERVICES],
            dead_letters=letters,
        )

    async def _database(self) -> DatabaseFigures:
        async with self.operator.database.connection() as connection:
            now = await overview.current_counts(connection)
            oldest = await job_list.oldest(connection, UNFINISHED, count=OLDEST)
            bill = await self._counted(connection)
        return DatabaseFigures(now=now, bill=bill, oldest=oldest)

    async def _counted(self, connection: Connection) -> CostTotals:
        """What ended, counted anew if it is time."""
        clock = self.operator.clock
        began_s = clock.monotonic()
        if self._bill is None or began_s >= self._bill_again_s:
            self._bill = await overview.cost_totals(connection, today=_midnight(clock.now()))
            ended_s = clock.monotonic()
            self._bill_again_s = ended_s + BILL_REST * (ended_s - began_s)
        return self._bill

    async def _said(self) -> dict[str, Said]:
        """What the health ports say, by service."""
        if not self.urls:
            return {}
        async with httpx.AsyncClient(timeout=HEALTH_S, trust_env=False) as client:
            answers = await asyncio.gather(*(_ready(client, url) for _, url in self.urls))
        heard: dict[str, list[Ready | None]] = {}
        for (name, _), answer in zip(self.urls, answers, strict=True):
            heard.setdefault(name, []).append(answer)
        return {name: together(ones) for name, ones in heard.items()}


def service_of(
    name: str, alive: Mapping[str, int] | None, behind: Sequence[Lag], said: Said
) -> Service:
    """One service, from what is known of all."""
    own = [one for one in behind if one.service == name]
    worst = max(own, key=lambda one: (one.seconds, one.records), default=None)
    return Service(
        name=name,
        members=None if alive is None else alive[name],
        records=sum(one.records for one in own) if own else None,
        seconds=worst.seconds if worst else 0.0,
        behind_on=worst.topic if worst and worst.records else None,
        lanes=said.lanes,
        in_flight=said.in_flight,
        slots=said.slots,
        slots_taken=said.slots_taken,
        unready=said.unready,
    )


def together(answers: Sequence[Ready | None]) -> Said:
    """What the processes of one service say together; None: one did not answer."""
    heard = [one for one in answers if one is not None]
    silent = len(answers) - len(heard)
    problems = [f"{silent} of {len(answers)} do not answer"] if silent else []
    problems += [
        f"{name}: {check.detail}"
        for one in heard
        for name, check in one.checks.items()
        if check.required and not check.ok
    ]
    return Said(
        lanes=_sum(heard, "lanes"),
        in_flight=_sum(heard, "records_in_flight"),
        slots=_sum(heard, "slots"),
        slots_taken=_sum(heard, "slots_taken"),
        unready="; ".join(problems) or None,
    )


def _sum(heard: Sequence[Ready], figure: str) -> int | None:
    known = [one.figures[figure] for one in heard if figure in one.figures]
    return sum(known) if known else None


async def _ready(client: httpx.AsyncClient, url: str) -> Ready | None:
    """What one health port says; None: nothing that can be understood."""
    try:
        answer = await client.get(f"{url.rstrip('/')}/readyz")
        return Ready.model_validate_json(answer.content)
    except (httpx.HTTPError, ValueError):
        return None


def _midnight(now: datetime) -> datetime:
    """When the day began, in UTC."""
    return now.replace(hour=0, minute=0, second=0, microsecond=0)
