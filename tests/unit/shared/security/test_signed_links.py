"""Segment links: sealed names that die in time and cannot be made up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import SettingsError
from shared.security.signed_links import (
    LinkExpiredError,
    LinkSettings,
    LinkUnknownError,
    SegmentLinks,
)
from tests.fakes.clock import FakeClock

KEY = "jobs/0123/runs/1/scenes/00000/clip-1.mp3"
PHRASE = "a secret of many characters"


def links(keys: str = PHRASE, *, clock: FakeClock | None = None, ttl_s: int = 1800) -> SegmentLinks:
    """Links under these phrases."""
    settings = LinkSettings(keys=keys, ttl_s=ttl_s)
    return SegmentLinks(settings, clock=clock or FakeClock())


def test_a_sealed_key_is_opened_again() -> None:
    """The token is one plain segment of a URL and says nothing."""
    token = links().seal(KEY)

    assert links().open(token) == KEY
    assert token.replace("-", "").replace("_", "").isalnum()
    assert "jobs" not in token


def test_two_tokens_of_one_key_differ() -> None:
    """Nobody can tell that they mean the same, nor make a third from them."""
    assert links().seal(KEY) != links().seal(KEY)


def test_a_link_dies_after_its_time() -> None:
    """To the second, and it says how long it was good for."""
    clock = FakeClock()
    sealer = links(clock=clock, ttl_s=60)
    token = sealer.seal(KEY)
    clock.jump(60)
    assert sealer.open(token) == KEY

    clock.jump(1)
    with pytest.raises(LinkExpiredError, match="valid for 60 s"):
        sealer.open(token)


@pytest.mark.parametrize(
    "token", ["", "x", "a/b", "ü", "🎵", "%00", "A" * 10_000, "====", "gAAAAA"]
)
def test_what_was_not_sealed_here_is_unknown(token: str) -> None:
    """Whatever somebody types."""
    with pytest.raises(LinkUnknownError):
        links().open(token)


@given(place=st.integers(0, 500), to=st.sampled_from("AZaz09-_"))
def test_a_changed_token_is_unknown(place: int, to: str) -> None:
    """The seal covers every bit."""
    token = links().seal(KEY)
    place %= len(token)
    changed = token[:place] + to + token[place + 1 :]
    if changed == token:
        return
    with pytest.raises(LinkUnknownError):
        links().open(changed)


@pytest.mark.parametrize("junk", ["!", " ", ".", "é", "\n", "="])
def test_a_token_is_written_in_one_way_only(junk: str) -> None:
    """Lenient base64 would skip what is not its own."""
    token = links().seal(KEY)

    for written in (junk + token, token[:9] + junk + token[9:], token + junk):
        with pytest.raises(LinkUnknownError):
            links().open(written)


def test_a_token_of_somebody_elses_keys_is_unknown() -> None:
    """Another deployment's links are not ours."""
    token = links("another secret of many characters").seal(KEY)

    with pytest.raises(LinkUnknownError):
        links().open(token)


def test_keys_are_rotated_by_putting_a_new_one_in_front() -> None:
    """The first seals, all open; without the old one its links are dead."""
    new = "the secret of next month"
    old_token = links().seal(KEY)
    new_token = links(f"{new}, {PHRASE}").seal(KEY)

    assert links(f"{new},{PHRASE}").open(old_token) == KEY
    assert links(new).open(new_token) == KEY
    with pytest.raises(LinkUnknownError):
        links(new).open(old_token)


@pytest.mark.parametrize("keys", ["", " , ", "short", f"{PHRASE},short"])
def test_without_good_keys_nothing_starts(keys: str) -> None:
    """The message names the variable."""
    with pytest.raises(SettingsError, match="SEGUE_SEGMENT_KEYS"):
        links(keys)


def test_the_keys_are_never_shown() -> None:
    """Not in a log, not in a traceback."""
    settings = LinkSettings(keys=PHRASE)

    assert PHRASE not in repr(settings)
