"""Tests of ops/score/scenes_file.py: what is read, and how errors are reported."""

import io
import json
import os
import sys
from pathlib import Path

import pytest

from ops.cli.exit_codes import CommandError, Exit
from ops.score.scenes_file import read_scenes, scenes_file_of


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
        ("[3]", "scene 1: must be an object"),
        ('[{"duration_s": 1}, {"duration_s": -2}]', "scene 2, duration_s"),
        ('[{"duration_s": 0}]', "scene 1, duration_s"),
        ('[{"duration_s": NaN}]', "scene 1, duration_s"),
        ('[{"duration_s": "2"}]', "scene 1, duration_s"),
        ('[{"description": "no length"}]', "give duration_s, or both start_s and end_s"),
        ('[{"duration_s": 2, "prompt": 7}]', "scene 1, prompt"),
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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"duration": 4}], "scene 1, duration: unknown field: use duration_s"),
        ([{"duration_s": 1}, {"duration_s": 1, "promt": "x"}], "scene 2, promt: unknown field"),
        ([{"duration_s": 1, "mood": 3}], "exciting, calm, dramatic, elegant, professional"),
        ([{"duration_s": "4"}], "or a timecode such as 00:01:02.5"),
        ({"scene": []}, "scene: unknown field: use scenes"),
        ({"scenes": [{"duration_s": 1}], "fade_duration": 2}, "use the option --fade-duration"),
        ({"scenes": [{"duration_s": 1}], "audio_params": {}}, "use the options of segue"),
        ("[" * 100_000, "is nested too deeply"),
        (" " * (16 * 1024 * 1024 + 1), "is larger than"),
    ],
)
def test_a_field_that_would_be_ignored_is_rejected(
    tmp_path: Path, content: object, message: str
) -> None:
    """The message counts scenes from 1 and says what to write."""
    with pytest.raises(CommandError, match="json: ") as caught:
        read_scenes(_file(tmp_path, content))

    assert message in str(caught.value)


def test_times_may_be_timecodes(tmp_path: Path) -> None:
    """As editing programs show them."""
    (scene,) = read_scenes(_file(tmp_path, [{"start_s": "00:00:01.7", "end_s": "0:03,4"}]))

    assert scene.duration_s == 1.7


def test_scenes_can_come_from_standard_input_or_a_pipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--scenes -` and `--scenes <(make_scenes)`."""
    content = b'[{"duration_s": 2}]'
    stream = io.TextIOWrapper(io.BytesIO(content))
    monkeypatch.setattr(sys, "stdin", stream)
    reader, writer = os.pipe()
    os.write(writer, content)
    os.close(writer)

    assert read_scenes(Path("-"))[0].duration_s == 2
    assert read_scenes(Path(f"/dev/fd/{reader}"))[0].duration_s == 2
    os.close(reader)


def test_a_scenes_file_beside_the_film_is_found(tmp_path: Path) -> None:
    """The command mentions it, because it is used only if it is named."""
    film = tmp_path / "my film.mp4"

    assert scenes_file_of(film) is None
    for name in ("scenes.json", "my film.json"):
        (tmp_path / name).write_text("[]")
        assert scenes_file_of(film) == tmp_path / name


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
