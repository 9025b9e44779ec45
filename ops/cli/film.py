"""Checks the film that a command reads.

I/O: reads the film.
"""

import difflib
import re
import shlex
import stat
from contextlib import suppress
from pathlib import Path

from ops.cli.exit_codes import CommandError, Exit
from ops.cli.terminal import shown
from shared.errors import MediaError
from shared.media.video import VideoInfo, probe_video

_NAMES_MAX = 1000  # of a folder, for a suggestion


def check_film(video: Path) -> VideoInfo:
    """Return what the film contains.

    Raises:
        CommandError: it is no file, or cannot be read or scored; the message says what to do.
    """
    name = shown(video)
    if not video.exists():
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", name):
            url = name.replace(":/", "://", 1)
            raise CommandError(
                Exit.USAGE,
                f"{url} is a URL; download it (curl -fLO {shlex.quote(url)}) and name the file",
            )
        if name == "-":
            raise CommandError(
                Exit.USAGE,
                "VIDEO: standard input cannot be scored, a film is read more than once; save it "
                "(cat > film.mp4) and name the file",
            )
    try:
        mode = video.stat().st_mode
        if stat.S_ISDIR(mode):
            raise CommandError(
                Exit.USAGE, f"{name}: cannot be read (it is a folder); name a film in it"
            )
        if not stat.S_ISREG(mode):
            raise CommandError(
                Exit.USAGE,
                f"{name}: cannot be read more than once (it is a pipe or a device); save the film "
                f"(cat {shlex.quote(name)} > film.mp4) and name the file",
            )
        return probe_video(video)
    except MediaError as error:
        raise CommandError(Exit.USAGE, f"{name}: {error.reason}") from error
    except OSError as error:
        raise CommandError(
            Exit.USAGE, f"{name}: cannot be read ({error.strerror}){_similar(video)}"
        ) from error


def _similar(video: Path) -> str:
    """Return a suggestion for a file that does not exist."""
    with suppress(OSError):
        if not video.exists():
            names = [path.name for path in video.parent.iterdir()][:_NAMES_MAX]
            for name in difflib.get_close_matches(video.name, names, n=1):
                return f"; did you mean {shown(video.with_name(name))}?"
    return ""
