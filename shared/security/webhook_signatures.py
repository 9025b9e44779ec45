"""Verifies the signatures of webhooks from the provider.

The scheme is Standard Webhooks: HMAC-SHA256 over `id.timestamp.body`, base64, a version before
each signature, several signatures during a key rotation. A message proves its sender and time
only: the receiver reads the prediction from the provider before it acts.

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

#: path of the api, followed by a sealed token; the generator puts it into its requests
WEBHOOK_PATH = "/api/v3/webhooks/replicate"
TOLERANCE_S = 300  #: older or newer messages are replays, or a clock is wrong
_PREFIX = "whsec_"
_SCHEME = "v1"
_SIGNATURES_MAX = 20  # two during a key rotation; a thousand are an attack
_ID_CHARS_MAX = 256
_DIGITS_MAX = 15


class WebhookRefusedError(SegueError):
    """The message is not from the provider, or not recent."""


def verify(headers: Mapping[str, str], body: bytes, *, keys: Sequence[str], now_s: float) -> str:
    """Return the id of a message that is signed with one of `keys` (`whsec_…`).

    Raises:
        WebhookRefusedError: a header is missing, too old, too new, or no signature matches.
    """
    lowercase = {name.lower(): value for name, value in headers.items()}
    try:
        message_id, timestamp, signatures = (
            lowercase[f"webhook-{part}"] for part in ("id", "timestamp", "signature")
        )
    except KeyError as error:
        raise WebhookRefusedError(f"missing header {error.args[0]}") from None
    if not 0 < len(message_id) <= _ID_CHARS_MAX or not message_id.isascii():
        raise WebhookRefusedError("invalid webhook-id")
    if not (timestamp.isascii() and timestamp.isdecimal() and len(timestamp) <= _DIGITS_MAX):
        raise WebhookRefusedError("invalid webhook-timestamp")
    if abs(now_s - int(timestamp)) > TOLERANCE_S:
        raise WebhookRefusedError(f"webhook-timestamp is more than {TOLERANCE_S} s off")
    received = _signatures(signatures)
    content = f"{message_id}.{timestamp}.".encode() + body
    is_valid = False
    for key in keys:
        expected = hmac.digest(secret_of(key), content, hashlib.sha256)
        for signature in received:  # all of them, so that timing reveals nothing
            is_valid |= hmac.compare_digest(expected, signature)
    if not is_valid:
        raise WebhookRefusedError("no signature matches")
    return message_id


def secret_of(key: str) -> bytes:
    """Return the bytes of a `whsec_…` key.

    Raises:
        WebhookRefusedError: it is not a valid key.
    """
    try:
        secret = base64.b64decode(key.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError) as error:
        raise WebhookRefusedError("the signing key is not base64") from error
    if not secret:
        raise WebhookRefusedError("the signing key is empty")
    return secret


class Deliveries:
    """Message ids that were received: the provider retries some of them."""

    def __init__(self, *, ids_max: int = 10_000) -> None:
        self._ids_max = ids_max
        self._seen: OrderedDict[str, float] = OrderedDict()

    def is_new(self, message_id: str, *, now_s: float) -> bool:
        """Return whether the id is new; ids are dropped once a replay would be too old."""
        if now_s - self._seen.get(message_id, -math.inf) <= 2 * TOLERANCE_S:
            return False
        while self._seen:
            oldest, seen_s = next(iter(self._seen.items()))
            if now_s - seen_s <= 2 * TOLERANCE_S and len(self._seen) < self._ids_max:
                break
            del self._seen[oldest]
        self._seen[message_id] = now_s
        return True

    def forget(self, message_id: str) -> None:
        """Drop an id whose message could not be processed, so that a retry is new."""
        self._seen.pop(message_id, None)


def _signatures(header: str) -> list[bytes]:
    """Return the decoded signatures of the supported scheme."""
    decoded = []
    for entry in header.split(" ")[:_SIGNATURES_MAX]:
        scheme, _, encoded = entry.partition(",")
        if scheme != _SCHEME:
            continue
        try:
            decoded.append(base64.b64decode(encoded, validate=True))
        except (binascii.Error, ValueError):
            continue
    return decoded
