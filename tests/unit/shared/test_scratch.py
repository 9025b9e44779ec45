"""Scratch folders: their limits, and what a killed process left."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shared.errors import JobError
from shared.scratch import Scratch, ScratchError
from shared.settings import ScratchSettings
from shared.telemetry.log import logger_of

LOG = logger_of("test")
HOLDER = """
import asyncio, sys
from pathlib import Path
from shared.scratch import Scratch
from shared.settings import ScratchSettings
async def hold():
    async with Scratch(ScratchSettings(folder=Path(sys.argv[1])), name="mux").folder() as folder:
        (folder.path / "video").write_bytes(b"x")
        print(folder.path, flush=True)
        await asyncio.Event().wait()
asyncio.run(hold())
"""


def a_scratch(folder: Path, **limits: int) -> Scratch:
    """Return the muxer's scratch in `folder`."""
    return Scratch(ScratchSettings(folder=folder, **limits), name="mux")  # type: ignore[arg-type]


async def test_a_folder_is_removed_and_its_space_released(tmp_path: Path) -> None:
    """Also after an error."""
    scratch = a_scratch(tmp_path, bytes_max=2000, run_bytes_max=2000)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            await _fail_with(1500, scratch)
    assert list(tmp_path.iterdir()) == []


async def test_space_is_limited_per_run_and_per_service(tmp_path: Path) -> None:
    """Over its own limit a run fails; while others use the space, it is retried."""
    scratch = a_scratch(tmp_path, bytes_max=5000, run_bytes_max=3000)
    async with scratch.folder() as first, scratch.folder() as second:
        first.reserve(2000)
        first.reserve(1000)
        with pytest.raises(JobError, match="SEGUE_SCRATCH_RUN_BYTES_MAX") as caught:
            first.reserve(1)
        assert caught.value.code == "scratch_limit"
        second.reserve(2000)
        with pytest.raises(ScratchError, match="SEGUE_SCRATCH_BYTES_MAX"):
            second.reserve(1)
    async with scratch.folder() as third:
        third.reserve(3000)


async def test_a_missing_folder_is_retryable(tmp_path: Path) -> None:
    """A volume that is not mounted yet."""
    with pytest.raises(ScratchError, match="the scratch folder: No such file"):
        async with a_scratch(tmp_path / "none").folder():
            pass


async def test_a_start_removes_what_a_killed_process_left_and_nothing_else(tmp_path: Path) -> None:
    """Not a folder in use, of another service, new and without a lock, or behind a link."""
    scratch = a_scratch(tmp_path)
    holders = [_holder(tmp_path) for _ in range(2)]
    killed, living = (Path(_line_of(holder)) for holder in holders)
    new, old, linked = (tmp_path / f"segue-mux-{name}" for name in ("new", "old", "linked"))
    others = [tmp_path / name for name in ("segue-merge-x", "mine", "target")]
    for folder in (new, old, *others):
        folder.mkdir()
    linked.symlink_to(tmp_path / "target")
    os.utime(old, (0, 0))
    try:
        holders[0].send_signal(signal.SIGKILL)
        holders[0].wait()
        async with scratch.folder() as own:
            assert scratch.sweep(log=LOG) == 2
            assert sorted(tmp_path.iterdir()) == sorted([living, own.path, new, linked, *others])
        assert not killed.exists()
        assert (living / "video").read_bytes() == b"x"
    finally:
        for holder in holders:
            holder.kill()
            holder.communicate()
    assert scratch.sweep(log=LOG) == 1
    assert not living.exists()


def _holder(folder: Path) -> "subprocess.Popen[str]":
    argv = [sys.executable, "-c", HOLDER, str(folder)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)


async def _fail_with(size_bytes: int, scratch: Scratch) -> None:
    async with scratch.folder() as folder:
        (folder.path / "video").write_bytes(b"x")
        folder.reserve(size_bytes)
        raise ZeroDivisionError


def _line_of(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None, "started with a pipe"
    return process.stdout.readline().strip()
