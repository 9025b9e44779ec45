"""The metrics of the four services after a job."""

import re
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from shared.http.server import free_ports
from tests.support.alert_rules import run_tool
from tests.support.film_clips import film_clips
from tests.support.pipeline_fixture import SERVICES, running_pipeline
from tests.support.processes import eventually
from tests.support.servers import Database, KafkaServer
from tools.contract.metrics_page import catalogue

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]
JOB = "a-job-with-a-name-of-its-own"
SCENES = [{"description": f"scene {number}", "duration_s": 1.5} for number in range(3)]
BY = {"service": "generator"}
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples_of(text: str) -> Samples:
    """Return every sample of a scrape by name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    """Return one sample; NaN if it does not exist."""
    return samples.get((name, frozenset(labels.items())), float("nan"))


async def test_a_job_changes_the_metrics_and_appears_in_no_label(
    kafka: KafkaServer, postgres: Database, topic_prefix: str, tmp_path: Path, promtool: Path
) -> None:
    """The metrics of all services are valid for promtool, and every metric is in the catalogue.

    The generator lags during the job; afterwards nothing lags, is due or is in flight.
    """
    ports = dict(zip(SERVICES[1:], free_ports(3), strict=True))
    of = {name: {"SEGUE_HEALTH_PORT": str(port)} for name, port in ports.items()}
    async with running_pipeline(kafka, postgres, topic_prefix, tmp_path, of=of) as pipeline:
        urls = {name: f"http://127.0.0.1:{port}/metrics" for name, port in ports.items()}
        urls["api"] = f"{pipeline.client.base_url}/metrics".replace("//metrics", "/metrics")

        async def idle_scrapes() -> dict[str, str] | None:
            try:
                scrapes = {
                    name: (await pipeline.client.get(url)).text for name, url in urls.items()
                }
            except httpx.TransportError:
                return None  # a service is not reachable yet
            idle = all(_is_idle(samples_of(text)) for text in scrapes.values())
            return scrapes if idle else None

        async def generator_lags() -> bool | None:
            try:
                generator = samples_of((await pipeline.client.get(urls["generator"])).text)
            except httpx.TransportError:
                return None
            labels = {**BY, "topic": "scene.requested"}
            seconds = value(generator, "segue_lag_seconds", **labels)
            records = value(generator, "segue_lag_records", **labels)
            lanes = value(generator, "segue_lanes", **BY)
            return (seconds > 0 and records > 0 and lanes == 1) or None

        video = await pipeline.upload(film_clips().carphone)
        params = {"merge_with_video": True}
        await pipeline.generate(job_id=JOB, scenes=SCENES, video=video, audio_params=params)
        await eventually(generator_lags, within_s=60, what="the generator lags")
        status = await pipeline.ended(JOB)
        assert status["audio_status"]["status"] == "completed", status
        await pipeline.generate(job_id="too big", scenes=[])  # this request is rejected
        scrapes = await eventually(idle_scrapes, within_s=30, what="no service lags")

    for text in scrapes.values():
        run_tool([promtool, "check", "metrics"], given=text)
        assert JOB not in text
        assert topic_prefix not in text
        names = set(re.findall(r"^# TYPE (segue_\w+)", text, re.MULTILINE))
        assert names <= {name for name, _ in catalogue()}
    _assert_one_job({name: samples_of(text) for name, text in scrapes.items()})


def _is_idle(samples: Samples) -> bool:
    """Return whether every gauge of waiting work is zero."""
    names = {
        "segue_lag_seconds",
        "segue_lag_records",
        "segue_commit_due_seconds",
        "segue_records_in_flight",
        "segue_work_oldest_seconds",
        "segue_api_outbox_records",
        "segue_api_runs",  # read every five seconds
    }
    gauges = [number for (name, _), number in samples.items() if name in names]
    return len(gauges) > 0 and not any(gauges)


def _assert_one_job(of: dict[str, Samples]) -> None:
    """Check the counters of each service after one job and one rejected request."""
    for name, samples in of.items():
        assert value(samples, "segue_consuming", service=name) == 1
        assert value(samples, "segue_server_up", service=name, server="kafka") == 1
        assert value(samples, "segue_server_up", service=name, server="store") == 1
    api, generator, merger, muxer = (of[name] for name in SERVICES)
    labels = {**BY, "topic": "scene.requested"}
    assert value(generator, "segue_records_total", **labels, outcome="done") == len(SCENES)
    assert value(generator, "segue_work_seconds_count", **labels) == len(SCENES)
    assert value(generator, "segue_record_seconds_count", **labels) == len(SCENES)
    assert value(generator, "segue_generator_calls_total", provider="synth", outcome="made") == 3
    assert value(generator, "segue_generator_provider_paused", provider="synth") == 0
    assert value(merger, "segue_merger_merge_seconds_count") == 1
    assert value(merger, "segue_merger_seams_total", kind="splice") == len(SCENES) - 1
    assert value(merger, "segue_merger_seam_click_ratio_count", kind="splice") == len(SCENES) - 1
    assert value(muxer, "segue_muxer_mux_seconds_count") == 1
    route = "/api/v3/audio/generate-scenes"
    request = {"method": "POST", "route": route}
    assert value(api, "segue_api_requests_total", **request, status="202") == 1
    assert value(api, "segue_api_requests_total", **request, status="422") == 1
    assert value(api, "segue_api_job_seconds_count", outcome="completed") == 1
    assert value(api, "segue_api_job_seconds_count", outcome="failed") == 0
    assert value(api, "segue_api_runs", status="generating") == 0
