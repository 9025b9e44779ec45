"""Merger and muxer are killed between each two steps: the same track, the same video."""

import shutil
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from shared.contract.events import AudioMerged, Event, SegmentGenerated, VideoMuxed
from shared.contract.params import AudioParams, VideoRef
from tests.faults.harness import checker
from tests.faults.harness.fault_fixture import FaultFixture, fault_fixture, report, run_concurrently
from tests.faults.harness.history import Fact
from tests.faults.harness.steps import Point, gaps
from tests.support.films import real_ffmpeg
from tests.support.servers import KafkaServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

JOB = "a film"
SCENES = 2
FILM = "uploads/film"
AT_ONCE = 8
PARAMS = AudioParams(merge_with_video=True)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A service that turns one kind of event into another."""

    service: str
    consumes: type[Event]
    produces: type[Event]
    objects: tuple[str, ...]  #: the names of the objects that it stores


MERGER = Stage(
    service="merger",
    consumes=SegmentGenerated,
    produces=AudioMerged,
    objects=("track.mp3", "merged.json"),
)
MUXER = Stage(
    service="muxer", consumes=AudioMerged, produces=VideoMuxed, objects=("video.mp4", "muxed.json")
)


async def _undisturbed(kafka: KafkaServer, folder: Path) -> list[Fact]:
    """Run one job with a video through generator, merger and muxer; return the history."""
    async with fault_fixture(kafka, folder) as fixture:
        await _put_film(fixture)
        running = [fixture.service(name) for name in ("generator", "merger", "muxer")]
        try:
            for service in running:
                await service.start()
            await fixture.request([JOB], scenes=SCENES, params=PARAMS, video=VideoRef(object=FILM))
            await fixture.until_published(1, kind=VideoMuxed.kind)
            for service in running:
                assert await service.stop() == 0
        finally:
            for service in running:
                await service.kill()
        return await fixture.collect_facts()


async def _put_film(fixture: FaultFixture) -> None:
    path = fixture.folder / "film.mp4"
    source = "color=c=teal:s=64x36:r=25:d=3"
    await real_ffmpeg().run(
        ["-v", "error", "-f", "lavfi", "-i", source, "-pix_fmt", "yuv420p", path]
    )
    await fixture.store.put_file(FILM, path)


async def _died(
    kafka: KafkaServer, folder: Path, point: Point, stage: Stage, before: tuple[Path, list[Fact]]
) -> list[Fact]:
    """Kill the stage at `point` on the stored inputs, continue with another; return the history."""
    inputs, facts = before
    shutil.copytree(
        inputs / "store", folder / "store", ignore=shutil.ignore_patterns(*stage.objects)
    )
    async with fault_fixture(kafka, folder) as fixture:
        fixture.history.wanted(JOB, scene_count=SCENES, events=[stage.produces.kind])
        for fact in facts:
            if fact["kind"] == "publish" and fact["topic"] == stage.consumes.kind:
                await fixture.publish(stage.consumes.model_validate(fact["value"]))
        dying, successor = fixture.service(stage.service, at=point), fixture.service(stage.service)
        try:
            await dying.start()
            assert await dying.ended(within_s=60) == -signal.SIGKILL, f"{point}: {dying.log}"
            await successor.start()
            await successor.ready()
            await fixture.until_published(1, kind=stage.produces.kind)
            await fixture.until_committed(f"segue-{stage.service}", stage.consumes.kind)
            assert await successor.stop() == 0
        finally:
            await dying.kill()
            await successor.kill()
        return await fixture.collect_facts()


@pytest.mark.parametrize("stage", [MERGER, MUXER], ids=lambda stage: stage.service)
async def test_a_stage_killed_at_any_step_yields_the_same_result(
    kafka: KafkaServer, tmp_path: Path, stage: Stage
) -> None:
    """Every gap between two steps, each with its own topics and store."""
    undisturbed = await _undisturbed(kafka, tmp_path / "undisturbed")

    points = gaps(stage.service)
    histories = await run_concurrently(
        (
            _died(
                kafka,
                tmp_path / str(point).replace(":", "-"),
                point,
                stage,
                (tmp_path / "undisturbed", undisturbed),
            )
            for point in points
        ),
        at_once=AT_ONCE,
    )

    failures = {}
    for point, facts in zip(points, histories, strict=True):
        wrong = checker.violations(facts) + checker.differences(facts, undisturbed)
        if wrong:
            failures[str(point)] = wrong
    name = f"{stage.service}, {len(points) - len(failures)} of {len(points)} steps"
    sys.stdout.write(report(name, histories) + "\n")
    assert not checker.violations(undisturbed)
    assert not failures
