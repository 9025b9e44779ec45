"""The output folder: holds the files of the newest run, and never replaces a file of the user's.

A run's files are written into a private folder beside their places and moved there at the end, so
a failed or interrupted command leaves the earlier result as it was. The earlier result moves to
`runs/JOB-run-N`. `report.json` lists the files that Segue wrote, with their SHA-256: only those are
moved, and only `--force` replaces another file. What the command reads (film, scenes, style) is
never replaced, moved or removed, whatever its name and however it is linked.

I/O: files.
"""

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ops.cli.exit_codes import CommandError, Exit, json_text
from ops.cli.terminal import shown
from shared.storage.results import file_fingerprint

TRACK, VIDEO, IMAGE, REPORT = "track.mp3", "scored.mp4", "track.png", "report.json"
RESULTS = (TRACK, VIDEO, IMAGE, REPORT)
RUNS = "runs"  # earlier results, a folder each
SPACE_SLACK_BYTES = 16 * 1024 * 1024
TRACK_BYTES_PER_S = 24_000  # 192 kb/s
_STAGING = ".segue-half-"
_NAME_BYTES_MAX = 150  # file systems allow 255
_REPORT_BYTES_MAX = 64 * 1024 * 1024
_REPORT_FIELDS = frozenset({"job_id", "run", "files", "report", "api_url"})


@dataclass(kw_only=True)
class OutputFolder:
    """An output folder that was checked; `publish` moves the files of a run into it."""

    path: Path
    staging: Path  #: a private folder in it; files are written here first
    names: Sequence[str]
    inputs: Sequence[Path]
    force: bool
    _state: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def publish(self, report: dict[str, Any]) -> dict[str, Any]:
        """Move the staged files to their places, with `report`; return it with their paths.

        Files that were created here since the check stay: the result then goes to `runs`.
        """
        with _locked(self.path):
            target = self.path
            if self._state_now() != self._state and _conflict(self) is not None:
                target = _free_folder(self.path / RUNS, _run_name(report))
                target.mkdir(parents=True)
            elif (earlier := read_report(self.path)) is not None:
                _move_earlier(self.path, earlier, successor=report, inputs=self.inputs)
            files = sorted(path for path in self.staging.iterdir() if path.name in self.names)
            report = _with_files(self._with_film(report, target), target, files)
            half = self.staging / REPORT
            _write(half, json_text(report) + "\n")
            half.replace(target / REPORT)  # first: it names the files that are Segue's
            for path in files:
                path.replace(target / path.name)
        return report

    def _with_film(self, report: dict[str, Any], target: Path) -> dict[str, Any]:
        """Return the report with the place of a film that was made here."""
        film = report.get("film")
        if not film or Path(film["path"]).parent != self.staging:
            return report
        return {**report, "film": {**film, "path": str(target / Path(film["path"]).name)}}

    def _state_now(self) -> dict[str, tuple[int, ...]]:
        state: dict[str, tuple[int, ...]] = {}
        for name in self.names:
            with suppress(OSError):
                stat = (self.path / name).lstat()
                state[name] = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        return state


@contextmanager
def open_output(
    path: Path,
    *,
    inputs: Sequence[Path] = (),
    names: Sequence[str] = RESULTS,
    force: bool = False,
    needed_bytes: int = 0,
) -> Iterator[OutputFolder]:
    """Check and create the output folder before any work; remove it again if it stays empty.

    Raises:
        CommandError: it cannot be written or is too small, a result would replace an input, or,
            without `force`, a file that Segue did not write.
    """
    created = _create(path)
    try:
        _sweep(path)
        staging = _make_staging(path)
        with _locked(staging):
            try:
                folder = OutputFolder(
                    path=path, staging=staging, names=names, inputs=inputs, force=force
                )
                folder._state = folder._state_now()  # noqa: SLF001 - under construction
                if (problem := _conflict(folder)) is not None:
                    raise CommandError(Exit.USAGE, problem)
                _check_space(path, needed_bytes)
                yield folder
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    finally:
        for empty in created:
            with suppress(OSError):  # it holds the result
                empty.rmdir()


def read_report(folder: Path) -> dict[str, Any] | None:
    """Return the report of the result in `folder`; None if Segue wrote none there."""
    path = folder / REPORT
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > _REPORT_BYTES_MAX:
            return None
        report = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    is_report = isinstance(report, dict) and report.keys() >= _REPORT_FIELDS
    return report if is_report and isinstance(report["files"], dict) else None


def folder_name(name: str) -> str:
    """Return a file name for a job or a film: not hidden, not too long for a file system."""
    text = "".join(char if char != "/" and char >= " " else "-" for char in name).lstrip(".")
    short = os.fsencode(text)[:_NAME_BYTES_MAX].decode("utf-8", errors="ignore").strip()
    return short or "film"


