"""Webhooks: whether a message that says it comes from the provider does.

The scheme is Standard Webhooks: HMAC-SHA256 over `id.timestamp.body`, base64, a version before
each signature, several signatures where keys are being changed. A message proves who sent it and
when, nothing more: whoever acts on it reads the prediction again.

Units: seconds of Unix time. Pure.
"""

import base64
import binascii
import hashlib
import hmac
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence

from shared.errors import SegueError

#: below the api's address, before a sealed token; the generator writes it into its requests
WEBHOOK_PATH = "/api/v3/webhooks/replicate"
TOLERANCE_S = 300  #: older or newer messages are replays, or clocks are wrong
_PREFIX = "whsec_"
_SCHEME = "v1"
_SIGNATURES_MAX = 20  # two while keys change; a thousand are an attack
_ID_CHARS_MAX = 256
_DIGITS_MAX = 15


class WebhookRefusedError(SegueError):
    """The message is not from the provider, or not from now."""


def verify(headers: Mapping[str, str], body: bytes, *, keys: Sequence[str], now_s: float) -> str:
    """The id of a message whose signature fits one of `keys` (`whsec_…`); names as they come.

    Raises:
        WebhookRefusedError: no header, too old, too new, or no signature fits.
    """
    told = {name.lower(): value for name, value in headers.items()}
    try:
        message_id, timestamp, signatures = (
            told[f"webhook-{part}"] for part in ("id", "timestamp", "signature")
        )
    except KeyError as error:
        raise WebhookRefusedError(f"no header {error.args[0]}") from None
    if not 0 < len(message_id) <= _ID_CHARS_MAX or not message_id.isascii():
        raise WebhookRefusedError("webhook-id is no id")
    if not (timestamp.isascii() and timestamp.isdecimal() and len(timestamp) <= _DIGITS_MAX):
        raise WebhookRefusedError("webhook-timestamp is not whole seconds")
    if abs(now_s - int(timestamp)) > TOLERANCE_S:
        raise WebhookRefusedError(f"sent more than {TOLERANCE_S} s before or after now")
    given = _signatures(signatures)
    content = f"{message_id}.{timestamp}.".encode() + body
    fits = False
    for key in keys:
        expected = hmac.digest(secret_of(key), content, hashlib.sha256)
        for one in given:  # all of them, so that the time taken says nothing
            fits |= hmac.compare_digest(expected, one)
    if not fits:
        raise WebhookRefusedError("no signature fits")
    return message_id


def secret_of(key: str) -> bytes:
    """The bytes in a `whsec_…` key.

    Raises:
        WebhookRefusedError: it is no such key, so nothing can be verified.
    """
    try:
        secret = base64.b64decode(key.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError) as error:
        raise WebhookRefusedError("the signing key is not base64") from error
    if not secret:
        raise WebhookRefusedError("the signing key is empty")
    return secret


class Deliveries:
    """Which messages came already; the provider sends some of them again."""

    def __init__(self, *, kept_max: int = 10_000) -> None:
        self._kept_max = kept_max
        self._seen: OrderedDict[str, float] = OrderedDict()

    def is_new(self, message_id: str, *, now_s: float) -> bool:
        """Whether this is its first time; forgotten once a replay would be too old anyway."""
        if now_s - self._seen.get(message_id, -math.inf) <= 2 * TOLERANCE_S:
            return False
        while self._seen:
            oldest, seen_s = next(iter(self._seen.items()))
            if now_s - seen_s <= 2 * TOLERANCE_S and len(self._seen) < self._kept_max:
                break
            del self._seen[oldest]
        self._seen[message_id] = now_s
        return True

    def forget(self, message_id: str) -> None:
        """It could not be worked off: when it is sent again, it is new."""
        self._seen.pop(message_id, None)


def _signatures(header: str) -> list[bytes]:
    """Those of our scheme that can be read."""
    found = []
    for one in header.split(" ")[:_SIGNATURES_MAX]:
        scheme, _, encoded = one.partition(",")
        if scheme != _SCHEME:
            continue
        try:
            found.append(base64.b64decode(encoded, validate=True))
        except (binascii.Error, ValueError):
            continue
    return found
