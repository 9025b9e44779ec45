"""Many requests: the api processes them without growth and rejects too many at once with 503."""

import asyncio
import gc
import os
import sys
from collections import Counter
from pathlib import Path

import httpx
import pytest
from prometheus_client import REGISTRY

from services.api.database import Database as ApiDatabase
from services.api.http.middleware.admission import AdmissionControl
from shared.clock import SystemClock
from shared.http.health import Health
from shared.telemetry.log import logger_of
from tests.faults.harness.durations import long_or
from tests.support.api_fixture import api_settings, free_port, limits, running_api
from tests.support.api_service import ApiServiceFixture, is_ready
from tests.support.processes import Service, eventually
from tests.support.servers import Database, KafkaServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

REQUESTS = long_or(long=10_000, short=600)
AT_ONCE = 64
WARM = 300  # to fill pools, validators and buffers
GROWTH_MIB_MAX = 40.0
SCENES = [{"description": "a calm lake", "duration_s": 1.7}]
PATH = "/api/v3/audio/generate-scenes"
MIB = 2**20


class Observed:
    """Resource usage of an api process."""

    def __init__(self, service: Service) -> None:
        self._folder = Path("/proc") / str(service.pid)

    def rss_mib(self) -> float:
        """Return the resident memory."""
        pages = int((self._folder / "statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / MIB

    def handles(self) -> int:
        """Return the number of open files and sockets."""
        return len(list((self._folder / "fd").iterdir()))

    def threads(self) -> int:
        """Return the number of threads."""
        return len(list((self._folder / "task").iterdir()))


async def _post(
    api: httpx.AsyncClient, jobs: range, answers: Counter[int], took_s: list[float]
) -> None:
    """Request the jobs of one client in sequence; retry rejected ones."""
    loop = asyncio.get_running_loop()
    for number in jobs:
        status = 0
        while status != 202:
            start = loop.time()
            answer = await api.post(PATH, json={"job_id": f"job-{number}", "scenes": SCENES})
            took_s.append(loop.time() - start)
            status = answer.status_code
            answers[status] += 1
            if status != 202:
                assert status in {429, 503}, answer.text
                assert "Retry-After" in answer.headers
                await asyncio.sleep(0.2)


async def _flood(api: httpx.AsyncClient, jobs: range) -> tuple[Counter[int], list[float]]:
    answers: Counter[int] = Counter()
    took_s: list[float] = []
    async with asyncio.TaskGroup() as group:
        for first in range(AT_ONCE):
            share = range(jobs.start + first, jobs.stop, AT_ONCE)
            group.create_task(_post(api, share, answers, took_s))
    return answers, took_s


async def test_the_api_processes_many_requests_without_growth(
    postgres: Database, kafka: KafkaServer, topic_prefix: str, store_folder: Path, tmp_path: Path
) -> None:
    """All are published and projected; memory, handles and threads do not grow."""
    fixture = ApiServiceFixture(await postgres(), kafka, topic_prefix, store_folder)
    port = free_port()
    service = Service(
        "api",
        {
            **kafka.environment(),
            "DATABASE_URL": fixture.url,
            "SEGUE_TOPIC_PREFIX": topic_prefix,
            "SEGUE_STORE_DIR": str(store_folder),
            "SEGUE_API_PORT": str(port),
            "SEGUE_SEGMENT_KEYS": "a secret for tests alone",
            "SEGUE_LOG_LEVEL": "warning",
        },
        log=tmp_path / "api.log",
    )
    await service.start()
    bounds = httpx.Limits(max_connections=AT_ONCE, max_keepalive_connections=AT_ONCE)
    base = f"http://127.0.0.1:{port}"
    try:
        async with httpx.AsyncClient(base_url=base, timeout=30, limits=bounds) as api:

            async def ready() -> bool | None:
                try:
                    return await is_ready(api)
                except httpx.TransportError:
                    return None

            async def projected(total: int) -> None:
                async def poll() -> bool | None:
                    rows = await fixture.rows(
                        "SELECT (SELECT count(*) FROM outbox) AS waiting, sum(next_offset) AS read "
                        "FROM projection_offsets WHERE topic LIKE '%scene.requested'"
                    )
                    return rows == [{"waiting": 0, "read": total}] or None

                await eventually(poll, within_s=120, what=f"{total} projected")

            await eventually(ready, within_s=60, what="the api is ready")
            usage = Observed(service)
            async with httpx.AsyncClient(base_url=base, timeout=30, limits=bounds) as crowd:
                await _flood(crowd, range(WARM))
            await projected(WARM)
            before = usage.rss_mib(), usage.handles(), usage.threads()
            start = asyncio.get_running_loop().time()
            async with httpx.AsyncClient(base_url=base, timeout=30, limits=bounds) as crowd:
                answers, took_s = await _flood(crowd, range(WARM, WARM + REQUESTS))
            in_s = asyncio.get_running_loop().time() - start
            await projected(WARM + REQUESTS)
            all_s = asyncio.get_running_loop().time() - start
            after = usage.rss_mib(), usage.handles(), usage.threads()
    finally:
        await service.kill()
    took_s.sort()
    sys.stdout.write(
        f"flood of {REQUESTS} by {AT_ONCE} clients: answers {dict(answers)}, "
        f"{REQUESTS / in_s:.0f} accepted/s, p50 {took_s[len(took_s) // 2] * 1000:.0f} ms, "
        f"p99 {took_s[len(took_s) * 99 // 100] * 1000:.0f} ms, projected after {all_s:.1f} s, "
        f"RSS {before[0]:.0f} -> {after[0]:.0f} MiB, handles {before[1]} -> {after[1]}, "
        f"threads {before[2]} -> {after[2]}\n"
    )
    assert answers[202] == REQUESTS
    assert after[0] - before[0] < GROWTH_MIB_MAX
    assert after[1] <= before[1] + 12, "ten pooled connections and two listeners"
    assert after[2] <= before[2] + 4


async def test_the_api_rejects_requests_above_its_limit_with_retry_after(
    postgres: Database, store_folder: Path
) -> None:
    """While PostgreSQL is slow: 503 with Retry-After at once; afterwards no task is left."""
    url = await postgres()
    settings = api_settings(url, store_folder, limits=limits(requests_max=8))
    blocking = ApiDatabase(settings.database)
    await blocking.open()
    async with running_api(settings) as api:
        tasks = len(asyncio.all_tasks())
        async with blocking.transaction() as connection:
            await connection.execute("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
            requests = [
                asyncio.create_task(api.post(PATH, json={"job_id": f"j-{n}", "scenes": SCENES}))
                for n in range(50)
            ]
            async with asyncio.timeout(5):
                while sum(task.done() for task in requests) < 42:  # noqa: ASYNC110 - many of them
                    await asyncio.sleep(0.01)
            rejected = [task.result() for task in requests if task.done()]
            health = await api.get("/livez")
        answers = await asyncio.gather(*requests)
        again = await api.post(PATH, json={"job_id": "again", "scenes": SCENES})
        gc.collect()

        assert [answer.status_code for answer in rejected] == [503] * 42
        assert all(int(answer.headers["Retry-After"]) > 0 for answer in rejected)
        assert "too many concurrent requests (at most 8)" in rejected[0].json()["detail"]
        assert health.status_code == 200
        assert Counter(answer.status_code for answer in answers) == {202: 8, 503: 42}
        assert again.status_code == 202
        assert len(asyncio.all_tasks()) <= tasks + 2
    await blocking.close()


async def test_a_request_counts_until_its_response_header_is_sent() -> None:
    """Open event streams and failed ones do not count against the limit."""
    closed = asyncio.Event()

    async def inside(scope: object, receive: object, send: object) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})  # type: ignore[operator]
        await closed.wait()
        raise RuntimeError("the client disconnected")

    clock = SystemClock()
    health = Health(
        service="api",
        start_s=1,
        stop=asyncio.Event(),
        ready=asyncio.Event(),
        clock=clock,
        log=logger_of("api"),
    )
    admission = AdmissionControl(health, requests_max=1)
    admission.open(inside)
    sent: list[dict[str, object]] = []

    async def send(message: object) -> None:
        assert isinstance(message, dict), "an ASGI message"
        sent.append(message)

    async def receive() -> dict[str, object]:
        return {"type": "http.request"}

    scope = {"type": "http", "path": "/job-7", "method": "BREW", "headers": []}
    labels = {"method": "other", "route": "none", "status": "200"}
    counted = REGISTRY.get_sample_value("segue_api_requests_total", labels) or 0.0
    following = [asyncio.create_task(admission(scope, receive, send)) for _ in range(3)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    assert [message["status"] for message in sent] == [200] * 3
    assert admission.requests == 0
    closed.set()
    ended = await asyncio.gather(*following, return_exceptions=True)
    assert [type(error) for error in ended] == [RuntimeError] * 3
    assert admission.requests == 0
    assert REGISTRY.get_sample_value("segue_api_requests_total", labels) == counted + 3
