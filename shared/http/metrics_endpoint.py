"""Scraping: what Prometheus is answered, with whether the servers answer asked on the way.

I/O: whatever the probes ask, at most once in a while and within their deadline.
"""

import asyncio
from collections.abc import Sequence

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import Response

from shared.http.probes import Probe
from shared.telemetry.metrics import SERVER_UP


async def scraped(service: str, probes: Sequence[Probe]) -> Response:
    """Every figure of this process."""
    problems = await asyncio.gather(*(probe.problem() for probe in probes))
    for probe, problem in zip(probes, problems, strict=True):
        SERVER_UP.labels(service, probe.name).set(problem is None)
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
