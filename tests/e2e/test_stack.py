"""Tests of the embedded stack as a user runs it: start, stop, restart, kill."""

import contextlib
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.local_stack import client_lock, find_stack
from tests.support.fork_server import REPOSITORY
from tests.support.parent_death import MORTAL
from tests.support.stack_process import (
    STOP_S,
    StackProcess,
    a_stack,
    finished,
    kill_all,
    none_left,
    processes_of,
    start_job,
    status_of,
    until,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


def test_the_stack_starts_answers_and_leaves_no_process(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """It logs its stand-ins, and removes its stack file.

    The durations are recorded as properties of the test; nothing is asserted about them.
    """
    began_s = time.monotonic()
    with a_stack(tmp_path / "home") as stack:
        url = stack.ready().api_url
        record_property("ready_s", time.monotonic() - began_s)
        ready = httpx.get(f"{url}/readyz", trust_env=False)
        began_s = time.monotonic()
        code = stack.stop()
        record_property("stopped_s", time.monotonic() - began_s)

    lines = log_lines(stack)
    assert ready.status_code == 200
    assert code == 0
    assert find_stack(stack.home) is None
    assert none_left(stack.home)
    assert sum(line["action"] == "stand_in.used" for line in lines) == 3
    [line] = [line for line in lines if line["event"] == "ready" and line["service"] == "stack"]
    assert line["url"] == url


def test_on_a_terminal_the_log_is_text(tmp_path: Path) -> None:
    """Each line has time, service and message; in a file (the other tests) it is JSON."""
    terminal, child_end = pty.openpty()
    process = subprocess.Popen(
        [*MORTAL, sys.executable, "-m", "embedded", "--port", "0", "--data-dir", tmp_path / "home"],
        cwd=REPOSITORY,
        env={**os.environ, "NO_COLOR": "1"},  # noqa: TID251 - the child's
        stdout=child_end,
        stderr=subprocess.STDOUT,
    )
    os.close(child_end)
    output = ""
    try:
        while "stack      ready (url http://127.0.0.1:" not in output:
            output += os.read(terminal, 65_536).decode()
    finally:
        process.terminate()
        drain = threading.Thread(target=_read_to_end, args=(terminal,))
        drain.start()
        code = process.wait(STOP_S)
        drain.join()

    lines = output.splitlines()
    assert code == 0
    time = r"\d\d:\d\d:\d\d stack      "
    assert re.fullmatch(
        time + r"provider chosen \(provider synth\): REPLICATE_API_KEY is not set", lines[0]
    )
    assert re.fullmatch(time + r"starting \(servers embedded, data .*\)", lines[1])
    assert sum(" stand-in: " in line for line in lines) == 3
    assert not any(line.startswith("{") for line in lines)


def test_a_restarted_stack_has_its_jobs_and_their_music(tmp_path: Path) -> None:
    """PostgreSQL and the folder keep their data; links from before return the same bytes."""
    with a_stack(tmp_path / "home") as first:
        url = first.ready().api_url
        start_job(url, "film", durations_s=[1.7, 2.3])
        before = finished(url, "film")
        track = httpx.get(url + before["links"]["download"], trust_env=False).content
        first.stop()

    with a_stack(tmp_path / "home") as second:
        url = second.ready().api_url
        after = status_of(url, "film")
        again = httpx.get(url + after["links"]["download"], trust_env=False).content

    assert before["audio_status"]["status"] == "completed"
    assert after["track"] == before["track"]
    assert again == track


def test_a_job_is_resumed_after_its_stack_was_killed(tmp_path: Path) -> None:
    """After `kill -9` the broker is empty; the job completes anyway."""
    with a_stack(tmp_path / "home") as killed:
        url = killed.ready().api_url
        start_job(url, "film", durations_s=[2.5] * 12)
        until(lambda: _scenes_done(url, "film") or None, within_s=60, what="the first scene")
        killed.process.send_signal(signal.SIGKILL)
        killed.ended()
    assert none_left(killed.home), "the watchdog stops PostgreSQL when its stack is killed"

    with a_stack(tmp_path / "home") as stack:
        status = finished(stack.ready().api_url, "film")
        kill_all(stack.home)  # a power cut: also PostgreSQL and its watchdog
        with a_stack(tmp_path / "home") as at_once:
            after = status_of(at_once.ready().api_url, "film")

    assert status["audio_status"]["status"] == "completed"
    assert status["run"] == 1
    assert status["track"]["samples"] == 12 * 2.5 * 48_000
    assert after["track"] == status["track"]


def test_a_second_stack_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    """The error names the setting and the address of the first."""
    with a_stack(tmp_path / "home") as first:
        url = first.ready().api_url
        second = StackProcess(first.home)
        code = second.ended()

    output = second.log.read_text()
    assert code == 2
    assert "SEGUE_DATA_DIR" in output
    assert url in output


def test_a_port_in_use_is_reported(tmp_path: Path) -> None:
    """No server is started."""
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        port = str(occupied.getsockname()[1])
        stack = StackProcess(tmp_path / "home", "--port", port)
        code = stack.ended()

    output = stack.log.read_text()
    assert code == 2
    assert "SEGUE_API_PORT" in output
    assert port in output


def test_a_stack_for_clients_ends_with_the_last_of_them(tmp_path: Path) -> None:
    """The lock of a killed client is released with its process."""
    home = tmp_path / "home"
    with client_lock(home) as client:
        assert client.try_lock_shared()
        with a_stack(home, "--while-used") as stack:
            stack.ready()
            client.close()
            code = stack.ended()

    assert code == 0
    assert none_left(home)


def test_a_second_interrupt_stops_the_stack_at_once(tmp_path: Path) -> None:
    """No process is left, although a job is running."""
    with a_stack(tmp_path / "home") as stack:
        url = stack.ready().api_url
        start_job(url, "film", durations_s=[20.0] * 4)
        stack.process.send_signal(signal.SIGINT)
        until(
            lambda: "press Ctrl-C again to stop at once" in stack.log.read_text() or None,
            within_s=10,
            what="the first interrupt is logged",
        )
        stack.process.send_signal(signal.SIGINT)
        code = stack.ended()

    assert code in {0, 130}, "0 when it was gone before the second interrupt came"
    assert none_left(stack.home)
    assert not processes_of(stack.home)


def test_a_stack_stops_when_its_postgres_ends(tmp_path: Path) -> None:
    """The reason has the end of PostgreSQL's log; the api listens where SEGUE_API_HOST says."""
    with a_stack(tmp_path / "home", environment={"SEGUE_API_HOST": "127.0.0.2"}) as stack:
        url = stack.ready().api_url
        is_alive = httpx.get(f"{url}/livez", trust_env=False).is_success
        postmaster = (stack.home / "postgres" / "cluster" / "postmaster.pid").read_text()
        os.kill(int(postmaster.splitlines()[0]), signal.SIGKILL)
        code = stack.ended()

    assert url.startswith("http://127.0.0.2:")
    assert is_alive
    assert code == 1
    failure = log_lines(stack)[-1]
    assert (failure["action"], failure["event"]) == ("service.failed", "stopped")
    assert failure["reason"].startswith("PostgreSQL ended by itself")
    assert none_left(stack.home)


def log_lines(stack: StackProcess) -> list[dict[str, Any]]:
    """Return the JSON lines of the stack's log."""
    lines = stack.log.read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def _read_to_end(terminal: int) -> None:
    with contextlib.suppress(OSError):  # the terminal is closed by its last process
        while os.read(terminal, 65_536):
            pass
    os.close(terminal)


def _scenes_done(url: str, job_id: str) -> int:
    scenes = status_of(url, job_id)["progress"]["scenes"]
    return sum(scene["state"] == "done" for scene in scenes)
