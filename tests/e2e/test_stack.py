"""The embedded stack as a user runs it: up, down, up again, and killed."""

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from shared.local_stack import client_lock, find_stack
from tests.support.stack_process import (
    StackProcess,
    a_stack,
    finished,
    none_left,
    processes_of,
    start_job,
    status_of,
    until,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


def test_the_stack_starts_answers_and_leaves_nothing_behind(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """With the stand-ins announced, and no file saying that it still runs.

    How long it took goes into the report of the run; nothing is asserted of it.
    """
    began_s = time.monotonic()
    with a_stack(tmp_path / "home") as stack:
        url = stack.ready().api_url
        record_property("ready_s", time.monotonic() - began_s)
        ready = httpx.get(f"{url}/readyz", trust_env=False)
        began_s = time.monotonic()
        code = stack.stop()
        record_property("stopped_s", time.monotonic() - began_s)

    said = stack.log.read_text()
    assert ready.status_code == 200
    assert code == 0
    assert find_stack(stack.home) is None
    assert none_left(stack.home)
    assert said.count("segue: stand-in: ") == 3
    assert f"segue: ready at {url}" in said


def test_a_second_start_finds_yesterdays_jobs_and_their_music(tmp_path: Path) -> None:
    """PostgreSQL and the folder remember; the links sealed yesterday lead to the same bytes."""
    with a_stack(tmp_path / "home") as yesterday:
        url = yesterday.ready().api_url
        start_job(url, "film", durations_s=[1.7, 2.3])
        before = finished(url, "film")
        track = httpx.get(url + before["links"]["download"], trust_env=False).content
        yesterday.stop()

    with a_stack(tmp_path / "home") as today:
        url = today.ready().api_url
        after = status_of(url, "film")
        again = httpx.get(url + after["links"]["download"], trust_env=False).content

    assert before["audio_status"]["status"] == "completed"
    assert after["track"] == before["track"]
    assert again == track


def test_a_job_goes_on_after_its_stack_was_killed(tmp_path: Path) -> None:
    """`kill -9` in the middle: the broker forgot everything, the job is finished all the same."""
    with a_stack(tmp_path / "home") as killed:
        url = killed.ready().api_url
        start_job(url, "film", durations_s=[2.5] * 12)
        until(lambda: _scenes_done(url, "film") or None, within_s=60, what="the first scene")
        killed.process.send_signal(signal.SIGKILL)
        killed.ended()
    assert none_left(killed.home), "the warden ends PostgreSQL when its stack is killed"

    with a_stack(tmp_path / "home") as stack:
        status = finished(stack.ready().api_url, "film")

    assert status["audio_status"]["status"] == "completed"
    assert status["run"] == 1
    assert status["track"]["samples"] == 12 * 2.5 * 48_000


def test_a_second_stack_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    """By the name of the setting, with the address of the first."""
    with a_stack(tmp_path / "home") as first:
        url = first.ready().api_url
        second = StackProcess(first.home)
        code = second.ended()

    said = second.log.read_text()
    assert code == 2
    assert "SEGUE_DATA_DIR" in said
    assert url in said


def test_a_port_that_is_taken_is_named_with_the_way_out(tmp_path: Path) -> None:
    """Before anything was started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        stack = StackProcess(tmp_path / "home", "--port", port)
        code = stack.ended()

    said = stack.log.read_text()
    assert code == 2
    assert "SEGUE_API_PORT" in said
    assert port in said


def test_a_stack_for_its_clients_alone_ends_with_the_last_of_them(tmp_path: Path) -> None:
    """Also when the client died without a word: its lock went with it."""
    home = tmp_path / "home"
    with client_lock(home) as client:
        assert client.try_lock_shared()
        with a_stack(home, "--while-used") as stack:
            stack.ready()
            client.close()
            code = stack.ended()

    assert code == 0
    assert none_left(home)


def test_a_second_interrupt_ends_it_at_once(tmp_path: Path) -> None:
    """In the middle of a job, with nothing left behind all the same."""
    with a_stack(tmp_path / "home") as stack:
        url = stack.ready().api_url
        start_job(url, "film", durations_s=[20.0] * 4)
        stack.process.send_signal(signal.SIGINT)
        until(
            lambda: "once more stops at once" in stack.log.read_text() or None,
            within_s=10,
            what="the first interrupt is answered",
        )
        stack.process.send_signal(signal.SIGINT)
        code = stack.ended()

    assert code in {0, 130}, "0 when it was gone before the second interrupt came"
    assert none_left(stack.home)
    assert not processes_of(stack.home)


def test_a_stack_without_its_postgres_stops_and_says_why(tmp_path: Path) -> None:
    """Jobs could not be kept any more; the last words of its log are told."""
    with a_stack(tmp_path / "home") as stack:
        stack.ready()
        postmaster = (stack.home / "postgres" / "cluster" / "postmaster.pid").read_text()
        os.kill(int(postmaster.splitlines()[0]), signal.SIGKILL)
        code = stack.ended()

    assert code == 1
    assert "stopped: PostgreSQL ended by itself" in stack.log.read_text()
    assert none_left(stack.home)


def _scenes_done(url: str, job_id: str) -> int:
    scenes = status_of(url, job_id)["progress"]["scenes"]
    return sum(scene["state"] == "done" for scene in scenes)
