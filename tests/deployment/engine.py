"""A Docker engine of its own, on a temporary data folder.

Runs Debian's engine as root on its own socket, without a bridge and firewall rules, so containers
share this machine's network. It changes nothing outside the folder; an engine that already runs
here is not touched.

Where only package registries are reachable, no image can be pulled. The base image is therefore
made from Debian's packages, with the name that the Dockerfile uses: a stand-in for the official
image.

I/O: processes, mounts, Debian's packages, `~/.cache/segue`.
"""

import inspect
import json
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from embedded.servers.process import Server, run_tool
from embedded.toolchain import cache
from embedded.toolchain.cache import ToolSettings
from embedded.toolchain.golang import go_program
from shared.errors import ServerStartError

SUITE = "bookworm"  # its Python is 3.11, as in the Dockerfile
_INCLUDED = "ca-certificates,python3,python3-venv,python3-pip,python-is-python3"
_CERTIFICATES = Path("etc/ssl/certs/ca-certificates.crt")
_PACKAGES = {"dockerd": "docker.io", "debootstrap": "debootstrap"}
_COMPOSE = Path(__file__).parent / "compose"
_COMPOSE_PACKAGE = "github.com/docker/compose/v5"
_INSTALL_S = 600.0
_BUILD_S = 900.0
_START_S = 60.0
_STOP_S = 60.0
_CALL_S = 120.0


class EngineUnavailableError(Exception):
    """This machine cannot run an engine; the message says why and what to do."""


def install() -> None:
    """Install the missing Debian packages.

    Raises:
        EngineUnavailableError: a package is missing and cannot be installed.
    """
    if os.geteuid() != 0:
        raise EngineUnavailableError("a Docker engine needs root; run this as root")
    missing = [package for tool, package in _PACKAGES.items() if shutil.which(tool) is None]
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise EngineUnavailableError(
            f"missing: {', '.join(missing)}; install them (there is no apt-get here)"
        )
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    run_tool("apt-get update", ["apt-get", "update", "-q"], timeout_s=_INSTALL_S)
    get = ["apt-get", "install", "-q", "-y", "--no-install-recommends", *missing]
    run_tool("apt-get install", get, timeout_s=_INSTALL_S, environment=quiet)


def base_image(settings: ToolSettings) -> Path:
    """Return the tar of the stand-in base image, built once per user."""
    certificates = Path("/", _CERTIFICATES).read_bytes()  # for pip in the image
    recipe = f"{SUITE} {_INCLUDED} {inspect.getsource(_fill_base)}".encode()
    place = cache.cached_path(settings, "base-image", recipe, certificates)
    return cache.fill(place, _make_base, deadline_s=_BUILD_S) / "base.tar"


def compose_binary(settings: ToolSettings) -> Path:
    """Return docker-compose, built from its published Go module once per user."""
    pins = [(_COMPOSE / name).read_bytes() for name in ("go.mod", "go.sum")]
    go = go_program(settings)
    version = run_tool("go version", [go, "version"], timeout_s=_CALL_S, folder=_COMPOSE)
    place = cache.cached_path(settings, "docker-compose", *pins, version.encode())
    build = partial(_build_compose, go)
    return cache.fill(place, build, deadline_s=_BUILD_S) / "docker-compose"


