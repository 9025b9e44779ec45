"""The runbook repairs 40 jobs whose muxer failed because of a full disk."""

import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from replicate_server import ReplicateEmulator
from shared.clock import SystemClock
from tests.faults.harness.small_disk import SmallDisk, a_small_disk
from tests.support.films import real_ffmpeg
from tests.support.operator_commands import segue
from tests.support.pipeline_fixture import Pipeline, running_pipeline
from tests.support.processes import eventually, records_of, value_of
from tests.support.replicate_emulator import cached_clip
from tests.support.replicate_provider import a_fake, account_of
from tests.support.runbook import RunbookOperator, addresses
from tests.support.servers import Database, KafkaServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]
JOBS = [f"film-{number:02}" for number in range(40)]
SCENE = {"description": "a calm lake", "duration_s": 1.1}
SCRATCH_MIB = 4
WAIT_S = 180.0
ROWS = {
    "jobs": "SELECT * FROM jobs ORDER BY 1",
    "runs": "SELECT * FROM runs ORDER BY 1, 2",
    "scenes": "SELECT * FROM scenes ORDER BY 1, 2, 3",
}
_NOISE = "nullsrc=s=128x128:r=25:d=1,geq=random(1)*255:128:128"


@dataclass(kw_only=True)
class FullDiskFixture:
    """A pipeline whose muxer has a small disk, and the emulator."""

    pipeline: Pipeline
    disk: SmallDisk
    provider: ReplicateEmulator

    @property
    def calls(self) -> int:
        """Return the number of requested predictions."""
        requests = self.provider.requests
        return sum(count for (place, _), count in requests.items() if place == "create")

    async def rows(self) -> dict[str, list[str]]:
        """Return every row of every job, as text."""
        database = await asyncpg.connect(addresses(self.pipeline)["DATABASE_URL"])
        try:
            return {name: [str(row) for row in await database.fetch(ROWS[name])] for name in ROWS}
        finally:
            await database.close()

    async def statuses(self) -> dict[str, int]:
        """Return the number of runs per status."""
        database = await asyncpg.connect(addresses(self.pipeline)["DATABASE_URL"])
        try:
            rows = await database.fetch("SELECT status, count(*) AS n FROM runs GROUP BY 1")
            return {row["status"]: row["n"] for row in rows}
        finally:
            await database.close()

    async def all_are(self, status: str) -> None:
        """Wait until every run has this status."""

        async def poll() -> bool | None:
            return await self.statuses() == {status: len(JOBS)} or None

        await eventually(poll, within_s=WAIT_S, what=f"{len(JOBS)} runs {status}")


@pytest.fixture
async def fixture(
    kafka: KafkaServer, postgres: Database, topic_prefix: str, tmp_path: Path
) -> AsyncIterator[FullDiskFixture]:
    """One mux at a time, on a disk for little more than one video."""
    with a_small_disk(SCRATCH_MIB) as disk:
        async with (
            a_fake(0.0, compose=cached_clip) as provider,
            running_pipeline(
                kafka,
                postgres,
                topic_prefix,
                tmp_path,
                of={"muxer": {"SEGUE_SCRATCH_DIR": str(disk.folder), "SEGUE_MUX_SLOTS": "1"}},
                SEGUE_REPLICATE_IN_FLIGHT_MAX="8",
                **account_of(provider),
            ) as pipeline,
        ):
            yield FullDiskFixture(pipeline=pipeline, disk=disk, provider=provider)


async def test_the_runbook_repairs_forty_jobs_after_a_full_disk(
    fixture: FullDiskFixture, tmp_path: Path
) -> None:
    """40 videos, no prediction, no duplicate row; a second replay changes nothing."""
    film = await _a_film(tmp_path / "film.mp4")
    video = await fixture.pipeline.upload(film)
    fixture.disk.fill(but_bytes=film.stat().st_size * 3 // 2)  # for the video, not for the result
    since = SystemClock().now().strftime("%Y-%m-%dT%H:%M:%S")
    start_s = time.monotonic()
    for job in JOBS:
        await _request(fixture.pipeline, job, video)
    await fixture.all_are("failed")
    failed_s = time.monotonic() - start_s
    calls = fixture.calls

    operator = addresses(fixture.pipeline)
    runbook = RunbookOperator("replay-records", operator, JOB=JOBS[7], MOMENT=since)
    await runbook.run_step()
    fixture.disk.free_space()
    await runbook.run_step()
    start_s = time.monotonic()
    await runbook.run_step()
    await fixture.all_are("completed")
    repaired_s = time.monotonic() - start_s
    await runbook.run_step()
    before = await fixture.rows()
    await runbook.run_step()
    runbook.assert_complete()
    code, twice = await segue(
        operator, "replay", "audio.merged", "--since", since, "--apply", "--reason", "to see"
    )
    await _until_no_lag(operator)

    for anchor in ("check-the-system", "rows-differ-from-the-log", "the-store-fills-up"):
        daily = RunbookOperator(
            anchor, operator, API=str(fixture.pipeline.client.base_url).rstrip("/")
        )
        await daily.run_remaining()
        daily.assert_complete()
    after = await fixture.rows()
    log = await records_of(
        fixture.pipeline.kafka.bootstrap, "video.muxed", prefix=fixture.pipeline.prefix
    )
    done = {value_of(record)["job_id"] for record in log}
    sys.stdout.write(
        f"a muxer without space: {len(JOBS)} jobs failed within {failed_s:.0f} s; repaired by the"
        f" runbook, videos {len(done)} of {len(JOBS)} within {repaired_s:.0f} s, calls"
        f" {fixture.calls - calls}; replayed again: rows changed {_changed(before, after)}\n"
    )
    assert done == set(JOBS)
    assert (code, twice["copied"], twice["already_done"]) == (0, len(JOBS), len(JOBS))
    assert fixture.calls == calls == len(JOBS)
    assert [len(rows) for rows in after.values()] == [len(JOBS)] * len(ROWS)
    assert after == before


async def _until_no_lag(operator: Mapping[str, str]) -> None:
    """Wait until no consumer group has lag."""

    async def poll() -> bool | None:
        code, document = await segue(operator, "lag")
        assert code == 0, document
        return not any(entry["records"] for entry in document["lag"]) or None

    await eventually(poll, within_s=WAIT_S, what="no lag")


def _changed(before: Mapping[str, Sequence[str]], after: Mapping[str, Sequence[str]]) -> int:
    return sum(len(set(before[name]) ^ set(after[name])) for name in before)


async def _request(pipeline: Pipeline, job: str, video: dict[str, Any]) -> None:
    answer = await pipeline.generate(
        job_id=job, scenes=[SCENE], video=video, audio_params={"merge_with_video": True}
    )
    assert answer.status_code == 202, answer.text


async def _a_film(path: Path) -> Path:
    coded = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"]
    await real_ffmpeg().run(["-v", "error", "-f", "lavfi", "-i", _NOISE, *coded, path])
    return path
