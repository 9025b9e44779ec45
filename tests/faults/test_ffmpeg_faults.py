"""FFmpeg is killed, hangs, writes nonsense, has no memory: one job says so, the others go on."""

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from shared.contract.topics import DLQ_SUFFIX
from tests.faults.harness.ffmpeg_standin import StandIn
from tests.faults.harness.process_probe import children, is_there, peak_mib, program_of
from tests.faults.harness.worker_harness import MERGER, MUXER, Stage, WorkerHarness, worker_harness
from tests.support.films import real_ffmpeg
from tests.support.processes import eventually
from tests.support.servers import KafkaServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

TIMEOUT_S = 9.0  # of one call; a hanging one is given up so much later
TRACK_S = 1.5
MEMORY_MIB_MAX = 150  # by which a service may grow, whatever ffmpeg says


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What happens to one call, and what its job says then."""

    name: str
    words: str  #: of the reason
    retryable: bool | None = False  #: None: depends on where it happens
    met_by: str | None = None  #: a word that its call has; None: the one that writes the result
    of: tuple[Stage, ...] = (MERGER, MUXER)


FAULTS = (
    Fault(name="writes nothing", words="No such file", of=(MERGER,)),
    Fault(name="writes nothing", words="ffmpeg wrote no result", of=(MUXER,)),
    Fault(name="writes an empty file", words="FFmpeg merge failed"),
    Fault(name="writes garbage", words="FFmpeg merge failed"),
    Fault(name="writes half", words="the track decodes to", of=(MERGER,)),
    Fault(name="writes half", words="the result: the video ends early", of=(MUXER,)),
    Fault(name="says nonsense", words="its meter measured nothing", met_by="ebur128", of=(MERGER,)),
    Fault(name="never stops talking", words="FFmpeg merge failed", retryable=True),
    Fault(name="has little memory", words="FFmpeg merge failed", retryable=None),
    Fault(name="has no memory", words="killed by SIG", retryable=True),
)
AT_FIRST = Fault(
    name="says nonsense", words="lists no tempo filter", met_by="-filters", of=(MUXER,)
)


@pytest.mark.parametrize("stage", [MERGER, MUXER], ids=lambda stage: stage.service)
async def test_whatever_ffmpeg_does_one_job_says_so_and_the_others_go_on(
    kafka: KafkaServer, tmp_path: Path, stage: Stage
) -> None:
    """One service through every fault, while one more call hangs; each job then has its result."""
    tool = StandIn(tmp_path / "ffmpeg")
    settings = {"FFMPEG": str(tool.path), "SEGUE_FFMPEG_TIMEOUT_S": str(TIMEOUT_S)}
    faults = [fault for fault in FAULTS if stage in fault.of]
    met = [*faults, *([AT_FIRST] if stage is MUXER else [])]
    place = tmp_path / "scratch"
    async with worker_harness(
        kafka, tmp_path / "room", stage, scratch=place, **settings
    ) as harness:
        if stage is MUXER:  # asks once, and remembers
            await _meets(harness, tool, AT_FIRST)
        await harness.request("the first", seconds=TRACK_S)
        await harness.done("the first")
        before_mib = peak_mib(harness.service.pid)
        hanging = await _begin_to_hang(harness, tool)
        for fault in faults:
            await _meets(harness, tool, fault)
        await _is_killed(harness, tool)
        failure = await harness.failed("hanging")
        assert failure.value["retryable"], failure.value
        assert "timed out" in failure.value["message"]
        await harness.at_rest()
        assert not is_there(hanging)

        jobs = [*(fault.name for fault in met), "killed", "hanging"]
        for job in jobs:
            await harness.request(job, run=2, seconds=TRACK_S)
        for job in jobs:
            await harness.done(job, run=2)
        await harness.at_rest()
        grown_mib = peak_mib(harness.service.pid) - before_mib
        dead = [said for said in harness.results.records if said.topic.endswith(DLQ_SUFFIX)]

    count = len(met) + 2
    sys.stdout.write(
        f"{stage.service}: {count} faults of ffmpeg, {count} jobs failed with a reason, {count} of"
        f" {count} done when asked again, {count - 1} of {count - 1} neighbours done, dead letters"
        f" {len(dead)}, temporary files 0, processes left 0, memory grown by {grown_mib} MiB\n"
    )
    assert not dead
    assert grown_mib < MEMORY_MIB_MAX


async def _begin_to_hang(harness: WorkerHarness, tool: StandIn) -> int:
    """One call that never ends by itself; its process. A neighbour is done meanwhile."""
    tool.lay("hangs", word=harness.stage.encodes)
    await harness.request("hanging", seconds=TRACK_S)
    pid = await tool.taken()
    await harness.request("beside hanging", seconds=TRACK_S)
    await harness.done("beside hanging")
    if (os.cpu_count() or 1) > 1:  # as many calls at once
        assert is_there(pid), "the neighbour waited for its end"
    return pid


async def _meets(harness: WorkerHarness, tool: StandIn, fault: Fault) -> None:
    """One job meets a fault and fails with its reason; its neighbour is done."""
    tool.lay(fault.name, word=fault.met_by or harness.stage.encodes)
    await harness.request(fault.name, seconds=TRACK_S)
    await tool.taken()
    await harness.request(f"beside {fault.name}", seconds=TRACK_S)
    said = (await harness.failed(fault.name)).value

    assert fault.words in said["message"], said
    assert fault.retryable in {None, said["retryable"]}, said
    await harness.done(f"beside {fault.name}")


async def _is_killed(harness: WorkerHarness, tool: StandIn) -> None:
    """SIGKILL of the real ffmpeg in the middle of its work, as the kernel does without memory."""
    tool.lay("slow", word=harness.stage.encodes)
    await harness.request("killed", seconds=TRACK_S)
    pid = await tool.taken()

    async def at_work() -> bool | None:
        return program_of(pid) == str(Path(real_ffmpeg().binary).resolve()) or None

    await eventually(at_work, within_s=30, what="ffmpeg in the stand-in's place")
    assert pid in children(harness.service.pid)
    os.kill(pid, signal.SIGKILL)
    said = (await harness.failed("killed")).value

    assert said["message"] == "FFmpeg merge failed: killed by SIGKILL"
    assert said["retryable"]
