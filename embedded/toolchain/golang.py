"""Builds programs from Go modules, with the Go on PATH or one from a wheel.

Each program has a module of its own in `pins/<name>`, which is never tidied. A binary is cached per
user, under a hash of its inputs.

I/O: processes, files; the package registry and the Go module proxy at the first use.
"""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from embedded.servers.process import run_tool
from embedded.toolchain import cache, wheels
from embedded.toolchain.cache import ToolSettings
from shared.errors import ServerStartError

GO_MIN = (1, 24)  # for most programs
_PINS = Path(__file__).parent / "pins"
_WHEEL = "go"
_IN_WHEEL = Path("go", "bin", "go")
_TOOL_S = 30.0
_BUILD_S = 1800.0  # 40 to 281 s on two cores with nothing cached


@dataclass(frozen=True, slots=True, kw_only=True)
class GoProgram:
    """A program of a pinned module."""

    name: str  #: of its folder in `pins`
    package: str
    stamps: tuple[str, ...]  #: `-X` values of the linker
    go_min: tuple[int, int] = GO_MIN  #: the minimum of its go.mod

    @property
    def folder(self) -> Path:
        """Return the folder of its pins."""
        return _PINS / self.name

    def is_built(self, settings: ToolSettings) -> bool:
        """Return whether `build` would find it in the cache."""
        return is_installed(settings, minimum=self.go_min) and self._cache_folder(settings).is_dir()

    def build(self, settings: ToolSettings) -> Path:
        """Build the program unless it is cached; return the binary.

        Raises:
            ServerStartError: no usable Go, or the build failed.
        """
        go = go_program(settings, minimum=self.go_min)

        def build(folder: Path) -> None:
            flags = " ".join(["-s -w", *(f"-X {stamp}" for stamp in self.stamps)])
            form: list[str | Path] = ["-mod=readonly", "-trimpath", "-ldflags", flags]
            run_tool(
                f"building {self.name}",
                [go, "build", *form, "-o", folder / self.name, self.package],
                timeout_s=_BUILD_S,
                environment={"CGO_ENABLED": "0", "GOFLAGS": ""},  # the user's flags could change it
                folder=self.folder,
            )

        return cache.fill(self._cache_folder(settings), build, deadline_s=_BUILD_S) / self.name

    def _cache_folder(self, settings: ToolSettings) -> Path:
        inputs = [(self.folder / name).read_bytes() for name in ("go.mod", "go.sum")]
        version = run_tool(
            "go env",
            [go_program(settings, minimum=self.go_min), "env", "GOVERSION"],
            timeout_s=_TOOL_S,
            folder=self.folder,
        )
        return cache.cached_path(settings, self.name, *inputs, version.encode())


def go_program(settings: ToolSettings, *, minimum: tuple[int, int] = GO_MIN) -> Path:
    """Return a Go that is new enough: that of PATH, or the wheel's.

    Raises:
        ServerStartError: the wheel cannot be fetched.
    """
    program = _on_path(minimum)
    return program if program is not None else wheels.unpacked(settings, _WHEEL) / _IN_WHEEL


def is_installed(settings: ToolSettings, *, minimum: tuple[int, int] = GO_MIN) -> bool:
    """Return whether a Go is available without a download."""
    return _on_path(minimum) is not None or wheels.is_fetched(settings, _WHEEL)


def _on_path(minimum: tuple[int, int]) -> Path | None:
    program = shutil.which("go")
    if program is None:
        return None
    try:
        version = run_tool("go version", [program, "version"], timeout_s=_TOOL_S)
    except ServerStartError:
        return None
    match = re.search(r"go(\d+)\.(\d+)", version)
    if match is None or (int(match.group(1)), int(match.group(2))) < minimum:
        return None
    return Path(program)