class Engine:
    """A Docker engine with its data in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._socket = folder / "engine.sock"
        self._server = Server("the Docker engine", log=folder / "engine.log", stop_s=_STOP_S)
        # Debian's client has the same builder as its engine
        self._client = "/usr/bin/docker"

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a client."""
        return {"DOCKER_HOST": f"unix://{self._socket}", "DOCKER_BUILDKIT": "1"}

    def start(self) -> None:
        """Start the engine and wait until it responds.

        Raises:
            EngineUnavailableError: it does not start.
        """
        daemon = shutil.which("dockerd")
        assert daemon is not None, "install() comes first"
        places: list[str | Path] = [
            "--data-root",
            self.folder / "data",
            "--exec-root",
            self.folder / "exec",
        ]
        places += ["--pidfile", self.folder / "engine.pid", "--host", f"unix://{self._socket}"]
        try:
            self._server.start(
                [daemon, "--bridge=none", "--iptables=false", "--ip6tables=false", *places],
                answers=self._answers,
                ready_s=_START_S,
            )
        except ServerStartError as error:
            raise EngineUnavailableError(str(error)) from error

    def stop(self) -> None:
        """Stop the engine and its containers, and unmount its folders."""
        self._server.stop()
        unmount_below(self.folder)

    def call(self, *arguments: str | Path, timeout_s: float = _CALL_S) -> str:
        """Run a docker command; return its output.

        Raises:
            ServerStartError: the command failed; the message has its output.
        """
        return run_tool(
            f"docker {arguments[0]}",
            [self._client, *arguments],
            timeout_s=timeout_s,
            environment=self.environment,
        )

    def inspect(self, container: str) -> dict[str, Any]:
        """Return the details of a container."""
        details: list[dict[str, Any]] = json.loads(self.call("inspect", container))
        return details[0]

    def kill_process(self, container: str) -> None:
        """Send SIGKILL to the container's main process."""
        os.kill(self.inspect(container)["State"]["Pid"], signal.SIGKILL)

    def _answers(self) -> bool:
        try:
            self.call("info")
        except ServerStartError:
            return False
        return True


class Compose:
    """Runs compose files on an engine."""

    def __init__(self, binary: Path, engine: Engine, *, files: Sequence[Path], env: Path) -> None:
        self._engine = engine
        self._head: list[str | Path] = [binary, "--project-name", "segue-proof", "--env-file", env]
        for file in files:
            self._head += ["-f", file]

    def call(
        self, *arguments: str, timeout_s: float = _CALL_S, more: Mapping[str, str] | None = None
    ) -> str:
        """Run docker-compose; return its output.

        Raises:
            ServerStartError: the command failed; the message has its output.
        """
        return run_tool(
            f"docker-compose {' '.join(arguments)}",
            [*self._head, *arguments],
            timeout_s=timeout_s,
            environment={**self._engine.environment, **(more or {})},
        )


def unmount_below(folder: Path) -> None:
    """Unmount everything in `folder`, so that removing it removes nothing else."""
    inside = f"{folder}{os.sep}"
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    mounts = [line.split()[4] for line in lines]
    for place in sorted((mount for mount in mounts if mount.startswith(inside)), reverse=True):
        subprocess.run(["umount", "-l", place], check=False, timeout=_CALL_S)


def _make_base(folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="segue-base-", ignore_cleanup_errors=True) as place:
        root = Path(place, "root")
        try:
            _fill_base(root)
            with tarfile.open(folder / "base.tar", "w") as tar:
                tar.add(root, arcname=".")
        finally:
            unmount_below(root)  # debootstrap mounts /proc there and may have been interrupted


def _fill_base(root: Path) -> None:
    options = ["--variant=minbase", f"--include={_INCLUDED}"]
    run_tool("debootstrap", ["debootstrap", *options, SUITE, root], timeout_s=_BUILD_S)
    shutil.copy(Path("/", _CERTIFICATES), root / _CERTIFICATES)
    for marker in root.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
        marker.unlink()
    for name, target in {"python": "python3", "pip": "pip3"}.items():
        (root / "usr/local/bin" / name).symlink_to(f"/usr/bin/{target}")
    for package in root.glob("var/cache/apt/archives/*.deb"):
        package.unlink()


def _build_compose(go: Path, folder: Path) -> None:
    flags = f"-s -w -X {_COMPOSE_PACKAGE}/internal.Version={_compose_version()}"
    build_flags = ["-mod=readonly", "-trimpath", "-ldflags", flags]
    run_tool(
        "building docker-compose",
        [go, "build", *build_flags, "-o", folder / "docker-compose", f"{_COMPOSE_PACKAGE}/cmd"],
        timeout_s=_BUILD_S,
        environment={"CGO_ENABLED": "0", "GOFLAGS": ""},
        folder=_COMPOSE,
    )


def _compose_version() -> str:
    lines = (_COMPOSE / "go.mod").read_text(encoding="utf-8").splitlines()
    return next(line.split()[1] for line in lines if line.strip().startswith(_COMPOSE_PACKAGE))
