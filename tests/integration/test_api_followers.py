"""Status streams of the whole api: every change, resuming, the end, the limit."""

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
    """Return a fixture with a new database, new topics and a new store."""
    return ApiServiceFixture(await postgres(), kafka, topic_prefix, store_folder)


async def events_of(client: httpx.AsyncClient, path: str, **headers: str) -> list[dict[str, Any]]:
    """Return the events of a stream once the server ends it."""
    events: list[dict[str, Any]] = []
    async with client.stream("GET", path, headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        event: dict[str, Any] = {}
        async for text in answer.aiter_lines():
            name, _, value = text.partition(": ")
            if not text and "data" in event:
                events.append(event)
                event = {}
            elif name in {"id", "event", "data"}:
                event[name] = json.loads(value) if name == "data" else value
    return events


async def test_a_stream_has_every_change_until_the_end(fixture: ApiServiceFixture) -> None:
    """One of two replicas reads Kafka, the client streams from the other, and may resume later."""
    other = fixture.settings(kafka=fixture.broker(bootstrap_servers=NOWHERE))
    async with running_api(fixture.settings()), running_api(other) as client:
        await client.post(GENERATE, json={"job_id": "job-1", "scenes": TWO_SCENES})
        path = "/api/v3/audio/status/job-1/events"
        following = asyncio.create_task(events_of(client, path))
        await fixture.publish(a_segment(0, count=2), a_segment(1, count=2))
        # if the track is read before its segments, the stream ends without them
        await eventually(partial(all_done, client, "job-1"), within_s=30, what="both are read")
        await fixture.publish(a_track(params=a_scene().params))
        events = await asyncio.wait_for(following, timeout=40)
        last = events[-1]["id"]
        ended = await client.get(path, headers={"Last-Event-ID": last})
        missed = await events_of(client, path, **{"Last-Event-ID": events[0]["id"]})

    percentages = [event["data"]["progress"]["percentage"] for event in events]
    assert [event["data"]["audio_status"]["status"] for event in events][-1] == "completed"
    assert percentages == sorted(percentages)
    assert len({event["id"] for event in events}) == len(events)
    assert ended.status_code == 204
    assert [event["id"] for event in missed] == [last]


async def test_open_streams_do_not_delay_a_shutdown(fixture: ApiServiceFixture) -> None:
    """A stream ends at once; the whole shutdown takes less than ten seconds."""
    async with httpx.AsyncClient(timeout=20) as follower, AsyncExitStack() as service:
        client = await service.enter_async_context(running_api(fixture.settings()))
        await client.post(GENERATE, json={"job_id": "j", "scenes": TWO_SCENES})
        path = str(client.base_url.join("/api/v3/audio/status/j/events"))
        async with follower.stream("GET", path) as stream:
            lines = stream.aiter_lines()
            while not (await anext(lines)).startswith("data"):
                pass
            started = time.monotonic()
            await service.aclose()
            took_s = time.monotonic() - started
            rest = [text async for text in lines]

    assert not any(text.startswith("event") for text in rest)
    assert took_s < 10


async def test_the_api_rejects_too_many_streams(fixture: ApiServiceFixture) -> None:
    """503 with Retry-After."""
    limits = fixture.settings().limits.model_copy(update={"listeners_max": 1})
    async with running_api(fixture.settings(limits=limits)) as client:
        await client.post(GENERATE, json={"job_id": "j", "scenes": TWO_SCENES})
        path = "/api/v3/audio/status/j/events"
        async with client.stream("GET", path) as first:
            lines = first.aiter_lines()
            while not (await anext(lines)).startswith("data"):
                pass
            second = await client.get(path)

    assert second.status_code == 503
    assert int(second.headers["retry-after"]) > 0