def _create(path: Path) -> list[Path]:
    """Create the folder; return the folders that were missing, the deepest first."""
    missing = [folder for folder in (path, *path.parents) if not os.path.lexists(folder)]
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise _unusable(path, "is a file, not a folder") from error
    except OSError as error:
        raise _unusable(path, f"cannot be created ({error.strerror})") from error
    return missing


def _unusable(path: Path, reason: str) -> CommandError:
    return CommandError(Exit.USAGE, f"--out: {shown(path)} {reason}; name another folder")


def _make_staging(path: Path) -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix=_STAGING, dir=path))
    except OSError as error:
        raise _unusable(path, f"cannot be written ({error.strerror})") from error


def _sweep(path: Path) -> None:
    """Remove the private folders of commands that were killed."""
    for folder in path.glob(f"{_STAGING}*"):
        if folder.is_symlink() or not folder.is_dir():
            continue
        with suppress(OSError):
            handle = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails: its command runs
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(handle)


def _conflict(folder: OutputFolder) -> str | None:
    """Return why the results must not be written; None if they may."""
    for name in folder.names:
        target = folder.path / name
        for given in folder.inputs:
            if _is_same(target, given):
                return f"{shown(given)} would be overwritten by its own result {name}; change --out"
    report = read_report(folder.path)
    for name in folder.names:
        target = folder.path / name
        if not os.path.lexists(target):
            continue
        if target.is_dir() and not target.is_symlink():
            return (
                f"{shown(target)} is a folder, and the result of that name is a file; change --out"
            )
        if not folder.force and not _is_ours(target, report):
            return (
                f"{shown(target)} was not written by segue, or was changed since; change --out, or "
                "replace it with --force"
            )
    return None


def _is_same(target: Path, given: Path) -> bool:
    """Return whether both are one file: by any name, symbolic link or hard link."""
    try:
        return target.samefile(given)
    except OSError:  # one of them does not exist
        return False


def _is_ours(path: Path, report: Mapping[str, Any] | None) -> bool:
    """Return whether `path` is a file as Segue wrote it, by the report beside it."""
    if report is None or path.is_symlink() or not path.is_file():
        return False
    if path.name == REPORT:
        return True
    entry = report["files"].get(path.name)
    if not isinstance(entry, dict) or entry.get("size_bytes") != path.stat().st_size:
        return False
    return file_fingerprint(path)[0] == entry.get("sha256")


def _check_space(path: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(path).free
    if needed_bytes and free < needed_bytes + SPACE_SLACK_BYTES:
        needed_mb = (needed_bytes + SPACE_SLACK_BYTES) // 1_000_000
        raise _unusable(
            path, f"has {free // 1_000_000} MB free, the results need about {needed_mb} MB"
        )


def _move_earlier(
    folder: Path,
    earlier: dict[str, Any],
    *,
    successor: Mapping[str, Any],
    inputs: Sequence[Path],
) -> None:
    """Move the earlier result to `runs`; the same run again replaces its own files."""
    is_same_run = all(earlier[name] == successor.get(name) for name in ("job_id", "run"))
    files = [folder / name for name in earlier["files"] if Path(name).name == name]
    files = [
        path
        for path in files
        if _is_ours(path, earlier) and not any(_is_same(path, given) for given in inputs)
    ]
    if is_same_run:
        for path in files:
            path.unlink()
        return
    target = _free_folder(folder / RUNS, _run_name(earlier))
    target.mkdir(parents=True)
    for path in files:
        path.rename(target / path.name)
    moved = [target / path.name for path in files]
    _write(target / REPORT, json_text(_with_files(earlier, target, moved)) + "\n")


def _run_name(report: Mapping[str, Any]) -> str:
    return f"{folder_name(str(report['job_id']))}-run-{report['run']}"


def _free_folder(parent: Path, name: str) -> Path:
    """Return a path below `parent` that does not exist."""
    path, number = parent / name, 2
    while os.path.lexists(path):
        path, number = parent / f"{name}-{number}", number + 1
    return path


def _with_files(report: Mapping[str, Any], folder: Path, files: Sequence[Path]) -> dict[str, Any]:
    """Return the report with the paths that `files` have in `folder`."""
    entries = {}
    for path in files:
        sha256, size_bytes = file_fingerprint(path)
        entries[path.name] = {
            "path": str(folder / path.name),
            "size_bytes": size_bytes,
            "sha256": sha256,
        }
    return {**report, "files": entries, "report": str(folder / REPORT)}


def _write(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder; another command waits for it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
