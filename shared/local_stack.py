"""Running: how the stack of this machine is found by those who use it.

A running stack keeps `stack.json` in its data folder: who it is and where it answers; and
`stack.env`, for its owner's eyes: where its servers are. The files
may outlive its stack (a power cut), so readers believe it only while the process lives. Those
who use a stack that is there for them alone hold a shared lock on `clients.lock`; it stops when
nobody holds one, so that a client that dies leaves no stack behind.

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
_CLAIM_FILE = "stack.lock"
_CLIENTS_FILE = "clients.lock"


class DataDirSettings(SettingsGroup):
    """Where the embedded stack keeps its data."""

    #: jobs, music, PostgreSQL and the stack's own files; None: `segue` in the user's data folder
    data_dir: Path | None = Field(None, validation_alias="SEGUE_DATA_DIR")
    #: the user's data folder; None: `~/.local/share`
    data_home: Path | None = Field(None, validation_alias="XDG_DATA_HOME")

    @property
    def folder(self) -> Path:
        """The data folder, absolute; it need not be there yet."""
        if self.data_dir is not None:
            return self.data_dir.expanduser().absolute()
        home = self.data_home or Path.home() / ".local" / "share"
        return home.absolute() / "segue"


class RunningStack(BaseModel):
    """A stack that answers, or did when it wrote this."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    pid: int = Field(gt=0)
    api_url: str
    provider: str
    started_at: datetime

    @property
    def is_alive(self) -> bool:
        """Whether its process is there; whether it answers is for its `livez` to say."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True  # there, and somebody else's
        return True


def find_stack(folder: Path) -> RunningStack | None:
    """The stack whose data lies in `folder`; None if none runs there."""
    try:
        found = RunningStack.model_validate(json.loads((folder / _STACK_FILE).read_bytes()))
    except (OSError, ValueError, ValidationError):
        return None
    return found if found.is_alive else None


def lock_data_dir(folder: Path) -> int | None:
    """Make `folder` one stack's alone; a handle to close at the end, None: it is another's."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(folder / _CLAIM_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


def is_data_dir_locked(folder: Path) -> bool:
    """Whether a stack runs, starts or stops in `folder`."""
    handle = lock_data_dir(folder)
    if handle is not None:
        os.close(handle)
    return handle is None


def write_stack_files(
    folder: Path, stack: RunningStack, *, environment: Mapping[str, str] | None = None
) -> None:
    """Say in `folder` that `stack` runs, and what `environment` finds its servers."""
    place = folder / _ENVIRONMENT_FILE
    place.unlink(missing_ok=True)
    place.touch(mode=_PRIVATE)  # keys are in it
    lines = [f"{name}={shlex.quote(value)}\n" for name, value in (environment or {}).items()]
    place.write_text("".join(lines))
    half = folder / f"{_STACK_FILE}.half"
    half.write_text(stack.model_dump_json(indent=2) + "\n")
    half.rename(folder / _STACK_FILE)


def read_stack_environment(folder: Path) -> dict[str, str]:
    """The variables that find the servers of the stack in `folder`; empty where none says."""
    try:
        lines = (folder / _ENVIRONMENT_FILE).read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.partition("=") for line in lines)
    return {name: "".join(shlex.split(value)) for name, _, value in pairs}


def remove_stack_files(folder: Path) -> None:
    """Say no longer that a stack runs in `folder`."""
    (folder / _ENVIRONMENT_FILE).unlink(missing_ok=True)
    (folder / _STACK_FILE).unlink(missing_ok=True)


class ClientLock:
    """A held lock on the clients' file of one data folder; closing it lets go."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._handle = os.open(folder / _CLIENTS_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def try_lock_shared(self) -> bool:
        """Hold it as one client of several; False when the stack is about to stop."""
        return self._lock(fcntl.LOCK_SH)

    def try_lock_exclusive(self) -> bool:
        """Hold it alone; False when there are (other) clients."""
        return self._lock(fcntl.LOCK_EX)

    def close(self) -> None:
        """Let go; nothing happens when it was closed before."""
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
    """The clients' lock of `folder`, not yet held; let go at the end."""
    with contextlib.closing(ClientLock(folder)) as lock:
        yield lock
