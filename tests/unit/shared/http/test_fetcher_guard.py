"""No URL, redirect or host name reaches a private address (SSRF guard)."""

import ssl
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from shared.contract.params import VideoRef
from shared.errors import MediaError
from shared.http.fetcher import REDIRECTS_MAX
from tests.unit.shared.http.fetcher_fixture import VIDEO, a_fetcher, always, fetched
from tests.unit.shared.http.upstream_server import Answer, upstream

CORPUS = (
    *("http://127.0.0.1:{p}/", "http://localhost:{p}/", "http://LOCALHOST.:{p}/"),
    *("http://127.1:{p}/", "http://127.0.1:{p}/", "http://127.255.255.254:{p}/"),
    *("http://2130706433:{p}/", "http://0177.0.0.1:{p}/", "http://017700000001:{p}/"),
    *("http://0x7f000001:{p}/", "http://0x7f.0.0.1:{p}/", "http://0x7f.1:{p}/"),
    *("http://0:{p}/", "http://0.0.0.0:{p}/", "http://127.000.000.001:{p}/"),
    *("http://[::1]:{p}/", "http://[::]:{p}/", "http://[0:0:0:0:0:0:0:1]:{p}/"),
    *("http://[::ffff:127.0.0.1]:{p}/", "http://[::ffff:7f00:1]:{p}/", "http://[::127.0.0.1]:{p}/"),
    *("http://[64:ff9b::7f00:1]:{p}/", "http://[2002:7f00:1::]:{p}/"),
    *("http://user:secret@127.0.0.1:{p}/", "http://example.com@127.0.0.1:{p}/"),
    *("http://127.0.0.1:{p}#@example.com/", "http://127.0.0.1:{p}\\@example.com/"),
    *("http://①②⑦.⓪.⓪.①:{p}/", "http://ⓛocalhost:{p}/", "http://127。0。0。1:{p}/"),
    *("https://127.0.0.1:{p}/", "https://localhost:{p}/"),
    *("http://169.254.169.254/latest/meta-data/", "http://[fd00:ec2::254]/", "http://10.0.0.1/"),
    *("http://168.63.129.16/", "http://100.100.100.200/", "http://192.168.0.1/"),
    *("file:///etc/passwd", "ftp://127.0.0.1:{p}/", "gopher://127.0.0.1:{p}/_GET", "rtsp://x/y"),
    *("concat:/etc/passwd", "data:video/mp4;base64,AAAA", "//127.0.0.1:{p}/", "127.0.0.1:{p}"),
    *("http://", "http:///x", "http://:80/", "http://[::1", "http://127.0.0.1:99999/", "", " "),
    *("http://127.0.0.1:-1/", "http://127.0.0.1:0/", "http://127.0.0.1:65536/", "http://[::1]:-1/"),
    *("http://a\r\nb/", "http://\x00/", "http://" + "a" * 300 + "/", "http://exa mple/"),
)


@pytest.mark.parametrize("form", CORPUS)
async def test_no_spelling_of_a_private_address_is_connected_to(tmp_path: Path, form: str) -> None:
    """A sentinel on both loopbacks sees no connection at all."""
    async with upstream("127.0.0.1", "::1") as sentinel:
        fetcher = a_fetcher(tmp_path, private="")

        with pytest.raises(MediaError, match=r"^video\.url: "):
            await fetcher.fetch(
                VideoRef(url=form.replace("{p}", str(sentinel.port))), tmp_path / "v"
            )

        assert sentinel.connections == 0


@pytest.mark.parametrize("status", ["301", "302", "303", "307", "308"])
async def test_redirect_is_followed_and_its_target_is_checked(tmp_path: Path, status: str) -> None:
    """An allowed server may redirect to itself, but not to a private neighbour."""
    async with upstream() as server, upstream("127.0.0.2") as sentinel:
        server.answers = {
            "/a": Answer(status=f"{status} Go", headers={"Location": "b?c=1"}),
            "/b?c=1": Answer(body=VIDEO),
            "/evil": Answer(
                status=f"{status} Go", headers={"Location": f"http://127.0.0.2:{sentinel.port}/"}
            ),
        }
        fetcher = a_fetcher(tmp_path)

        assert await fetched(fetcher, server, "/a", tmp_path) == VIDEO
        with pytest.raises(MediaError, match=r"127\.0\.0\.2 resolves to a private address"):
            await fetched(fetcher, server, "/evil", tmp_path)
        assert sentinel.connections == 0


