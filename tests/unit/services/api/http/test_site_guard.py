"""Requests of another site's page are rejected; programs, probes and own pages are not."""

from collections.abc import Mapping

import httpx
import pytest
from starlette.responses import PlainTextResponse

from services.api.http.middleware.site_guard import SiteGuard

GUARD = SiteGuard(
    PlainTextResponse("ok"),
    hosts={"segue-api", "*.segue.svc"},
    public_url="https://music.example/segue",
)


async def status_of(method: str, headers: Mapping[str, str], *, path: str = "/x") -> int:
    """Return the status of a request with these headers."""
    transport = httpx.ASGITransport(app=GUARD)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost:4000") as client:
        return (await client.request(method, path, headers=headers)).status_code


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST.:4000",
        "app.localhost:4000",
        "127.0.0.1:4000",
        "10.1.2.3",
        "[::1]:4000",
        "[2001:db8::7]",
        "segue-api",
        "a.b.segue.svc:80",
        "music.example",
        "Music.Example:443",
    ],
)
async def test_own_hosts_are_accepted(host: str) -> None:
    """Loopback, addresses, the public host and the configured names, with any port."""
    assert await status_of("GET", {"Host": host}) == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "segue-api.evil.example",
        "segue.svc",
        "xsegue.svc",
        "evil.example@localhost",
        "localhost/x",
        "music.example.evil",
        "[::1",
        "",
    ],
)
async def test_foreign_hosts_are_rejected_except_for_probes(host: str) -> None:
    """A page of a name that now resolves to this machine (DNS rebinding) reads nothing."""
    assert await status_of("GET", {"Host": host}) == 400
    assert await status_of("POST", {"Host": host}) == 400
    assert await status_of("GET", {"Host": host}, path="/livez") == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://localhost:4000", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Origin": "https://music.example", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Host": "proxy.segue.svc", "Origin": "https://proxy.segue.svc"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Origin": "http://localhost:3000"}, 403),
        ({"Origin": "http://localhost"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:4000"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
        ({"Origin": "chrome-extension://localhost:4000"}, 403),
        ({"Origin": "http://localhost:4000.evil.example"}, 403),
        ({"Origin": "http://[::1"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "http://localhost:4000", "Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
async def test_a_write_comes_from_an_own_page_or_from_a_program(
    headers: dict[str, str], status: int
) -> None:
    """Every method that writes; reads are not restricted, because their response is not shared."""
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        assert await status_of(method, headers) == status
    assert await status_of("GET", headers) == 200
