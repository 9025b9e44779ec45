"""Lays out lines and tables for a terminal: nothing is wider, no word is broken.

Text wraps at word boundaries; only a word that is longer than its whole line is broken. A table
that does not fit is stacked (its first column on a line of its own), or becomes a list of fields.
User text is never markup.

Units: columns of the terminal; a wide character takes two. No I/O.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple, TypeAlias

from rich.cells import cell_len, chop_cells
from rich.console import Console, ConsoleOptions
from rich.text import Text

HANGING_MIN = 24  # columns of text beside its head; with less the text starts on the next line
GAP = 2
INDENT = 2
_WORD = re.compile(r"\s*\S+")
#: control characters, which would move the cursor or change colours, and reversals of direction
_CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class Hanging(NamedTuple):
    """A line whose continuation is indented to the column of `text`."""

    head: str
    text: str


Line: TypeAlias = str | Hanging
Cell: TypeAlias = str | Text


def count_of(count: int, noun: str, plural: str | None = None) -> str:
    """Return `1 job` or `2 jobs`."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


def figure(count: int, text: str) -> Hanging:
    """Return a line with a right-aligned number."""
    return Hanging(f"{count:>8} ", text)


def counted(count: int, noun: str, text: str = "") -> Hanging:
    """Return a line with a right-aligned number and what it counts."""
    return figure(count, f"{noun if count == 1 else noun + 's'} {text}".rstrip())


def is_or_are(count: int) -> str:
    """Return the verb of `count` things."""
    return "is" if count == 1 else "are"


def printable(text: str) -> str:
    """Return the text without control characters; line breaks stay."""
    return _CONTROLS.sub(lambda found: " " if found[0] == "\t" else "?", text)


def wrap(line: Line, width: int | None) -> list[str]:
    """Return the lines of a text, at most `width` columns wide; None: not wrapped.

    A line that starts with blanks continues below its first word.
    """
    if isinstance(line, str):
        text = printable(line)
        return [part for row in text.split("\n") for part in _wrap_indented(row, width)]
    head, text = map(printable, line)
    if width is None or not text:
        return wrap(head + text, width)
    room = width - cell_len(head)
    # a word that no line can hold is broken anyway
    longest = max(
        (size for size in map(cell_len, text.split()) if size <= width - INDENT), default=0
    )
    if room < min(cell_len(text), max(HANGING_MIN, longest)) or "\n" in head:
        rest = _indented(_wrapped(text, max(width - INDENT, 1)), INDENT)
        return [*wrap(head.rstrip(), width), *rest]
    first, *others = [part for row in text.split("\n") for part in _wrapped(row, room)]
    return [head + first, *_indented(others, cell_len(head))]


def _wrap_indented(text: str, width: int | None) -> list[str]:
    if width is None or cell_len(text) <= width:
        return [text]
    content = text.lstrip(" ")
    indent = len(text) - len(content)
    if indent > width - HANGING_MIN:
        indent = 0
    return _indented(_wrapped(content, width - indent), indent)


def _indented(lines: Sequence[str], indent: int) -> list[str]:
    return [f"{'':{indent}}{line}" if line else line for line in lines]


def _wrapped(text: str, width: int) -> list[str]:
    """Return `text` in lines; blanks inside a line stay, those at its ends are dropped."""
    lines, current = [], ""
    for part in _WORD.findall(text.rstrip()) or [""]:
        if cell_len(current + part) <= width:
            current += part
            continue
        if current.strip():
            lines.append(current.rstrip())
        *full, current = chop_cells(part.strip(), width) or [""]
        lines += full
    return [*lines, current]


def _longest_word(text: str) -> int:
    return max(map(cell_len, text.split()), default=0)


class Column(NamedTuple):
    """A column of a listing."""

    name: str
    right: bool = False  #: right-aligned
    wraps: bool = False  #: wraps at word boundaries; other columns are never wrapped


