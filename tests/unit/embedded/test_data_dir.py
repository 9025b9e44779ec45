"""The data folder of a stack: one owner, and its secret."""

import stat
from pathlib import Path

import pytest

from embedded.data_dir import claimed, segment_keys
from shared.errors import SettingsError


def test_a_second_stack_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    """Two PostgreSQL on one cluster would be its end."""
    with (
        claimed(tmp_path / "home") as folder,
        pytest.raises(SettingsError, match=r"SEGUE_DATA_DIR.*another stack runs"),
        claimed(folder),
    ):
        pass


def test_a_folder_is_free_again_after_its_stack(tmp_path: Path) -> None:
    """Whatever ended it."""
    with pytest.raises(RuntimeError), claimed(tmp_path):
        raise RuntimeError("a fault")

    with claimed(tmp_path) as folder:
        assert folder == tmp_path


def test_a_folder_that_cannot_be_made_names_the_setting(tmp_path: Path) -> None:
    """A file stands in its way."""
    (tmp_path / "file").touch()

    with pytest.raises(SettingsError, match="SEGUE_DATA_DIR"), claimed(tmp_path / "file" / "home"):
        pass


def test_the_secret_is_made_once_and_is_nobody_elses_to_read(tmp_path: Path) -> None:
    """Links that were sealed yesterday open today."""
    first = segment_keys(tmp_path)

    assert segment_keys(tmp_path) == first
    assert len(first) >= 32
    assert stat.S_IMODE((tmp_path / "segment-keys").stat().st_mode) == 0o600
