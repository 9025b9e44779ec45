"""No secret appears in logs or traces, and every service logs its work.

Whole jobs run through four processes at debug level, with the emulator of Replicate, an S3 store
and exported traces; then all logs and spans are searched.
"""

import json
import re
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from replicate_server import FaultKind, ReplicateEmulator
from replicate_server.predictions.webhooks import signature
from shared.settings import StoreSettings
from shared.telemetry.log import ACTIONS
from tests.support.film_clips import film_clips
from tests.support.pipeline_fixture import BASE, Pipeline, running_pipeline
from tests.support.replicate_provider import a_fake
from tests.support.servers import Database, KafkaServer
from tests.support.trace_collector import Collector, collector

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

SCENES = [
    {"description": "a calm lake at dawn", "duration_s": 1.7},
    {"description": "an exciting chase", "duration_s": 2.3},
]
SEGMENT_KEYS = "a sealing secret for tests,an older sealing secret"
SASL_PASSWORD = "kafka-password-of-tests"
OTLP_KEY = "collector-key-of-tests"
OUTSIDE = "https://segue.example"  # not reachable
#: the actions that each service must log
WORKFLOW = {
    "api": {"request.completed", "job.accepted", "outbox.published", "projection.applied"},
    "generator": {
        *("record.received", "scene.started", "scene.planned", "claim.created"),
        *("prediction.submitted", "prediction.polled", "clip.fetched", "clip.measured"),
        *("clip.stored", "segment.stored", "continuation.chosen", "event.published"),
        *("state.stored", "record.processed", "store.called"),
    },
    "merger": {"segments.fetched", "clips.joined", "loudness.measured", "track.merged"},
    "muxer": {"video.fetched", "video.planned", "video.checked", "video.muxed"},
}
#: actions whose log calls get job and trace from the context
BOUND = {"scene.planned", "clip.measured", "store.called", "clips.joined", "video.planned"}
SHAPES = (r"X-Amz-Signature", r"gAAAA[\w-]{20}", r"data:audio", r"whsec_\w", r"Bearer (?!\*)")


@pytest.fixture
async def replicate() -> AsyncIterator[ReplicateEmulator]:
    """Yield an emulator that works 0.2 s on each prediction."""
    async with a_fake(0.2) as started:
        yield started


def _store(minio: StoreSettings) -> dict[str, str]:
    return {
        "SEGUE_STORE_DIR": "",
        "MINIO_ENDPOINT": minio.endpoint,
        "MINIO_ACCESS_KEY": minio.access_key.get_secret_value(),
        "MINIO_SECRET_KEY": minio.secret_key.get_secret_value(),
        "MINIO_BUCKET": minio.bucket,
    }


async def test_logs_and_spans_contain_no_secrets(
    kafka: KafkaServer,
    postgres: Database,
    minio: StoreSettings,
    topic_prefix: str,
    tmp_path: Path,
    replicate: ReplicateEmulator,
) -> None:
    """Keys, passwords, sealed links, presigned URLs and windows; working and failing links."""
    secret = {
        "DATABASE_URL": _with_password(await postgres()),
        "REPLICATE_API_KEY": replicate.token,
        "REPLICATE_WEBHOOK_SECRET": replicate.webhook_secret,
        "SEGUE_SEGMENT_KEYS": SEGMENT_KEYS,
        "KAFKA_SASL_PASSWORD": SASL_PASSWORD,
        "OTEL_EXPORTER_OTLP_HEADERS": f"api-key={OTLP_KEY}",
    }
    async with collector() as traces:
        settings: dict[str, Any] = {
            **_store(minio),
            **secret,
            "MUSIC_PROVIDER": "",
            "REPLICATE_BASE_URL": replicate.base_url,
            "SEGUE_REPLICATE_STARTS_PER_S": "10",
            "SEGUE_REPLICATE_POLL_FIRST_S": "0.2",
            "SEGUE_SCENE_ATTEMPTS_MAX": "1",
            "SEGUE_LOG_LEVEL": "debug",
            "OTEL_EXPORTER_OTLP_ENDPOINT": traces.endpoint,
        }
        async with running_pipeline(
            kafka,
            postgres,
            topic_prefix,
            tmp_path,
            **settings,
        ) as pipeline:
            await _score_with_data_urls(pipeline, replicate)
            tokens = await _run_with_sealed_links(pipeline, replicate)
            for service in pipeline.services.values():
                assert await service.stop() == 0
        logs = {name: service.log.read_text() for name, service in pipeline.services.items()}

    secrets = {*tokens, *_quotable(secret), minio.secret_key.get_secret_value()}
    _assert_no_secrets(logs, traces, secrets)
    _assert_log_lines(logs)
    _assert_one_trace(traces)


