"""Native MinIO: the S3 server built by Go from its published module, for tests without Docker.

The module is pinned in `tools/minio`, a module of its own that is never tidied. The binary is
kept per user, under a name that hashes what it was built from. `MINIO_BIN` names another.

I/O: processes, files, a port of 127.0.0.1; the Go module proxy and minutes of work the first time.
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
    """A server on `folder`, which is its alone: two on one folder would not notice each other."""

    def __init__(self, folder: Path, settings: ToolSettings) -> None:
        self.folder = folder.resolve()
        self._settings = settings
        self.server = Server("MinIO", log=self.folder / "minio.log")

    @staticmethod
    def is_built(settings: ToolSettings) -> bool:
        """Whether a start would find the binary ready."""
        if settings.minio_binary is not None:
            return True
        return golang.is_there(settings) and _place(settings).is_dir()

    @staticmethod
    def available(settings: ToolSettings) -> str | None:
        """None if it can be started here, perhaps after a build of minutes; otherwise why not."""
        if settings.minio_binary is not None:
            found = shutil.which(settings.minio_binary)
            return None if found else f"MINIO_BIN: no program at {settings.minio_binary}"
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

        return cache.fill(_place(settings), build, deadline_s=_BUILD_S) / "minio"

    def start(self, *, again: StoreSettings | None = None) -> StoreSettings:
        """Start with keys of its own making; what a client needs to know.

        `again`: what clients of the one before know, and go on using.

        Raises:
            ServerStartError: why it did not.
        """
        if why_not := self.available(self._settings):
            raise ServerStartError(f"MinIO: {why_not}")
        binary = self.build(self._settings)
        told = again or StoreSettings(
            folder=None,
            endpoint=f"http://127.0.0.1:{free_ports(1)[0]}",
            access_key=SecretStr(_ACCESS_KEY),
            secret_key=SecretStr(secrets.token_urlsafe(24)),
        )
        address = told.endpoint.removeprefix("http://")
        self.server.start(
            [binary, "server", self.folder / "data", "--address", address, "--quiet"],
            answers=lambda: answers(told.endpoint),
            ready_s=_READY_S,
            environment={
                "MINIO_ROOT_USER": told.access_key.get_secret_value(),
                "MINIO_ROOT_PASSWORD": told.secret_key.get_secret_value(),
                "MINIO_BROWSER": "off",  # its console would listen beyond loopback
            },
        )
        return told

    def stop(self) -> None:
        """End it; nothing happens when it does not run."""
        self.server.stop()


def _place(settings: ToolSettings) -> Path:
    ingredients = [(_MODULE / name).read_bytes() for name in ("go.mod", "go.sum")]
    go = golang.go_program(settings)
    go_version = run_tool("go env", [go, "env", "GOVERSION"], timeout_s=_TOOL_S, folder=_MODULE)
    return cache.cached_path(settings, "minio", *ingredients, go_version.encode())


def answers(url: str) -> bool:
    """Whether a server at this address can store objects."""
    try:
        # /live and /ready say yes before it can serve
        answer = httpx.get(f"{url}/minio/health/cluster", timeout=_ANSWER_S, trust_env=False)
    except httpx.TransportError:
        return False
    return answer.is_success
