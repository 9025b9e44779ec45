"""Lines and tables at any width: nothing is wider, no word is broken, user text is text."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from ops.cli.layout import Hanging, Line, Listing, count_of, counted, wrap
from ops.cli.terminal import WIDTH_MIN, plain, print_lines, width_of

WORDS = st.lists(
    st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=12), max_size=30
).map(" ".join)


def rendered(table: Listing, width: int) -> list[str]:
    """Return a table as the lines that a console of this width prints."""
    console = Console(width=width, file=io.StringIO(), markup=False, highlight=False)
    with console.capture() as captured:
        console.print(table)
    return captured.get().splitlines()


@given(head=WORDS, text=WORDS, width=st.integers(24, 100))
def test_a_wrapped_line_fits_and_keeps_its_words(head: str, text: str, width: int) -> None:
    """Every word is there, whole and in order."""
    line: Line = Hanging(head + "  ", text)

    lines = wrap(line, width)

    assert max(map(cell_len, lines)) <= width
    assert " ".join(lines).split() == f"{head}  {text}".split()


@given(text=st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=200))
def test_a_word_longer_than_the_line_is_broken_and_nothing_is_lost(text: str) -> None:
    """A job id may be long; it can still be copied."""
    lines = wrap(text, 30)

    assert max(map(cell_len, lines)) <= 30
    assert "".join(lines) == text


def test_a_line_continues_below_its_text() -> None:
    """Unless too little is left beside the head: then the text starts on the next line."""
    line = Hanging("scene 1/2  fresh  ", "one two three four five six")

    assert wrap(line, 42) == ["scene 1/2  fresh  one two three four five", "                  six"]
    assert wrap(line, 30) == ["scene 1/2  fresh", "  one two three four five six"]
    assert wrap(line, None) == ["scene 1/2  fresh  one two three four five six"]


def test_control_characters_never_reach_the_terminal() -> None:
    """A job id or a reason could clear the screen or change what is read."""
    line = Hanging("job \x1b[2J: ", "no\tfilm\x07 \u202ex")

    assert wrap(line, 80) == ["job ?[2J: no film? ?x"]
    table = Listing("job")
    table.add_row("a\x1b[31mb")
    assert rendered(table, 80)[1] == "a?[31mb"


def test_brackets_in_a_table_are_text() -> None:
    """They are no markup of rich."""
    table = Listing("job", "why", wraps={"why"})
    table.add_row("film [final]", "[red]no[/red] film :smile:")

    assert rendered(table, 80)[1] == "film [final]  [red]no[/red] film :smile:"


def test_a_table_that_does_not_fit_is_stacked_and_then_a_list_of_fields() -> None:
    """No column is truncated."""
    table = Listing("job", "run", "why", right={"run"}, wraps={"job", "why"})
    table.add_row("x" * 36, "1", "no space left on device")
    table.add_row("y", "12", "")

    assert rendered(table, 70) == [
        f"{'job':<36}  run  why",
        f"{'x' * 36}    1  no space left on device",
        "y                                      12",
    ]
    assert rendered(table, 44) == [
        "job",
        "  run  why",
        "x" * 36,
        "    1  no space left on device",
        "y",
        "   12",
    ]
    table.add_row("z", "3" * 39, "a")
    assert rendered(table, 40)[:4] == [
        "job",
        f"  {'x' * 36}",
        "run  1",
        "why  no space left on device",
    ]


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 jobs"), (1, "1 job"), (2, "2 jobs"), (1000, "1000 jobs")]
)
def test_counts_have_the_right_number(count: int, text: str) -> None:
    """Also in a column of figures."""
    assert count_of(count, "job") == text
    assert "".join(counted(count, "job")).split() == text.split()
    assert count_of(2, "copy", "copies") == "2 copies"


@pytest.mark.parametrize(
    ("columns", "width"),
    [("40", 40), ("200", 200), ("0", None), ("", None), ("x", None), ("3", WIDTH_MIN)],
)
def test_columns_sets_the_width_of_lines_and_tables(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    columns: str,
    width: int | None,
) -> None:
    """Without it, and without a terminal, lines are whole: other programs read them."""
    monkeypatch.setenv("COLUMNS", columns)
    out = io.StringIO()

    assert width_of(out) == width
    assert plain().width == (width or 120)
    print_lines(["word " * 60], file=out)
    assert max(map(len, out.getvalue().splitlines())) <= (width or 300)
    assert (len(out.getvalue().splitlines()) == 1) is (width is None)
    assert capsys.readouterr().out == ""
