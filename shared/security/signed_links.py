"""Sealed links: expiring, encrypted tokens in URLs of the api; they need no table.

A token is a Fernet token (AES-CBC with HMAC-SHA256, 128 random bits, the time of sealing) that
contains an object key (`SegmentLinks`) or the job id of a webhook (`WebhookLinks`). The generator
seals tokens, the api opens them; both have the same keys. The first key seals, all of them open:
to rotate, put a new key in front and remove the old one after its links expired. Tokens of one
kind are invalid for the other.
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
WEBHOOK_LIFETIME_S = 7200  # ten minutes of a prediction, an hour in the queue, and late retries
_KEY_CHARS_MIN = 16


class LinkSettings(SettingsGroup):
    """Keys and lifetime of sealed links."""

    keys: SecretStr = Field(SecretStr(""), validation_alias="SEGUE_SEGMENT_KEYS")
    ttl_s: int = Field(1800, ge=1, le=7 * 86_400, validation_alias="SEGUE_SEGMENT_TTL_S")
    public_base_url: str | None = Field(
        None, validation_alias="PUBLIC_BASE_URL", pattern=r"^https?://"
    )


class LinkUnknownError(SegueError):
    """The token was not sealed with any of the keys."""


class LinkExpiredError(SegueError):
    """The token is valid but expired."""


class _Links:
    """Seals texts into tokens and opens them."""

    _purpose: ClassVar[bytes]

    def __init__(self, settings: LinkSettings, *, clock: Clock) -> None:
        phrases = [k.strip() for k in settings.keys.get_secret_value().split(",") if k.strip()]
        if not phrases:
            raise SettingsError(
                "SEGUE_SEGMENT_KEYS", "is not set; set a secret of 16 or more characters"
            )
        if any(len(phrase) < _KEY_CHARS_MIN for phrase in phrases):
            raise SettingsError(
                "SEGUE_SEGMENT_KEYS", f"needs {_KEY_CHARS_MIN} or more characters per key"
            )
        self._fernet = MultiFernet([Fernet(self._key(phrase)) for phrase in phrases])
        self._ttl_s = self._lifetime_s(settings)
        self._clock = clock
        self._started_s, self._started_at = clock.now().timestamp(), clock.monotonic()

    def seal(self, text: str) -> str:
        """Return a token for `text`, valid from now for its lifetime."""
        now = int(self._clock.now().timestamp())
        return self._fernet.encrypt_at_time(text.encode(), now).decode().rstrip("=")

    def open(self, token: str) -> str:
        """Return the text in `token`.

        Raises:
            LinkUnknownError: not sealed with any of the keys.
            LinkExpiredError: sealed too long ago.
        """
        try:
            padded = _padded(token)
            text = self._fernet.decrypt(padded).decode()
            sealed_at = self._fernet.extract_timestamp(padded)
        except (InvalidToken, ValueError, TypeError) as error:
            raise LinkUnknownError("invalid token") from error
        if self._now_s() > sealed_at + self._ttl_s:
            raise LinkExpiredError(f"the link expired: it was valid for {self._ttl_s} s")
        return text

    def _now_s(self) -> float:
        """Return the time; after a clock jump ahead, the start plus the time that really passed."""
        passed_s = self._clock.monotonic() - self._started_at
        return min(self._clock.now().timestamp(), self._started_s + passed_s)

    @classmethod
    def _key(cls, phrase: str) -> bytes:
        return base64.urlsafe_b64encode(hashlib.sha256(cls._purpose + phrase.encode()).digest())

    @classmethod
    def _lifetime_s(cls, settings: LinkSettings) -> int:
        return settings.ttl_s


class SegmentLinks(_Links):
    """Tokens for object keys."""

    _purpose = b"segue segment links\n"


class WebhookLinks(_Links):
    """Tokens for job ids: they authorize a webhook about a prediction of that job."""

    _purpose = b"segue webhooks\n"

    @classmethod
    @override
    def _lifetime_s(cls, settings: LinkSettings) -> int:
        return WEBHOOK_LIFETIME_S

    def url(self, public_base_url: str, job_id: str) -> str:
        """Return the webhook URL of a job's predictions."""
        return f"{public_base_url.rstrip('/')}{WEBHOOK_PATH}/{self.seal(job_id)}"


def _padded(token: str) -> bytes:
    """Return the token with its padding restored.

    Base64 decoding is lenient, so a token could have several spellings: only one is accepted.
    """
    padded = (token + "=" * (-len(token) % 4)).encode("ascii")
    if base64.urlsafe_b64encode(base64.urlsafe_b64decode(padded)) != padded:
        raise InvalidToken
    return padded
