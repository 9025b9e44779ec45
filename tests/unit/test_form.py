"""The form of the repository: sizes, names, docstrings, words, pure modules, unused catalogues."""

import ast
import io
import re
import subprocess
import tokenize
import tomllib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from shared.telemetry import metrics
from shared.telemetry.log import ACTIONS

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("shared", "services", "ops", "embedded", "replicate_server", "tools", "benchmarks")
FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 50
FOLDER_FILES_MAX = 16
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "models", "core", "manager", "misc"}
ALLOWED_NAMES = {"services/generator/providers/replicate/models.py"}  # the models of an HTTP API

#: Words of everyday speech where the field has its own (publish, report, resume, upload, …).
#: They are looked for in identifiers, docstrings, comments, strings and documents.
FORBIDDEN_WORDS = (
    r"nobody|somebody|whoever|anew|told|said|of ours"
    r"|let go|lets go|goes on|went on|gone on|hands? in|handed in|put away|looked at"
)
#: Path prefix and word, and the reason why it may be used there.
ALLOWED_WORDS = {
    ("shared/contract/events.py", "anew"): "field of the published scene.requested",
    ("services/api/database/scene_spec.py", "anew"): "the same field in a stored row",
    ("services/api/database/migrations/", "anew"): "the same, in an applied migration",
    ("services/generator/scene/generate.py", "anew"): "reads that field",
    ("tests/unit/services/", "anew"): "tests of that field",
    ("tests/integration/test_ops_redrive.py", "anew"): "tests of that field",
    ("tests/schemas", "anew"): "the same field in the generated schemas",
    ("docs/events.md", "anew"): "the same field in the generated page",
    ("docs/asyncapi.yaml", "anew"): "the same field in the generated document",
    ("embedded/servers/postgres.py", "nobody"): "the Unix user",
    ("services/generator/settings.py", "said"): "a setting's previous name, still accepted",
    ("tests/unit/services/generator/test_settings.py", "said"): "tests that name",
    ("tests/unit/test_form.py", "*"): "this list",
}
DOCUMENTS = (
    "*.md",
    "*.sql",
    "*.yml",
    "*.yaml",
    "Makefile",
    ".env.example",
    ".ci/run",
    "Dockerfile",
)
#: Records of their day; they are not rewritten.
UNCHANGED_DOCUMENTS = ("CHANGELOG.md", "docs/adr/")


@cache
def text_of(path: Path) -> str:
    """Return the text of a file, read once."""
    return path.read_text(encoding="utf-8")


@cache
def sources() -> list[Path]:
    """Return every Python file of the product."""
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


@cache
def suites() -> list[Path]:
    """Return every Python file of the tests."""
    return sorted((ROOT / "tests").rglob("*.py"))


def short(path: Path) -> str:
    """Return a path as messages show it."""
    return path.relative_to(ROOT).as_posix()


def module_name(path: Path) -> str:
    """Return the dotted name of a module."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def faults_of(path: Path, tree: ast.Module) -> Iterator[str]:
    """Yield what is wrong with the form of one Python file."""
    if (lines := len(text_of(path).splitlines())) > FILE_LINES_MAX:
        yield f"{short(path)}: {lines} lines"
    if not ast.get_docstring(tree):
        yield f"{short(path)}: no docstring"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None, "parsed from text"
            if (lines := node.end_lineno - node.lineno + 1) > FUNCTION_LINES_MAX and (
                path in sources()
            ):
                yield f"{short(path)}: {node.name} has {lines} lines"
    if not FORBIDDEN_NAMES.isdisjoint({path.stem, *path.relative_to(ROOT).parent.parts}) and (
        short(path) not in ALLOWED_NAMES
    ):
        yield f"{short(path)}: a name that fits everything"


def test_files_and_folders_have_a_readable_form() -> None:
    """Files of at most 500 lines with a docstring, functions of 50, folders of 16 files."""
    faults = [
        fault
        for path in (*sources(), *suites())
        for fault in faults_of(path, ast.parse(text_of(path)))
    ]
    counts = Counter(short(path.parent) for path in sources())
    faults += [f"{folder}: {n} files" for folder, n in counts.items() if n > FOLDER_FILES_MAX]

    assert faults == []


def test_the_architecture_page_names_every_folder() -> None:
    """A folder that is not on the map cannot be found by a newcomer."""
    page = text_of(ROOT / "ARCHITECTURE.md")
    ignored = {"out", "dist", "build"}
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name[0] != "."}
    packages = {short(path.parent) for path in sources() if path.name == "__init__.py"}

    assert [f for f in sorted(folders - ignored | packages) if f"{f}/" not in page] == []


def test_a_module_that_calls_itself_pure_is_checked_by_the_linter() -> None:
    """Every module whose docstring says "Pure" is on import-linter's list, and no other."""
    linter = tomllib.loads(text_of(ROOT / "pyproject.toml"))["tool"]["importlinter"]
    contract = next(one for one in linter["contracts"] if one["name"] == "the domain is pure")
    listed = set(contract["source_modules"])
    pure = {
        module_name(path)
        for path in sources()
        if re.search(r"\bPure\b", ast.get_docstring(ast.parse(text_of(path))) or "")
    }
    in_package = {name for name in pure if any(name.startswith(f"{one}.") for one in listed)}

    assert pure - in_package - listed == set(), "says Pure, but the linter does not check it"
    assert {name for name in listed - pure if not any(p.startswith(f"{name}.") for p in pure)} == (
        set()
    ), "the linter checks it, but its docstring does not say Pure"


