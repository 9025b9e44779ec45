"""Creates `.venv`, or completes it: `python -m tools.setup [--development] [--check]`.

The runtime packages come first; `--development` adds the others. pip's output goes to a log and is
shown if it fails; the terminal shows one line per phase. Nothing is done if `.venv` is complete.

Exit codes: 0 done, 1 failed (the message says why and what to do), 3 `--check`: not complete,
130 interrupted.

I/O: processes, files, the package index through pip.
"""

import argparse
import contextlib
import fcntl
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from tools.setup.lock_file import LOCK, section
from tools.setup.pip_log import has_begun_to_install, packages_in, progress, reason

ROOT = LOCK.parent
PROJECT = ROOT / "pyproject.toml"
STATE, LOG = "segue-setup.json", "segue-setup.log"  #: in the environment
#: measured on Linux with Python 3.11: unpacked (bytecode included), and the downloaded files
INSTALLED_MB = {"runtime": 600, "development": 930}
DOWNLOADED_MB = {"runtime": 190, "development": 270}
_FIRST_RUN_MB = 150  # of `make demo`: PostgreSQL's folder, the film and its results
_MB = 1024 * 1024
_PIP_S = 3600.0
_VENV_S = 120.0
_WAIT_S = 1800.0  # for another setup of the same environment
_POLL_S = 0.2
_STEP_PERCENT = 10  # between two lines without a terminal
_INCOMPLETE, _INTERRUPTED = 3, 130


class SetupError(Exception):
    """The environment could not be created; the message says why and what to do."""


def main() -> int:
    """Create or complete the environment; return the exit code."""
    parser = argparse.ArgumentParser(prog="make setup", description="Create .venv.")
    parser.add_argument("--development", action="store_true", help="add the tools of `make check`")
    parser.add_argument("--check", action="store_true", help="only return whether it is complete")
    parser.add_argument("--python", action="store_true", help="use this Python, whatever is there")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv")
    arguments = parser.parse_args()
    environment = Environment(arguments.venv, development=arguments.development)
    if environment.is_complete(with_this_python=arguments.python):
        return 0
    if arguments.check:
        return _INCOMPLETE
    try:
        with _locked():
            if not environment.is_complete(with_this_python=arguments.python):
                environment.complete(with_this_python=arguments.python)
    except SetupError as error:
        sys.stderr.write(f"setup: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\nsetup: interrupted; run the same command again to resume\n")
        return _INTERRUPTED
    except OSError as error:
        sys.stderr.write(f"setup: {error.filename or environment.folder}: {error.strerror}\n")
        return 1
    return 0


