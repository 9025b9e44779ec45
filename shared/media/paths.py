"""Passes file names to FFmpeg and PyAV.

FFmpeg reads `2024-05-06T10:11:12.mp4` as a URL with the protocol `2024-05-06T10`, `-x.mp4` as an
option and `pipe:0` as standard input. A name with the protocol `file:` is always a file.

I/O: the name of the current folder.
"""

from pathlib import Path


def media_path(path: Path) -> str:
    """Return `path` as FFmpeg and PyAV must receive it: absolute, with the protocol `file:`."""
    return f"file:{path.absolute()}"
