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
from tests.faults.harness.worker_harness import MERGER, MUXER, Bench, Stage, a_bench
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
    Fault(name="writes nothing", words="it left no result", of=(MUXER,)),
    Fault(name="writes an empty file", words="FFmpeg merge failed"),
    Fault(name="writes garbage", words="FFmpeg merge failed"),
    Fault(name="writes half", words="the track decodes to", of=(MERGER,)),
    Fault(name="writes half", words="of the result, the video ends early", of=(MUXER,)),
    Fault(name="says nonsense", words="its meter measured nothing", met_by="ebur128", of=(MERGER,)),
    Fault(name="never stops talking", words="FFmpeg merge failed", retryable=True),
    Fault(name="has little memory", words="FFmpeg merge failed", retryable=None),
    Fault(name="has no memory", words="it was ended by SIG", retryable=True),
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
    async with a_bench(kafka, tmp_path / "room", stage, scratch=place, **settings) as bench:
        if stage is MUXER:  # asks once, and remembers
            await _meets(bench, tool, AT_FIRST)
        await bench.ask("the first", seconds=TRACK_S)
        await bench.done("the first")
        before_mib = peak_mib(bench.service.pid)
        hanging = await _begin_to_hang(bench, tool)
        for fault in faults:
            await _meets(bench, tool, fault)
        await _is_killed(bench, tool)
        failure = await bench.failed("hanging")
        assert failure.value["retryable"], failure.value
        assert "did not end in time" in failure.value["message"]
        await bench.at_rest()
        assert not is_there(hanging)

        jobs = [*(fault.name for fault in met), "killed", "hanging"]
        for job in jobs:
            await bench.ask(job, run=2, seconds=TRACK_S)
        for job in jobs:
            await bench.done(job, run=2)
        await bench.at_rest()
        grown_mib = peak_mib(bench.service.pid) - before_mib
        dead = [said for said in bench.ear.said if said.topic.endswith(DLQ_SUFFIX)]

    count = len(met) + 2
    sys.stdout.write(
        f"{stage.service}: {count} faults of ffmpeg, {count} jobs failed with a reason, {count} of"
        f" {count} done when asked again, {count - 1} of {count - 1} neighbours done, dead letters"
        f" {len(dead)}, temporary files 0, processes left 0, memory grown by {grown_mib} MiB\n"
    )
    assert not dead
    assert grown_mib < MEMORY_MIB_MAX


async def _begin_to_hang(bench: Bench, tool: StandIn) -> int:
    """One call that never ends by itself; its process. A neighbour is done meanwhile."""
    tool.lay("hangs", word=bench.stage.encodes)
    await bench.ask("hanging", seconds=TRACK_S)
    pid = await tool.taken()
    await bench.ask("beside hanging", seconds=TRACK_S)
    await bench.done("beside hanging")
    if (os.cpu_count() or 1) > 1:  # as many calls at once
        assert is_there(pid), "the neighbour waited for its end"
    return pid


async def _meets(bench: Bench, tool: StandIn, fault: Fault) -> None:
    """One job meets a fault and fails with its reason; its neighbour is done."""
    tool.lay(fault.name, word=fault.met_by or bench.stage.encodes)
    await bench.ask(fault.name, seconds=TRACK_S)
    await tool.taken()
    await bench.ask(f"beside {fault.name}", seconds=TRACK_S)
    said = (await bench.failed(fault.name)).value

    assert fault.words in said["message"], said
    assert fault.retryable in {None, said["retryable"]}, said
    await bench.done(f"beside {fault.name}")


async def _is_killed(bench: Bench, tool: StandIn) -> None:
    """SIGKILL of the real ffmpeg in the middle of its work, as the kernel does without memory."""
    tool.lay("slow", word=bench.stage.encodes)
    await bench.ask("killed", seconds=TRACK_S)
    pid = await tool.taken()

    async def at_work() -> bool | None:
        return program_of(pid) == str(Path(real_ffmpeg().binary).resolve()) or None

    await eventually(at_work, within_s=30, what="ffmpeg in the stand-in's place")
    assert pid in children(bench.service.pid)
    os.kill(pid, signal.SIGKILL)
    said = (await bench.failed("killed")).value

    assert said["message"] == "FFmpeg merge failed: it was ended by SIGKILL"
    assert said["retryable"]
