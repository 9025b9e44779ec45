"""`make setup`: the sections of the lock file, pip's progress and failures, and when it runs."""

import json
import re
import stat
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.fork_server import REPOSITORY
from tests.unit.deploy.test_extras import dependencies_of
from tools.setup.__main__ import STATE, Environment, SetupError, check_room
from tools.setup.lock_file import LOCK, divided, section
from tools.setup.pip_log import Progress, packages_in, progress, reason

HASH = " \\\n    --hash=sha256:00\n"
#: prints what pip prints; `$@` has "-c" for the version and "install" for the installation
PYTHON = """#!/bin/sh
case "$*" in
  *"-I -c"*) echo {version} ;;
  *requirements*) {packages} ;;
  *) {project} ;;
esac
"""
INSTALLS = "echo 'Collecting a==1'; echo 'Installing collected packages: a'"
FAILS = "; echo 'OSError: [Errno 28] No space left on device'; sleep 0.5; exit 1"


def names_of(requirements: str) -> set[str]:
    """Return the packages that these requirements install on this machine."""
    lines = [line.rstrip(" \\") for line in requirements.splitlines() if re.match(r"\w", line)]
    parsed = [Requirement(line) for line in lines]
    return {
        str(canonicalize_name(one.name))
        for one in parsed
        if one.marker is None or one.marker.evaluate()
    }


def extras_of_the_makefile() -> frozenset[str]:
    """Return the extras that `make lock` resolves for the first section."""
    text = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    match = re.search(r"^RUNTIME_EXTRAS := (.*)$", text, re.MULTILINE)
    assert match is not None
    return frozenset(match.group(1).split())


def test_the_first_section_of_the_lock_has_exactly_what_segue_needs_to_run() -> None:
    """No package of the tests is in it, and none of the services' is missing."""
    runtime = section(LOCK.read_text(encoding="utf-8"), development=False)

    needed = dependencies_of("segue", extras_of_the_makefile()) - {"segue"}

    assert names_of(runtime) == needed
    assert not {"pytest", "mypy", "ruff"} & needed


def test_both_sections_together_have_everything() -> None:
    """The development extra's packages are in the second."""
    lock = LOCK.read_text(encoding="utf-8")
    everything = names_of(section(lock, development=True))
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {
        str(canonicalize_name(Requirement(line).name))
        for line in project["optional-dependencies"]["dev"]
    }

    assert named <= everything
    assert names_of(section(lock, development=False)) < everything


def test_a_lock_is_divided_by_the_names_of_the_runtime_resolution() -> None:
    """A package with a pin per Python version stays together; a second division changes nothing."""
    lock = f"a==1 ; python_version < '3.12'{HASH}a==2{HASH}b[x]==1{HASH}c-d==3{HASH}"
    pins = "a==1 ; python_version < '3.12'\nc-d==3\n"

    once = divided(lock, pins=pins)

    assert section(once, development=False).splitlines()[1:] == [
        *f"a==1 ; python_version < '3.12'{HASH}a==2{HASH}c-d==3{HASH}".splitlines()
    ]
    assert once.splitlines()[-2:] == f"b[x]==1{HASH}".splitlines()
    assert divided(once, pins=pins) == once
    assert packages_in(once) == 3


def test_a_lock_without_sections_is_rejected() -> None:
    """Another command of uv has written it."""
    with pytest.raises(SystemExit, match="make lock"):
        section(f"a==1{HASH}", development=False)


