"""The fork server: a forked program behaves as one that was started, signals included."""

import asyncio
import os
import signal
from pathlib import Path

from tests.support.fork_server import start_forked
from tests.support.processes import eventually

PATH = {"PATH": "/usr/bin:/bin"}
UNREACHABLE = {
    **PATH,
    "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
}


async def test_a_forked_command_has_its_own_arguments_output_and_exit_code() -> None:
    """The command sees its arguments; its output and its exit code come back."""
    process = await start_forked("ops", "--no-such-option", environment=PATH, merge_stderr=True)
    output, _ = await process.communicate()

    assert process.returncode == 2
    assert b"--no-such-option" in output


async def test_a_forked_command_has_only_the_environment_it_was_given() -> None:
    """Nothing of the test's environment reaches it."""
    environment = {**UNREACHABLE, "DATABASE_URL": "postgresql://127.0.0.1:9/none"}
    process = await start_forked("ops", "jobs", environment=environment, merge_stderr=True)
    output, _ = await process.communicate()

    assert process.returncode == 3
    assert b"9" in output


async def test_a_forked_service_can_be_killed_and_stopped(tmp_path: Path) -> None:
    """SIGKILL and SIGTERM reach the service itself; its end is reported."""
    environment = {**UNREACHABLE, "SEGUE_STORE_DIR": str(tmp_path / "store")}
    logs = [os.open(tmp_path / name, os.O_CREAT | os.O_WRONLY) for name in ("killed", "stopped")]
    try:
        killed, stopped = [
            await start_forked("services.merger", environment=environment, output=log)
            for log in logs
        ]
    finally:
        for log in logs:
            os.close(log)

    killed.kill()
    async with asyncio.timeout(10):
        assert await killed.wait() == -signal.SIGKILL

    async def starting() -> bool | None:
        return b"service.starting" in (tmp_path / "stopped").read_bytes() or None

    await eventually(starting, within_s=20, what="the service is starting")
    stopped.terminate()
    async with asyncio.timeout(20):
        assert await stopped.wait() == 0
    assert not Path(f"/proc/{killed.pid}").exists()
