"""FFmpeg is killed, hangs, writes garbage or lacks memory: one job fails, the others continue."""

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from shared.contract.topics import DLQ_SUFFIX
from tests.faults.harness.ffmpeg_standin import FfmpegStandIn
from tests.faults.harness.process_probe import children, is_running, peak_mib, program_of
from tests.faults.harness.worker_harness import MERGER, MUXER, Stage, WorkerHarness, worker_harness
from tests.support.films import real_ffmpeg
from tests.support.processes import eventually
from tests.support.servers import KafkaServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

TIMEOUT_S = 9.0  # of one call
TRACK_S = 1.5
MEMORY_MIB_MAX = 150  # growth of a service, whatever ffmpeg prints


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A fault of one call and the failure of its job."""

    name: str
    words: str  #: in the message
    retryable: bool | None = False  #: None: depends on where it happens
    word: str | None = None  #: an argument of the call; None: of the call that writes the result
    stages: tuple[Stage, ...] = (MERGER, MUXER)


FAULTS = (
    Fault(name="writes nothing", words="No such file", stages=(MERGER,)),
    Fault(name="writes nothing", words="ffmpeg wrote no result", stages=(MUXER,)),
    Fault(name="writes an empty file", words="FFmpeg merge failed"),
    Fault(name="writes garbage", words="FFmpeg merge failed"),
    Fault(name="writes half", words="the track decodes to", stages=(MERGER,)),
    Fault(name="writes half", words="the result: the video ends early", stages=(MUXER,)),
    Fault(
        name="prints nonsense", words="its meter measured nothing", word="ebur128", stages=(MERGER,)
    ),
    Fault(name="prints without end", words="FFmpeg merge failed", retryable=True),
    Fault(name="has little memory", words="FFmpeg merge failed", retryable=None),
    Fault(name="has no memory", words="killed by SIG", retryable=True),
)
FIRST_CALL = Fault(
    name="prints nonsense", words="lists no tempo filter", word="-filters", stages=(MUXER,)
)


@pytest.mark.parametrize("stage", [MERGER, MUXER], ids=lambda stage: stage.service)
async def test_the_service_fails_one_job_per_ffmpeg_fault_and_continues(
    kafka: KafkaServer, tmp_path: Path, stage: Stage
) -> None:
    """Every fault in one service while another call hangs; a new run of each job succeeds."""
    tool = FfmpegStandIn(tmp_path / "ffmpeg")
    settings = {"FFMPEG": str(tool.path), "SEGUE_FFMPEG_TIMEOUT_S": str(TIMEOUT_S)}
    faults = [fault for fault in FAULTS if stage in fault.stages]
    injected = [*faults, *([FIRST_CALL] if stage is MUXER else [])]
    scratch = tmp_path / "scratch"
    async with worker_harness(
        kafka, tmp_path / "fixture", stage, scratch=scratch, **settings
    ) as harness:
        if stage is MUXER:  # the muxer asks once
            await _fails_with(harness, tool, FIRST_CALL)
        await harness.request("the first", seconds=TRACK_S)
        await harness.done("the first")
        before_mib = peak_mib(harness.service.pid)
        hanging = await _start_hanging_call(harness, tool)
        for fault in faults:
            await _fails_with(harness, tool, fault)
        await _fails_when_killed(harness, tool)
        failure = await harness.failed("hanging")
        assert failure.value["retryable"], failure.value
        assert "timed out" in failure.value["message"]
        await harness.at_rest()
        assert not is_running(hanging)

        jobs = [*(fault.name for fault in injected), "killed", "hanging"]
        for job in jobs:
            await harness.request(job, run=2, seconds=TRACK_S)
        for job in jobs:
            await harness.done(job, run=2)
        await harness.at_rest()
        grown_mib = peak_mib(harness.service.pid) - before_mib
        dead = [record for record in harness.results.records if record.topic.endswith(DLQ_SUFFIX)]

    count = len(injected) + 2
    sys.stdout.write(
        f"{stage.service}: {count} faults of ffmpeg, {count} jobs failed with a message, {count} of"
        f" {count} done when requested again, {count - 1} of {count - 1} neighbours done,"
        f" dead letters {len(dead)}, temporary files 0, processes left 0,"
        f" memory grown by {grown_mib} MiB\n"
    )
    assert not dead
    assert grown_mib < MEMORY_MIB_MAX


async def _start_hanging_call(harness: WorkerHarness, tool: FfmpegStandIn) -> int:
    """Start a call that never ends while another job is done; return its process id."""
    tool.inject("hangs", word=harness.stage.encodes)
    await harness.request("hanging", seconds=TRACK_S)
    pid = await tool.taken()
    await harness.request("beside hanging", seconds=TRACK_S)
    await harness.done("beside hanging")
    if (os.cpu_count() or 1) > 1:  # one slot per core
        assert is_running(pid), "the other job waited for the hanging call"
    return pid


async def _fails_with(harness: WorkerHarness, tool: FfmpegStandIn, fault: Fault) -> None:
    """One job fails with the fault's message; a job beside it is done."""
    tool.inject(fault.name, word=fault.word or harness.stage.encodes)
    await harness.request(fault.name, seconds=TRACK_S)
    await tool.taken()
    await harness.request(f"beside {fault.name}", seconds=TRACK_S)
    failure = (await harness.failed(fault.name)).value

    assert fault.words in failure["message"], failure
    assert fault.retryable in {None, failure["retryable"]}, failure
    await harness.done(f"beside {fault.name}")


async def _fails_when_killed(harness: WorkerHarness, tool: FfmpegStandIn) -> None:
    """Kill the real ffmpeg during its work, as the kernel does without memory."""
    tool.inject("slow", word=harness.stage.encodes)
    await harness.request("killed", seconds=TRACK_S)
    pid = await tool.taken()

    async def at_work() -> bool | None:
        return program_of(pid) == str(Path(real_ffmpeg().binary).resolve()) or None

    await eventually(at_work, within_s=30, what="the stand-in executes ffmpeg")
    assert pid in children(harness.service.pid)
    os.kill(pid, signal.SIGKILL)
    failure = (await harness.failed("killed")).value

    assert failure["message"] == "FFmpeg merge failed: killed by SIGKILL"
    assert failure["retryable"]
