"""The file of scenes: what is read, and how faults are told."""

import json
from pathlib import Path

import pytest

from ops.cli.exit_codes import CommandError, Exit
from ops.score.scenes_file import read_scenes


def _file(folder: Path, content: object) -> Path:
    place = folder / "scenes.json"
    place.write_text(content if isinstance(content, str) else json.dumps(content))
    return place


def test_a_list_of_scenes_and_an_object_with_scenes_say_the_same(tmp_path: Path) -> None:
    """Both forms are written by hand."""
    scenes = [{"description": "a lake", "duration_s": 1.7, "mood": "calm", "prompt": "harp"}]

    plain = read_scenes(_file(tmp_path, scenes))
    wrapped = read_scenes(_file(tmp_path, {"title": "ignored", "scenes": scenes}))

    assert plain == wrapped
    assert (plain[0].duration_s, plain[0].mood, plain[0].prompt) == (1.7, "calm", "harp")


def test_start_and_end_give_the_duration_that_people_mean(tmp_path: Path) -> None:
    """3.4 - 1.7 is 1.7, not its binary neighbour."""
    (scene,) = read_scenes(_file(tmp_path, [{"start_s": 1.7, "end_s": 3.4}]))

    assert scene.duration_s == 1.7


def test_a_file_of_windows_with_its_byte_order_mark_is_read(tmp_path: Path) -> None:
    """Editors there write one."""
    place = tmp_path / "scenes.json"
    place.write_bytes(b'\xef\xbb\xbf[{"duration_s": 2}]')

    assert read_scenes(place)[0].duration_s == 2


@pytest.mark.parametrize(
    ("content", "words"),
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
def test_a_fault_is_told_with_file_entry_and_field(
    tmp_path: Path, content: str, words: str
) -> None:
    """Whoever wrote the file finds the place."""
    place = _file(tmp_path, content)

    with pytest.raises(CommandError) as caught:
        read_scenes(place)

    assert caught.value.code is Exit.USAGE
    assert str(place) in str(caught.value)
    assert words in str(caught.value)


def test_a_file_that_is_not_there_is_told_by_its_name(tmp_path: Path) -> None:
    """Not by a traceback."""
    with pytest.raises(CommandError, match=r"nowhere\.json: cannot be read"):
        read_scenes(tmp_path / "nowhere.json")


def test_a_file_that_is_no_text_is_told_so(tmp_path: Path) -> None:
    """For example the video in its place."""
    place = tmp_path / "scenes.json"
    place.write_bytes(b"\xff\xfe\x00\x01")

    with pytest.raises(CommandError, match="not UTF-8"):
        read_scenes(place)
