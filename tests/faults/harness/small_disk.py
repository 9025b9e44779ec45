"""A file system of a few megabytes that a test can fill and free.

It is a tmpfs mounted for the test: a write that does not fit fails with `ENOSPC`. Mounting needs
root; without it the test is skipped, or fails if servers are required (CI).

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
    """A mounted file system; the ballast file fills it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    @property
    def free_bytes(self) -> int:
        """Return the free bytes."""
        status = os.statvfs(self.folder)
        return status.f_bavail * status.f_frsize

    def fill(self, *, but_bytes: int = 0) -> None:
        """Fill the disk except for `but_bytes`."""
        with self._ballast.open("ab", buffering=0) as file:
            while self.free_bytes - but_bytes >= len(_CHUNK):
                with contextlib.suppress(OSError):  # another process wrote
                    file.write(_CHUNK)

    def free_space(self) -> None:
        """Remove the ballast."""
        self._ballast.unlink()


@contextmanager
def a_small_disk(mib: int) -> Iterator[SmallDisk]:
    """Mount a disk of `mib` megabytes on a short path; unmount it at the end."""
    folder = Path(tempfile.mkdtemp(prefix="sg-"))
    try:
        _mount(folder, mib)
        try:
            yield SmallDisk(folder)
        finally:
            # lazily: a process may still have a file open
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
        assert not REQUIRED, f"cannot mount a tmpfs, which is required: {why_not}"
        pytest.skip(f"cannot mount a tmpfs: {why_not}")
