"""How a stack is found, and how its clients keep it."""

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from shared.local_stack import (
    DataDirSettings,
    RunningStack,
    client_lock,
    find_stack,
    is_data_dir_locked,
    lock_data_dir,
    remove_stack_files,
    write_stack_files,
)


def _stack(pid: int) -> RunningStack:
    started = datetime(2026, 1, 1, tzinfo=UTC)
    return RunningStack(pid=pid, api_url="http://127.0.0.1:1", provider="synth", started_at=started)


def test_an_announced_stack_is_found_until_it_withdraws(tmp_path: Path) -> None:
    """Our own process is surely alive."""
    write_stack_files(tmp_path, _stack(os.getpid()))
    found = find_stack(tmp_path)
    remove_stack_files(tmp_path)

    assert found == _stack(os.getpid())
    assert find_stack(tmp_path) is None


def test_a_stack_whose_process_is_gone_is_not_found(tmp_path: Path) -> None:
    """It lost its power, or was killed: its file lies."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait(10)
    write_stack_files(tmp_path, _stack(gone.pid))

    assert find_stack(tmp_path) is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": "x"}', '{"pid": -1}'])
def test_a_file_that_says_nothing_is_no_stack(tmp_path: Path, content: str) -> None:
    """Whoever wrote it."""
    (tmp_path / "stack.json").write_text(content)

    assert find_stack(tmp_path) is None


def test_a_folder_is_claimed_by_one(tmp_path: Path) -> None:
    """And free again when the handle is closed."""
    handle = lock_data_dir(tmp_path)
    assert handle is not None
    second, told = lock_data_dir(tmp_path), is_data_dir_locked(tmp_path)
    os.close(handle)

    assert second is None
    assert told
    assert not is_data_dir_locked(tmp_path)


def test_clients_share_the_lock_and_the_last_one_is_alone(tmp_path: Path) -> None:
    """So a stack knows when nobody needs it any more."""
    with client_lock(tmp_path) as watcher:
        with client_lock(tmp_path) as one:
            with client_lock(tmp_path) as other:
                assert one.try_lock_shared()
                assert other.try_lock_shared()
                assert not watcher.try_lock_exclusive()
            assert not watcher.try_lock_exclusive()
        assert watcher.try_lock_exclusive()


def test_a_stack_that_is_about_to_stop_takes_no_more_clients(tmp_path: Path) -> None:
    """The newcomer starts another one."""
    with client_lock(tmp_path) as stack, client_lock(tmp_path) as late:
        assert stack.try_lock_exclusive()
        assert not late.try_lock_shared()


def test_data_lie_where_the_user_keeps_data(tmp_path: Path) -> None:
    """Unless the setting names a folder."""
    home = tmp_path / "data"

    assert DataDirSettings(data_dir=None, data_home=home).folder == home / "segue"
    assert DataDirSettings(data_dir=tmp_path / "x", data_home=home).folder == tmp_path / "x"
