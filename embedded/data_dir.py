"""Home: the data folder of one stack: claimed by one at a time, with the secrets made there once.

What lies in it: `stack.lock` and `stack.json` (who runs), `clients.lock` (`shared/local_stack.py`),
`segment-keys` (seals the links to stored segments), `objects/` (media), `postgres/` (jobs).

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
_CLAIM_TRIES = 3
_CLAIM_PAUSE_S = 0.05


@contextmanager
def claimed(folder: Path) -> Iterator[Path]:
    """`folder`, made if missing, and ours alone until the end.

    Raises:
        SettingsError: it cannot be made, or another stack runs on it.
    """
    try:
        handle = _claim_patiently(folder)
    except OSError as error:
        raise SettingsError(
            "SEGUE_DATA_DIR", f"{folder} cannot be used ({error.strerror}): name another folder"
        ) from error
    if handle is None:
        raise SettingsError("SEGUE_DATA_DIR", _occupied(folder))
    try:
        yield folder
    finally:
        os.close(handle)


def segment_keys(folder: Path) -> str:
    """The secret of this folder's segment links; made at the first call and kept.

    Raises:
        SettingsError: it cannot be read or written.
    """
    place = folder / "segment-keys"
    try:
        if not place.exists():
            half = folder / "segment-keys.half"
            half.unlink(missing_ok=True)
            half.touch(mode=_PRIVATE)
            half.write_text(secrets.token_urlsafe(_SECRET_BYTES))
            half.rename(place)
        return place.read_text().strip()
    except OSError as error:
        raise SettingsError("SEGUE_SEGMENT_KEYS", f"{place}: {error.strerror}") from error


def _claim_patiently(folder: Path) -> int | None:
    """`claim`, tried again: whoever looks whether a stack is there holds it for an instant."""
    for _ in range(_CLAIM_TRIES):
        if (handle := lock_data_dir(folder)) is not None:
            return handle
        time.sleep(_CLAIM_PAUSE_S)
    return None


def _occupied(folder: Path) -> str:
    other = find_stack(folder)
    who = f"process {other.pid}, {other.api_url}" if other else "it is starting or stopping"
    return f"another stack runs on {folder} ({who}): stop it, or name another folder"
