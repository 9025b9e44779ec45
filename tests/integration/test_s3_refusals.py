"""Why an S3 server refuses requests: each reason is named, with the setting to change."""

import datetime as dt
import ipaddress
import re
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import minio.time
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from minio import Minio
from minio.credentials.providers import AssumeRoleProvider
from pydantic import SecretStr
from typing_extensions import override

from embedded.servers.object_store import STORES, NativeMinio, NativeVersitygw
from embedded.servers.process import Server
from ops.doctor.servers import check_store
from shared.errors import SettingsError, StoreUnavailableError
from shared.http.server import free_ports
from shared.settings import StoreSettings
from shared.storage.s3.store import S3Store
from tests.support.servers import TOOLS, s3_names

pytestmark = pytest.mark.integration
REGION = "eu-central-1"
READ_ONLY = """{"Version": "2012-10-17", "Statement": [{
  "Effect": "Allow",
  "Action": ["s3:GetObject", "s3:ListBucket"],
  "Resource": ["arn:aws:s3:::*"]
}]}"""


@asynccontextmanager
async def opened(settings: StoreSettings, **changes: object) -> AsyncIterator[S3Store]:
    """Open a store with these settings and changes, without retries."""
    store = S3Store(settings.model_copy(update=changes), retries=0)
    try:
        yield store
    finally:
        await store.close()


def every_call(store: S3Store) -> Iterator[Awaitable[object]]:
    """Yield a call of each kind; none has a result if the server refuses it."""
    yield store.check()
    yield store.put("a", b"x")
    yield store.put_if_absent("a", b"x")
    yield store.get("a")
    yield store.stat("a")
    yield store.delete("a")
    yield _listed(store)


async def _listed(store: S3Store) -> int:
    return len([stat async for stat in store.list_objects("a")])


async def refused(settings: StoreSettings, match: str, **changes: object) -> None:
    """Assert that every call raises an error that matches."""
    async with opened(settings, **changes) as store:
        for call in every_call(store):
            with pytest.raises(StoreUnavailableError, match=match):
                await call
        if changes.get("bucket") is None:
            with pytest.raises(StoreUnavailableError, match=match):
                await store.prepare()


async def test_wrong_keys_are_named(each_s3: StoreSettings) -> None:
    """The access key, or its secret."""
    async with opened(each_s3) as store:
        await store.prepare()

    await refused(each_s3, "set MINIO_ACCESS_KEY to a key", access_key=SecretStr("unknown"))
    await refused(
        each_s3, "SignatureDoesNotMatch.*set MINIO_SECRET_KEY", secret_key=SecretStr("wrong-one")
    )


