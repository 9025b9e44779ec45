"""Tests of embedded/data_dir.py: the lock of the data folder, its space, and its secret."""

import os
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from embedded.data_dir import check_space, locked_data_dir, segment_keys
from shared.errors import SettingsError
from shared.local_stack import RunningStack, write_stack_files


def test_a_second_stack_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    """Two PostgreSQL servers would corrupt one cluster."""
    with (
        locked_data_dir(tmp_path / "home") as folder,
        pytest.raises(SettingsError, match=r"SEGUE_DATA_DIR.*another stack runs"),
        locked_data_dir(folder),
    ):
        pass


def test_a_second_start_names_the_running_stack_and_what_to_do(tmp_path: Path) -> None:
    """Its address, its process, and how to start another."""
    running = RunningStack(
        pid=os.getpid(),
        api_url="http://127.0.0.1:4000",
        provider="synth",
        started_at=datetime(2026, 1, 1, tzinfo=UTC),
    )

    with locked_data_dir(tmp_path) as folder:
        write_stack_files(folder, running)
        with pytest.raises(SettingsError) as raised, locked_data_dir(folder):
            pass

    message = str(raised.value)
    assert f"http://127.0.0.1:4000 (process {os.getpid()}, provider synth)" in message
    assert "segue up --data-dir FOLDER --port 0" in message


def test_a_small_disk_is_reported_before_a_server_starts(tmp_path: Path) -> None:
    """The message has the free and the needed space; a stack that has data needs less."""
    free_bytes = 64 * 1024**2

    with pytest.raises(SettingsError, match="has 64 MB free, and 128 MB are needed"):
        check_space(tmp_path, is_native=False, free_bytes=free_bytes)
    (tmp_path / "postgres").mkdir()
    check_space(tmp_path, is_native=False, free_bytes=free_bytes)
    with pytest.raises(SettingsError, match="384 MB are needed"):
        check_space(tmp_path, is_native=True, free_bytes=free_bytes)


def test_a_folder_is_unlocked_after_its_stack(tmp_path: Path) -> None:
    """Also after an error."""
    with pytest.raises(RuntimeError), locked_data_dir(tmp_path):
        raise RuntimeError("a fault")

    with locked_data_dir(tmp_path) as folder:
        assert folder == tmp_path


def test_a_folder_that_cannot_be_created_names_the_setting(tmp_path: Path) -> None:
    """Its parent is a file."""
    (tmp_path / "file").touch()

    with (
        pytest.raises(SettingsError, match="SEGUE_DATA_DIR"),
        locked_data_dir(tmp_path / "file" / "home"),
    ):
        pass


def test_the_secret_is_created_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    """Links from before a restart stay valid."""
    first = segment_keys(tmp_path)

    assert segment_keys(tmp_path) == first
    assert len(first) >= 32
    assert stat.S_IMODE((tmp_path / "segment-keys").stat().st_mode) == 0o600
