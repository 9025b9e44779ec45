"""Sealed links expire and cannot be forged."""

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from shared.errors import SettingsError
from shared.security.signed_links import (
    LinkExpiredError,
    LinkSettings,
    LinkUnknownError,
    SegmentLinks,
    WebhookLinks,
)
from tests.fakes.clock import FakeClock

KEY = "jobs/0123/runs/1/scenes/00000/clip-1.mp3"
PHRASE = "a secret of many characters"


def links(keys: str = PHRASE, *, clock: FakeClock | None = None, ttl_s: int = 1800) -> SegmentLinks:
    """Return links with these keys."""
    settings = LinkSettings(keys=keys, ttl_s=ttl_s)
    return SegmentLinks(settings, clock=clock or FakeClock())


def test_sealed_key_is_opened() -> None:
    """The token is one path segment of a URL and reveals nothing."""
    token = links().seal(KEY)

    assert links().open(token) == KEY
    assert token.replace("-", "").replace("_", "").isalnum()
    assert "jobs" not in token


def test_two_tokens_of_one_key_differ() -> None:
    """They cannot be recognised as equal, nor combined."""
    assert links().seal(KEY) != links().seal(KEY)


def test_link_expires() -> None:
    """To the second; the error has its lifetime."""
    clock = FakeClock()
    sealer = links(clock=clock, ttl_s=60)
    token = sealer.seal(KEY)
    clock.jump(60)
    assert sealer.open(token) == KEY

    clock.jump(1)
    with pytest.raises(LinkExpiredError, match="valid for 60 s"):
        sealer.open(token)


@pytest.mark.parametrize("length", [1, 20, 40, 200])
def test_text_of_any_length_is_opened(length: int) -> None:
    """The token has no padding, whatever its length."""
    token = links().seal("x" * length)

    assert "=" not in token
    assert links().open(token) == "x" * length


class JumpingClock(FakeClock):
    """A clock whose time of day is set ahead, as by NTP."""

    ahead_s = 0.0

    @override
    def now(self) -> datetime:
        return super().now() + timedelta(seconds=self.ahead_s)


def test_link_does_not_expire_when_the_clock_is_set_ahead() -> None:
    """Only the time that really passed counts."""
    clock = JumpingClock()
    clock.jump(1000)
    sealer = links(clock=clock, ttl_s=60)
    token = sealer.seal(KEY)
    clock.jump(30)
    clock.ahead_s = 86_400
    assert sealer.open(token) == KEY

    clock.jump(31)
    with pytest.raises(LinkExpiredError):
        sealer.open(token)


def test_webhook_link_has_its_own_lifetime_and_url() -> None:
    """A webhook may come two hours later, whatever the lifetime of segment links."""
    clock = FakeClock()
    webhooks = WebhookLinks(LinkSettings(keys=PHRASE, ttl_s=60), clock=clock)
    url = webhooks.url("https://segue.example/", "job-1")
    address, _, token = url.rpartition("/")
    assert address == "https://segue.example/api/v3/webhooks/replicate"

    clock.jump(7200)
    assert webhooks.open(token) == "job-1"
    clock.jump(1)
    with pytest.raises(LinkExpiredError, match="7200 s"):
        webhooks.open(token)


def test_key_of_sixteen_characters_is_long_enough() -> None:
    """The message about a shorter one names that number."""
    assert links("x" * 16).open(links("x" * 16).seal(KEY)) == KEY
    with pytest.raises(SettingsError, match="16 or more"):
        links("x" * 15)


@pytest.mark.parametrize(
    "token", ["", "x", "a/b", "ü", "🎵", "%00", "A" * 10_000, "====", "gAAAAA"]
)
def test_unsealed_token_is_rejected(token: str) -> None:
    """Whatever it contains."""
    with pytest.raises(LinkUnknownError):
        links().open(token)


@given(place=st.integers(0, 500), to=st.sampled_from("AZaz09-_"))
def test_changed_token_is_rejected(place: int, to: str) -> None:
    """Every bit is authenticated."""
    token = links().seal(KEY)
    place %= len(token)
    changed = token[:place] + to + token[place + 1 :]
    if changed == token:
        return
    with pytest.raises(LinkUnknownError):
        links().open(changed)


@pytest.mark.parametrize("junk", ["!", " ", ".", "é", "\n", "="])
def test_token_has_one_spelling(junk: str) -> None:
    """Lenient base64 would skip invalid characters."""
    token = links().seal(KEY)

    for written in (junk + token, token[:9] + junk + token[9:], token + junk):
        with pytest.raises(LinkUnknownError):
            links().open(written)


def test_token_of_other_keys_is_rejected() -> None:
    """Links of another installation are invalid."""
    token = links("another secret of many characters").seal(KEY)

    with pytest.raises(LinkUnknownError):
        links().open(token)


def test_keys_are_rotated_by_prepending_a_new_one() -> None:
    """The first seals, all open; without the old key its links are invalid."""
    new = "the secret of next month"
    old_token = links().seal(KEY)
    new_token = links(f"{new}, {PHRASE}").seal(KEY)

    assert links(f"{new},{PHRASE}").open(old_token) == KEY
    assert links(new).open(new_token) == KEY
    with pytest.raises(LinkUnknownError):
        links(new).open(old_token)


@pytest.mark.parametrize("keys", ["", " , ", "short", f"{PHRASE},short"])
def test_missing_or_short_keys_stop_the_start(keys: str) -> None:
    """The message names the variable."""
    with pytest.raises(SettingsError, match="SEGUE_SEGMENT_KEYS"):
        links(keys)


def test_keys_are_not_in_the_repr() -> None:
    """Nor in logs and tracebacks."""
    settings = LinkSettings(keys=PHRASE)

    assert PHRASE not in repr(settings)
