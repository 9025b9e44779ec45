"""The S3 server of a native stack: MinIO or versitygw (ADR-0027).

The objects of one are not readable for the other, so a data folder keeps the server that it
started with.

I/O: processes, files, a port of 127.0.0.1; the first start builds the server, in minutes.
"""

import secrets
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import httpx
from pydantic import SecretStr
from typing_extensions import override

from embedded.servers.process import Server
from embedded.toolchain.cache import NativeStoreName, ToolSettings
from embedded.toolchain.golang import GoProgram
from shared.errors import ServerStartError
from shared.http.server import free_ports
from shared.settings import StoreSettings

DEFAULT: NativeStoreName = "minio"
_READY_S = 30.0  # 0.4 s here
_ANSWER_S = 1.0
_ACCESS_KEY = "segue-native"


class NativeStore(ABC):
    """A server on `folder`; neither locks it against a second server."""

    label: ClassVar[str]  #: of messages
    release: ClassVar[str]
    build_time: ClassVar[str]  #: on two cores, with nothing cached
    program: ClassVar[GoProgram]
    health_path: ClassVar[str]

    def __init__(self, folder: Path, settings: ToolSettings) -> None:
        self.folder = folder.resolve()
        self._settings = settings
        self.server = Server(self.label, log=self.folder / f"{self.program.name}.log")

    @staticmethod
    @abstractmethod
    def given_binary(settings: ToolSettings) -> tuple[str, Path | None]:
        """Return the variable of a binary, and its value."""

    @abstractmethod
    def command(self, binary: Path, address: str, region: str) -> Sequence[str | Path]:
        """Return the command that serves `folder` at `address`."""

    @abstractmethod
    def environment(self, settings: StoreSettings) -> Mapping[str, str]:
        """Return the server's variables, the account among them."""

    @classmethod
    def is_built(cls, settings: ToolSettings) -> bool:
        """Return whether a start builds nothing."""
        _, binary = cls.given_binary(settings)
        return binary is not None or cls.program.is_built(settings)

    @classmethod
    def available(cls, settings: ToolSettings) -> str | None:
        """Return why it cannot start here; None if it can, perhaps after a build."""
        variable, binary = cls.given_binary(settings)
        if binary is None or shutil.which(binary) is not None:
            return None
        return f"{variable}: no program at {binary}"

    @classmethod
    def build(cls, settings: ToolSettings) -> Path:
        """Build the server unless it is cached or named; return the binary.

        Raises:
            ServerStartError: no usable Go, or the build failed.
        """
        _, binary = cls.given_binary(settings)
        return binary if binary is not None else cls.program.build(settings)

    @classmethod
    def is_healthy(cls, url: str) -> bool:
        """Return whether the server at this URL can store objects."""
        try:
            response = httpx.get(f"{url}{cls.health_path}", timeout=_ANSWER_S, trust_env=False)
        except httpx.TransportError:
            return False
        return response.is_success

    def start(self, *, previous: StoreSettings | None = None) -> StoreSettings:
        """Start with new keys; return the settings of a client.

        `previous`: the settings of the last start, for clients that still use them.

        Raises:
            ServerStartError: it did not start.
        """
        if reason := self.available(self._settings):
            raise ServerStartError(f"{self.label}: {reason}")
        binary = self.build(self._settings)
        settings = previous or StoreSettings(
            folder=None,
            endpoint=f"http://127.0.0.1:{free_ports(1)[0]}",
            access_key=SecretStr(_ACCESS_KEY),
            secret_key=SecretStr(secrets.token_urlsafe(24)),
            session_token=SecretStr(""),
            ca_file=None,
        )
        address = settings.endpoint.removeprefix("http://")
        self.server.start(
            self.command(binary, address, settings.region),
            answers=lambda: self.is_healthy(settings.endpoint),
            ready_s=_READY_S,
            environment=self.environment(settings),
        )
        return settings

    def stop(self) -> None:
        """Stop the server; idempotent."""
        self.server.stop()


class NativeMinio(NativeStore):
    """MinIO, whose published images and releases have ended."""

    label = "MinIO"
    release = "2026-02-12T20-18-48Z"
    build_time = "3 to 5 minutes"
    program = GoProgram(
        name="minio",
        package="github.com/minio/minio",
        stamps=(
            "github.com/minio/minio/cmd.ReleaseTag=DEVELOPMENT.2026-02-12T20-18-48Z",
            "github.com/minio/minio/cmd.CommitID=7aac2a2c5b7c",
            "github.com/minio/minio/cmd.ShortCommitID=7aac2a2c5b7c",
        ),
    )
    health_path = "/minio/health/cluster"  # /live and /ready succeed too early

    @staticmethod
    @override
    def given_binary(settings: ToolSettings) -> tuple[str, Path | None]:
        return "MINIO_BIN", settings.minio_binary

    @override
    def command(self, binary: Path, address: str, region: str) -> Sequence[str | Path]:
        return [binary, "server", self.folder / "data", "--address", address, "--quiet"]

    @override
    def environment(self, settings: StoreSettings) -> Mapping[str, str]:
        return {
            "MINIO_ROOT_USER": settings.access_key.get_secret_value(),
            "MINIO_ROOT_PASSWORD": settings.secret_key.get_secret_value(),
            "MINIO_BROWSER": "off",  # its console would listen on all interfaces
        }


class NativeVersitygw(NativeStore):
    """versitygw, which stores objects as files with extended attributes."""

    label = "versitygw"
    release = "1.8.0"
    build_time = "about a minute"
    program = GoProgram(
        name="versitygw",
        package="github.com/versity/versitygw/cmd/versitygw",
        stamps=("main.Version=v1.8.0",),
        go_min=(1, 25),
    )
    health_path = "/segue-health"  # `--health` below

    @staticmethod
    @override
    def given_binary(settings: ToolSettings) -> tuple[str, Path | None]:
        return "VERSITYGW_BIN", settings.versitygw_binary

    @override
    def command(self, binary: Path, address: str, region: str) -> Sequence[str | Path]:
        data = self.folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        options = ["--port", address, "--region", region, "--health", self.health_path, "--quiet"]
        return [binary, *options, "--keep-alive", "posix", data]

    @override
    def environment(self, settings: StoreSettings) -> Mapping[str, str]:
        return {
            "ROOT_ACCESS_KEY": settings.access_key.get_secret_value(),
            "ROOT_SECRET_KEY": settings.secret_key.get_secret_value(),
        }


STORES: Mapping[NativeStoreName, type[NativeStore]] = {
    "minio": NativeMinio,
    "versitygw": NativeVersitygw,
}


def native_store(folder: Path, tools: ToolSettings) -> NativeStore:
    """Return the server of the data in `folder`, or else the one that `tools` choose.

    Raises:
        ServerStartError: they choose another server than that of the data.
    """
    wanted = tools.native_store
    present = [name for name in STORES if (folder / name / "data").is_dir()]
    if wanted is not None and present and wanted not in present:
        raise ServerStartError(
            f"SEGUE_NATIVE_STORE is {wanted}, but the media below {folder} are in {present[0]}, "
            f"and {wanted} cannot read them; unset it, or set another data folder (SEGUE_DATA_DIR)"
        )
    name = wanted or (present[0] if present else DEFAULT)
    return STORES[name](folder / name, tools)
