"""Tests of ops/score/scenes_file.py: what is read, and how errors are reported."""

import json
from pathlib import Path

import pytest

from ops.cli.exit_codes import CommandError, Exit
from ops.score.scenes_file import read_scenes


def _file(folder: Path, content: object) -> Path:
    path = folder / "scenes.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_a_list_and_an_object_with_scenes_are_both_read(tmp_path: Path) -> None:
    """Both forms give the same scenes."""
    scenes = [{"description": "a lake", "duration_s": 1.7, "mood": "calm", "prompt": "harp"}]

    plain = read_scenes(_file(tmp_path, scenes))
    wrapped = read_scenes(_file(tmp_path, {"title": "ignored", "scenes": scenes}))

    assert plain == wrapped
    assert (plain[0].duration_s, plain[0].mood, plain[0].prompt) == (1.7, "calm", "harp")


def test_the_duration_is_the_exact_decimal_difference(tmp_path: Path) -> None:
    """3.4 - 1.7 is 1.7, not the nearest binary value."""
    (scene,) = read_scenes(_file(tmp_path, [{"start_s": 1.7, "end_s": 3.4}]))

    assert scene.duration_s == 1.7


def test_a_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    """Editors on Windows write one."""
    path = tmp_path / "scenes.json"
    path.write_bytes(b'\xef\xbb\xbf[{"duration_s": 2}]')

    assert read_scenes(path)[0].duration_s == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{", "is not JSON"),
        ("[{", "line 1, column 3"),
        ("{}", 'an object with "scenes"'),
        ("[]", "has no scenes"),
        ("[3]", "scenes[0]: must be an object"),
        ('[{"duration_s": 1}, {"duration_s": -2}]', "scenes[1].duration_s"),
        ('[{"duration_s": 0}]', "scenes[0].duration_s"),
        ('[{"duration_s": NaN}]', "scenes[0].duration_s"),
        ('[{"duration_s": "2"}]', "scenes[0].duration_s"),
        ('[{"description": "no length"}]', "give duration_s, or both start_s and end_s"),
        ('[{"duration_s": 2, "prompt": 7}]', "scenes[0].prompt"),
    ],
)
def test_an_error_names_file_entry_and_field(tmp_path: Path, content: str, message: str) -> None:
    """The exit code is that of wrong input."""
    path = _file(tmp_path, content)

    with pytest.raises(CommandError) as caught:
        read_scenes(path)

    assert caught.value.code is Exit.USAGE
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_a_missing_file_is_reported_by_its_name(tmp_path: Path) -> None:
    """The command prints no traceback."""
    with pytest.raises(CommandError, match=r"nowhere\.json: cannot be read"):
        read_scenes(tmp_path / "nowhere.json")


def test_a_binary_file_is_rejected(tmp_path: Path) -> None:
    """For example a video that was given as the scenes file."""
    path = tmp_path / "scenes.json"
    path.write_bytes(b"\xff\xfe\x00\x01")

    with pytest.raises(CommandError, match="not UTF-8"):
        read_scenes(path)
