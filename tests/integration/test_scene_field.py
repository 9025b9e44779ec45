"""Follows every field of a scene through HTTP, rows, events, resume and redrive.

The test iterates over the fields of the models, so it covers a new field without a change; a
place that forgets the field fails it.
"""

import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, get_args

import pytest

from services.api.database import outbox, runs
from services.api.database.operators import redrive
from services.api.domain.redrive import RedriveRequest, build_redrive_spec
from shared.contract.events import SceneRequested, VideoStitched
from shared.contract.params import Scene, SceneSpec
from shared.kafka.codec import Record, decode
from tests.support.api_fixture import ApiFixture, api_fixture
from tests.support.run_builders import a_failure
from tests.support.servers import Database

pytestmark = pytest.mark.integration
JOB = "job-1"
TIMES = {"duration_s": 2.5, "start_s": 0.0, "end_s": 2.5}  # they must agree with each other


def a_value(name: str) -> Any:
    """Return a value of a field of `Scene` that differs from its default."""
    field = Scene.model_fields[name]
    types = {field.annotation, *get_args(field.annotation)}
    value: Any = TIMES.get(name)
    for kind, example in ((str, f"text of {name}"), (bool, True), (int, 1), (float, 0.5)):
        if value is None and kind in types:
            value = example
    assert value is not None, f"give the new field {name} a value here"
    assert value != field.get_default(), name
    return value


SCENE = {name: a_value(name) for name in Scene.model_fields}
SPEC = {name: SCENE[name] for name in SceneSpec.model_fields}


@pytest.fixture
async def fixture(postgres: Database, store_folder: Path) -> AsyncIterator[ApiFixture]:
    """The api on a new database."""
    async with api_fixture(await postgres(), store_folder, auto_generate=True) as fixture:
        yield fixture


def spec_fields(requests: Sequence[SceneRequested]) -> list[dict[str, Any]]:
    """Return the scene's fields of each request."""
    return [request.model_dump(include=set(SceneSpec.model_fields)) for request in requests]


async def published(fixture: ApiFixture) -> list[SceneRequested]:
    """Return the requests in the outbox."""
    async with fixture.context.database.connection() as connection:
        rows = await outbox.oldest(connection, count=10)
    records = [
        Record(
            topic=row.topic,
            partition=0,
            offset=number,
            key=row.key,
            value=row.value,
            headers=row.headers,
        )
        for number, row in rows
    ]
    events = [decode(record).event for record in records]
    return [event for event in events if isinstance(event, SceneRequested)]


async def resumed(fixture: ApiFixture) -> list[SceneRequested]:
    """Return the requests that a new Kafka log would get."""
    async with fixture.context.database.connection() as connection:
        return await runs.unfinished_requests(connection)


async def redriven(fixture: ApiFixture) -> list[SceneRequested]:
    """Return the requests of a redrive after the run has failed."""
    await fixture.apply(a_failure())
    async with fixture.context.database.connection() as connection:
        previous = await redrive.previous_run(connection, JOB)
    assert previous is not None
    return build_redrive_spec(previous, RedriveRequest(first=0)).requests(2)


async def check_run(fixture: ApiFixture) -> None:
    """Check the row, the resume and the redrive of run 1 with all fields of `SCENE`."""
    [row] = await fixture.rows("SELECT spec::text FROM scenes WHERE run = 1")
    column = SceneSpec.model_validate_json(row["spec"])

    assert column.model_dump() == SPEC
    assert spec_fields(await resumed(fixture)) == [SPEC]
    assert spec_fields(await redriven(fixture)) == [SPEC]


async def test_a_clients_scene_keeps_every_field(fixture: ApiFixture) -> None:
    """From POST generate-scenes to rows, `scene.requested`, resume and redrive."""
    answer = await fixture.post(job_id=JOB, scenes=[SCENE])
    [job] = await fixture.rows("SELECT scenes::text FROM jobs")

    assert answer.status_code == 202, answer.text
    assert json.loads(job["scenes"]) == [SCENE]
    assert spec_fields(await published(fixture)) == [SPEC]
    await check_run(fixture)


async def test_a_repeated_request_uses_the_stored_scene(fixture: ApiFixture) -> None:
    """A request without scenes starts a run with the job's own, all fields included."""
    await fixture.post(job_id=JOB, scenes=[SCENE])
    await fixture.apply(a_failure())
    await fixture.post(job_id=JOB)

    assert spec_fields(await published(fixture)) == [SPEC, SPEC]


async def test_a_stitched_scene_keeps_every_field(fixture: ApiFixture) -> None:
    """From `video.stitched` to rows, `scene.requested`, resume and redrive."""
    await fixture.apply(VideoStitched(job_id=JOB, scenes=(Scene(**SCENE),)))

    assert spec_fields(await published(fixture)) == [SPEC]
    await check_run(fixture)


async def test_a_scene_requested_by_upstream_keeps_every_field(fixture: ApiFixture) -> None:
    """From `scene.requested` to rows, resume, redrive and the next run of the job."""
    await fixture.apply(SceneRequested(job_id=JOB, run=1, scene_index=0, scene_count=1, **SPEC))

    await check_run(fixture)
    await fixture.post(job_id=JOB)
    assert spec_fields(await published(fixture)) == [SPEC]


async def test_the_row_of_a_request_equals_the_projected_row(fixture: ApiFixture) -> None:
    """A rebuild from the log finds no difference, also for a scene with start and end."""
    await fixture.post(job_id=JOB, scenes=[SCENE])
    stored = await fixture.rows("SELECT spec::text FROM scenes")
    requests = await published(fixture)
    await fixture.apply(*requests)
    after_projection = await fixture.rows("SELECT spec::text FROM scenes")
    await fixture.rows("TRUNCATE jobs, runs, scenes")
    await fixture.apply(*requests)

    assert await fixture.rows("SELECT spec::text FROM scenes") == stored == after_projection
