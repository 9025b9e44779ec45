"""Standard output and error of every command: text is text, and printing never fails a command.

User text (a path, a description, an error of a server) is never Rich markup or an emoji code. What
the terminal's encoding cannot show is printed as `?`. A reader that closes the pipe (`| head -1`)
ends a command silently; a command that writes files continues without output.

I/O: standard output and standard error.
"""

import os
import select
import sys
from pathlib import Path
from typing import IO

from rich.console import Console
from typing_extensions import override

WIDTH = 120  # without a terminal


class TextConsole(Console):
    """A console that prints strings as they are."""

    def __init__(
        self,
        *,
        quiet: bool = False,
        stderr: bool = False,
        width: int | None = None,
        ends_with_reader: bool = True,
    ) -> None:
        """`ends_with_reader` False: the command continues without output."""
        super().__init__(
            quiet=quiet,
            stderr=stderr,
            width=width,
            markup=False,
            emoji=False,
            highlight=False,
        )
        self._ends_with_reader = ends_with_reader
        # a log keeps its lines; a terminal shows them without broken words
        self.soft_wrap = width is None and not self.is_terminal

    @override
    def on_broken_pipe(self) -> None:
        """Discard all further output; end the command unless it continues without a reader."""
        self.quiet = True
        discard(self.file)
        if self._ends_with_reader:
            raise SystemExit(0)


def plain() -> TextConsole:
    """Return a console for tables: as wide as the terminal, or `WIDTH` without one."""
    console = TextConsole()
    return console if console.is_terminal else TextConsole(width=WIDTH)


def shown(path: Path | str) -> str:
    """Return a path or text for a message: on one line, `?` for what cannot be printed."""
    return "".join(char if char.isprintable() else "?" for char in str(path))


def prepare_streams() -> None:
    """Print `?` for characters that the encoding of the terminal does not have."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def flush_streams() -> None:
    """Write what is buffered, at the end of a command.

    Raises:
        SystemExit: standard output is full or closed.
    """
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        discard(sys.stdout)
    except OSError as error:
        discard(sys.stdout)
        print(f"segue: standard output: {error.strerror}", file=sys.stderr)
        raise SystemExit(1) from error


def has_reader() -> bool:
    """Return whether standard output is open; a pipe is closed when its reader has ended."""
    try:
        descriptor = sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):
        return True  # no pipe
    poll = select.poll()
    poll.register(descriptor, 0)
    return not any(event & select.POLLERR for _, event in poll.poll(0))


def discard(stream: IO[str]) -> None:
    """Send all further output of `stream` to the null device."""
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, stream.fileno())
    finally:
        os.close(null)
