"""Gives each piece of work a temporary folder, within limits on the space of all of them.

A folder is removed at the end of its work. After `kill -9` it remains; the next start of the
service removes it: every folder holds a lock file that its process keeps locked, and the kernel
releases the lock with the process.

Space is reserved before it is written. A run that needs more than its limit fails with the
reason; a run that only needs space which others use now is retried.

Units: bytes. I/O: files.
"""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

from shared.errors import JobError, RetryableError
from shared.settings import ScratchSettings
from shared.telemetry.log import Logger

_LOCK_NAME = ".lock"
_UNLOCKED_S = 24 * 3600.0  # a folder without a lock file is older than any work
_MIB = 1024 * 1024


class ScratchError(RetryableError):
    """The scratch folder is missing, full, or used by other runs."""


class ScratchFolder:
    """The temporary folder of one piece of work."""

    def __init__(self, scratch: "Scratch", path: Path) -> None:
        self.path = path
        self.reserved_bytes = 0
        self._scratch = scratch

    def reserve(self, size_bytes: int) -> None:
        """Reserve space for a file before it is written.

        Raises:
            JobError: the run would use more than the limit of a run.
            ScratchError: other runs use the space now.
        """
        self._scratch.reserve(self, size_bytes)


class Scratch:
    """The temporary folders of one service."""

    def __init__(self, settings: ScratchSettings, *, name: str) -> None:
        self._settings = settings
        self._prefix = f"segue-{name}-"
        self._reserved_bytes = 0

    @property
    def parent(self) -> Path:
        """Return the folder that contains the temporary folders."""
        return self._settings.folder or Path(tempfile.gettempdir())

    @asynccontextmanager
    async def folder(self) -> AsyncIterator[ScratchFolder]:
        """Yield a new folder; it is removed afterwards, and its space is released.

        Raises:
            ScratchError: the disk is full, or the folder is missing.
        """
        try:
            with (
                tempfile.TemporaryDirectory(prefix=self._prefix, dir=self._settings.folder) as name,
                _locked(Path(name, _LOCK_NAME)),
            ):
                folder = ScratchFolder(self, Path(name))
                try:
                    yield folder
                finally:
                    self._reserved_bytes -= folder.reserved_bytes
        except (TimeoutError, ConnectionError):  # subclasses of OSError, and not the disk's
            raise
        except OSError as error:  # a full disk may have space again
            raise ScratchError(f"the scratch folder: {error.strerror or error}") from error

    def reserve(self, folder: ScratchFolder, size_bytes: int) -> None:
        """Reserve space for `folder`; see `ScratchFolder.reserve`."""
        of_run, limit = folder.reserved_bytes + size_bytes, self._settings.run_bytes_max
        if of_run > limit:
            raise JobError(
                f"the run needs more than {limit // _MIB} MiB of scratch space "
                "(SEGUE_SCRATCH_RUN_BYTES_MAX): use a shorter or smaller video, or fewer scenes",
                code="scratch_limit",
            )
        if self._reserved_bytes + size_bytes > self._settings.bytes_max:
            raise ScratchError(
                f"the scratch folder: {self._reserved_bytes // _MIB} of "
                f"{self._settings.bytes_max // _MIB} MiB (SEGUE_SCRATCH_BYTES_MAX) are in use"
            )
        folder.reserved_bytes += size_bytes
        self._reserved_bytes += size_bytes

    def sweep(self, *, log: Logger) -> int:
        """Remove the folders of processes that were killed; return their number."""
        removed = [path for path in self._own_folders() if _is_abandoned(path)]
        for path in removed:
            shutil.rmtree(path, ignore_errors=True)
        if removed:
            log.info(
                "scratch folders of an earlier process removed",
                action="scratch.swept",
                count=len(removed),
            )
        return len(removed)

    def _own_folders(self) -> Iterator[Path]:
        """Yield the folders with this service's prefix that belong to this user."""
        with suppress(OSError), os.scandir(self.parent) as entries:
            for entry in entries:
                if not entry.name.startswith(self._prefix) or not entry.is_dir(
                    follow_symlinks=False
                ):
                    continue
                with suppress(OSError):
                    if entry.stat(follow_symlinks=False).st_uid == os.getuid():
                        yield Path(entry.path)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock on a new file for as long as this process lives."""
    with path.open("xb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def _is_abandoned(folder: Path) -> bool:
    """Return whether no process works in the folder."""
    try:
        with (folder / _LOCK_NAME).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except FileNotFoundError:  # being created, or left by a version without locks
        with suppress(OSError):
            return time.time() - folder.stat().st_mtime > _UNLOCKED_S  # noqa: TID251 - a file's age
        return False
    except OSError:
        return False
