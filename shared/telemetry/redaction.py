"""Redaction: what must not leave the process is cut out of whatever is said.

The last line of defence behind "payloads and secrets are never logged": errors of clients quote
addresses, and addresses hold signatures, sealed tokens and passwords. Two means: the shapes that
secrets have, and the very secrets that the settings hold (`hide`).

Pure, but for the secrets that were handed in.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

GONE = "***"
CHARS_MAX = 8000  # of one text: a traceback fits, a payload does not
_SECRET_CHARS_MIN = 6  # a shorter one is part of innocent words
_RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    # the audio inside a request
    (re.compile(r"\bdata:[\w.+-]+/[\w.+-]+(?:;[\w=.+-]+)*,[^\s\"'<>)]*"), "data:…"),
    # user and password in front of a host
    (re.compile(r"(\b[a-z][a-z0-9+.-]{0,30}://)[^\s/\"'<>]+@"), rf"\1{GONE}@"),
    # what our sealed links are made of: Fernet tokens
    (re.compile(r"gAAAA[\w-]{20,}=*"), GONE),
    (re.compile(r"(?i)\b(bearer)\s+[^\s\"',)]+"), rf"\1 {GONE}"),
    (re.compile(r"\b(Basic)\s+[A-Za-z0-9+/]{8,}=*"), rf"\1 {GONE}"),
    # keys of Replicate and of its webhooks
    (re.compile(r"\b(r8_|whsec_)[\w+/=-]+"), rf"\1{GONE}"),
    (
        re.compile(
            r"(?i)(passw(?:or)?d|secret|api_?key|authorization)([\"']?\s*[=:]\s*[\"']?)[^\s\"',;&)]+"
        ),
        rf"\1\2{GONE}",
    ),
    # the query of an address: signatures of presigned ones
    (re.compile(r"\?[^\s\"'<>()]*=[^\s\"'<>()]*"), "?…"),
    (re.compile(r"(?i)\bx-amz-(signature|credential|security-token)=[^\s\"'&<>()]+"), GONE),
)
#: a text without any of these breaks no rule; most lines are done after this one look
_SUSPECT = re.compile(
    r"(?i)://|\?|gAAAA|data:|bearer|basic |r8_|whsec_|passw|secret|api_?key|authorization|x-amz-"
)
_hidden: set[str] = set()


def hide(secrets: Iterable[str]) -> None:
    """From here on these are cut out, whatever shape they have; of addresses, the password."""
    for secret in secrets:
        if "://" in secret:
            password = urlsplit(secret).password or ""
            parts = [password, unquote(password)]
        else:
            parts = [secret, *secret.split(",")]
        _hidden.update(part for one in parts if len(part := one.strip()) >= _SECRET_CHARS_MIN)


def redacted(value: Any) -> Any:
    """`value` without what must not be seen; texts in lists and mappings as well."""
    if isinstance(value, str):
        return _text(value)
    if value is None or isinstance(value, int | float):
        return value
    if isinstance(value, Mapping):
        return {key: redacted(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [redacted(one) for one in value]
    return _text(str(value))


def _text(text: str) -> str:
    if len(text) > CHARS_MAX:
        text = f"{text[:CHARS_MAX]}… ({len(text)} characters)"
    for secret in _hidden:
        text = text.replace(secret, GONE)
    if _SUSPECT.search(text) is None:
        return text
    for pattern, instead in _RULES:
        text = pattern.sub(instead, text)
    return text
