"""A webhook of an ended prediction makes the generator collect it at once.

The generator would poll only after minutes, so without the webhook no scene is finished before the
test's timeout.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from replicate_server import EmulatorSettings
from replicate_server.faults import FaultKind
from services.generator.app import run as run_generator
from services.generator.settings import GeneratorSettings
from shared.clock import SystemClock
from shared.pricing import PricingSettings, ReplicateAccount
from shared.security.signed_links import LinkSettings, WebhookLinks
from shared.settings import KafkaSettings, StoreSettings
from shared.storage.filesystem import FolderStore
from tests.support.api_fixture import KEYS, TWO_SCENES, api_settings, running_api
from tests.support.claims_fixture import write_figures
from tests.support.processes import eventually, records_of
from tests.support.replicate_provider import ReplicateFixture, replicate_fixture
from tests.support.servers import Database, KafkaServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]
NEVER_S = 300.0  # until the generator polls
WORK_S = 1.0  # of a prediction: the webhook comes while the generator waits for it
DONE_S = 60.0


@dataclass(frozen=True, kw_only=True)
class WebhookFixture:
    """Api, generator and provider, connected by Kafka and by webhooks."""

    client: httpx.AsyncClient
    replicate: ReplicateFixture

    async def generate(self, job_id: str) -> list[str]:
        """Request two scenes; return the origin of each once both are done."""
        answer = await self.client.post(
            "/api/v3/audio/generate-scenes", json={"job_id": job_id, "scenes": TWO_SCENES}
        )
        assert answer.status_code == 202, answer.text
        return await eventually(
            lambda: self.origins(job_id), within_s=DONE_S, what=f"both scenes of {job_id}"
        )

    async def origins(self, job_id: str) -> list[str] | None:
        """Return the origin of each scene once all are done, else None."""
        answer = await self.client.get(f"/api/v3/audio/status/{job_id}")
        scenes: list[dict[str, Any]] = answer.json()["progress"]["scenes"]
        origins = [str(scene["origin"]) for scene in scenes if scene["state"] == "done"]
        return origins if len(origins) == len(scenes) else None


@asynccontextmanager
async def webhook_fixture(
    kafka: KafkaServer, prefix: str, database: str, folder: Path, *, poll_s: float
) -> AsyncIterator[WebhookFixture]:
    """Run api, generator and emulator with webhooks."""
    kafka_settings = KafkaSettings(bootstrap_servers=kafka.bootstrap, topic_prefix=prefix)
    links = LinkSettings(keys=KEYS)
    store = FolderStore(folder)
    sealed = WebhookLinks(links, clock=SystemClock())

    def webhook(job_id: str) -> str:
        return sealed.url(str(client.base_url), job_id)  # the api has no public URL here

    async with replicate_fixture(
        store,
        fake=EmulatorSettings(work_s=WORK_S),
        webhook=webhook,
        poll_first_s=poll_s,
        poll_max_s=poll_s,
    ) as replicate:
        account = ReplicateAccount(key=replicate.fake.token, base_url=replicate.fake.base_url)
        settings = api_settings(
            database, folder, kafka=kafka_settings, pricing=PricingSettings(replicate=account)
        )
        async with running_api(settings) as client:
            stop, ready = asyncio.Event(), asyncio.Event()
            generator = asyncio.create_task(
                run_generator(
                    GeneratorSettings(
                        kafka=kafka_settings, store=StoreSettings(folder=folder), scene_cache="off"
                    ),
                    stop=stop,
                    ready=ready,
                    provider=replicate.provider,
                )
            )
            try:
                async with asyncio.timeout(DONE_S):
                    await ready.wait()
                yield WebhookFixture(client=client, replicate=replicate)
            finally:
                stop.set()
                await generator


@pytest.mark.parametrize(
    ("fault", "value", "poll_s"),
    [
        (None, None, NEVER_S),
        (FaultKind.WEBHOOK_DOUBLED, None, NEVER_S),
        (FaultKind.WEBHOOK_FORGED, None, NEVER_S),
        (FaultKind.WEBHOOK_LOST, None, 2.0),
        (FaultKind.WEBHOOK_LATE, 6.0, 2.0),
    ],
    ids=[
        "delivered",
        "doubled",
        "forged first",
        "lost: found by polling",
        "late: found by polling",
    ],
)
async def test_scenes_are_finished_by_webhooks_and_charged_once(
    kafka: KafkaServer,
    topic_prefix: str,
    postgres: Database,
    tmp_path: Path,
    fault: FaultKind | None,
    value: float | None,
    poll_s: float,
) -> None:
    """Whatever happens to the webhooks; a delivered one causes one poll of its prediction."""
    servers = (kafka, topic_prefix, await postgres(), tmp_path)
    async with webhook_fixture(*servers, poll_s=poll_s) as fixture:
        fake = fixture.replicate.fake
        if fault is not None:
            fake.fault(fault, times=2, value=value)
        started = asyncio.get_running_loop().time()

        origins = await fixture.generate("film")

        took_s = asyncio.get_running_loop().time() - started
        await fake.settled()
        polls, events = fake.requests["get", 200], 0 if fault is FaultKind.WEBHOOK_LOST else 2

        async def published() -> bool | None:
            records = await records_of(kafka.bootstrap, "prediction.ended", prefix=topic_prefix)
            return len(records) == events or None

        await eventually(published, within_s=DONE_S, what=f"{events} prediction.ended records")
        write_figures(
            f"all services, {fault or 'webhook delivered'}, polled every {poll_s:g} s",
            finished=len(origins),
            requested=2,
            charged=len(fake.ledger.charged),
            added_s=took_s - 2 * WORK_S,
        )
        assert origins == ["fresh", "continued"]
        assert len(fake.ledger.charged) == 2
        if poll_s == NEVER_S:
            assert polls == 2

        assert await fixture.generate("next film") == ["fresh", "continued"]
        assert len(fake.ledger.charged) == 4
