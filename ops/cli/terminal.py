"""Standard output and error of every command: text is text, and printing never fails a command.

User text (a path, a description, an error of a server) is never Rich markup or an emoji code. What
the terminal's encoding cannot show is printed as `?`. A reader that closes the pipe (`| head -1`)
ends a command silently; a command that writes files continues without output.

Lines and tables are as wide as the terminal, which `COLUMNS` overrides. Without both, lines are
not wrapped, so that other programs read whole lines.

I/O: standard output and standard error, the terminal's size.
"""

import os
import select
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO

from rich.console import Console, RenderableType
from typing_extensions import override

from ops.cli.layout import Hanging, Line, wrap

WIDTH = 120  # of tables without a terminal
WIDTH_MIN = 20


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
        has_width = self.is_terminal or width_of(self.file) is not None
        self.soft_wrap = width is None and not has_width

    @override
    def on_broken_pipe(self) -> None:
        """Discard all further output; end the command unless it continues without a reader."""
        self.quiet = True
        discard(self.file)
        if self._ends_with_reader:
            raise SystemExit(0)


def width_of(stream: IO[str]) -> int | None:
    """Return the columns of `COLUMNS` or of the terminal; None without either."""
    try:
        terminal = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        terminal = 0
    columns = shutil.get_terminal_size((terminal, 0)).columns
    return max(columns, WIDTH_MIN) if columns else None


def print_lines(lines: Iterable[Line], *, file: IO[str] | None = None) -> None:
    """Print lines, wrapped at word boundaries."""
    out = file or sys.stdout
    width = width_of(out)
    for line in lines:
        for part in wrap(line, width):
            print(part, file=out)


def print_result(result: Iterable[RenderableType | Line]) -> None:
    """Print lines, tables and other renderables on standard output, in their order."""
    for part in result:
        if isinstance(part, str | Hanging):
            print_lines([part])
        else:
            plain().print(part)


def reporter(*, quiet: bool) -> Callable[[str], None]:
    """Return a function that prints progress and notes on standard error; silent if `quiet`."""

    def report(text: str) -> None:
        if not quiet:
            print_lines([text], file=sys.stderr)

    return report


def plain() -> TextConsole:
    """Return a console for tables: as wide as the terminal, or `WIDTH` without one."""
    console = TextConsole()
    return console if console.is_terminal else TextConsole(width=width_of(sys.stdout) or WIDTH)


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