def words_of_python(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of every identifier, string and comment of a file."""
    kinds = {tokenize.NAME, tokenize.STRING, tokenize.COMMENT}
    kinds |= {getattr(tokenize, "FSTRING_MIDDLE", -1)}
    for token in tokenize.generate_tokens(io.StringIO(text_of(path)).readline):
        if token.type in kinds:
            yield token.start[0], token.string


def documents() -> list[Path]:
    """Return every document and manifest that Git knows."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *DOCUMENTS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    return [ROOT / name for name in listed if not name.startswith(UNCHANGED_DOCUMENTS)]


def forbidden_words(path: Path, *, python: bool) -> Iterator[str]:
    """Yield each forbidden word of a file with its place."""
    phrase = FORBIDDEN_WORDS.replace(" ", r"[\s_]+")
    pattern = re.compile(rf"(?<![a-z])({phrase})(?![a-z])", re.IGNORECASE)
    pieces = words_of_python(path) if python else enumerate(text_of(path).splitlines(), start=1)
    for line, text in pieces:
        for match in pattern.finditer(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", text)):
            word = re.sub(r"[\s_]+", " ", match.group(1)).lower()
            if not any(
                short(path).startswith(where) and allowed in {word, "*"}
                for where, allowed in ALLOWED_WORDS
            ):
                yield f"{short(path)}:{line}: {word}"


def test_the_repository_uses_the_words_of_the_field() -> None:
    """No identifier, docstring, comment, string or document uses a forbidden word."""
    faults = [
        fault for path in (*sources(), *suites()) for fault in forbidden_words(path, python=True)
    ]
    faults += [fault for path in documents() for fault in forbidden_words(path, python=False)]

    assert faults == []


def test_every_exception_of_the_word_list_is_needed() -> None:
    """An exception whose word is gone is removed."""
    texts = {short(path): text_of(path) for path in (*sources(), *suites(), *documents())}
    texts |= {short(path): text_of(path) for path in (ROOT / "services").rglob("*.sql")}
    texts |= {short(path): text_of(path) for path in (ROOT / "tests/schemas").rglob("*.json")}

    assert [
        (where, word)
        for where, word in ALLOWED_WORDS
        if word != "*"
        and not any(word in text.lower() for name, text in texts.items() if name.startswith(where))
    ] == []


def test_the_catalogues_hold_what_is_used_and_nothing_else() -> None:
    """Every metric and log action is used, and every log action is in the catalogue."""
    catalogues = {ROOT / "shared/telemetry" / name for name in ("metrics.py", "log.py")}
    text = "\n".join(text_of(path) for path in sources() if path not in catalogues)
    unused = [
        name for name in vars(metrics) if name.isupper() and not re.search(rf"\b{name}\b", text)
    ]
    used = set(re.findall(r'action="([a-z_]+\.[a-z_]+)"', text))

    assert unused == []
    assert [action for action in sorted(ACTIONS) if f'"{action}"' not in text] == []
    assert used - ACTIONS == set()
