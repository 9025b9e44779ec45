"""Caches fetched and built tools per user, under a hash of their inputs.

A folder is filled under a temporary name and renamed, under a lock that all processes share: so
it is complete or missing, and parallel test runs build it once.

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
from typing import Literal

from pydantic import Field

from shared.errors import ServerStartError
from shared.settings import SettingsGroup

NativeStoreName = Literal["minio", "versitygw"]  #: described in `servers/object_store.py`
_LOCK_POLL_S = 0.2
_DIGEST_CHARS = 12


class ToolSettings(SettingsGroup):
    """Locations of the tools for native servers that are not on PATH."""

    #: a Java installation; None: the `java` on PATH
    java_home: Path | None = Field(None, validation_alias="JAVA_HOME")
    #: a MinIO binary; None: one is built with Go
    minio_binary: Path | None = Field(None, validation_alias="MINIO_BIN")
    #: a versitygw binary; None: one is built with Go
    versitygw_binary: Path | None = Field(None, validation_alias="VERSITYGW_BIN")
    #: the S3 server of a native stack; None: that of its data folder, or the default
    native_store: NativeStoreName | None = Field(None, validation_alias="SEGUE_NATIVE_STORE")
    #: the user's cache folder; None: `~/.cache`
    cache_home: Path | None = Field(None, validation_alias="XDG_CACHE_HOME")


def cached_path(settings: ToolSettings, name: str, *inputs: bytes) -> Path:
    """Return the cache folder of a tool with these inputs."""
    digest = hashlib.sha256()
    for data in inputs:
        digest.update(len(data).to_bytes(8, "big") + data)
    cache_home = settings.cache_home or Path.home() / ".cache"
    return cache_home / "segue" / f"{name}-{digest.hexdigest()[:_DIGEST_CHARS]}"


def fill(folder: Path, make: Callable[[Path], None], *, deadline_s: float) -> Path:
    """Return `folder`; if it does not exist, `make` fills it first.

    Raises:
        ServerStartError: another process has held the lock for longer than `deadline_s`.
    """
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_name(folder.name + ".lock"), deadline_s=deadline_s):
        if not folder.is_dir():
            half = Path(tempfile.mkdtemp(prefix=f"{folder.name}.half-", dir=folder.parent))
            try:
                make(half)
                half.rename(folder)
            finally:
                shutil.rmtree(half, ignore_errors=True)
    return folder


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
                    raise ServerStartError(
                        f"{path}: locked by another process for {deadline_s:g} s"
                    ) from error
                time.sleep(_LOCK_POLL_S)
        yield
    finally:
        os.close(handle)  # releases the lock
