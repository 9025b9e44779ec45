"""Followers of a job on the whole api: every change, resuming, the end, the bound."""

import asyncio
import json
import time
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.api_fixture import NOWHERE, TWO_SCENES, running_api
from tests.support.api_service import ApiServiceFixture, all_done
from tests.support.event_builders import a_scene, a_segment
from tests.support.processes import eventually
from tests.support.run_builders import a_track
from tests.support.servers import Database, KafkaServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]
GENERATE = "/api/v3/audio/generate-scenes"


@pytest.fixture
async def fixture(
    postgres: Database, kafka: KafkaServer, topic_prefix: str, store_folder: Path
) -> ApiServiceFixture:
    """A new database, new topics, a new store."""
    return ApiServiceFixture(await postgres(), kafka, topic_prefix, store_folder)


async def events_of(client: httpx.AsyncClient, path: str, **headers: str) -> list[dict[str, Any]]:
    """Every event of a stream until the server ends it."""
    found: list[dict[str, Any]] = []
    async with client.stream("GET", path, headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        event: dict[str, Any] = {}
        async for text in answer.aiter_lines():
            name, _, value = text.partition(": ")
            if not text and "data" in event:
                found.append(event)
                event = {}
            elif name in {"id", "event", "data"}:
                event[name] = json.loads(value) if name == "data" else value
    return found


async def test_followers_hear_every_change_until_the_end(fixture: ApiServiceFixture) -> None:
    """Two replicas: one hears Kafka, the client follows the other; then it may resume."""
    other = fixture.settings(kafka=fixture.broker(bootstrap_servers=NOWHERE))
    async with running_api(fixture.settings()), running_api(other) as client:
        await client.post(GENERATE, json={"job_id": "job-1", "scenes": TWO_SCENES})
        path = "/api/v3/audio/status/job-1/events"
        following = asyncio.create_task(events_of(client, path))
        await fixture.publish(a_segment(0, count=2), a_segment(1, count=2))
        # a track that is read before its segments ends the stream, and they come after its end
        await eventually(partial(all_done, client, "job-1"), within_s=30, what="both are read")
        await fixture.publish(a_track(params=a_scene().params))
        events = await asyncio.wait_for(following, timeout=40)
        last = events[-1]["id"]
        ended = await client.get(path, headers={"Last-Event-ID": last})
        missed = await events_of(client, path, **{"Last-Event-ID": events[0]["id"]})

    told = [event["data"]["progress"]["percentage"] for event in events]
    assert [event["data"]["audio_status"]["status"] for event in events][-1] == "completed"
    assert told == sorted(told)
    assert len({event["id"] for event in events}) == len(events)
    assert ended.status_code == 204
    assert [event["id"] for event in missed] == [last]


async def test_open_streams_do_not_hold_up_the_end(fixture: ApiServiceFixture) -> None:
    """A follower that stays hears the end at once; the whole stop takes less than ten seconds."""
    async with httpx.AsyncClient(timeout=20) as follower, AsyncExitStack() as service:
        client = await service.enter_async_context(running_api(fixture.settings()))
        await client.post(GENERATE, json={"job_id": "j", "scenes": TWO_SCENES})
        path = str(client.base_url.join("/api/v3/audio/status/j/events"))
        async with follower.stream("GET", path) as stream:
            lines = stream.aiter_lines()
            while not (await anext(lines)).startswith("data"):
                pass
            began = time.monotonic()
            await service.aclose()
            took_s = time.monotonic() - began
            rest = [text async for text in lines]

    assert not any(text.startswith("event") for text in rest)
    assert took_s < 10


async def test_too_many_followers_are_told_to_come_back(fixture: ApiServiceFixture) -> None:
    """Bounded, with Retry-After."""
    few = fixture.settings().limits.model_copy(update={"listeners_max": 1})
    async with running_api(fixture.settings(limits=few)) as client:
        await client.post(GENERATE, json={"job_id": "j", "scenes": TWO_SCENES})
        path = "/api/v3/audio/status/j/events"
        async with client.stream("GET", path) as first:
            lines = first.aiter_lines()
            while not (await anext(lines)).startswith("data"):
                pass
            second = await client.get(path)

    assert second.status_code == 503
    assert int(second.headers["retry-after"]) > 0
