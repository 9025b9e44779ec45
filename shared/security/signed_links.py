"""Sealed links: expiring names that open at our own address alone, so no table is needed.

A token is a Fernet token (AES-CBC with HMAC-SHA256, 128 random bits, the time it was sealed)
around what it stands for: a stored segment (`SegmentLinks`), or the job that a webhook is about
(`WebhookLinks`). The generator seals, the api opens; both share the keys. The first key seals,
all of them open: a new key is put in front, the old one removed once its links died. A token of
one kind means nothing to the other.
"""

import base64
import hashlib
from typing import ClassVar

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from pydantic import Field, SecretStr
from typing_extensions import override

from shared.clock import Clock
from shared.errors import SegueError, SettingsError
from shared.security.webhook_signatures import WEBHOOK_PATH
from shared.settings import SettingsGroup

SEGMENTS_PATH = "/api/v3/audio/segments"
WEBHOOK_LIFE_S = 7200  # ten minutes of a prediction, an hour in its queue, and late resends
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


class _Links:
    """Seals words into tokens and opens them again."""

    _purpose: ClassVar[bytes]

    def __init__(self, settings: LinkSettings, *, clock: Clock) -> None:
        phrases = [k.strip() for k in settings.keys.get_secret_value().split(",") if k.strip()]
        if not phrases:
            raise SettingsError("SEGUE_SEGMENT_KEYS", "is not set: give a secret of 16+ characters")
        if any(len(phrase) < _KEY_CHARS_MIN for phrase in phrases):
            raise SettingsError("SEGUE_SEGMENT_KEYS", f"needs {_KEY_CHARS_MIN}+ characters per key")
        self._fernet = MultiFernet([Fernet(self._key(phrase)) for phrase in phrases])
        self._ttl_s = self._life_s(settings)
        self._clock = clock
        self._begun_s, self._began_at = clock.now().timestamp(), clock.monotonic()

    def seal(self, words: str) -> str:
        """A token for `words`, good for the time to live from now."""
        now = int(self._clock.now().timestamp())
        return self._fernet.encrypt_at_time(words.encode(), now).decode().rstrip("=")

    def open(self, token: str) -> str:
        """The words in `token`.

        Raises:
            LinkUnknownError: not sealed with any of our keys.
            LinkExpiredError: sealed too long ago.
        """
        try:
            padded = _padded(token)
            words = self._fernet.decrypt(padded).decode()
            sealed_at = self._fernet.extract_timestamp(padded)
        except (InvalidToken, ValueError, TypeError) as error:
            raise LinkUnknownError("nobody here sealed this") from error
        if self._earliest_s() > sealed_at + self._ttl_s:
            raise LinkExpiredError(f"this link was good for {self._ttl_s} s")
        return words

    def _earliest_s(self) -> float:
        """What time it is; of a clock that jumped ahead, what it was plus what really passed."""
        passed_s = self._clock.monotonic() - self._began_at
        return min(self._clock.now().timestamp(), self._begun_s + passed_s)

    @classmethod
    def _key(cls, phrase: str) -> bytes:
        return base64.urlsafe_b64encode(hashlib.sha256(cls._purpose + phrase.encode()).digest())

    @classmethod
    def _life_s(cls, settings: LinkSettings) -> int:
        return settings.ttl_s


class SegmentLinks(_Links):
    """Tokens for object keys."""

    _purpose = b"segue segment links\n"


class WebhookLinks(_Links):
    """Tokens for job ids: whoever has one may say that a prediction of that job ended."""

    _purpose = b"segue webhooks\n"

    @classmethod
    @override
    def _life_s(cls, settings: LinkSettings) -> int:
        return WEBHOOK_LIFE_S

    def url(self, public_base_url: str, job_id: str) -> str:
        """Where the provider may tell of a prediction of this job."""
        return f"{public_base_url.rstrip('/')}{WEBHOOK_PATH}/{self.seal(job_id)}"


def _padded(token: str) -> bytes:
    """The token as it was before its padding was cut off.

    Base64 is read leniently, so a token could be written in many ways: one is allowed.
    """
    padded = (token + "=" * (-len(token) % 4)).encode("ascii")
    if base64.urlsafe_b64encode(base64.urlsafe_b64decode(padded)) != padded:
        raise InvalidToken
    return padded
