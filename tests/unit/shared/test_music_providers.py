"""Compares the list of music providers with its types and with the documents."""

import re
from pathlib import Path
from typing import get_args

import pytest

from shared.music_providers import (
    PROVIDERS,
    ProviderName,
    StackProvider,
    choose_provider,
    list_of,
)

ROOT = Path(__file__).resolve().parents[3]
NAMES: tuple[ProviderName, ...] = get_args(ProviderName)


def test_every_provider_has_facts() -> None:
    """In the order of the type, and nothing else."""
    assert tuple(PROVIDERS) == get_args(StackProvider)


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ("README.md", r"MUSIC_PROVIDER` selects the provider: ([^.]*)\."),
        (".env.example", r"# The provider: ([^.]*)\."),
    ],
)
def test_document_lists_the_providers_of_the_generator(document: str, sentence: str) -> None:
    """With their descriptions."""
    [listed] = re.findall(sentence, (ROOT / document).read_text(encoding="utf-8"))

    assert re.sub(r"[`#\s]+", " ", listed).replace(" or ", ", ").replace("( ", "(").strip() == (
        list_of(NAMES)
    )


def test_glossary_lists_the_providers_of_the_generator() -> None:
    """The names alone."""
    glossary = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    [row] = [line for line in glossary.splitlines() if line.startswith("| **provider** |")]

    assert tuple(re.findall(r"`([\w-]+)`", row)) == NAMES


@pytest.mark.parametrize(
    ("wanted", "has_key", "line"),
    [
        (None, True, "Music: replicate (MusicGen), because REPLICATE_API_KEY is set"),
        (None, False, "Music: synth (offline, audible), because REPLICATE_API_KEY is not set"),
        ("synth", True, "Music: synth (offline, audible), because MUSIC_PROVIDER is synth"),
        ("replicate", False, "Music: replicate (MusicGen), because MUSIC_PROVIDER is replicate"),
    ],
)
def test_a_key_selects_replicate_and_an_explicit_choice_wins(
    wanted: StackProvider | None, line: str, *, has_key: bool
) -> None:
    """The first line of a command says which provider, and why."""
    assert str(choose_provider(wanted, has_key=has_key)) == line