@pytest.mark.parametrize(
    ("log", "installed", "expected"),
    [
        ("Looking in links: /x\n", 0, Progress(0, "downloading")),
        ("Collecting a==1 (from -r x)\n", 0, Progress(0, "downloading a")),
        (
            """Requirement already satisfied: a==1 in /x
Collecting b[c]==2 (from -r x)
  Downloading b-2.whl (1.9 MB)
""",
            0,
            Progress(17, "downloading b (1.9 MB)"),
        ),
        ("Collecting a==1\nInstalling collected packages: a, b\n", 1, Progress(85, "installing")),
        ("Installing collected packages: a, b\n", 2, Progress(100, "installing")),
    ],
)
def test_progress_is_read_from_the_output_of_pip(
    log: str, installed: int, expected: Progress
) -> None:
    """Of four packages; the one that is being downloaded does not count yet."""
    assert progress(log, total=4, installed=installed) == expected


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("OSError: [Errno 28] No space left on device", "the disk is full"),
        ("[Errno -3] Temporary failure in name resolution')': /simple/av/", "cannot be reached"),
        ("HTTPSConnectionPool: Read timed out. (read timeout=15)", "cannot be reached"),
        ("ssl.SSLCertVerificationError: [SSL: CERTIFICATE_VERIFY_FAILED]", "set PIP_CERT"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE", "requirements.lock names"),
        ("ERROR: HTTP error 403 while getting: 403 Client Error: Forbidden", "refuses access"),
        ("PermissionError: [Errno 13] Permission denied: '/x'", "not writable"),
        ("ERROR: No matching distribution found for av==18.1.0", "no file of av==18.1.0"),
        ("line 1\nsomething new", "pip failed:\nline 1\nsomething new"),
    ],
)
def test_a_failure_of_pip_becomes_a_reason_and_what_to_do(output: str, expected: str) -> None:
    """An unknown one shows the end of the output."""
    assert expected in reason(output)


def test_a_disk_without_room_is_reported_with_both_figures(tmp_path: Path) -> None:
    """Before anything is downloaded."""
    with pytest.raises(SetupError, match=r"MB free, and 999999999 MB are needed \(for .venv\)"):
        check_room(tmp_path, needed=999_999_999, use="for .venv", advice="move")


@pytest.fixture
def environment(tmp_path: Path) -> Callable[..., Environment]:
    """Return a function that makes an environment whose `python` prints as given."""

    def make(*, packages: str = INSTALLS, project: str = "true", version: str = "") -> Environment:
        python = tmp_path / ".venv" / "bin" / "python"
        python.parent.mkdir(parents=True, exist_ok=True)
        version = version or f"{sys.version_info[0]} {sys.version_info[1]}"
        python.write_text(PYTHON.format(version=version, packages=packages, project=project))
        python.chmod(stat.S_IRWXU)
        return Environment(tmp_path / ".venv", development=False)

    return make


def test_a_complete_environment_is_not_installed_again(
    environment: Callable[..., Environment], capsys: pytest.CaptureFixture[str]
) -> None:
    """Its state names the lock, the project, the Python and the place."""
    made = environment()

    before = made.is_complete(with_this_python=False)
    made.complete(with_this_python=False)

    assert not before
    assert made.is_complete(with_this_python=False)
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"setup: installing \d+ packages \(runtime, \d+ MB\)", lines[0])
    assert re.fullmatch(r"setup: done in \d+ s", lines[-1])


def test_development_packages_are_installed_on_top(
    environment: Callable[..., Environment],
) -> None:
    """A runtime environment is not complete for `make check`."""
    made = environment()
    made.complete(with_this_python=False)

    assert not Environment(made.folder, development=True).is_complete(with_this_python=False)


@pytest.mark.parametrize(
    "changed", [{"place": "/elsewhere"}, {"python": [3, 10]}, {"half": True}, {"runtime": "old"}]
)
def test_an_environment_that_does_not_fit_is_not_complete(
    environment: Callable[..., Environment], changed: dict[str, object]
) -> None:
    """It was copied, its Python was replaced, it was interrupted, or the lock has changed."""
    made = environment()
    made.complete(with_this_python=False)
    state = json.loads((made.folder / STATE).read_text())

    (made.folder / STATE).write_text(json.dumps({**state, **changed}))

    assert not made.is_complete(with_this_python=False)


def test_a_failed_installation_is_reported_and_marked(
    environment: Callable[..., Environment],
) -> None:
    """The next setup replaces the environment; the message names the log."""
    made = environment(packages=INSTALLS + "; sleep 0.5" + FAILS)

    with pytest.raises(SetupError, match=r"the disk is full(?s:.*)segue-setup.log"):
        made.complete(with_this_python=False)

    assert json.loads((made.folder / STATE).read_text())["half"] is True


def test_a_failed_download_keeps_the_environment(environment: Callable[..., Environment]) -> None:
    """A working environment can still be used without a network."""
    made = environment()
    made.complete(with_this_python=False)
    before = (made.folder / STATE).read_text()
    failing = environment(packages="echo 'Collecting a==1'; echo 'Connection refused'; exit 1")

    with pytest.raises(SetupError, match="cannot be reached"):
        failing.complete(with_this_python=False)

    assert (made.folder / STATE).read_text() == before
