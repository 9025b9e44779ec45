"""`.env.example` lists exactly the settings, with their defaults."""

import importlib
import pkgutil
import re
from collections import defaultdict
from collections.abc import Iterator
from enum import Enum
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, SecretStr

from shared.settings import SettingsGroup

EXAMPLE = Path(__file__).parent.parent.parent / ".env.example"
PACKAGES = ("shared", "services", "embedded", "replicate_server", "ops")
COMPOSE = EXAMPLE.parent / "docker-compose.yml"
OF_THE_TESTS = {"SEGUE_REQUIRE"}  # read by tests/support/servers.py only
_COMPOSE_VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)")
_LINE = re.compile(r"^#([A-Z][A-Z0-9_]+)=(.*)$")


def test_every_setting_is_in_the_example_and_nothing_else() -> None:
    """The variables of docker-compose.yml are included."""
    compose = set(_COMPOSE_VARIABLE.findall(COMPOSE.read_text(encoding="utf-8")))

    assert sorted(_example()) == sorted({*_settings(), *compose, *OF_THE_TESTS})


def test_every_example_shows_a_default_of_the_setting() -> None:
    """Services may have different defaults for a setting; any of them is accepted."""
    settings = _settings()
    wrong = {
        name: (value, settings[name])
        for name, value in _example().items()
        if name in settings and value not in settings[name]
    }
    assert not wrong


def test_every_example_follows_a_comment() -> None:
    """The comment explains the setting."""
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    bare = [
        line
        for before, line in pairwise(lines)
        if _LINE.match(line) and not before.startswith("# ")
    ]
    assert not bare


def _example() -> dict[str, str]:
    matches = [_LINE.match(line) for line in EXAMPLE.read_text(encoding="utf-8").splitlines()]
    pairs = [(match.group(1), match.group(2)) for match in matches if match]
    assert len(dict(pairs)) == len(pairs), "a name occurs twice"
    return dict(pairs)


def _settings() -> dict[str, set[str]]:
    """Return every variable with the defaults of its settings groups."""
    for package in PACKAGES:
        _import_all(package)
    defaults: dict[str, set[str]] = defaultdict(set)
    for group in _groups(SettingsGroup):
        for field in group.model_fields.values():
            alias = field.validation_alias
            if isinstance(alias, AliasChoices):
                alias = alias.choices[0]  # the others are earlier names
            if isinstance(alias, str):
                defaults[alias].add(_as_written(field.default))
    return defaults


def _import_all(package: str) -> None:
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def _groups(parent: type[SettingsGroup]) -> Iterator[type[SettingsGroup]]:
    for group in parent.__subclasses__():
        if group.__module__.split(".")[0] in PACKAGES:
            yield group
        yield from _groups(group)


def _as_written(default: Any) -> str:
    """Return a default as it is written in an environment variable."""
    if default is None:
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, SecretStr):
        return default.get_secret_value()
    return str(default.value if isinstance(default, Enum) else default)
