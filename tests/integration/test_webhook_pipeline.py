"""The fast path whole: a prediction ends, Replicate says so, and the generator looks at once.

The generator here would look by itself only after minutes, so without the webhook no scene is
finished before its test is given up.
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
NEVER_S = 300.0  # until the generator looks by itself
WORK_S = 1.0  # of a prediction: its news comes while somebody waits for it
DONE_S = 60.0


@dataclass(frozen=True, kw_only=True)
class WebhookFixture:
    """Api, generator and provider, joined by Kafka and by webhooks."""

    client: httpx.AsyncClient
    replicate: ReplicateFixture

    async def made(self, job_id: str) -> list[str]:
        """Ask for two scenes; how each was made, once both are."""
        answer = await self.client.post(
            "/api/v3/audio/generate-scenes", json={"job_id": job_id, "scenes": TWO_SCENES}
        )
        assert answer.status_code == 202, answer.text
        return await eventually(
            lambda: self.origins(job_id), within_s=DONE_S, what=f"both scenes of {job_id}"
        )

    async def origins(self, job_id: str) -> list[str] | None:
        """How each scene was made, once all are."""
        answer = await self.client.get(f"/api/v3/audio/status/{job_id}")
        scenes: list[dict[str, Any]] = answer.json()["progress"]["scenes"]
        made = [str(scene["origin"]) for scene in scenes if scene["state"] == "done"]
        return made if len(made) == len(scenes) else None


@asynccontextmanager
async def webhook_fixture(
    kafka: KafkaServer, prefix: str, database: str, folder: Path, *, poll_s: float
) -> AsyncIterator[WebhookFixture]:
    """Everything that a webhook passes through."""
    told = KafkaSettings(bootstrap_servers=kafka.bootstrap, topic_prefix=prefix)
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
            database, folder, kafka=told, pricing=PricingSettings(replicate=account)
        )
        async with running_api(settings) as client:
            stop, ready = asyncio.Event(), asyncio.Event()
            generator = asyncio.create_task(
                run_generator(
                    GeneratorSettings(
                        kafka=told, store=StoreSettings(folder=folder), scene_cache="off"
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
    ids=["told", "doubled", "forged first", "lost: polling finds it", "late: it was found"],
)
async def test_scenes_are_finished_by_news_and_paid_for_once(
    kafka: KafkaServer,
    topic_prefix: str,
    postgres: Database,
    tmp_path: Path,
    fault: FaultKind | None,
    value: float | None,
    poll_s: float,
) -> None:
    """Whatever becomes of the messages; with news, each prediction is looked at once."""
    place = (kafka, topic_prefix, await postgres(), tmp_path)
    async with webhook_fixture(*place, poll_s=poll_s) as fixture:
        fake = fixture.replicate.fake
        if fault is not None:
            fake.fault(fault, times=2, value=value)
        begun = asyncio.get_running_loop().time()

        origins = await fixture.made("film")

        took_s = asyncio.get_running_loop().time() - begun
        await fake.settled()
        looks, news = fake.requests["get", 200], 0 if fault is FaultKind.WEBHOOK_LOST else 2

        async def passed_on() -> bool | None:
            said = await records_of(kafka.bootstrap, "prediction.ended", prefix=topic_prefix)
            return len(said) == news or None

        await eventually(passed_on, within_s=DONE_S, what=f"{news} pieces of news on the log")
        write_figures(
            f"whole line, {fault or 'webhook told'}, polled every {poll_s:g} s",
            finished=len(origins),
            requested=2,
            charged=len(fake.ledger.charged),
            added_s=took_s - 2 * WORK_S,
        )
        assert origins == ["fresh", "continued"]
        assert len(fake.ledger.charged) == 2
        if poll_s == NEVER_S:
            assert looks == 2

        assert await fixture.made("next film") == ["fresh", "continued"]
        assert len(fake.ledger.charged) == 4
