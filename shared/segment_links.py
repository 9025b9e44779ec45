"""Segment links: sealed, expiring names for stored segments, so that no table of them is needed.

A token is a Fernet token (AES-CBC with HMAC-SHA256, 128 random bits, the time it was sealed)
around an object key. The generator seals, the api opens; both share the keys. The first key
seals, all of them open: a new key is put in front, the old one removed once its links died.
"""

import base64
import hashlib

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from pydantic import Field, SecretStr

from shared.clock import Clock
from shared.errors import SegueError, SettingsError
from shared.settings import SettingsGroup

SEGMENTS_PATH = "/api/v3/audio/segments"
_KEY_CHARS_MIN = 16


class LinkSettings(SettingsGroup):
    """How segment links are sealed and how long they live."""

    keys: SecretStr = Field(SecretStr(""), validation_alias="SEGUE_SEGMENT_KEYS")
    ttl_s: int = Field(1800, ge=1, le=7 * 86_400, validation_alias="SEGUE_SEGMENT_TTL_S")
    public_base_url: str | None = Field(
        None, validation_alias="PUBLIC_BASE_URL", pattern=r"^https?://"
    )


class LinkUnknownError(SegueError):
    """Nobody here sealed this token."""


class LinkExpiredError(SegueError):
    """The token was ours, and its time is over."""


class SegmentLinks:
    """Seals object keys into tokens and opens them again."""

    def __init__(self, settings: LinkSettings, *, clock: Clock) -> None:
        phrases = [k.strip() for k in settings.keys.get_secret_value().split(",") if k.strip()]
        if not phrases:
            raise SettingsError("SEGUE_SEGMENT_KEYS", "is not set: give a secret of 16+ characters")
        if any(len(phrase) < _KEY_CHARS_MIN for phrase in phrases):
            raise SettingsError("SEGUE_SEGMENT_KEYS", f"needs {_KEY_CHARS_MIN}+ characters per key")
        self._fernet = MultiFernet([Fernet(_fernet_key(phrase)) for phrase in phrases])
        self._ttl_s = settings.ttl_s
        self._clock = clock

    def seal(self, object_key: str) -> str:
        """A token for `object_key`, good for the time to live from now."""
        now = int(self._clock.now().timestamp())
        return self._fernet.encrypt_at_time(object_key.encode(), now).decode().rstrip("=")

    def open(self, token: str) -> str:
        """The object key in `token`.

        Raises:
            LinkUnknownError: not sealed with any of our keys.
            LinkExpiredError: sealed too long ago.
        """
        try:
            padded = _padded(token)
            key = self._fernet.decrypt(padded).decode()
            sealed_at = self._fernet.extract_timestamp(padded)
        except (InvalidToken, ValueError, TypeError) as error:
            raise LinkUnknownError("no such segment") from error
        if self._clock.now().timestamp() > sealed_at + self._ttl_s:
            raise LinkExpiredError(f"this link was good for {self._ttl_s} s")
        return key


def _padded(token: str) -> bytes:
    """The token as it was before its padding was cut off.

    Base64 is read leniently, so a token could be written in many ways: one is allowed.
    """
    padded = (token + "=" * (-len(token) % 4)).encode("ascii")
    if base64.urlsafe_b64encode(base64.urlsafe_b64decode(padded)) != padded:
        raise InvalidToken
    return padded


def _fernet_key(phrase: str) -> bytes:
    return base64.urlsafe_b64encode(
        hashlib.sha256(b"segue segment links\n" + phrase.encode()).digest()
    )