async def _score_with_data_urls(pipeline: Pipeline, replicate: ReplicateEmulator) -> None:
    """Score a video; the first clip and the second scene's window are data URLs."""
    replicate.fault(FaultKind.OUTPUT_SHAPE, times=1, value="data_url")
    video = await pipeline.upload(film_clips().carphone)
    await pipeline.generate(
        job_id="inside", scenes=SCENES, video=video, audio_params={"merge_with_video": True}
    )
    status = await pipeline.ended("inside")
    assert status["audio_status"]["status"] == "completed", status
    assert [entry.input_from for entry in replicate.ledger.entries] == [None, "data"]
    for scene in status["progress"]["scenes"]:
        assert (await pipeline.client.get(scene["links"]["segment"])).status_code == 200


async def _run_with_sealed_links(pipeline: Pipeline, replicate: ReplicateEmulator) -> set[str]:
    """Run a job whose public URL is unreachable; return the sealed tokens that were sent."""
    generator = pipeline.services["generator"]
    assert await generator.stop() == 0
    generator.environment["PUBLIC_BASE_URL"] = OUTSIDE
    await generator.start()
    replicate.fault(FaultKind.OUTPUT_SHAPE, times=1, value="data_url")
    await pipeline.generate(job_id="links", scenes=SCENES)
    await pipeline.ended("links")
    predictions = replicate._state.predictions.values()
    sent = json.dumps(
        [[prediction.view()["input"], prediction.webhook] for prediction in predictions]
    )
    tokens = set(re.findall(r"gAAAA[\w-]+=*", sent))
    assert any(f"{BASE}/segments/{token}" in sent for token in tokens)
    hooks = set(re.findall(rf"{OUTSIDE}(/[^\"]*webhooks[^\"]*)", sent))
    assert hooks
    for path in hooks:
        body, stamp = b'{"id": "anyprediction"}', int(time.time())  # noqa: TID251 - the sender's
        valid = signature(replicate.webhook_secret, webhook_id="m", timestamp=stamp, body=body)
        for signed in (valid, "v1,AAAA"):
            await pipeline.client.post(
                path,
                content=body,
                headers={
                    "content-type": "application/json",
                    "webhook-id": "m",
                    "webhook-timestamp": str(stamp),
                    "webhook-signature": signed,
                },
            )
    return tokens


def _with_password(url: str) -> str:
    """Return the same URL with a password, which the server does not require."""
    head, at, tail = url.partition("@")
    return f"{head}:database-password-of-tests@{tail}" if at and head.count(":") == 1 else url


def _quotable(secret: dict[str, str]) -> Iterator[str]:
    """Yield every secret without its prefix, as a text could quote it."""
    yield "database-password-of-tests"
    yield secret["REPLICATE_API_KEY"].removeprefix("r8_")
    yield secret["REPLICATE_WEBHOOK_SECRET"].removeprefix("whsec_")
    yield from SEGMENT_KEYS.split(",")
    yield from (SASL_PASSWORD, OTLP_KEY)


def _assert_no_secrets(logs: dict[str, str], traces: Collector, secrets: set[str]) -> None:
    exported = "\n".join(body.decode("latin-1") for body in traces.bodies)
    assert exported
    for name, text in {**logs, "the traces": exported}.items():
        assert [secret for secret in secrets if secret in text] == [], name
        assert [shape for shape in SHAPES if re.search(shape, text)] == [], name


def _assert_log_lines(logs: dict[str, str]) -> None:
    """Check that every line is JSON with a known action, and that each service logs its work."""
    logged: dict[str, set[str]] = defaultdict(set)
    for name, text in logs.items():
        for raw in text.splitlines():
            line: dict[str, Any] = json.loads(raw)
            assert line["action"] in ACTIONS, raw
            assert {"timestamp", "level", "event"} <= set(line), raw
            assert line["service"] == name, raw
            logged[name].add(line["action"])
            if line["action"] in BOUND and name != "api":
                assert line["job_id"] in {"inside", "links"}, raw
                assert len(line["trace_id"]) == 32, raw
    for name, actions in WORKFLOW.items():
        assert actions - logged[name] == set(), name


def _assert_one_trace(traces: Collector) -> None:
    """Check that the first job is one trace, without gaps, across the four processes."""
    spans = [(service, span) for service, span in traces.spans()]
    (merged,) = [
        span
        for service, span in spans
        if span.name == "send audio.merged"
        and any(entry.value.string_value == "inside" for entry in span.attributes)
    ]
    trace = [(service, span) for service, span in spans if span.trace_id == merged.trace_id]
    known = {span.span_id for _, span in trace}
    roots = [span.name for _, span in trace if not span.parent_span_id]
    assert roots == [f"POST {BASE}/generate-scenes"]
    assert {span.parent_span_id for _, span in trace} - known == {b""}
    assert ("segue-api", "process video.muxed") in {(name, span.name) for name, span in trace}
    assert {name for name, _ in trace} == {f"segue-{name}" for name in WORKFLOW}
