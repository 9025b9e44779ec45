"""Names the servers that are unavailable: Kafka, PostgreSQL, the store and the music provider.

A job waits for each of them without an event of its own, so commands about jobs name them. The
provider counts as unavailable while it rejects every request, as the waiting scenes report.

Units: seconds. I/O: Kafka, PostgreSQL, the store.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping

from ops.cli.operator import Operator
from services.api.operators import provider_pause
from shared.errors import RetryableError
from shared.kafka.probes import check_kafka

KAFKA, POSTGRES, STORE, PROVIDER = "Kafka", "PostgreSQL", "store", "provider"
ANSWER_S = 2.0
_ADDRESSED = re.compile(r"(Kafka at \S+): (.*)")
#: names in the checks of `readyz`
READYZ_NAMES: Mapping[str, str] = {
    "kafka": KAFKA,
    "postgres": POSTGRES,
    "store": STORE,
    "provider": PROVIDER,
}


async def server_problems(operator: Operator) -> list[str]:
    """Return a sentence for each server that is unavailable; PostgreSQL is known to answer."""
    names = (KAFKA, STORE, PROVIDER)
    problems = await asyncio.gather(
        problem_of(lambda: check_kafka(operator.kafka)),
        problem_of(operator.store.check),
        problem_of(lambda: check_provider(operator)),
    )
    return [
        problem_text(name, problem)
        for name, problem in zip(names, problems, strict=True)
        if problem is not None
    ]


def problem_text(name: str, problem: str) -> str:
    """Return the sentence about one server."""
    if name == PROVIDER:
        return f"the provider is {problem}" if problem.startswith("paused") else problem
    subject = "the store" if name == STORE else name
    if match := _ADDRESSED.fullmatch(problem):
        subject, problem = match.groups()
    reason = problem.removeprefix(f"{name}: ").removeprefix("object store: ")
    return f"{subject} is unavailable: {reason}"


async def problem_of(check: Callable[[], Awaitable[None]]) -> str | None:
    """Return why a check fails; None if it passes within `ANSWER_S`."""
    try:
        async with asyncio.timeout(ANSWER_S):
            await check()
    except TimeoutError:
        return f"no answer within {ANSWER_S:g} s"
    except (RetryableError, OSError) as error:
        return (str(error) or repr(error)).splitlines()[0]
    return None


async def check_provider(operator: Operator) -> None:
    """Return if no scene waits for a person to act at the provider.

    Raises:
        RetryableError: scenes wait, and why; or PostgreSQL is unavailable.
    """
    async with operator.database.connection() as connection:
        pause = await provider_pause(connection)
    if pause is not None:
        raise RetryableError(f"paused: {pause.reason}")
