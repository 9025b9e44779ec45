"""Small disk: a file system of a few megabytes that a test can fill, and make room on.

It is a tmpfs of its own, mounted for the test: what does not fit gets the kernel's own `ENOSPC`.
Mounting is root's. Whoever is not root is told so; where servers are required (CI), that fails.

I/O: mounts, files.
"""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.servers import REQUIRED

_MIB = 1024 * 1024
_CHUNK = b"\0" * 4096
_MOUNT_S = 20.0


class SmallDisk:
    """A mounted file system; `ballast` is what a test fills it with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    @property
    def free_bytes(self) -> int:
        """What can still be written."""
        found = os.statvfs(self.folder)
        return found.f_bavail * found.f_frsize

    def fill(self, *, but_bytes: int = 0) -> None:
        """Leave so much free and no more."""
        with self._ballast.open("ab", buffering=0) as file:
            while self.free_bytes - but_bytes >= len(_CHUNK):
                with contextlib.suppress(OSError):  # somebody else was quicker
                    file.write(_CHUNK)

    def make_room(self) -> None:
        """Take the ballast away."""
        self._ballast.unlink()


@contextmanager
def a_small_disk(mib: int) -> Iterator[SmallDisk]:
    """A disk of so many megabytes, on a short path; gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="sg-"))
    try:
        _mount(folder, mib)
        try:
            yield SmallDisk(folder)
        finally:
            # lazily: who still has a file open there ends a moment later
            subprocess.run(["umount", "-l", folder], check=True, timeout=_MOUNT_S)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _mount(folder: Path, mib: int) -> None:
    options = f"size={mib * _MIB},mode=0755"
    mount: list[str | Path] = ["mount", "-t", "tmpfs", "-o", options, "segue-test", folder]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, timeout=_MOUNT_S, check=False)
        why_not = done.stderr.strip() if done.returncode else ""
    except FileNotFoundError as error:
        why_not = str(error)
    if why_not:
        assert not REQUIRED, f"a disk that fills up is needed here, and mount says: {why_not}"
        pytest.skip(f"no disk that could be filled: {why_not}")
