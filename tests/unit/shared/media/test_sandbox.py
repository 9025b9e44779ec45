"""The sandbox: results, errors, limits, cancellation, and its fork server."""

import asyncio
import contextlib
import os
import resource
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from shared.errors import MediaError, RetryableError
from shared.media import sandbox as sandbox_module
from shared.media.samples import Audio
from shared.media.sandbox import MediaSandbox
from shared.settings import MediaSettings

MIB = 1024 * 1024


class _OddError(MediaError):
    """An error whose constructor takes other arguments."""

    def __init__(self, *, number: int) -> None:
        super().__init__(f"odd: {number}", code="odd", retryable=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A result with every kind of field."""

    name: str
    sizes: tuple[int, ...]
    missing: str | None
    music: Audio


def answer_of(path: Path, data: bytes, *, times: int) -> Answer:
    """Return what was passed."""
    music = np.full((2, 3), 0.5, dtype=np.float32) * times
    return Answer(name=path.name, sizes=(len(data), times), missing=None, music=music)


def pid_of_child() -> int:
    """Return the process that runs this call."""
    return os.getpid()


def secret_of_child() -> str | None:
    """Return a secret of the caller's environment."""
    return os.environ.get("REPLICATE_API_KEY")  # noqa: TID251 - what is tested


def allocate(mib: int) -> int:
    """Return the size of an allocation, every page of it written."""
    return len(bytearray(b"x") * (mib * MIB))


def allocate_in_a_library(mib: int) -> int:
    """Fail as a probe does whose library got no memory."""
    try:
        return allocate(mib)
    except MemoryError as error:
        raise MediaError("cannot be read: Cannot allocate memory") from error


def fail_oddly() -> None:
    """Fail with an error of this module."""
    raise _OddError(number=3)


def open_missing(path: Path) -> int:
    """Return the size of a file."""
    return path.stat().st_size


def fail() -> None:
    """Fail with a bug."""
    raise ZeroDivisionError


def spin() -> None:
    """Never return."""
    while True:
        pass


def sleep(seconds: float) -> None:
    """Return after some seconds."""
    time.sleep(seconds)


def crash() -> None:
    """End as a library with a bug does."""
    os.kill(os.getpid(), signal.SIGSEGV)


def write_a_file(path: Path) -> None:
    """Write to a file."""
    path.write_bytes(b"x")


def much_music(samples: int) -> Audio:
    """Return silence."""
    return np.zeros((2, samples), dtype=np.float32)


@pytest.fixture
def sandbox() -> MediaSandbox:
    """Return a sandbox with small limits."""
    return MediaSandbox(MediaSettings(memory_bytes_max=64 * MIB, cpu_s=1, slots=2))


async def test_arguments_and_results_arrive_unchanged(
    sandbox: MediaSandbox, tmp_path: Path
) -> None:
    """Paths, bytes, numbers, tuples and samples."""
    answer = await sandbox.run(answer_of, tmp_path / "a b.mp4", b"1234", times=2)

    assert (answer.name, answer.sizes, answer.missing) == ("a b.mp4", (4, 2), None)
    assert answer.music.tolist() == [[1.0] * 3] * 2
    answer.music[0, 0] = 0.25  # as the result of a call in this process


async def test_every_call_has_a_process_without_secrets(
    sandbox: MediaSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that one file did to its reader reaches the next one."""
    monkeypatch.setenv("REPLICATE_API_KEY", "r8_secret")
    pids = [await sandbox.run(pid_of_child) for _ in range(2)]

    assert len({*pids, os.getpid()}) == 3
    assert await sandbox.run(secret_of_child) is None


async def test_errors_of_the_call_are_raised_here(sandbox: MediaSandbox, tmp_path: Path) -> None:
    """With their class, code and fields; a bug with its traceback."""
    with pytest.raises(_OddError, match="odd: 3") as caught:
        await sandbox.run(fail_oddly)
    with pytest.raises(FileNotFoundError):
        await sandbox.run(open_missing, tmp_path / "missing")
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        await sandbox.run(fail)

    assert (caught.value.code, caught.value.retryable) == ("odd", True)


async def test_a_call_over_a_limit_is_killed_and_named(
    sandbox: MediaSandbox, tmp_path: Path
) -> None:
    """Memory, processor time, output, a crash; the caller's memory does not grow."""
    assert await sandbox.run(allocate, 16) == 16 * MIB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for call, argument in ((allocate, 100), (allocate_in_a_library, 100), (much_music, 16 * MIB)):
        with pytest.raises(MediaError, match="more than 64 MiB of memory") as caught:
            await sandbox.run(call, argument)
        assert caught.value.code == "media_limit"
    # a very busy machine gives it less than a second within its four
    with pytest.raises(MediaError, match=r"more than 1 s of processor time|longer than 4 s"):
        await sandbox.run(spin)
    with pytest.raises(MediaError, match="reader crash"):
        await sandbox.run(crash)
    with pytest.raises((OSError, MediaError)):
        await sandbox.run(write_a_file, tmp_path / "written")

    assert not (tmp_path / "written").exists() or not (tmp_path / "written").stat().st_size
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40 * 1024


async def test_a_large_result_has_to_be_announced(sandbox: MediaSandbox) -> None:
    """66 MiB of samples arrive if the caller expects them."""
    music = await sandbox.returning(80 * MIB).run(much_music, 66 * MIB // 8)

    assert music.shape == (2, 66 * MIB // 8)


async def test_a_call_that_only_waits_is_ended_too(sandbox: MediaSandbox) -> None:
    """Four times the processor time; others run meanwhile."""
    sandbox = MediaSandbox(
        MediaSettings.model_construct(slots=2, memory_bytes_max=64 * MIB, cpu_s=0.05)
    )
    begin = time.monotonic()
    slow = asyncio.ensure_future(sandbox.run(sleep, 30.0))
    assert await sandbox.run(pid_of_child) != os.getpid()
    with pytest.raises(MediaError, match="takes longer than") as caught:
        await slow

    assert caught.value.retryable
    assert time.monotonic() - begin < 5


async def test_a_cancelled_call_leaves_no_process(sandbox: MediaSandbox) -> None:
    """The child is killed at once, and its slot is free."""
    await sandbox.run(pid_of_child)
    server = sandbox_module._SERVER._process
    assert server is not None
    calls = [asyncio.ensure_future(sandbox.run(sleep, 30.0)) for _ in range(3)]
    async with asyncio.timeout(5):
        while len(_children(server._process.pid)) < 2:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.01)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        assert await sandbox.run(pid_of_child)
        while _children(server._process.pid):  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.01)
    assert sandbox.slots.figures() == {"slots": 2, "slots_taken": 0}


async def test_the_server_is_started_again_after_its_end(sandbox: MediaSandbox) -> None:
    """The call that it interrupts is retried by its caller."""
    await sandbox.run(pid_of_child)
    server = sandbox_module._SERVER._process
    assert server is not None
    os.kill(server._process.pid, signal.SIGKILL)
    for _ in range(2):  # the first call may still reach the socket of the dead server
        with contextlib.suppress(RetryableError):
            assert await sandbox.run(pid_of_child) != server._process.pid
            break
    assert await sandbox.run(allocate, 1) == MIB


CALLER = """
import asyncio
from shared.media.sandbox import MediaSandbox
from shared.settings import MediaSettings
from tests.unit.shared.media.test_sandbox import pid_of_child, sleep
async def call():
    sandbox = MediaSandbox(MediaSettings())
    print(await sandbox.run(pid_of_child), flush=True)
    await sandbox.run(sleep, 60.0)
asyncio.run(call())
"""


async def test_a_killed_caller_leaves_no_process() -> None:
    """Neither the server nor a child, whatever it does."""
    caller = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CALLER, stdout=asyncio.subprocess.PIPE
    )
    assert caller.stdout is not None
    await caller.stdout.readline()
    (server,) = map(int, _children(caller.pid))
    async with asyncio.timeout(10):
        while not (working := _children(server)):  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.01)
        caller.kill()
        await caller.wait()
        left = (server, *map(int, working))
        while any(_is_running(pid) for pid in left):  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.01)


def _is_running(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
