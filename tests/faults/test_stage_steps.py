"""Merger and muxer die between each pair of their steps; the same track, the same video."""

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
    takes: type[Event]
    makes: type[Event]
    its_own: tuple[str, ...]  #: the names of the objects that it makes


MERGER = Stage(
    service="merger",
    takes=SegmentGenerated,
    makes=AudioMerged,
    its_own=("track.mp3", "merged.json"),
)
MUXER = Stage(
    service="muxer", takes=AudioMerged, makes=VideoMuxed, its_own=("video.mp4", "muxed.json")
)


async def _undisturbed(kafka: KafkaServer, folder: Path) -> list[Fact]:
    """The whole line but the api, for one job with a film."""
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
    """The stage dies at `point` on what the line had made before it; another one goes on."""
    made, facts = before
    shutil.copytree(made / "store", folder / "store", ignore=shutil.ignore_patterns(*stage.its_own))
    async with fault_fixture(kafka, folder) as fixture:
        fixture.history.wanted(JOB, scene_count=SCENES, events=[stage.makes.kind])
        for fact in facts:
            if fact["kind"] == "publish" and fact["topic"] == stage.takes.kind:
                await fixture.publish(stage.takes.model_validate(fact["value"]))
        dying, next_one = fixture.service(stage.service, at=point), fixture.service(stage.service)
        try:
            await dying.start()
            assert await dying.ended(within_s=60) == -signal.SIGKILL, f"{point}: {dying.log}"
            await next_one.start()
            await next_one.ready()
            await fixture.until_published(1, kind=stage.makes.kind)
            await fixture.until_committed(f"segue-{stage.service}", stage.takes.kind)
            assert await next_one.stop() == 0
        finally:
            await dying.kill()
            await next_one.kill()
        return await fixture.collect_facts()


@pytest.mark.parametrize("stage", [MERGER, MUXER], ids=lambda stage: stage.service)
async def test_whatever_step_it_dies_at_its_result_is_the_same(
    kafka: KafkaServer, tmp_path: Path, stage: Stage
) -> None:
    """Every gap between two steps, each on topics and a store of its own."""
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

    found = {}
    for point, happened in zip(points, histories, strict=True):
        wrong = checker.violations(happened) + checker.differences(happened, undisturbed)
        if wrong:
            found[str(point)] = wrong
    name = f"{stage.service}, {len(points) - len(found)} of {len(points)} steps"
    sys.stdout.write(report(name, histories) + "\n")
    assert not checker.violations(undisturbed)
    assert not found