@pytest.mark.parametrize(
    "goal",
    [
        "file:///etc/passwd",
        "rtsp://127.0.0.1/",
        "http://[::1",
        "http://127.0.0.1:-1/",
        "http://127.0.0.1:70000/",
    ],
)
async def test_redirect_to_another_scheme_is_rejected(tmp_path: Path, goal: str) -> None:
    """A redirect reaches nothing that a URL could not."""
    async with upstream() as server:
        server.answers["/a"] = Answer(status="302 Found", headers={"Location": goal})

        with pytest.raises(MediaError, match=r"^video\.url: "):
            await fetched(a_fetcher(tmp_path), server, "/a", tmp_path)


async def test_fourth_redirect_is_rejected(tmp_path: Path) -> None:
    """Three are followed, a loop ends."""
    async with upstream() as server:
        for hop in range(3):
            server.answers[f"/{hop}"] = Answer(
                status="302 Found", headers={"Location": f"/{hop + 1}"}
            )
        server.answers["/3"] = Answer(body=b"video")
        server.answers["/circle"] = Answer(status="302 Found", headers={"Location": "/circle"})
        fetcher = a_fetcher(tmp_path)

        assert await fetched(fetcher, server, "/0", tmp_path) == b"video"
        server.requests.clear()
        with pytest.raises(MediaError, match="more than 3 redirects"):
            await fetched(fetcher, server, "/circle", tmp_path)
        assert len(server.requests) == 1 + REDIRECTS_MAX


async def test_host_is_resolved_once_and_the_checked_address_is_used(tmp_path: Path) -> None:
    """A name that would resolve differently the second time is not resolved again."""
    resolved: list[str] = []

    async def rebinding(host: str, _port: int) -> Sequence[str]:
        resolved.append(host)
        return ["127.0.0.1"] if len(resolved) == 1 else ["127.0.0.2"]

    async with upstream() as server, upstream("127.0.0.2", port=server.port) as sentinel:
        server.answers["/v"] = Answer(body=VIDEO)
        fetcher = a_fetcher(tmp_path, resolver=rebinding)

        assert await fetched(fetcher, server, "/v", tmp_path, host="film.example") == VIDEO
        assert resolved == ["film.example"]
        assert f"host: film.example:{server.port}\r\n" in server.requests[0].lower()
        assert sentinel.connections == 0


async def test_one_private_address_among_public_ones_rejects_the_host(tmp_path: Path) -> None:
    """No address is connected to, not even the public one."""
    async with upstream() as sentinel:
        fetcher = a_fetcher(tmp_path, private="", resolver=always("192.0.2.1", "127.0.0.1"))

        with pytest.raises(MediaError, match="resolves to a private address"):
            await fetched(fetcher, sentinel, "/v", tmp_path, host="film.example")
        assert sentinel.connections == 0


async def test_second_address_is_tried_if_the_first_does_not_answer(tmp_path: Path) -> None:
    """As usual clients do, among the checked addresses."""
    async with upstream() as server:
        server.answers["/v"] = Answer(body=VIDEO)
        fetcher = a_fetcher(
            tmp_path, private="127.0.0.0/8", resolver=always("127.0.0.3", "127.0.0.1")
        )

        assert await fetched(fetcher, server, "/v", tmp_path, host="film.example") == VIDEO


def _certificate(name: str, folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's side and a client's side that trusts it, for `name`."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    day = timedelta(days=1)
    today = datetime.now(UTC)  # noqa: TID251 - ssl compares with the machine's clock
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - day)
        .not_valid_after(today + day)
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.DNSName(name), x509.IPAddress(ip_address("192.0.2.1"))]
            ),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    pem = folder / "server.pem"
    pem.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(pem)
    return server_side, ssl.create_default_context(cafile=str(pem))


@pytest.mark.parametrize(
    ("host", "error"), [("film.example", None), ("other.example", "certificate of other.example")]
)
async def test_certificate_is_checked_against_the_host_name(
    tmp_path: Path, host: str, error: str | None
) -> None:
    """The connection goes to an address, the certificate must name the host."""
    server_side, client_side = _certificate("film.example", tmp_path)
    async with upstream(tls=server_side) as server:
        server.answers["/v"] = Answer(body=VIDEO)
        fetcher = a_fetcher(tmp_path, resolver=always("127.0.0.1"), verify=client_side)
        ref = VideoRef(url=f"https://{host}:{server.port}/v")

        if error is None:
            await fetcher.fetch(ref, tmp_path / "video")
            assert (tmp_path / "video").read_bytes() == VIDEO
        else:
            with pytest.raises(MediaError, match=error):
                await fetcher.fetch(ref, tmp_path / "video")
            assert server.requests == []