class Listing:
    """A table without borders, for any width; a renderable of rich."""

    def __init__(
        self, *names: str, right: Collection[str] = (), wraps: Collection[str] = ()
    ) -> None:
        self.columns = [Column(name, name in right, name in wraps) for name in names]
        self.rows: list[list[Text]] = []

    def add_row(self, *cells: Cell) -> None:
        """Append a row, one cell per column; text is never markup."""
        assert len(cells) == len(self.columns), "a cell for each column"
        self.rows.append(
            [Text(printable(cell)) if isinstance(cell, str) else cell for cell in cells]
        )

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        """Yield the lines of the first layout that fits."""
        width = options.max_width
        every = range(len(self.columns))
        if widths := self._widths(every, width):
            yield from self._table(every, widths, console)
        elif len(every) > 1 and (widths := self._widths(every[1:], width - INDENT)):
            yield from self._stacked(widths, width, console)
        else:
            yield from self._fields(width)

    def _widths(self, indices: range, width: int) -> list[int] | None:
        """Return the width of each column; None if they do not fit without breaking a word."""
        least = [self._least(index) for index in indices]
        spare = width - sum(least) - GAP * (len(least) - 1)
        if spare < 0:
            return None
        wanted = [self._most(index) - low for index, low in zip(indices, least, strict=True)]
        widths = list(least)
        by_want = sorted(range(len(least)), key=lambda position: wanted[position])
        for taken, position in enumerate(by_want):  # what one does not need, the others share
            extra = min(wanted[position], spare // (len(least) - taken))
            widths[position] += extra
            spare -= extra
        return widths

    def _least(self, index: int) -> int:
        """Return the smallest width of a column that breaks no word."""
        column = self.columns[index]
        words = [_longest_word(column.name)]
        for row in self.rows:
            text = row[index].plain
            words.append(_longest_word(text) if column.wraps else cell_len(text))
        return max(words)

    def _most(self, index: int) -> int:
        """Return the width of a column whose text is not wrapped."""
        texts = [self.columns[index].name, *(row[index].plain for row in self.rows)]
        return max(cell_len(line) for text in texts for line in text.split("\n"))

    def _table(
        self, indices: range, widths: Sequence[int], console: Console, *, indent: int = 0
    ) -> Iterator[Text]:
        header = [Text(self.columns[index].name, style="bold") for index in indices]
        yield from self._row(header, indices, widths, console, indent=indent)
        for row in self.rows:
            cells = [row[index] for index in indices]
            yield from self._row(cells, indices, widths, console, indent=indent)

    def _stacked(self, widths: Sequence[int], width: int, console: Console) -> Iterator[Text]:
        """Yield the first column on a line of its own, the others below it."""
        indices = range(1, len(self.columns))
        yield Text(self.columns[0].name, style="bold")
        header = [Text(self.columns[index].name, style="bold") for index in indices]
        yield from self._row(header, indices, widths, console, indent=INDENT)
        for row in self.rows:
            yield from (Text(part) for part in wrap(row[0].plain, width))
            yield from self._row(
                [row[index] for index in indices], indices, widths, console, indent=INDENT
            )

    def _fields(self, width: int) -> Iterator[Text]:
        """Yield each field of each row with its name, and an empty line between rows."""
        longest = max(cell_len(column.name) for column in self.columns)
        for number, row in enumerate(self.rows):
            if number:
                yield Text()
            for column, cell in zip(self.columns, row, strict=True):
                if cell.plain:
                    head = f"{column.name:<{longest}}{'':{GAP}}"
                    for part in wrap(Hanging(head, cell.plain), width):
                        yield Text(part)

    def _row(
        self,
        cells: Sequence[Text],
        indices: range,
        widths: Sequence[int],
        console: Console,
        *,
        indent: int,
    ) -> Iterator[Text]:
        """Yield the lines of one row."""
        blocks = [
            list(cell.wrap(console, width)) if cell.plain else []
            for cell, width in zip(cells, widths, strict=True)
        ]
        for number in range(max(map(len, blocks), default=0)):
            line = Text(" " * indent)
            for block, index, width in zip(blocks, indices, widths, strict=True):
                part = block[number] if number < len(block) else Text()
                part.rstrip()
                blanks = " " * max(width - part.cell_len, 0)
                line += Text(blanks) + part if self.columns[index].right else part + Text(blanks)
                line.append(" " * GAP)
            line.rstrip()
            yield line
