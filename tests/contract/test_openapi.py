"""The OpenAPI document is valid, and the api conforms to it."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from openapi_spec_validator import validate
from schemathesis.config import (
    ChecksConfig,
    GenerationConfig,
    HealthCheck,
    PhasesConfig,
    PositiveDataAcceptanceConfig,
    ProjectConfig,
    ProjectsConfig,
    SchemathesisConfig,
    StatefulPhaseConfig,
)
from schemathesis.engine import events, from_schema

from shared.settings import KafkaSettings
from tests.support.api_fixture import TWO_SCENES, api_fixture, api_settings, running_api
from tests.support.event_builders import a_scene
from tests.support.run_builders import a_track
from tests.support.servers import Database, KafkaServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]
EXAMPLES = 10  # per operation in the fuzzing phase; the coverage phase makes its own
#: A well-formed request may still be impossible: scenes that overlap, an object that is not there.
POSSIBLE = ["2xx", "304", "404", "409", "422"]


async def test_document_is_valid_openapi(postgres: Database, store_folder: Path) -> None:
    """By the schema of the specification; references resolve; every error is a problem document."""
    async with api_fixture(await postgres(), store_folder) as fixture:
        document = (await fixture.client.get("/openapi.json")).json()
    validate(document)
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    errors = [
        answer
        for operation in operations
        for code, answer in operation["responses"].items()
        if code >= "400" and operation["tags"] != ["health"]
    ]

    references = re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document))

    assert document["openapi"].startswith("3.1")
    assert set(references) <= document["components"]["schemas"].keys()
    assert len(operations) == 13
    assert errors
    for answer in errors:
        problem = answer["content"]["application/problem+json"]["schema"]
        assert problem == {"$ref": "#/components/schemas/Problem"}


# The api runs in the same process and may use `random` while a request is generated.
@pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisDeprecationWarning")
async def test_api_conforms_to_its_document(
    postgres: Database, kafka: KafkaServer, topic_prefix: str, store_folder: Path
) -> None:
    """Schemathesis, all checks, over HTTP against a real database: no 5xx, no schema violations."""
    broker = KafkaSettings(
        bootstrap_servers=kafka.bootstrap, topic_prefix=topic_prefix, create_topics=kafka.real
    )
    settings = api_settings(await postgres(), store_folder, kafka=broker)
    async with api_fixture(settings.database.url.get_secret_value(), store_folder) as fixture:
        await fixture.post(job_id="123", scenes=TWO_SCENES)
        await fixture.apply(a_track(params=a_scene().params).model_copy(update={"job_id": "123"}))
    async with running_api(settings) as client:
        document = (await client.get("/openapi.json")).json()
        cases, failures = await asyncio.to_thread(_tried, document, str(client.base_url))

    assert failures == []
    assert cases > 300


def _tried(document: dict[str, Any], base_url: str) -> tuple[int, list[str]]:
    """Return the number of requests, and what was wrong with the responses."""
    project = ProjectConfig(
        base_url=base_url,
        request_timeout=20,
        max_stream_events=1,  # a running job has more events
        continue_on_failure=True,
        checks=ChecksConfig(
            positive_data_acceptance=PositiveDataAcceptanceConfig(expected_statuses=POSSIBLE)
        ),
        phases=PhasesConfig(stateful=StatefulPhaseConfig(enabled=False)),
        generation=GenerationConfig(max_examples=EXAMPLES, deterministic=True, database="none"),
    )
    config = SchemathesisConfig(
        seed=7,
        suppress_health_check=[HealthCheck.all],  # they depend on the load of the machine
        projects=ProjectsConfig(default=project),
    )
    cases, failures = 0, []
    for event in from_schema(schemathesis.openapi.from_dict(document, config=config)).execute():
        if isinstance(event, events.NonFatalError | events.FatalError):
            failures.append(
                f"{event.label}: {event.info.format()}"
                if isinstance(event, events.NonFatalError)
                else repr(event.exception)
            )
        if not isinstance(event, events.ScenarioFinished):
            continue
        for case_id, checks in event.recorder.checks.items():
            cases += 1
            request = event.recorder.cases[case_id].value.as_curl_command()
            failures += [
                f"{check.name}: {check.failure_info.failure.message} {request}"
                for check in checks
                if check.failure_info is not None
            ]
    return cases, failures
