"""Runs the S3 server MinIO, built from its Go module, without Docker.

The module is pinned in `toolchain/pins/minio`, a Go module that is never tidied. The binary is
cached per user, under a hash of its inputs. `MINIO_BIN` is another binary.

I/O: processes, files, a port of 127.0.0.1; the first start takes minutes and the Go module proxy.
"""

import secrets
import shutil
from pathlib import Path

import httpx
from pydantic import SecretStr

from embedded.servers.process import Server, run_tool
from embedded.toolchain import cache, golang
from embedded.toolchain.cache import ToolSettings
from shared.errors import ServerStartError
from shared.http.server import free_ports
from shared.settings import StoreSettings

RELEASE = "2026-02-12T20-18-48Z"
COMMIT = "7aac2a2c5b7c"
_MODULE = Path(__file__).parents[1] / "toolchain/pins/minio"
_PACKAGE = "github.com/minio/minio"
_BUILD_S = 1800.0  # 169 to 281 s on two cores with nothing cached
_TOOL_S = 30.0
_READY_S = 30.0  # 0.4 s here
_ANSWER_S = 1.0
_ACCESS_KEY = "segue-native"


class NativeMinio:
    """A server on `folder`; MinIO does not lock it against a second server."""

    def __init__(self, folder: Path, settings: ToolSettings) -> None:
        self.folder = folder.resolve()
        self._settings = settings
        self.server = Server("MinIO", log=self.folder / "minio.log")

    @staticmethod
    def is_built(settings: ToolSettings) -> bool:
        """Return whether a start builds nothing."""
        if settings.minio_binary is not None:
            return True
        return golang.is_installed(settings) and _cache_folder(settings).is_dir()

    @staticmethod
    def available(settings: ToolSettings) -> str | None:
        """Return why it cannot start here; None if it can, perhaps after a build."""
        if settings.minio_binary is not None:
            is_program = shutil.which(settings.minio_binary) is not None
            return None if is_program else f"MINIO_BIN: no program at {settings.minio_binary}"
        return None

    @staticmethod
    def build(settings: ToolSettings) -> Path:
        """Build the server unless it is cached or named; return the binary.

        Raises:
            ServerStartError: no usable Go, or the build failed.
        """
        if settings.minio_binary is not None:
            return settings.minio_binary
        go = golang.go_program(settings)

        def build(folder: Path) -> None:
            stamps = {
                "ReleaseTag": f"DEVELOPMENT.{RELEASE}",
                "CommitID": COMMIT,
                "ShortCommitID": COMMIT,
            }
            values = (f"-X {_PACKAGE}/cmd.{name}={stamp}" for name, stamp in stamps.items())
            flags = " ".join(["-s -w", *values])
            form: list[str | Path] = ["-mod=readonly", "-trimpath", "-ldflags", flags]
            run_tool(
                "building MinIO",
                [go, "build", *form, "-o", folder / "minio", _PACKAGE],
                timeout_s=_BUILD_S,
                environment={"CGO_ENABLED": "0", "GOFLAGS": ""},  # the user's flags could change it
                folder=_MODULE,
            )

        return cache.fill(_cache_folder(settings), build, deadline_s=_BUILD_S) / "minio"

    def start(self, *, previous: StoreSettings | None = None) -> StoreSettings:
        """Start with new keys; return the settings of a client.

        `previous`: the settings of the last start, for clients that still use them.

        Raises:
            ServerStartError: it did not start.
        """
        if reason := self.available(self._settings):
            raise ServerStartError(f"MinIO: {reason}")
        binary = self.build(self._settings)
        settings = previous or StoreSettings(
            folder=None,
            endpoint=f"http://127.0.0.1:{free_ports(1)[0]}",
            access_key=SecretStr(_ACCESS_KEY),
            secret_key=SecretStr(secrets.token_urlsafe(24)),
        )
        address = settings.endpoint.removeprefix("http://")
        self.server.start(
            [binary, "server", self.folder / "data", "--address", address, "--quiet"],
            answers=lambda: is_healthy(settings.endpoint),
            ready_s=_READY_S,
            environment={
                "MINIO_ROOT_USER": settings.access_key.get_secret_value(),
                "MINIO_ROOT_PASSWORD": settings.secret_key.get_secret_value(),
                "MINIO_BROWSER": "off",  # its console would listen on all interfaces
            },
        )
        return settings

    def stop(self) -> None:
        """Stop the server; idempotent."""
        self.server.stop()


def _cache_folder(settings: ToolSettings) -> Path:
    inputs = [(_MODULE / name).read_bytes() for name in ("go.mod", "go.sum")]
    go = golang.go_program(settings)
    go_version = run_tool("go env", [go, "env", "GOVERSION"], timeout_s=_TOOL_S, folder=_MODULE)
    return cache.cached_path(settings, "minio", *inputs, go_version.encode())


def is_healthy(url: str) -> bool:
    """Return whether the server at this URL can store objects."""
    try:
        # /live and /ready succeed before the server can store objects
        response = httpx.get(f"{url}/minio/health/cluster", timeout=_ANSWER_S, trust_env=False)
    except httpx.TransportError:
        return False
    return response.is_success
