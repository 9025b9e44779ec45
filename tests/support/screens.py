"""Record the output of `segue watch` and `segue job` for the docs (`make screens`).

It starts real servers, the four services and the Replicate emulator, runs a few jobs and publishes
one undecodable record. `segue watch` runs on a pseudo-terminal; its last screen is stored.

I/O: processes, a pseudo-terminal, the files below `docs/screens`.
"""

import asyncio
import contextlib
import fcntl
import os
import pty
import re
import struct
import sys
import tempfile
import termios
import warnings
from collections.abc import Mapping
from pathlib import Path

from replicate_server import EmulatorSettings, ReplicateEmulator
from shared.clock import SystemClock
from shared.http.server import free_ports
from shared.kafka.producer import Publisher
from shared.settings import KafkaSettings
from shared.storage import StandInWarning
from tests.support.fork_server import REPOSITORY
from tests.support.pipeline_fixture import Pipeline, running_pipeline
from tests.support.processes import eventually, records_of
from tests.support.servers import NoServerError, Servers, fresh_databases

PLACE = REPOSITORY / "docs" / "screens"
COLUMNS, ROWS = 100, 40
WATCH_S = 12
STAGES = ("generator", "merger", "muxer")
SCENES = [
    {"description": f"a {mood} moment", "duration_s": seconds}
    for mood, seconds in (("calm", 2.3), ("dramatic", 1.7), ("elegant", 3.1))
]
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_LEAVES = "\x1b[?1049l"  # leave the alternate screen


async def record(folder: Path) -> None:
    """Run the jobs and write both files."""
    servers = Servers()
    try:
        kafka, postgres = servers.kafka(), servers.postgres()
        assert not isinstance(kafka, NoServerError), kafka
        assert not isinstance(postgres, NoServerError), postgres
        ports = dict(zip(STAGES, free_ports(len(STAGES)), strict=True))
        async with contextlib.AsyncExitStack() as stack:
            fake = await stack.enter_async_context(ReplicateEmulator(EmulatorSettings(work_s=1.5)))
            database = await stack.enter_async_context(fresh_databases(postgres))
            url = await database()

            async def fixed_url() -> str:
                return url

            pipeline = await stack.enter_async_context(
                running_pipeline(
                    kafka,
                    fixed_url,
                    "",
                    folder,
                    of={name: {"SEGUE_HEALTH_PORT": str(port)} for name, port in ports.items()},
                    MUSIC_PROVIDER="",
                    REPLICATE_API_KEY=fake.token,
                    REPLICATE_BASE_URL=fake.base_url,
                    SEGUE_REPLICATE_STARTS_PER_S="10",
                    SEGUE_REPLICATE_POLL_FIRST_S="0.2",
                )
            )
            urls = (f"{name}=http://127.0.0.1:{port}" for name, port in ports.items())
            await _screens(
                pipeline,
                {
                    "DATABASE_URL": url,
                    "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap,
                    "SEGUE_STORE_DIR": str(folder / "store"),
                    "SEGUE_SERVICE_URLS": ",".join(urls),
                },
            )
    finally:
        servers.stop()


async def _screens(pipeline: Pipeline, environment: Mapping[str, str]) -> None:
    await pipeline.generate(job_id="film-1", scenes=SCENES)
    await pipeline.ended("film-1")
    await pipeline.generate(job_id="film-2", scenes=SCENES[:2])
    await pipeline.ended("film-2")
    await _dead_letter(pipeline.kafka.bootstrap)
    history = await _printed(environment, "job", "film-1")
    (PLACE / "job.txt").write_text(history)
    for name in ("film-3", "film-4"):
        await pipeline.generate(job_id=name, scenes=SCENES * 8)
    screen = await asyncio.to_thread(_on_terminal, environment, "watch", "--for", str(WATCH_S))
    (PLACE / "watch.txt").write_text(screen)


async def _dead_letter(bootstrap: str) -> None:
    """Publish a truncated record; wait until the merger has dead-lettered it."""
    settings = KafkaSettings.from_environment(bootstrap_servers=bootstrap)
    publisher = Publisher(settings, source="test", clock=SystemClock())
    await publisher.start()
    try:
        await publisher.send(topic="segment.generated", key=b"film-9", value=b'{"job', headers=())
    finally:
        await publisher.stop()

    async def dead_lettered() -> bool | None:
        return bool(await records_of(bootstrap, "segment.generated.dlq", prefix="")) or None

    await eventually(dead_lettered, within_s=60, what="the dead letter")


async def _printed(environment: Mapping[str, str], *words: str) -> str:
    """Run a command; return its output."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ops", *words),
        cwd=REPOSITORY,
        env={**os.environ, **environment},  # noqa: TID251 - the child's
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, f"{words}: exit code {process.returncode}"
    return output.decode()


def _on_terminal(environment: Mapping[str, str], *words: str) -> str:
    """Run a command on a pseudo-terminal; return its last screen."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(REPOSITORY)
        os.environ.update({**environment, "TERM": "xterm-256color"})  # noqa: TID251 - the child's
        os.execv(sys.executable, (sys.executable, "-m", "ops", *words))  # noqa: S606
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    output = bytearray()
    with contextlib.suppress(OSError):  # EIO when the command has ended
        while part := os.read(terminal, 65_536):
            output += part
    _, status = os.waitpid(child, 0)
    assert status == 0, f"{words}: status {status}"
    last = output.decode().rpartition(_LEAVES)[2]
    lines = _ESCAPES.sub("", last).replace("\r", "").splitlines()
    return "\n".join(line.rstrip() for line in lines).strip("\n") + "\n"


def main() -> None:
    """Record both screens into `docs/screens`."""
    warnings.simplefilter("ignore", StandInWarning)
    PLACE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="segue-screens-") as folder:
        asyncio.run(record(Path(folder)))


if __name__ == "__main__":
    main()
