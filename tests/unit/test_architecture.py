"""Compares ARCHITECTURE.md with the code: the tree of error classes."""

import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

from shared.errors import SegueError

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("shared", "services", "ops", "embedded", "replicate_server", "tools")
ENTRY = re.compile(r"^(?P<indent>[│├└─ ]*)(?P<name>[A-Z]\w+Error)\b")
INDENT = 4  # characters per level of the tree


def import_product() -> None:
    """Import every module of the product, so that every error class exists."""
    for package in PACKAGES:
        path = [str(ROOT / package)]
        for module in pkgutil.walk_packages(path, prefix=f"{package}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)


def subclasses(root: type[SegueError]) -> Iterator[tuple[str, str]]:
    """Yield each public class of the product below `root` with the name of its parent."""
    for error in root.__subclasses__():
        if error.__module__.split(".")[0] in PACKAGES and not error.__name__.startswith("_"):
            yield error.__name__, root.__name__
            yield from subclasses(error)


def documented() -> dict[str, str]:
    """Return the classes in the tree of ARCHITECTURE.md with their parents."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    [tree] = re.findall(r"```\nSegueError\n(.*?)```", text, re.DOTALL)
    parents, path = {}, [SegueError.__name__]
    for line in tree.splitlines():
        entry = ENTRY.match(line)
        assert entry is not None, f"one class per line: {line}"
        depth = len(entry["indent"]) // INDENT
        parents[entry["name"]] = path[depth - 1]
        path[depth:] = [entry["name"]]
    return parents


def test_the_architecture_page_shows_every_error_class_under_its_parent() -> None:
    """The tree of errors is the class hierarchy below `SegueError`."""
    import_product()

    assert documented() == dict(subclasses(SegueError))
