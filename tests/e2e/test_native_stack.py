"""Tests of the stack on native servers, and on external ones."""

import os
import signal
from pathlib import Path

import httpx
import pytest

from embedded.servers.kafka import NativeKafka
from embedded.servers.object_store import STORES
from embedded.servers.process import run_tool
from embedded.toolchain.cache import ToolSettings
from embedded.toolchain.golang import GO_MIN, go_program
from embedded.toolchain.java import java_home
from shared.local_stack import RunningStack
from shared.settings import StoreSettings
from tests.support.servers import S3_NAME, TOOLS
from tests.support.stack_process import (
    StackProcess,
    a_stack,
    finished,
    none_left,
    start_job,
    status_of,
    until,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


def bytes_at(stack: RunningStack, path: str) -> bytes:
    """Return the body of the api's response."""
    response = httpx.get(stack.api_url + path, trust_env=False)
    assert response.status_code == 200, response.text
    return response.content


@pytest.fixture
def native(minio: StoreSettings, monkeypatch: pytest.MonkeyPatch) -> StoreSettings:
    """Skip where native servers cannot be had; `minio` had them built if they are required."""
    tools = ToolSettings.from_environment()
    for why_not in (NativeKafka.available(tools), STORES[S3_NAME].available(TOOLS)):
        if why_not:
            pytest.skip(f"no native servers: {why_not}")
    monkeypatch.setenv("SEGUE_NATIVE_STORE", S3_NAME)
    return minio


@pytest.mark.usefixtures("native")
def test_a_killed_native_stack_keeps_jobs_and_music(tmp_path: Path) -> None:
    """After `kill -9` and a restart on its data the job completes; no process is left."""
    with a_stack(tmp_path / "home", "--stack", "native") as killed:
        stack = killed.ready()
        start_job(stack.api_url, "done", durations_s=[1.7, 2.3])
        before = finished(stack.api_url, "done")
        track = bytes_at(stack, before["links"]["download"])
        start_job(stack.api_url, "film", durations_s=[2.5] * 8)
        until(lambda: _has_scenes_done(stack, "film") or None, within_s=60, what="the first scene")
        killed.process.send_signal(signal.SIGKILL)
        killed.ended()
    until(
        lambda: none_left(killed.home) or None, within_s=30, what="the watchdogs stop the servers"
    )

    with a_stack(tmp_path / "home", "--stack", "native") as again:
        stack = again.ready()
        assert bytes_at(stack, before["links"]["download"]) == track
        film = finished(stack.api_url, "film")
        again.stop()

    assert film["audio_status"]["status"] == "completed"
    assert film["track"]["samples"] == 8 * 2.5 * 48_000
    assert none_left(again.home)


@pytest.mark.usefixtures("native")
def test_an_external_stack_starts_no_servers(tmp_path: Path) -> None:
    """It needs only the `stack.env` of the native stack."""
    with a_stack(tmp_path / "servers", "--stack", "native") as servers:
        servers.ready()
        path = servers.home / "stack.env"
        pairs = (line.split("=", 1) for line in path.read_text().splitlines())
        environment = {name: value.strip("'") for name, value in pairs}
        mode = path.stat().st_mode & 0o777
        environment["SEGUE_TOPIC_PREFIX"] = "other."  # a second Segue on the same cluster
        with a_stack(tmp_path / "home", "--stack", "external", environment=environment) as other:
            stack = other.ready()
            start_job(stack.api_url, "guest", durations_s=[1.5, 2.0])
            guest = finished(stack.api_url, "guest")
            names = {path.name for path in other.home.iterdir()}
            other.stop()
        assert servers.process.poll() is None, "the external stack does not stop the servers"

    assert mode == 0o600
    assert guest["audio_status"]["status"] == "completed"
    assert not {"native", "postgres", "objects"} & names


@pytest.mark.usefixtures("native")
def test_a_stack_stops_when_one_of_its_servers_ends(tmp_path: Path) -> None:
    """The reason names the server; the api would otherwise return 503 forever."""
    with a_stack(tmp_path / "home", "--stack", "native") as stack:
        stack.ready()
        os.kill(_pid_of(f"/{S3_NAME}/data", stack), signal.SIGKILL)
        code = stack.ended()

    assert code == 1
    label = STORES[S3_NAME].label
    assert f'"reason": "{label} ended by itself' in stack.log.read_text()


@pytest.mark.usefixtures("native")
def test_java_comes_from_its_wheel_if_it_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine without Java can run Kafka."""
    monkeypatch.setenv("PATH", str(tmp_path))

    home = java_home(ToolSettings.from_environment(java_home=None))

    assert (home / "bin" / "java").is_file()
    assert "java-runtime" in str(home)


@pytest.mark.usefixtures("native")
def test_go_comes_from_its_wheel_if_it_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An S3 server can be built on a machine that has only Python."""
    monkeypatch.setenv("PATH", str(tmp_path))

    go = go_program(ToolSettings.from_environment())

    assert "site-packages" not in str(go)
    version, root = run_tool("go env", [go, "env", "GOVERSION", "GOROOT"], timeout_s=30).split()
    assert tuple(map(int, version.removeprefix("go").split(".")[:2])) >= GO_MIN
    assert (Path(root) / "pkg").is_dir()


def _has_scenes_done(stack: RunningStack, job_id: str) -> bool:
    scenes = status_of(stack.api_url, job_id)["progress"]["scenes"]
    return any(scene["state"] == "done" for scene in scenes)


def _pid_of(command: str, stack: StackProcess) -> int:
    """Return the process of this stack whose command line contains `command`."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes().decode().replace("\0", " ")
        except OSError:
            continue
        if command in line and str(stack.home) in line and "watchdog" not in line:
            return int(process.name)
    raise AssertionError(f"no {command} runs on {stack.home}")
