"""Files and locks of the local stack."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a running stack."""
    handle = lock_data_dir(folder)
    assert handle is not None
    try:
        yield
    finally:
        os.close(handle)


def test_find_stack_returns_a_stack_until_its_files_are_removed(tmp_path: Path) -> None:
    """The test process serves as the stack's."""
    with locked(tmp_path):
        write_stack_files(tmp_path, _stack(os.getpid()))
        stack = find_stack(tmp_path)
        remove_stack_files(tmp_path)
        removed = find_stack(tmp_path)

    assert stack == _stack(os.getpid())
    assert removed is None


def test_find_stack_ignores_the_files_of_a_killed_stack(tmp_path: Path) -> None:
    """Its process id belongs to another process now: this one."""
    with locked(tmp_path):
        write_stack_files(tmp_path, _stack(os.getpid()))

    assert find_stack(tmp_path) is None


def test_checking_for_a_stack_does_not_disturb_its_start(tmp_path: Path) -> None:
    """Neither creates a folder, nor is a second check mistaken for a stack."""
    assert find_stack(tmp_path / "new") is None
    assert not is_data_dir_locked(tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": "x"}', '{"pid": -1}'])
def test_find_stack_ignores_an_invalid_file(tmp_path: Path, content: str) -> None:
    """Any writer may have left it."""
    (tmp_path / "stack.json").write_text(content)

    assert find_stack(tmp_path) is None


def test_data_dir_is_locked_by_one_stack(tmp_path: Path) -> None:
    """Closing the handle releases it."""
    handle = lock_data_dir(tmp_path)
    assert handle is not None
    second, is_locked = lock_data_dir(tmp_path), is_data_dir_locked(tmp_path)
    os.close(handle)

    assert second is None
    assert is_locked
    assert not is_data_dir_locked(tmp_path)


def test_clients_share_the_lock_and_the_last_one_gets_it_exclusively(tmp_path: Path) -> None:
    """A stack sees that it has no clients left."""
    with client_lock(tmp_path) as watcher:
        with client_lock(tmp_path) as first:
            with client_lock(tmp_path) as second:
                assert first.try_lock_shared()
                assert second.try_lock_shared()
                assert not watcher.try_lock_exclusive()
            assert not watcher.try_lock_exclusive()
        assert watcher.try_lock_exclusive()


def test_stopping_stack_rejects_new_clients(tmp_path: Path) -> None:
    """A new client starts another stack."""
    with client_lock(tmp_path) as stack, client_lock(tmp_path) as late:
        assert stack.try_lock_exclusive()
        assert not late.try_lock_shared()


def test_data_dir_defaults_to_the_user_data_folder(tmp_path: Path) -> None:
    """The setting overrides it."""
    home = tmp_path / "data"

    assert DataDirSettings(data_dir=None, data_home=home).folder == home / "segue"
    assert DataDirSettings(data_dir=tmp_path / "x", data_home=home).folder == tmp_path / "x"
