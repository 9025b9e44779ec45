"""`docs/runbook.md` as data, and an operator that runs its commands.

A section is a symptom. Its steps are the blocks of commands (`sh`), each followed by a block of
expected lines (`text`): the commands must print every line of it, in this order. `…` matches any
text; the operator fills in words in CAPITALS. An exit code other than 0 is expected as a line
`exit code N`.

I/O: the page; processes of `segue`; HTTP for `curl`.
"""

import asyncio
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import httpx

from tests.support.fork_server import REPOSITORY, start_forked
from tests.support.pipeline_fixture import Pipeline

PAGE = REPOSITORY / "docs" / "runbook.md"
ENDS_S = 120.0
EXPECTED_S = 45.0  # until the expected lines are printed
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`(segue [^`]+)`")
_BLANK = re.compile(r"\b[A-Z][A-Z_]+\b")
_ANY = "…"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Commands that run in sequence, and the lines that they must print."""

    commands: tuple[str, ...]
    expected: tuple[str, ...]

    @property
    def writes(self) -> bool:
        """Return whether a command changes something; such a step runs once."""
        return any("--apply" in command for command in self.commands)


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A section of the page: a symptom and its steps."""

    anchor: str
    text: str
    steps: tuple[Step, ...]

    def commands(self) -> Iterator[str]:
        """Return every `segue` command of the section, in blocks and in sentences."""
        for step in self.steps:
            yield from (command for command in step.commands if command.startswith("segue "))
        yield from _INLINE.findall(_FENCE.sub("", self.text))


@cache
def sections() -> Mapping[str, Section]:
    """Return the page's sections by the anchor of their heading."""
    _, *parts = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {section.anchor: section for section in map(_section, parts)}


def _section(part: str) -> Section:
    heading, _, text = part.partition("\n")
    anchor = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
    return Section(anchor=anchor, text=text, steps=tuple(_steps(text)))


def _steps(text: str) -> Iterator[Step]:
    commands: tuple[str, ...] = ()
    for kind, block in _FENCE.findall(text):
        lines = tuple(line for line in block.splitlines() if line.strip())
        if kind == "sh":
            assert not commands, f"no expected output after {commands}"
            commands = tuple(line for line in map(_uncommented, lines) if line)
        elif kind == "text":
            yield Step(commands=commands, expected=lines)
            commands = ()
    assert not commands, f"no expected output after {commands}"


def _uncommented(line: str) -> str:
    return shlex.join(shlex.split(line, comments=True))


def addresses(pipeline: Pipeline) -> dict[str, str]:
    """Return an operator's environment: the addresses of the servers."""
    served = pipeline.services["api"].environment
    names = ("DATABASE_URL", "KAFKA_BOOTSTRAP_SERVERS", "SEGUE_STORE_DIR", "SEGUE_TOPIC_PREFIX")
    here = {name: served[name] for name in names}
    return here | {"SEGUE_API_URL": str(pipeline.client.base_url), "SEGUE_OPERATOR": "operator-1"}


class RunbookOperator:
    """Runs the steps of one section with the addresses of the servers."""

    def __init__(self, anchor: str, environment: Mapping[str, str], **fills: str) -> None:
        self._section = sections()[anchor]
        self._left = list(self._section.steps)
        self._environment = {
            "PATH": os.defpath,
            "COLUMNS": "200",
            "PYTHONWARNINGS": "ignore",
            **environment,
        }
        self._fills = fills

    async def run_step(self, **fills: str) -> str:
        """Run the section's next step until it prints the expected lines; return its output."""
        step = self._left.pop(0)
        filled = {**self._fills, **fills}
        commands = [_filled(command, filled) for command in step.commands]
        expected = [_filled(line, filled) for line in step.expected]
        loop = asyncio.get_running_loop()
        end = loop.time() + (0 if step.writes else EXPECTED_S)
        while True:
            output = "".join([await self._run(command) for command in commands])
            missing = missing_line(expected, output)
            if missing is None:
                return output
            assert loop.time() < end, f"{commands}: {missing!r} is not in\n{output}"
            await asyncio.sleep(0.5)

    async def run_remaining(self) -> None:
        """Run the remaining steps."""
        while self._left:
            await self.run_step()

    def assert_complete(self) -> None:
        """Fail if a step was not run."""
        assert not self._left, f"{self._section.anchor}: not run: {self._left}"

    async def _run(self, command: str) -> str:
        program, *words = shlex.split(command)
        if program == "curl":
            async with httpx.AsyncClient(timeout=20) as client:
                return (await client.get(words[-1])).text + "\n"
        assert program == "segue", f"unknown program {program}"
        process = await start_forked(
            "ops", *words, environment=self._environment, merge_stderr=True
        )
        async with asyncio.timeout(ENDS_S):
            output, _ = await process.communicate()
        end = f"exit code {process.returncode}\n" if process.returncode else ""
        return output.decode() + end


def missing_line(expected: Sequence[str], output: str) -> str | None:
    """Return the first expected line that is missing from `output`, in order; None if none is.

    An unexpected exit code counts as a missing line.
    """
    lines = [_plain(line) for line in output.splitlines()]
    at = 0
    for line in expected:
        wanted = re.compile(".*".join(map(re.escape, _plain(line).split(_ANY))))
        matches = (i for i, text in enumerate(lines) if i >= at and wanted.fullmatch(text))
        if (match := next(matches, None)) is None:
            return line
        at = match + 1
    codes = [line for line in lines if line.startswith("exit code ") and line not in expected]
    return f"no {codes[0]}" if codes else None


def _plain(line: str) -> str:
    return " ".join(line.split())


def _filled(text: str, fills: Mapping[str, str]) -> str:
    filled = text
    for name, value in fills.items():
        filled = re.sub(rf"\b{name}\b", value.replace("\\", r"\\"), filled)
    return filled


def blanks(command: str) -> set[str]:
    """Return the words that the operator fills in."""
    return set(_BLANK.findall(command))
