"""Tiny files that claim or contain very much: refused, and the api stays small and responsive."""

import asyncio
import os
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.faults.harness.process_probe import peak_mib, working_children
from tests.support.api_fixture import free_port
from tests.support.api_service import is_ready
from tests.support.film_clips import film_clips
from tests.support.processes import Service, eventually
from tests.support.servers import Database, KafkaServer
from tests.support.tiny_bombs import index_bomb, packet_bomb

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

VIDEOS, STYLES = "/api/v3/videos", "/api/v3/audio/styles"
BINARY = {"Content-Type": "application/octet-stream"}
GROWTH_MIB_MAX = 60  # of the api
MEMORY_MIB = 128  # of a child
CHILD_MIB_MAX = MEMORY_MIB + 100  # and what the server of the children has imported
RESPONSE_S_MAX = 1.0
BOMBS = (
    (VIDEOS, index_bomb()),
    (VIDEOS, index_bomb(tracks=3, samples=50_000_000)),
    *[(VIDEOS, packet_bomb())] * 4,
    (STYLES, index_bomb()),
)


class Watch:
    """Samples the memory of a process's descendants and the response time of the api."""

    def __init__(self, service: Service, api: httpx.AsyncClient) -> None:
        self.largest_mib = 0
        self.slowest_s = 0.0
        self.statuses: set[tuple[str, int]] = set()
        self._pid = service.pid
        self._api = api

    async def run(self) -> None:
        """Sample until cancelled."""
        while True:
            for path in ("/livez", "/readyz", "/api/v3/audio/status/none"):
                begin = time.monotonic()
                status = (await self._api.get(path)).status_code
                self.slowest_s = max(self.slowest_s, time.monotonic() - begin)
                self.statuses.add((path.rpartition("/")[2], status))
                await asyncio.sleep(0.02)
                for child in working_children(self._pid):
                    self.largest_mib = max(self.largest_mib, _resident_mib(child))


def _resident_mib(pid: int) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") // 2**20


async def test_tiny_bombs_are_refused_and_the_api_stays_small_and_responsive(
    postgres: Database, kafka: KafkaServer, topic_prefix: str, store_folder: Path, tmp_path: Path
) -> None:
    """All at once, while it answers; afterwards no process is left and a film is accepted."""
    port = free_port()
    service = Service(
        "api",
        {
            **kafka.environment(),
            "DATABASE_URL": await postgres(),
            "SEGUE_TOPIC_PREFIX": topic_prefix,
            "SEGUE_STORE_DIR": str(store_folder),
            "SEGUE_API_PORT": str(port),
            "SEGUE_SEGMENT_KEYS": "a secret for tests alone",
            "SEGUE_UPLOADS_MAX": str(len(BOMBS)),
            "SEGUE_SCRATCH_DIR": str(tmp_path),
            "SEGUE_MEDIA_MEMORY_BYTES": str(MEMORY_MIB * 2**20),
        },
        log=tmp_path / "api.log",
    )
    service.forks_sandbox = False  # the memory of its children is measured
    film = film_clips().carphone.read_bytes()
    await service.start()
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as api:

            async def ready() -> bool | None:
                try:
                    return await is_ready(api)
                except httpx.TransportError:
                    return None

            async def idle() -> bool | None:
                return not working_children(service.pid) or None

            await eventually(ready, within_s=60, what="the api is ready")
            first = await api.post(VIDEOS, content=film, headers=BINARY)
            before_mib = peak_mib(service.pid)
            watch = Watch(service, api)
            watching = asyncio.create_task(watch.run())
            begin = time.monotonic()
            answers = await asyncio.gather(
                *(api.post(path, content=bomb, headers=BINARY) for path, bomb in BOMBS)
            )
            took_s = time.monotonic() - begin
            last = await api.post(VIDEOS, content=film, headers=BINARY)
            watching.cancel()
            await eventually(idle, within_s=5, what="no process reads media")
            grown_mib = peak_mib(service.pid) - before_mib
    finally:
        await service.kill()

    sys.stdout.write(
        f"{len(BOMBS)} bombs in {took_s:.1f} s: api +{grown_mib} MiB, largest child "
        f"{watch.largest_mib} MiB, slowest response {watch.slowest_s:.2f} s\n"
    )
    assert (first.status_code, last.status_code) == (201, 201), (first.text, last.text)
    assert [answer.status_code for answer in answers] == [422] * len(BOMBS)
    assert all(answer.json()["errors"] for answer in answers)
    assert watch.statuses == {("livez", 200), ("readyz", 200), ("none", 404)}
    assert watch.slowest_s < RESPONSE_S_MAX
    assert grown_mib < GROWTH_MIB_MAX
    assert watch.largest_mib < CHILD_MIB_MAX
    assert not list(tmp_path.glob("segue-*"))
