"""Tests of ops/score/outputs.py: inputs and files of the user are never replaced."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ops.cli.exit_codes import CommandError, Exit
from ops.score.outputs import (
    IMAGE,
    REPORT,
    RESULTS,
    TRACK,
    VIDEO,
    folder_name,
    open_output,
    read_report,
)


def published(folder: Path, job_id: str = "film-1", run: int = 1, **options: Any) -> dict[str, Any]:
    """Publish a result whose files name their job and run; return its report."""
    with open_output(folder, **options) as output:
        for name in (TRACK, VIDEO, IMAGE):
            (output.staging / name).write_text(f"{name} of {job_id}, run {run}")
        return output.publish({"job_id": job_id, "run": run, "api_url": "http://x"})


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def refusal(folder: Path, **options: Any) -> str:
    """Return the message of a folder that is refused before any work; nothing changes."""
    before = contents(folder) if folder.exists() else None
    with pytest.raises(CommandError) as caught, open_output(folder, **options):
        pytest.fail("work began")
    assert caught.value.code is Exit.USAGE
    assert (contents(folder) if folder.exists() else None) == before
    return str(caught.value)


def linked_softly(source: Path, target: Path) -> None:
    """Make `target` a symbolic link."""
    target.symlink_to(source)


def linked_by_a_folder(source: Path, target: Path) -> None:
    """Make `target` the same file through a linked folder."""
    source.unlink()
    target.write_bytes(b"the user's")
    source.parent.joinpath("door").symlink_to(target.parent)
    source.symlink_to(source.parent / "door" / target.name)


@pytest.mark.parametrize("name", RESULTS)
@pytest.mark.parametrize("link", [os.link, linked_softly, linked_by_a_folder, shutil.move])
def test_an_input_is_never_replaced_whatever_its_name_and_link(
    tmp_path: Path, name: str, link: Callable[[Path, Path], object]
) -> None:
    """A hard link, a symbolic link, a path through another folder, or simply that name."""
    inputs, out = tmp_path / "inputs", tmp_path / "out"
    inputs.mkdir()
    out.mkdir()
    given = inputs / "song.mp3"
    given.write_bytes(b"the user's")
    link(given, out / name)
    if not given.exists():
        given = out / ".." / "out" / "." / name

    for force in (False, True):
        message = refusal(out, inputs=[given], force=force)
        assert f"would be overwritten by its own result {name}; change --out" in message


def test_an_input_that_is_an_earlier_result_is_neither_replaced_nor_moved(tmp_path: Path) -> None:
    """The user scores the video of the demo into the demo's folder."""
    with open_output(tmp_path, names=(*RESULTS, "video.mp4")) as output:
        (output.staging / "video.mp4").write_bytes(b"film")
        (output.staging / TRACK).write_bytes(b"music")
        output.publish({"job_id": "demo", "run": 1, "api_url": "http://x"})

    published(tmp_path, inputs=[tmp_path / "video.mp4"])

    assert (tmp_path / "video.mp4").read_bytes() == b"film"
    assert (tmp_path / "runs" / "demo-run-1" / TRACK).read_bytes() == b"music"


@pytest.mark.parametrize("name", RESULTS)
def test_a_file_that_segue_did_not_write_is_replaced_only_with_force(
    tmp_path: Path, name: str
) -> None:
    """Also if the folder has a result of Segue, and if that file was edited since."""
    (tmp_path / name).write_bytes(b"the user's")
    assert "was not written by segue" in refusal(tmp_path)
    published(tmp_path, force=True)
    assert (tmp_path / name).read_bytes() != b"the user's"

    if name == REPORT:
        return
    size = (tmp_path / name).stat().st_size
    for edited in (b"edited by the user", b"x" * size):
        (tmp_path / name).write_bytes(edited)
        assert "or was changed since" in refusal(tmp_path)


@pytest.mark.parametrize("kind", ["folder", "link to nothing", "link to a file", "pipe"])
def test_what_is_no_file_is_not_replaced(tmp_path: Path, kind: str) -> None:
    """A link's target is never written, also with `--force`."""
    out, other = tmp_path / "out", tmp_path / "other"
    out.mkdir()
    target = out / TRACK
    match kind:
        case "folder":
            target.mkdir()
        case "pipe":
            os.mkfifo(target)
        case _:
            target.symlink_to(other)
            if kind == "link to a file":
                other.write_bytes(b"the user's")

    assert "change --out" in refusal(out)
    if kind == "folder":
        assert "is a folder" in refusal(out, force=True)
    else:
        published(out, force=True)
        assert not target.is_symlink()
        assert (
            other.read_bytes() == b"the user's" if kind == "link to a file" else not other.exists()
        )


def test_a_report_of_something_else_is_the_users(tmp_path: Path) -> None:
    """Not JSON, another JSON document, a link to a real report, nested too deeply."""
    published(tmp_path / "real")
    for number, text in enumerate(("{", "[]", '{"files": {}}', "[" * 100_000)):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / REPORT).write_text(text)
        assert "report.json was not written by segue" in refusal(folder)
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / REPORT).symlink_to(tmp_path / "real" / REPORT)
    assert "report.json was not written by segue" in refusal(linked)


