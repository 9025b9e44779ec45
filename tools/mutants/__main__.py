"""Runs mutmut on a sample of the mutants in the working directory and writes the results.

mutmut also changes strings, numbers, arguments and assignments. Only five kinds count here:
comparisons, arithmetic, boolean operators, `not` and return values. mutmut has no operator for
the last one and none that adds a `not`; they are below.

mutmut changes no decorated function, so `plain_source` replaces `@property` and `@override` first.

I/O: reads and writes the working directory, a scratch copy made by `tools/mutants/measure.py`.
"""

import argparse
import ast
import difflib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import libcst as cst
import pytest
from mutmut.__main__ import _run as run_mutmut
from mutmut.__main__ import (
    orig_function_and_class_names_from_key,
    read_functions_from_index,
    status_by_exit_code,
)
from mutmut.mutation import mutators
from mutmut.mutation.data import SourceFileMutationData
from mutmut.mutation.file_mutation import mutate_file_contents

from tools.mutants.modules import MODULES

RESULTS = "results.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One changed place in a module and what the tests did."""

    module: str
    function: str
    line: int
    before: str
    after: str
    status: str  #: of mutmut: killed, survived, timeout, no tests …


def return_none(node: cst.Return) -> Iterator[cst.Return]:
    """Yield `return None`, and the other constant for True and False."""
    if node.value is None or (isinstance(node.value, cst.Name) and node.value.value == "None"):
        return
    opposite = {"True": "False", "False": "True"}
    if isinstance(node.value, cst.Name) and node.value.value in opposite:
        yield node.with_changes(value=cst.Name(opposite[node.value.value]))
    else:
        yield node.with_changes(
            value=cst.Name("None"), whitespace_after_return=cst.SimpleWhitespace(" ")
        )


def negate_condition(node: cst.If | cst.While | cst.IfExp) -> Iterator[cst.CSTNode]:
    """Yield the node with `not` before its condition, unless mutmut negates it already."""
    if isinstance(node.test, cst.UnaryOperation) and isinstance(node.test.operator, cst.Not):
        return
    test = node.test.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
    yield node.with_changes(test=cst.UnaryOperation(operator=cst.Not(), expression=test))


OPERATORS: mutators.OPERATORS_TYPE = [
    (cst.ComparisonTarget, mutators.operator_swap_op),
    (cst.BinaryOperation, mutators.operator_swap_op),
    (cst.UnaryOperation, mutators.operator_swap_op),
    (cst.AugAssign, mutators.operator_swap_op),
    (cst.BooleanOperation, mutators.operator_swap_op),
    (cst.BaseCompOp, mutators.operator_keywords),  # is, is not, in, not in
    (cst.UnaryOperation, mutators.operator_remove_unary_ops),
    (cst.If, negate_condition),
    (cst.While, negate_condition),
    (cst.IfExp, negate_condition),
    (cst.Return, return_none),
]


def plain_source(source: str) -> str:
    """Return the source without `@property` and `@override`: same behaviour, same lines but one.

    A property becomes a method and, after it, `name = property(name)`.
    """
    lines = source.splitlines()
    added: dict[int, str] = {}  # after which line
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for decorator in node.decorator_list:
            if isinstance(decorator, ast.Name) and decorator.id in {"property", "override"}:
                lines[decorator.lineno - 1] = ""
                if decorator.id == "property":
                    indent = " " * node.col_offset
                    assert node.end_lineno is not None
                    added[node.end_lineno] = f"{indent}{node.name} = property({node.name})"
    plain = []
    for number, line in enumerate(lines, start=1):
        plain.append(line)
        if number in added:
            plain.append(added[number])
    return "\n".join(plain) + "\n"


def all_names(modules: Sequence[str]) -> list[str]:
    """Return the name of every mutant of the modules, sorted."""
    names = []
    for module in modules:
        mutated = mutate_file_contents(module, Path(module).read_text(encoding="utf-8"))
        prefix = module.removesuffix(".py").replace("/", ".")
        names += [f"{prefix}.{name}" for name in mutated.mutant_names]
    return sorted(names)


def results(names: Sequence[str], originals: dict[str, str]) -> list[Mutant]:
    """Return the mutants of these names, as mutmut's files describe them."""
    chosen = set(names)
    mutants = []
    for module, source in originals.items():
        data = SourceFileMutationData(path=module)
        data.load()
        for name, exit_code in data.exit_code_by_key.items():
            if name in chosen:
                mutants.append(_mutant(name, module, source, status_by_exit_code[exit_code]))
    return sorted(mutants, key=lambda mutant: (mutant.module, mutant.line))


def _mutant(name: str, module: str, source: str, status: str) -> Mutant:
    functions = read_functions_from_index(name, module)
    assert functions is not None, f"{name}: mutmut has no source of it"
    before, after = (cst.Module([function]).code.strip().split("\n") for function in functions)
    function, owner = orig_function_and_class_names_from_key(name)
    blocks = difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    changed = [block for block in blocks if block[0] != "equal"]
    start, end = changed[0][1], changed[-1][2]
    to_start, to_end = changed[0][3], changed[-1][4]
    definition = next(i for i, line in enumerate(before) if "def " in line)
    return Mutant(
        module=module,
        function=f"{owner}.{function}" if owner else function,
        line=_definition_line(source, function, owner) + start - definition,
        before=_one_line(before[start:end]),
        after=_one_line(after[to_start:to_end]),
        status=status,
    )


def _definition_line(source: str, function: str, owner: str | None) -> int:
    body = ast.parse(source).body
    if owner is not None:
        body = next(x for x in body if isinstance(x, ast.ClassDef) and x.name == owner).body
    return next(
        node.lineno
        for node in body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == function
    )


def _one_line(lines: Sequence[str]) -> str:
    return " ".join(" ".join(lines).split())


def main() -> None:
    """Mutate, run the tests, write `results.json`."""
    parser = argparse.ArgumentParser(prog="tools.mutants")
    parser.add_argument("--sample", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--jobs", type=int, required=True)
    parser.add_argument("modules", nargs="*", default=MODULES)
    options = parser.parse_args()
    mutators.mutation_operators[:] = OPERATORS
    # mutmut 3.7 reads an attribute that pytest 9.2 renamed; 3.8 needs a newer click than Faust.
    pytest.Item._nodeid = property(lambda item: item.nodeid)  # type: ignore[attr-defined]  # noqa: SLF001
    originals = {name: Path(name).read_text(encoding="utf-8") for name in options.modules}
    for module, source in originals.items():
        Path(module).write_text(plain_source(source), encoding="utf-8")
    names = all_names(options.modules)
    total = len(names)
    if options.sample != "all":
        chance = random.Random(options.seed)  # noqa: S311 - a draw that can be repeated
        names = chance.sample(names, min(total, int(options.sample)))
    run_mutmut(tuple(names), options.jobs)
    mutants = [asdict(mutant) for mutant in results(names, originals)]
    text = json.dumps({"total": total, "mutants": mutants}, indent=1)
    Path(RESULTS).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
