"""Finds the local stack: its files and locks in the data folder.

A running stack holds a lock on `stack.lock`, and writes `stack.json` (process id, API URL) and
`stack.env` (addresses and keys of its servers, readable by its owner only). The files may outlive
the stack (a power cut), and its process id may then be another's, so they count only while the
lock is held: the kernel releases it with the process. Clients of a stack that was started for them
hold a shared lock on `clients.lock`; the stack stops once no client holds it, so a client that dies
leaves no stack behind.

I/O: files of the data folder.
"""

import contextlib
import fcntl
import json
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.settings import SettingsGroup

_STACK_FILE = "stack.json"
_ENVIRONMENT_FILE = "stack.env"
_PRIVATE = 0o600
STACK_LOCK = "stack.lock"
_CLIENTS_FILE = "clients.lock"


class DataDirSettings(SettingsGroup):
    """The data folder of the local stack."""

    #: jobs, media, PostgreSQL and the stack's files; None: `segue` in the user's data folder
    data_dir: Path | None = Field(None, validation_alias="SEGUE_DATA_DIR")
    #: the user's data folder; None: `~/.local/share`
    data_home: Path | None = Field(None, validation_alias="XDG_DATA_HOME")

    @property
    def folder(self) -> Path:
        """Return the data folder, absolute; it may not exist yet."""
        if self.data_dir is not None:
            return self.data_dir.expanduser().absolute()
        home = self.data_home or Path.home() / ".local" / "share"
        return home.absolute() / "segue"


class RunningStack(BaseModel):
    """The contents of `stack.json`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    pid: int = Field(gt=0)
    api_url: str
    provider: str
    started_at: datetime


def find_stack(folder: Path) -> RunningStack | None:
    """Return the stack that runs in `folder`; None without one."""
    try:
        stack = RunningStack.model_validate(json.loads((folder / _STACK_FILE).read_bytes()))
    except (OSError, ValueError, ValidationError):
        return None
    try:
        return stack if is_data_dir_locked(folder) else None
    except OSError:  # another user's folder
        return stack if _is_process(stack.pid) else None


def lock_data_dir(folder: Path) -> int | None:
    """Lock `folder` for one stack; return a handle to close, None if it is locked."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(folder / STACK_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


def is_data_dir_locked(folder: Path) -> bool:
    """Return whether a stack runs, starts or stops in `folder`.

    The shared lock does not disturb another process that checks it.
    """
    try:
        handle = os.open(folder / STACK_LOCK, os.O_RDWR | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def write_stack_files(
    folder: Path, stack: RunningStack, *, environment: Mapping[str, str] | None = None
) -> None:
    """Write the files of a running stack; `environment` finds its servers."""
    path = folder / _ENVIRONMENT_FILE
    path.unlink(missing_ok=True)
    path.touch(mode=_PRIVATE)  # it holds keys
    lines = [f"{name}={shlex.quote(value)}\n" for name, value in (environment or {}).items()]
    path.write_text("".join(lines))
    temporary = folder / f"{_STACK_FILE}.half"
    temporary.write_text(stack.model_dump_json(indent=2) + "\n")
    temporary.rename(folder / _STACK_FILE)


def read_stack_environment(folder: Path) -> dict[str, str]:
    """Return the variables of the servers of the stack in `folder`; empty without any."""
    try:
        lines = (folder / _ENVIRONMENT_FILE).read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.partition("=") for line in lines)
    return {name: "".join(shlex.split(value)) for name, _, value in pairs}


def remove_stack_files(folder: Path) -> None:
    """Remove the files of a stopped stack."""
    (folder / _ENVIRONMENT_FILE).unlink(missing_ok=True)
    (folder / _STACK_FILE).unlink(missing_ok=True)


def _is_process(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # another user's process
    return True


class ClientLock:
    """A lock on `clients.lock` of one data folder; closing it releases it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._handle = os.open(folder / _CLIENTS_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def try_lock_shared(self) -> bool:
        """Lock it as one of several clients; return False if the stack is stopping."""
        return self._lock(fcntl.LOCK_SH)

    def try_lock_exclusive(self) -> bool:
        """Lock it exclusively; return False if there are other clients."""
        return self._lock(fcntl.LOCK_EX)

    def close(self) -> None:
        """Release the lock; no effect if it is closed."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _lock(self, kind: int) -> bool:
        try:
            fcntl.flock(self._handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@contextmanager
def client_lock(folder: Path) -> Iterator[ClientLock]:
    """Yield the clients' lock of `folder`, not locked yet; release it at the end."""
    with contextlib.closing(ClientLock(folder)) as lock:
        yield lock