def test_earlier_results_are_kept_with_their_reports(tmp_path: Path) -> None:
    """The newest is in the folder, the others in `runs`; each report names its files."""
    for job_id, run in (("a", 1), ("a", 2), ("b", 1), ("a", 2)):
        published(tmp_path, job_id, run)

    reports = {path.parent: read_report(path.parent) for path in tmp_path.rglob(REPORT)}
    assert {folder.relative_to(tmp_path).as_posix() for folder in reports} == {
        *(".", "runs/a-run-1", "runs/a-run-2", "runs/b-run-1")
    }
    for folder, report in reports.items():
        assert report is not None
        assert report["report"] == str(folder / REPORT)
        assert {name: entry["path"] for name, entry in report["files"].items()} == {
            name: str(folder / name) for name in (TRACK, VIDEO, IMAGE)
        }
        assert (folder / TRACK).read_text() == f"{TRACK} of {report['job_id']}, run {report['run']}"


def test_the_same_run_again_replaces_its_files(tmp_path: Path) -> None:
    """Two commands that follow one run, or a second `segue fetch`."""
    published(tmp_path)
    published(tmp_path)

    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(RESULTS)


def test_a_result_of_an_earlier_run_does_not_remain_beside_the_newest(tmp_path: Path) -> None:
    """The earlier run had a video, this one has only a track."""
    published(tmp_path)
    with open_output(tmp_path) as output:
        (output.staging / TRACK).write_text("music")
        output.publish({"job_id": "film-1", "run": 2, "api_url": "http://x"})

    assert not (tmp_path / VIDEO).exists()
    assert (tmp_path / "runs" / "film-1-run-1" / VIDEO).exists()


def _fail_in(folder: Path, problem: BaseException) -> None:
    """Fail after a file was staged."""
    with open_output(folder) as output:
        (output.staging / TRACK).write_text("half")
        raise problem


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, CommandError])
def test_a_command_that_fails_leaves_the_folder_as_it_was(
    tmp_path: Path, error: type[BaseException]
) -> None:
    """Its private folder is removed, and a folder that it created as well."""
    published(tmp_path / "old")
    before = contents(tmp_path)
    problem = CommandError(Exit.FAILED, "no") if error is CommandError else error()

    for folder in (tmp_path / "old", tmp_path / "new" / "folder"):
        with pytest.raises(error):
            _fail_in(folder, problem)

    assert contents(tmp_path) == before
    assert not (tmp_path / "new").exists()


def test_a_file_that_appears_during_the_run_stays(tmp_path: Path) -> None:
    """The result, which is paid, goes to `runs`."""
    with open_output(tmp_path) as output:
        (output.staging / TRACK).write_text("music")
        (tmp_path / TRACK).write_bytes(b"the user's")
        report = output.publish({"job_id": "film-1", "run": 1, "api_url": "http://x"})

    assert (tmp_path / TRACK).read_bytes() == b"the user's"
    assert report["files"][TRACK]["path"] == str(tmp_path / "runs" / "film-1-run-1" / TRACK)
    assert Path(report["files"][TRACK]["path"]).read_text() == "music"


def test_a_report_does_not_make_other_files_segues(tmp_path: Path) -> None:
    """It may name files of another folder, or have been edited."""
    published(tmp_path / "out")
    secret = tmp_path / "secret"
    secret.write_bytes(b"x")
    report = json.loads((tmp_path / "out" / REPORT).read_text())
    entry = dict(report["files"][TRACK], size_bytes=1, sha256="2d711642b726b04401627ca9fbac32f5")
    report["files"] |= {"../secret": entry, TRACK: "?"}
    (tmp_path / "out" / REPORT).write_text(json.dumps(report))

    assert "track.mp3 was not written by segue" in refusal(tmp_path / "out")
    published(tmp_path / "out", run=2, force=True)
    assert secret.read_bytes() == b"x"


def test_private_folders_of_killed_commands_are_removed(tmp_path: Path) -> None:
    """Those of running ones are not."""
    (tmp_path / ".segue-half-dead").mkdir()
    (tmp_path / ".segue-half-dead" / TRACK).write_bytes(b"half")
    with open_output(tmp_path) as running:
        published(tmp_path)
        assert running.staging.is_dir()

    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(RESULTS)


def test_an_unusable_folder_is_refused_before_any_work(tmp_path: Path) -> None:
    """A file, a folder below a file, a device, too little space."""
    file = tmp_path / "file"
    file.write_bytes(b"")

    assert "is a file, not a folder" in refusal(file)
    assert "cannot be created (Not a directory)" in refusal(file / "below")
    assert "cannot be " in refusal(Path("/proc/segue"))
    assert "MB free, the results need about" in refusal(tmp_path / "out", needed_bytes=1 << 60)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("my film [final]", "my film [final]"),
        ("über 🎬", "über 🎬"),
        ("..", "film"),
        ("", "film"),
        (".hidden", "hidden"),
        ("a/b\n", "a-b-"),
        ("x" * 300, "x" * 150),
    ],
)
def test_a_folder_is_named_after_its_film(name: str, folder: str) -> None:
    """The name is kept as far as file systems allow it."""
    assert folder_name(name) == folder