class Environment:
    """The virtual environment in `folder`."""

    def __init__(self, folder: Path, *, development: bool) -> None:
        self.folder = folder
        self.python = folder / "bin" / "python"
        self._set = "development" if development else "runtime"
        lock = LOCK.read_text(encoding="utf-8")
        self._requirements = section(lock, development=development)
        self._wanted = {
            "runtime": _digest(section(lock, development=False)),
            "project": _digest(PROJECT.read_text(encoding="utf-8")),
        }
        if development:
            self._wanted["development"] = _digest(lock)

    def is_complete(self, *, with_this_python: bool) -> bool:
        """Return whether everything is installed, for a Python that runs."""
        return not self._must_be_new(with_this_python=with_this_python) and (
            self._state().items() >= self._wanted.items()
        )

    def complete(self, *, with_this_python: bool) -> None:
        """Create the environment unless it can be used, and install what is missing.

        Raises:
            SetupError: a package could not be downloaded or installed.
        """
        begin = time.monotonic()
        is_new = self._must_be_new(with_this_python=with_this_python)
        self._check_disk(is_new=is_new)
        if is_new:
            self._create()
        state = {} if is_new else self._state()
        self._install_packages(state)
        self._install_project()
        kept = {"development": state["development"]} if "development" in state else {}
        self._save({**kept, **self._wanted})
        _print(f"done in {time.monotonic() - begin:.0f} s")

    def _must_be_new(self, *, with_this_python: bool) -> bool:
        """Return whether it is missing, moved, half installed, or of another Python."""
        state = self._state()
        version = self._python_version()
        if version is None or version < (3, 11):
            return True
        if with_this_python and version != sys.version_info[:2]:
            return True
        if not state:  # created by hand, or by an earlier version of this program
            return False
        place = state.get("place") != str(self.folder.resolve())
        return place or state.get("python") != list(version) or bool(state.get("half"))

    def _python_version(self) -> tuple[int, int] | None:
        code = "import sys; print(*sys.version_info[:2])"
        with contextlib.suppress(OSError, subprocess.SubprocessError, ValueError):
            done = subprocess.run(  # noqa: S603 - the environment's Python
                [self.python, "-I", "-c", code],
                capture_output=True,
                text=True,
                timeout=_VENV_S,
                check=True,
            )
            major, minor = map(int, done.stdout.split())
            return major, minor
        return None

    def _state(self) -> dict[str, Any]:
        try:
            state = json.loads((self.folder / STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return state if isinstance(state, dict) else {}

    def _save(self, state: dict[str, Any]) -> None:
        place = {"place": str(self.folder.resolve()), "python": self._python_version()}
        half = self.folder / f"{STATE}.half"
        half.write_text(json.dumps({**state, **place}, indent=2) + "\n", encoding="utf-8")
        half.replace(self.folder / STATE)

    def _check_disk(self, *, is_new: bool) -> None:
        """Raise if the packages do not fit.

        Raises:
            SetupError: a disk has too little space; the message has the figures.
        """
        present = "" if is_new else ("development" if "development" in self._state() else "runtime")
        if present in {"development", self._set}:
            return  # an update; pip reports a full disk
        folder, temporary = self.folder.resolve().parent, Path(tempfile.gettempdir())
        installed = INSTALLED_MB[self._set] - INSTALLED_MB.get(present, -_FIRST_RUN_MB)
        downloads = DOWNLOADED_MB[self._set] - DOWNLOADED_MB.get(present, 0)
        if folder.stat().st_dev == temporary.stat().st_dev:
            check_room(
                folder,
                needed=installed + downloads,
                use=f"{installed} for .venv and the first run, {downloads} for downloads",
                advice="clone the repository to another disk",
            )
            return
        advice = "clone the repository to another disk"
        check_room(folder, needed=installed, use="for .venv and the first run", advice=advice)
        advice = "set TMPDIR to a folder on another disk"
        check_room(temporary, needed=downloads, use="for downloads", advice=advice)

    def _create(self) -> None:
        if (reason_without := _venv_missing()) is not None:
            raise SetupError(reason_without)
        version = ".".join(map(str, sys.version_info[:3]))
        _print(f"Python {version} in {_short(self.folder)}")
        done = subprocess.run(  # noqa: S603 - this Python
            [sys.executable, "-I", "-m", "venv", "--clear", self.folder],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_VENV_S,
            check=False,
        )
        if done.returncode != 0:
            raise SetupError(f"cannot create {_short(self.folder)}; {reason(done.stdout)}")

    def _install_packages(self, state: dict[str, Any]) -> None:
        total = packages_in(self._requirements)
        _print(f"installing {total} packages ({self._set}, {INSTALLED_MB[self._set]} MB)")
        requirements = self.folder / "segue-requirements.txt"
        requirements.write_text(self._requirements, encoding="utf-8")
        # the lock is complete: nothing is resolved, nothing is built; bytecode is written on import
        options = ["--require-hashes", "--no-deps", "--only-binary=:all:", "--no-compile"]
        if not _has_room_for_cache(DOWNLOADED_MB[self._set]):
            options.append("--no-cache-dir")
        self._pip([*options, "-r", str(requirements)], total=total, state=state)
        requirements.unlink()

    def _install_project(self) -> None:
        self._pip(["--no-deps", "--no-build-isolation", "-e", str(ROOT)], total=0, state=None)

    def _pip(self, arguments: list[str], *, total: int, state: dict[str, Any] | None) -> None:
        """Run `pip install` and show its progress; `state` is marked once it changes packages."""
        command: list[str | Path] = [
            self.python,
            "-I",
            "-m",
            "pip",
            "install",
            "--no-input",
            "--no-color",
        ]
        command += ["--disable-pip-version-check", "--no-warn-script-location"]
        path = self.folder / LOG
        is_marked = state is None
        with path.open("w", encoding="utf-8") as output:
            child = subprocess.Popen(  # noqa: S603 - the environment's pip
                [*command, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
            )
        before = self._installed()
        with _stopped_at_the_end(child), _Line() as line:
            end = time.monotonic() + _PIP_S
            while child.poll() is None:
                text = path.read_text(encoding="utf-8", errors="replace")
                if not is_marked and has_begun_to_install(text):
                    self._save({**(state or {}), "half": True})
                    is_marked = True
                if total:
                    shown = progress(text, total=total, installed=self._installed() - before)
                    line.show(shown.percent, shown.activity)
                if time.monotonic() > end:
                    raise SetupError(f"pip did not end within {_PIP_S:g} s; its log: {path}")
                time.sleep(_POLL_S)
        if child.returncode != 0:
            text = path.read_text(encoding="utf-8", errors="replace")
            raise SetupError(f"{reason(text)}\n       (the output of pip: {path})")

    def _installed(self) -> int:
        return sum(1 for _ in self.folder.glob("lib/python*/site-packages/*.dist-info"))


class _Line:
    """One line of progress, rewritten on a terminal; otherwise a line every 10 %."""

    def __init__(self) -> None:
        self._is_terminal = sys.stdout.isatty()
        self._shown = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_terminal:
            sys.stdout.write("\r\033[K")
            sys.stdout.flush()

    def show(self, percent: int, activity: str) -> None:
        """Show the progress."""
        text = f"setup: {percent:>3} % {activity}"
        if self._is_terminal:
            width = shutil.get_terminal_size().columns - 1
            sys.stdout.write(f"\r\033[K{text[:width]}")
            sys.stdout.flush()
        elif percent - self._shown >= _STEP_PERCENT:
            self._shown = percent - percent % _STEP_PERCENT
            _print(f"{percent:>3} % {activity}")


@contextmanager
def _locked() -> Iterator[None]:
    """Hold the lock of all setups of this checkout."""
    with LOCK.open("rb") as file:
        end, is_first = time.monotonic() + _WAIT_S, True
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > end:
                    raise SetupError(f"another setup has run for {_WAIT_S:g} s") from error
            if is_first:
                _print("another setup of this folder is running; waiting for it")
                is_first = False
            time.sleep(_POLL_S)
        yield


@contextmanager
def _stopped_at_the_end(child: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait(10)


def _venv_missing() -> str | None:
    """Return what to install if this Python cannot create environments."""
    try:
        import ensurepip  # noqa: F401, PLC0415 - Debian has it in another package
        import venv  # noqa: F401, PLC0415
    except ImportError:
        return (
            f"{sys.executable} has no venv module; install it (Debian: apt-get install "
            "python3-venv), or name another Python: make setup PYTHON=/path/to/python3.12"
        )
    return None


def _has_room_for_cache(downloads_mb: int) -> bool:
    home = Path.home()
    with contextlib.suppress(OSError):
        return shutil.disk_usage(home).free // _MB > 2 * downloads_mb + INSTALLED_MB["development"]
    return False


def check_room(folder: Path, *, needed: int, use: str, advice: str) -> None:
    """Raise if the disk of `folder` has less than `needed` MB free.

    Raises:
        SetupError: the message has the figures and `advice`.
    """
    free = shutil.disk_usage(folder).free // _MB
    if free < needed:
        raise SetupError(
            f"the disk of {folder} has {free} MB free, and {needed} MB are needed ({use}); "
            f"free some space, or {advice}"
        )


def _short(folder: Path) -> str:
    return folder.name if folder.parent == ROOT else str(folder)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _print(text: str) -> None:
    sys.stdout.write(f"setup: {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
