"""Locks the data folder of a stack, and stores its secret.

Contents: `stack.lock` and `stack.json` (the running stack), `clients.lock`
(`shared/local_stack.py`), `segment-keys` (encrypts the links of segments), `objects/` (media),
`postgres/` (jobs).

I/O: files.
"""

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.errors import SettingsError
from shared.local_stack import find_stack, lock_data_dir

_SECRET_BYTES = 32
_PRIVATE = 0o600
_LOCK_TRIES = 3
_LOCK_PAUSE_S = 0.05
#: what the servers need to start: PostgreSQL writes 40 MB, Kafka reserves its index files
_EMBEDDED_MB, _NATIVE_MB, _RESTART_MB = 128, 384, 32


@contextmanager
def locked_data_dir(folder: Path) -> Iterator[Path]:
    """Create `folder` if needed and hold its lock until the end.

    Raises:
        SettingsError: it cannot be created, or another stack runs on it.
    """
    try:
        handle = _lock_with_retries(folder)
    except OSError as error:
        raise SettingsError(
            "SEGUE_DATA_DIR", f"{folder} cannot be used ({error.strerror}); set another folder"
        ) from error
    if handle is None:
        raise SettingsError("SEGUE_DATA_DIR", _in_use_message(folder))
    try:
        yield folder
    finally:
        os.close(handle)


def check_space(folder: Path, *, is_native: bool, free_bytes: int) -> None:
    """Raise if the disk of `folder` has no room for the servers' files.

    Raises:
        SettingsError: the message has the free and the needed space.
    """
    is_new = not (folder / ("native" if is_native else "postgres")).exists()
    needed_mb = (_NATIVE_MB if is_native else _EMBEDDED_MB) if is_new else _RESTART_MB
    free_mb = free_bytes // 1024**2
    if free_mb < needed_mb:
        raise SettingsError(
            "SEGUE_DATA_DIR",
            f"{folder} has {free_mb} MB free, and {needed_mb} MB are needed; free some space, or "
            "set a folder on another disk",
        )


def segment_keys(folder: Path) -> str:
    """Return the secret of this folder's segment links; the first call creates it.

    Raises:
        SettingsError: it cannot be read or written.
    """
    path = folder / "segment-keys"
    try:
        if not path.exists():
            half = folder / "segment-keys.half"
            half.unlink(missing_ok=True)
            half.touch(mode=_PRIVATE)
            half.write_text(secrets.token_urlsafe(_SECRET_BYTES))
            half.rename(path)
        return path.read_text().strip()
    except OSError as error:
        raise SettingsError("SEGUE_SEGMENT_KEYS", f"{path}: {error.strerror}") from error


def _lock_with_retries(folder: Path) -> int | None:
    """Return the lock's handle; None if it is held.

    A process that checks whether a stack runs holds it for an instant.
    """
    for _ in range(_LOCK_TRIES):
        if (handle := lock_data_dir(folder)) is not None:
            return handle
        time.sleep(_LOCK_PAUSE_S)
    return None


def _in_use_message(folder: Path) -> str:
    stack = find_stack(folder)
    if stack is None:
        return (
            f"another stack runs on {folder} (it is starting or stopping); run the same command "
            "again in a few seconds, or set another folder (--data-dir)"
        )
    return (
        f"another stack runs on {folder}: {stack.api_url} (process {stack.pid}, provider "
        f"{stack.provider}); use it (segue score, segue watch), stop it (kill {stack.pid}), or "
        "start a second one with another folder and port: segue up --data-dir FOLDER --port 0"
    )
