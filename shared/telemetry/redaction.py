"""Removes secrets from texts before they are logged or exported.

The last line of defence behind "payloads and secrets are never logged": errors of clients quote
URLs, which hold signatures, sealed tokens and passwords. Removed are texts of the shapes that
secrets have, and the secrets of the settings (`register_secrets`).
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

MASK = "***"
CHARS_MAX = 8000  # of one text: a traceback fits, a payload does not
_SECRET_CHARS_MIN = 6  # shorter ones occur in ordinary words
_RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    # the audio inside a request
    (re.compile(r"\bdata:[\w.+-]+/[\w.+-]+(?:;[\w=.+-]+)*,[^\s\"'<>)]*"), "data:…"),
    # user and password in front of a host
    (re.compile(r"(\b[a-z][a-z0-9+.-]{0,30}://)[^\s/\"'<>]+@"), rf"\1{MASK}@"),
    # Fernet tokens, of sealed links
    (re.compile(r"gAAAA[\w-]{20,}=*"), MASK),
    (re.compile(r"(?i)\b(bearer)\s+[^\s\"',)]+"), rf"\1 {MASK}"),
    (re.compile(r"\b(Basic)\s+[A-Za-z0-9+/]{8,}=*"), rf"\1 {MASK}"),
    # keys of Replicate and of its webhooks
    (re.compile(r"\b(r8_|whsec_)[\w+/=-]+"), rf"\1{MASK}"),
    (
        re.compile(
            r"(?i)(passw(?:or)?d|secret|api_?key|authorization)([\"']?\s*[=:]\s*[\"']?)[^\s\"',;&)]+"
        ),
        rf"\1\2{MASK}",
    ),
    # the query of a URL: signatures of presigned ones
    (re.compile(r"\?[^\s\"'<>()]*=[^\s\"'<>()]*"), "?…"),
    (re.compile(r"(?i)\bx-amz-(signature|credential|security-token)=[^\s\"'&<>()]+"), MASK),
)
#: a text without any of these matches no rule: one search is enough for most lines
_SUSPECT = re.compile(
    r"(?i)://|\?|gAAAA|data:|bearer|basic |r8_|whsec_|passw|secret|api_?key|authorization|x-amz-"
)
_secrets: set[str] = set()


def register_secrets(secrets: Iterable[str]) -> None:
    """Remove these secrets from every further text; of a URL, its password."""
    for secret in secrets:
        if "://" in secret:
            password = urlsplit(secret).password or ""
            parts = [password, unquote(password)]
        else:
            parts = [secret, *secret.split(",")]
        _secrets.update(
            stripped for part in parts if len(stripped := part.strip()) >= _SECRET_CHARS_MIN
        )


def redact(value: Any) -> Any:
    """Return `value` without secrets, also in nested lists and mappings."""
    if isinstance(value, str):
        return _text(value)
    if value is None or isinstance(value, int | float):
        return value
    if isinstance(value, Mapping):
        return {key: redact(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [redact(item) for item in value]
    return _text(str(value))


def _text(text: str) -> str:
    if len(text) > CHARS_MAX:
        text = f"{text[:CHARS_MAX]}… ({len(text)} characters)"
    for secret in _secrets:
        text = text.replace(secret, MASK)
    if _SUSPECT.search(text) is None:
        return text
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text