@pytest.mark.parametrize(("minutes", "direction"), [(20, "ahead of"), (-20, "behind")])
async def test_clock_skew_is_named_with_the_difference(
    each_s3: StoreSettings, minutes: int, direction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client signs with a clock that differs by more than S3 allows."""
    async with opened(each_s3) as store:
        await store.prepare()
    true_time = minio.time.utcnow

    def shifted() -> dt.datetime:
        return true_time() + dt.timedelta(minutes=minutes)

    for module in ("minio.time", "shared.storage.s3.signed", "shared.storage.s3.refusals"):
        monkeypatch.setattr(f"{module}.utcnow", shifted)

    await refused(each_s3, rf"RequestTimeTooSkewed.*1(199|200|201) s {direction}.*synchronize")


async def test_a_bucket_that_disappears_is_unavailable_not_empty(each_s3: StoreSettings) -> None:
    """No object is reported as missing; `prepare` creates the bucket again."""
    bucket = f"gone-{secrets.token_hex(4)}"
    settings = each_s3.model_copy(update={"bucket": bucket})
    async with opened(settings) as store:
        await store.prepare()
        await store.put("a", b"x")
        await store.delete("a")
        _client(settings).remove_bucket(bucket)

        for call in every_call(store):
            with pytest.raises(StoreUnavailableError, match=f"{bucket} does not exist.*prepare"):
                await call
        await store.prepare()
        await store.check()


async def test_session_credentials_work_and_a_wrong_token_is_named(
    each_s3: StoreSettings,
) -> None:
    """MinIO's STS issues them; a session without write permission names what is missing."""
    async with opened(each_s3) as store:
        await store.prepare()
        await store.put("session/old", b"old")
    await refused(
        each_s3, "InvalidToken.*MINIO_SESSION_TOKEN", session_token=SecretStr("not-a-session")
    )
    if not _issues_sessions(each_s3):
        return
    issued = AssumeRoleProvider(
        sts_endpoint=each_s3.endpoint,
        access_key=each_s3.access_key.get_secret_value(),
        secret_key=each_s3.secret_key.get_secret_value(),
        policy=READ_ONLY,
    ).retrieve()
    session = {
        "access_key": SecretStr(issued.access_key),
        "secret_key": SecretStr(issued.secret_key),
        "session_token": SecretStr(issued.session_token or ""),
    }
    async with opened(each_s3, **session) as store:
        assert await store.get("session/old") == b"old"
        for call in (store.check(), store.put_if_absent("a", b"x"), store.delete("a")):
            with pytest.raises(StoreUnavailableError, match=r"AccessDenied.*s3:PutObject.*bucket"):
                await call

    await refused(
        each_s3, "Token.*MINIO_SESSION_TOKEN", **{**session, "session_token": SecretStr("x.y.z")}
    )
    await refused(
        each_s3, "set MINIO_(ACCESS|SESSION)", **{**session, "session_token": SecretStr("")}
    )


def _issues_sessions(settings: StoreSettings) -> bool:
    """Return whether the server is MinIO; versitygw has no STS."""
    return NativeMinio.is_healthy(settings.endpoint)


def _client(settings: StoreSettings) -> Minio:
    return Minio(
        settings.endpoint.removeprefix("http://"),
        access_key=settings.access_key.get_secret_value(),
        secret_key=settings.secret_key.get_secret_value(),
        secure=False,
        region=settings.region,
    )


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _certificate(folder: Path) -> tuple[Path, Path]:
    """Write a self-signed certificate for 127.0.0.1 and its key, under MinIO's names."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "segue test")])
    now = dt.datetime.now(dt.UTC)  # noqa: TID251 - for a certificate, not a service
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    public, private = folder / "public.crt", folder / "private.key"
    public.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return public, private


class Page(BaseHTTPRequestHandler):
    """Answers every request with a page, as a console or a proxy does."""

    status = 200

    def do_GET(self) -> None:
        """Send the page."""
        body = b"<html>welcome</html>"
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(self.status)
        self.send_header("content-type", "text/html")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_PUT = do_DELETE = do_HEAD = do_GET  # noqa: N815 - as above

    @override
    def log_message(self, *_: object) -> None:
        """Write nothing."""


@pytest.mark.parametrize("status", [200, 404, 403])
async def test_an_endpoint_that_is_not_s3_is_named(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above all one that answers 200 to a PUT: the object would be lost."""
    monkeypatch.setattr(Page, "status", status)
    server = HTTPServer(("127.0.0.1", 0), Page)
    Thread(target=server.serve_forever, daemon=True).start()
    settings = StoreSettings(
        folder=None,
        endpoint=f"http://127.0.0.1:{server.server_port}",
        access_key=SecretStr("a"),
        secret_key=SecretStr("b"),
    )
    try:
        async with opened(settings) as store:
            for call in (store.check(), store.put_if_absent("a", b"x"), _listed(store)):
                with pytest.raises(StoreUnavailableError, match=r"not answer as an S3.*ENDPOINT"):
                    await call
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(params=s3_names())
def secured(
    request: pytest.FixtureRequest, s3_server: object, tmp_path: Path
) -> Iterator[StoreSettings]:
    """Yield a server with TLS, a region, and a certificate of its own authority."""
    del s3_server
    store = STORES[request.param](tmp_path / request.param, TOOLS)
    certificate, key = _certificate(tmp_path)
    (port,) = free_ports(1)
    settings = StoreSettings(
        folder=None,
        endpoint=f"https://127.0.0.1:{port}",
        access_key=SecretStr("segue-secured"),
        secret_key=SecretStr(secrets.token_urlsafe(24)),
        region=REGION,
        ca_file=certificate,
        bucket="secured",
    )
    binary = store.build(TOOLS)
    command = [*store.command(binary, f"127.0.0.1:{port}", REGION)]
    if isinstance(store, NativeVersitygw):
        command[1:1] = ["--cert", certificate, "--key", key]
    else:
        command[2:2] = ["--certs-dir", tmp_path]
    server = Server(store.label, log=tmp_path / "server.log")
    server.start(
        command,
        answers=lambda: _accepts(port),
        ready_s=30,
        environment={**store.environment(settings), "MINIO_SITE_REGION": REGION},
    )
    yield settings
    server.stop()


async def test_tls_region_and_addresses_are_named(secured: StoreSettings, tmp_path: Path) -> None:
    """One server: an own CA works; without it, in another region, or without TLS it is named."""
    async with opened(secured) as store:
        await store.prepare()
        assert await store.put_if_absent("a", b"x")
        assert await store.get("a") == b"x"
    unreadable = tmp_path / "nothing.pem"
    plain = secured.endpoint.replace("https://", "http://")
    name = secured.endpoint.replace("127.0.0.1", "localhost")
    (port,) = free_ports(1)

    await refused(secured, "not trusted.*self.signed.*set MINIO_CA_FILE", ca_file=None)
    await refused(secured, "set MINIO_REGION", region="us-west-2")
    await refused(secured, "MINIO_ENDPOINT to a name that is in", endpoint=name)
    await refused(secured, f"set MINIO_ENDPOINT to {re.escape(secured.endpoint)}", endpoint=plain)
    await refused(secured, "no connection to .*refused; start", endpoint=f"http://127.0.0.1:{port}")
    with pytest.raises(SettingsError, match=r"MINIO_CA_FILE.*nothing\.pem.*No such file"):
        S3Store(secured.model_copy(update={"ca_file": unreadable}))


async def test_doctor_reports_the_reason(each_s3: StoreSettings) -> None:
    """As the error of the store states it."""
    async with opened(each_s3) as store:
        await store.prepare()

    fine = await check_store(each_s3)
    wrong = await check_store(each_s3.model_copy(update={"secret_key": SecretStr("wrong")}))
    gone = await check_store(each_s3.model_copy(update={"bucket": "none-of-mine"}))

    assert fine.ok
    assert not wrong.ok
    assert "set MINIO_SECRET_KEY" in wrong.found
    assert not gone.ok
    assert "the bucket none-of-mine does not exist" in gone.found


async def test_a_server_without_tls_is_named(each_s3: StoreSettings) -> None:
    """`https` on its port."""
    secure = each_s3.endpoint.replace("http://", "https://")

    await refused(each_s3, f"set MINIO_ENDPOINT to {re.escape(each_s3.endpoint)}", endpoint=secure)
