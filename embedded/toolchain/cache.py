"""Tool cache: things fetched or built once per user, under a name that says what went in.

A place is filled beside itself and renamed, under a lock that all processes share; so it is
whole or not there, and two test runs that start together build it once.

I/O: `$XDG_CACHE_HOME/segue` or `~/.cache/segue`.
"""

import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import Field

from shared.errors import ServerStartError
from shared.settings import SettingsGroup

_LOCK_POLL_S = 0.2
_DIGEST_CHARS = 12


class ToolSettings(SettingsGroup):
    """Where the tools for native servers are, when not on PATH."""

    #: a Java installation; None: the `java` on PATH
    java_home: Path | None = Field(None, validation_alias="JAVA_HOME")
    #: a MinIO server's binary; None: one is built by Go
    minio_binary: Path | None = Field(None, validation_alias="MINIO_BIN")
    #: the user's cache folder; None: `~/.cache`
    cache_home: Path | None = Field(None, validation_alias="XDG_CACHE_HOME")


def cached_path(settings: ToolSettings, name: str, *ingredients: bytes) -> Path:
    """Where the tool made from these ingredients lies, or would."""
    digest = hashlib.sha256()
    for one in ingredients:
        digest.update(len(one).to_bytes(8, "big") + one)
    home = settings.cache_home or Path.home() / ".cache"
    return home / "segue" / f"{name}-{digest.hexdigest()[:_DIGEST_CHARS]}"


def fill(place: Path, make: Callable[[Path], None], *, deadline_s: float) -> Path:
    """`place`, a folder made by `make` unless it is there already.

    Raises:
        ServerStartError: another process has been making it for longer than `deadline_s`.
    """
    if place.is_dir():
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    with _locked(place.with_name(place.name + ".lock"), deadline_s=deadline_s):
        if not place.is_dir():
            half = Path(tempfile.mkdtemp(prefix=f"{place.name}.half-", dir=place.parent))
            try:
                make(half)
                half.rename(place)
            finally:
                shutil.rmtree(half, ignore_errors=True)
    return place


@contextmanager
def _locked(path: Path, *, deadline_s: float) -> Iterator[None]:
    end = time.monotonic() + deadline_s
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > end:
                    raise ServerStartError(f"{path}: held for {deadline_s:g} s") from error
                time.sleep(_LOCK_POLL_S)
        yield
    finally:
        os.close(handle)  # lets the lock go
