"""Runbook: `docs/runbook.md` as data, and a hand that does what it says.

A section is a symptom. Its steps are the blocks of commands (`sh`), each with the block behind it
(`text`) of what one should see: every line of it, in this order, among what the commands print.
`…` stands for anything; words in CAPITALS are the operator's to fill in. A command that ends with
another code than 0 says so in a line `exit code N`.

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
LOOKS_S = 45.0  # until what is looked for is there
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`(segue [^`]+)`")
_BLANK = re.compile(r"\b[A-Z][A-Z_]+\b")
_ANY = "…"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Commands that are run one after the other, and what they must show."""

    commands: tuple[str, ...]
    sees: tuple[str, ...]

    @property
    def writes(self) -> bool:
        """Whether it changes something, so that it is done once."""
        return any("--apply" in command for command in self.commands)


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One symptom."""

    anchor: str
    text: str
    steps: tuple[Step, ...]

    def commands(self) -> Iterator[str]:
        """Every `segue` command that it names, in a block or in a sentence."""
        for step in self.steps:
            yield from (one for one in step.commands if one.startswith("segue "))
        yield from _INLINE.findall(_FENCE.sub("", self.text))


@cache
def sections() -> Mapping[str, Section]:
    """The page's sections, by the anchor of their heading."""
    _, *parts = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    found = [_section(part) for part in parts]
    return {one.anchor: one for one in found}


def _section(part: str) -> Section:
    heading, _, text = part.partition("\n")
    anchor = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
    return Section(anchor=anchor, text=text, steps=tuple(_steps(text)))


def _steps(text: str) -> Iterator[Step]:
    commands: tuple[str, ...] = ()
    for kind, block in _FENCE.findall(text):
        lines = tuple(line for line in block.splitlines() if line.strip())
        if kind == "sh":
            assert not commands, f"nothing says what to see after {commands}"
            commands = tuple(line for line in map(_uncommented, lines) if line)
        elif kind == "text":
            yield Step(commands=commands, sees=lines)
            commands = ()
    assert not commands, f"nothing says what to see after {commands}"


def _uncommented(line: str) -> str:
    return shlex.join(shlex.split(line, comments=True))


def addresses(pipeline: Pipeline) -> dict[str, str]:
    """What an operator's environment has: where the servers are, and no more."""
    served = pipeline.services["api"].environment
    names = ("DATABASE_URL", "KAFKA_BOOTSTRAP_SERVERS", "SEGUE_STORE_DIR", "SEGUE_TOPIC_PREFIX")
    here = {name: served[name] for name in names}
    return here | {"SEGUE_API_URL": str(pipeline.client.base_url), "SEGUE_OPERATOR": "a new one"}


class RunbookOperator:
    """An operator who knows the page and the addresses, and nothing else."""

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

    async def does(self, **fills: str) -> str:
        """The section's next step; what it printed, once all is seen that should be."""
        step = self._left.pop(0)
        filled = {**self._fills, **fills}
        commands = [_filled(command, filled) for command in step.commands]
        sees = [_filled(line, filled) for line in step.sees]
        loop = asyncio.get_running_loop()
        end = loop.time() + (0 if step.writes else LOOKS_S)
        while True:
            said = "".join([await self._run(command) for command in commands])
            missing = unseen(sees, said)
            if missing is None:
                return said
            assert loop.time() < end, f"{commands}: {missing!r} is not in\n{said}"
            await asyncio.sleep(0.5)

    async def does_the_rest(self) -> None:
        """Every step that is left."""
        while self._left:
            await self.does()

    def done(self) -> None:
        """Every step of the section was done."""
        assert not self._left, f"{self._section.anchor}: not done: {self._left}"

    async def _run(self, command: str) -> str:
        program, *words = shlex.split(command)
        if program == "curl":
            async with httpx.AsyncClient(timeout=20) as client:
                return (await client.get(words[-1])).text + "\n"
        assert program == "segue", f"an operator has no {program}"
        process = await start_forked(
            "ops", *words, environment=self._environment, merge_stderr=True
        )
        async with asyncio.timeout(ENDS_S):
            said, _ = await process.communicate()
        end = f"exit code {process.returncode}\n" if process.returncode else ""
        return said.decode() + end


def unseen(sees: Sequence[str], said: str) -> str | None:
    """The first line of `sees` that is not said, in its place; None: all are.

    An exit code that nobody expects is told like a line that is missing.
    """
    lines = [_plain(line) for line in said.splitlines()]
    at = 0
    for line in sees:
        wanted = re.compile(".*".join(map(re.escape, _plain(line).split(_ANY))))
        found = next((i for i, one in enumerate(lines) if i >= at and wanted.fullmatch(one)), None)
        if found is None:
            return line
        at = found + 1
    codes = [line for line in lines if line.startswith("exit code ") and line not in sees]
    return f"no {codes[0]}" if codes else None


def _plain(line: str) -> str:
    return " ".join(line.split())


def _filled(text: str, fills: Mapping[str, str]) -> str:
    filled = text
    for name, value in fills.items():
        filled = re.sub(rf"\b{name}\b", value.replace("\\", r"\\"), filled)
    return filled


def blanks(command: str) -> set[str]:
    """What an operator has to fill in."""
    return set(_BLANK.findall(command))
