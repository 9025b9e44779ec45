"""Rejects requests that a page of another site makes a browser send.

A browser sends a POST to any address, loopback too, and names the page's origin. DNS rebinding
makes it believe that this service belongs to the page's site; then `Host` has the page's name. So a
write must come from this service's own origin or from no page at all, and the host must be known.
An address is always accepted as host: a name has to be rebound, an address cannot be.
"""

from collections.abc import Collection, Mapping
from http import HTTPStatus
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from services.api.http.problems import problem_response

_HEALTH = frozenset({"/livez", "/readyz", "/metrics"})  # probes name the pod's address, or anything
_READS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_OWN_SITES = frozenset({"same-origin", "none"})
_OWN_NAMES = frozenset({"localhost", "host.docker.internal"})  # neither can be registered
_PORTS: Mapping[str, int] = {"http": 80, "https": 443}


class SiteGuard:
    """ASGI middleware that checks host and origin."""

    def __init__(self, app: ASGIApp, *, hosts: Collection[str], public_url: str) -> None:
        """`hosts`: names, or `*.name` for all below it; `*` accepts any."""
        self._app = app
        self._hosts = frozenset(host.lower().rstrip(".") for host in hosts)
        public = urlsplit(public_url)
        self._public_origin = _authority(public.netloc, public.scheme) if public_url else None
        self._public_host = public.hostname

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http" and scope["path"] not in _HEALTH:
            headers = Headers(scope=scope)
            if (rejected := self._rejection(headers, scope["method"])) is not None:
                status, detail = rejected
                response = problem_response(Request(scope), status, detail)
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _rejection(self, headers: Headers, method: str) -> tuple[HTTPStatus, str] | None:
        host = headers.get("host", "")
        if not self.is_trusted(host):
            return HTTPStatus.BAD_REQUEST, (
                f"unknown host {host[:200]!r}: use the address of the service, or add the name to "
                "SEGUE_TRUSTED_HOSTS"
            )
        if method in _READS:
            return None
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        is_own = origin is None or self._is_own(origin, host)
        if not is_own or (site is not None and site.lower() not in _OWN_SITES):
            return HTTPStatus.FORBIDDEN, (
                f"a page of another site ({(origin or site or '')[:200]}) may not send this "
                "request: send it from a program, or from a page of this service"
            )
        return None

    def is_trusted(self, host: str) -> bool:
        """Return whether requests for this value of `Host` are accepted."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        except ValueError:
            return False
        if not name or "@" in host or "/" in host:
            return False
        if "*" in self._hosts or name in {*_OWN_NAMES, self._public_host, *self._hosts}:
            return True
        parents = {f"*.{name.split('.', n)[-1]}" for n in range(1, name.count(".") + 1)}
        return _is_address(name) or not parents.isdisjoint(self._hosts | {"*.localhost"})

    def _is_own(self, origin: str, host: str) -> bool:
        scheme, separator, netloc = origin.lower().partition("://")
        if not separator or scheme not in _PORTS:
            return False  # "null", or the scheme of an extension
        authority = _authority(netloc, scheme)
        # behind a proxy with TLS the scheme of the request is not known here: that of the page is
        return authority in {_authority(host, scheme), self._public_origin}


def _authority(netloc: str, scheme: str) -> tuple[str, int | None] | None:
    """Return host and port, with the default port of the scheme; None: invalid."""
    try:
        parts = urlsplit(f"//{netloc.lower()}")
        return (parts.hostname or "").rstrip("."), parts.port or _PORTS.get(scheme)
    except ValueError:
        return None


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
