"""Tests of embedded/data_dir.py: the lock of the data folder, and its secret."""

import stat
from pathlib import Path

import pytest

from embedded.data_dir import locked_data_dir, segment_keys
from shared.errors import SettingsError


def test_a_second_stack_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    """Two PostgreSQL servers would corrupt one cluster."""
    with (
        locked_data_dir(tmp_path / "home") as folder,
        pytest.raises(SettingsError, match=r"SEGUE_DATA_DIR.*another stack runs"),
        locked_data_dir(folder),
    ):
        pass


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
