"""What Prometheus scrapes of four services that have scored a film."""

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
Figures = dict[tuple[str, frozenset[tuple[str, str]]], float]


def figures_of(text: str) -> Figures:
    """Every sample."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def at(figures: Figures, name: str, **labels: str) -> float:
    """One sample; NaN where there is none."""
    return figures.get((name, frozenset(labels.items())), float("nan"))


async def test_one_job_moves_what_it_should_and_its_id_is_in_no_label(
    kafka: KafkaServer, postgres: Database, topic_prefix: str, tmp_path: Path, promtool: Path
) -> None:
    """Of all four services, and promtool has nothing against it.

    While it is scored the generator is behind; afterwards nothing is behind, due, or in flight.
    """
    ports = dict(zip(SERVICES[1:], free_ports(3), strict=True))
    of = {name: {"SEGUE_HEALTH_PORT": str(port)} for name, port in ports.items()}
    async with running_pipeline(kafka, postgres, topic_prefix, tmp_path, of=of) as pipeline:
        urls = {name: f"http://127.0.0.1:{port}/metrics" for name, port in ports.items()}
        urls["api"] = f"{pipeline.client.base_url}/metrics".replace("//metrics", "/metrics")

        async def scrapes() -> dict[str, str] | None:
            try:
                answers = {
                    name: (await pipeline.client.get(url)).text for name, url in urls.items()
                }
            except httpx.TransportError:
                return None  # one of them is not there yet
            calm = all(_is_calm(figures_of(text)) for text in answers.values())
            return answers if calm else None

        async def behind() -> bool | None:
            try:
                generator = figures_of((await pipeline.client.get(urls["generator"])).text)
            except httpx.TransportError:
                return None
            asked = {"service": "generator", "topic": "scene.requested"}
            seconds = at(generator, "segue_lag_seconds", **asked)
            records = at(generator, "segue_lag_records", **asked)
            return (seconds > 0 and records > 0 and at(generator, "segue_lanes", **BY) == 1) or None

        video = await pipeline.upload(film_clips().carphone)
        params = {"merge_with_video": True}
        await pipeline.generate(job_id=JOB, scenes=SCENES, video=video, audio_params=params)
        await eventually(behind, within_s=60, what="the generator has something to do")
        told = await pipeline.ended(JOB)
        assert told["audio_status"]["status"] == "completed", told
        await pipeline.generate(job_id="too big", scenes=[])  # a request that is refused
        found = await eventually(scrapes, within_s=30, what="nothing is behind")

    for text in found.values():
        run_tool([promtool, "check", "metrics"], given=text)
        assert JOB not in text
        assert topic_prefix not in text
        known = {one for one, _ in catalogue()}
        said = set(re.findall(r"^# TYPE (segue_\w+)", text, re.MULTILINE))
        assert said <= known
    _moved({name: figures_of(text) for name, text in found.items()})


def _is_calm(figures: Figures) -> bool:
    """Whether every state says that nothing is to do."""
    names = {
        "segue_lag_seconds",
        "segue_lag_records",
        "segue_commit_due_seconds",
        "segue_records_in_flight",
        "segue_work_oldest_seconds",
        "segue_api_outbox_records",
        "segue_api_runs",  # looked up every five seconds
    }
    states = [value for (name, _), value in figures.items() if name in names]
    return len(states) > 0 and not any(states)


def _moved(of: dict[str, Figures]) -> None:
    for name, figures in of.items():
        assert at(figures, "segue_consuming", service=name) == 1
        assert at(figures, "segue_server_up", service=name, server="kafka") == 1
        assert at(figures, "segue_server_up", service=name, server="store") == 1
    api, generator, merger, muxer = (of[name] for name in SERVICES)
    asked = {"service": "generator", "topic": "scene.requested"}
    assert at(generator, "segue_records_total", **asked, outcome="done") == len(SCENES)
    assert at(generator, "segue_work_seconds_count", **asked) == len(SCENES)
    assert at(generator, "segue_record_seconds_count", **asked) == len(SCENES)
    assert at(generator, "segue_generator_calls_total", provider="synth", outcome="made") == 3
    assert at(generator, "segue_generator_provider_paused", provider="synth") == 0
    assert at(merger, "segue_merger_merge_seconds_count") == 1
    assert at(merger, "segue_merger_seams_total", kind="splice") == len(SCENES) - 1
    assert at(merger, "segue_merger_seam_click_ratio_count", kind="splice") == len(SCENES) - 1
    assert at(muxer, "segue_muxer_mux_seconds_count") == 1
    route = "/api/v3/audio/generate-scenes"
    begun = {"method": "POST", "route": route}
    assert at(api, "segue_api_requests_total", **begun, status="202") == 1
    assert at(api, "segue_api_requests_total", **begun, status="422") == 1
    assert at(api, "segue_api_job_seconds_count", outcome="completed") == 1
    assert at(api, "segue_api_job_seconds_count", outcome="failed") == 0
    assert at(api, "segue_api_runs", status="generating") == 0
