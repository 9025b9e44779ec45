"""A cluster that asks who one is: TLS, SCRAM, and rights that are just enough.

One real broker with a certificate of its own, an authorizer, and the rights that `segue acls`
says; every service is a user of its own there.
"""

import asyncio
import datetime as dt
import gc
import ipaddress
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, TopicAuthorizationFailedError
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import AclBinding, AclOperation, AclPermissionType
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType
from confluent_kafka.admin._scram import (
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialAlteration,
    UserScramCredentialUpsertion,
)
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from typing_extensions import override

from embedded.servers.kafka import NativeKafka
from embedded.toolchain.cache import ToolSettings
from ops.cluster.acls import OPERATOR, PREPARE, SERVICES, grants
from services.api.app import run as run_api
from services.api.settings import ApiSettings, DatabaseSettings
from services.generator.app import run as run_generator
from services.generator.settings import GeneratorSettings
from services.merger.app import run as run_merger
from services.merger.settings import MergerSettings
from services.muxer.app import run as run_muxer
from services.muxer.settings import MuxerSettings
from shared.clock import SystemClock
from shared.contract.events import Event
from shared.errors import RetryableError, SettingsError
from shared.http.server import free_ports
from shared.kafka.admin import admin_client, describe_topics, ensure_topics
from shared.kafka.alter_configs import set_topic_configs
from shared.kafka.client import connection_options
from shared.kafka.codec import Record
from shared.kafka.probes import check_kafka
from shared.kafka.producer import Publisher
from shared.processing.retry import RetryPolicy, retrying
from shared.security.signed_links import LinkSettings
from shared.settings import KafkaSettings, StoreSettings
from tests.support.api_fixture import ApiFixture, api_fixture
from tests.support.operator_commands import segue
from tests.support.pipeline_fixture import Pipeline
from tests.support.processes import eventually, records_of
from tests.support.run_builders import a_track
from tests.support.servers import Database, KafkaServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]
# asyncio leaves the connection of a failed TLS handshake to the garbage collector, which says so
# whenever it comes by: in these tests, at their end
refused = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
ANSWER_S = 30
#: over Apache Kafka's own defaults; the listener without users is for the test alone
GUARDED = """
listeners=PLAINTEXT://127.0.0.1:{port},SECURE://localhost:{secure},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},SECURE://localhost:{secure}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SECURE:SASL_SSL,CONTROLLER:PLAINTEXT
sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.secure.scram-sha-512.sasl.jaas.config={scram} required;
ssl.keystore.type=PEM
ssl.keystore.location={pem}
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
allow.everyone.if.no.acl.found=false
"""


@dataclass(frozen=True, kw_only=True)
class Guarded:
    """The broker, and what a client must know."""

    open_address: str  #: without users, for the test's own hand
    address: str
    ca: Path

    def settings(self, user: str, **changes: Any) -> KafkaSettings:
        """Those of one user."""
        given: dict[str, Any] = {
            "bootstrap_servers": self.address,
            "security_protocol": "SASL_SSL",
            "sasl_username": f"segue-{user}",
            "sasl_password": f"secret of {user}",
            "ssl_ca_file": self.ca,
            "create_topics": False,
            "session_timeout_s": 6,
            "heartbeat_s": 1,
        }
        return KafkaSettings.from_environment(**{**given, **changes})


class _GuardedKafka(NativeKafka):
    """A native broker with a second listener, which is guarded."""

    secure: int

    @override
    def _configure(self) -> tuple[int, Path]:
        port, properties = super()._configure()
        told = properties.read_text()
        controller = told.split("127.0.0.1:")[1].split()[0]
        (self.secure,) = free_ports(1)
        ours = GUARDED.format(
            port=port,
            secure=self.secure,
            controller=controller,
            pem=_pem(self.folder),
            scram="org.apache.kafka.common.security.scram.ScramLoginModule",
        )
        names = {line.split("=")[0] for line in ours.splitlines() if line}
        kept = [line for line in told.splitlines() if line.split("=")[0] not in names]
        properties.write_text("\n".join(kept) + ours)
        return port, properties


def _pem(folder: Path) -> Path:
    """A key and its certificate for localhost, signed by itself; `ca.crt` beside it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)  # noqa: TID251 - a certificate's, not a service's
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.2"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (folder / "ca.crt").write_bytes(certificate)
    (folder / "server.pem").write_bytes(private + certificate)
    return folder / "server.pem"


@pytest.fixture(scope="module")
def guarded(kafka: KafkaServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """A guarded broker with our users, their rights, and the topics."""
    if not kafka.real:
        pytest.skip("no Kafka; the embedded broker knows no users")
    tools = ToolSettings.from_environment()
    if why_not := NativeKafka.available(tools):
        pytest.skip(f"no Kafka of our own: {why_not}")
    folder = tmp_path_factory.mktemp("guarded")
    broker = _GuardedKafka(folder, tools)
    try:
        address = broker.start()
        _make_users(AdminClient({"bootstrap.servers": address}))
        yield Guarded(
            open_address=address,
            address=f"localhost:{broker.secure}",
            ca=folder / "ca.crt",
        )
    finally:
        broker.stop()


def _make_users(admin: AdminClient) -> None:
    """Each service and its password, with exactly the rights that `segue acls` prints."""
    users: list[UserScramCredentialAlteration] = [
        UserScramCredentialUpsertion(
            f"segue-{name}",
            ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096),
            f"secret of {name}".encode(),
        )
        for name in (*SERVICES, PREPARE, OPERATOR, "stranger")
    ]
    for done in admin.alter_user_scram_credentials(users).values():
        done.result(ANSWER_S)
    rights = [
        AclBinding(
            ResourceType[grant.resource_type.upper()],
            name,
            ResourcePatternType.LITERAL,
            f"User:{grant.user}",
            "*",
            AclOperation[operation.upper()],
            AclPermissionType.ALLOW,
        )
        for grant in grants(KafkaSettings())
        for name in grant.names
        for operation in grant.operations
    ]
    for made in admin.create_acls(list(dict.fromkeys(rights))).values():
        made.result(ANSWER_S)


def _allow(guarded: Guarded, user: str, topic: str, *operations: str) -> None:
    """Give a user more rights on a topic than `segue acls` does."""
    rights = [
        AclBinding(
            ResourceType.TOPIC,
            topic,
            ResourcePatternType.LITERAL,
            f"User:segue-{user}",
            "*",
            AclOperation[operation.upper()],
            AclPermissionType.ALLOW,
        )
        for operation in operations
    ]
    admin = AdminClient({"bootstrap.servers": guarded.open_address})
    for created in admin.create_acls(rights).values():
        created.result(ANSWER_S)


@asynccontextmanager
async def guarded_pipeline(
    guarded: Guarded, database: str, folder: Path
) -> AsyncIterator[Pipeline]:
    """The four services, each as its own user."""
    store = StoreSettings(folder=folder / "store")
    links = LinkSettings.from_environment(keys="a secret for tests alone")
    (port,) = free_ports(1)
    given: dict[str, Any] = {"store": store}
    stop = asyncio.Event()

    def settings_of(name: str) -> dict[str, Any]:
        return {**given, "kafka": guarded.settings(name)}

    api = ApiSettings.from_environment(
        **settings_of("api"),
        port=port,
        links=links,
        database=DatabaseSettings.from_environment(url=database),
    )
    generator = GeneratorSettings.from_environment(
        **settings_of("generator"), wanted="synth", links=links
    )
    runs = [
        run_api(api, stop=stop),
        run_generator(generator, stop=stop),
        run_merger(MergerSettings.from_environment(**settings_of("merger")), stop=stop),
        run_muxer(MuxerSettings.from_environment(**settings_of("muxer")), stop=stop),
    ]
    async with AsyncExitStack() as stack:
        tasks = [asyncio.create_task(one) for one in runs]

        async def end() -> None:
            stop.set()
            await asyncio.wait(tasks, timeout=20)
            for task in tasks:
                task.result()

        stack.push_async_callback(end)
        client = await stack.enter_async_context(_client(port))
        pipeline = Pipeline(
            kafka=KafkaServer(label="guarded", bootstrap=guarded.address),
            prefix="",
            folder=folder,
            client=client,
            services={},
        )

        async def ready() -> bool | None:
            for task in tasks:
                if task.done():
                    task.result()
            try:
                return (await client.get("/readyz")).status_code == 200 or None
            except httpx.TransportError:
                return None

        await eventually(ready, within_s=60, what="readyz")
        yield pipeline


def _client(port: int) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30)


@pytest.mark.filterwarnings("ignore::shared.storage.StandInWarning")
async def test_a_job_is_scored_by_users_with_no_right_too_many(
    guarded: Guarded, postgres: Database, tmp_path: Path
) -> None:
    """`segue-prepare` makes the topics; then each service does its part as itself."""
    made = await ensure_topics(guarded.settings(PREPARE, create_topics=True))
    assert "scene.requested" in made

    async with guarded_pipeline(guarded, await postgres(), tmp_path) as pipeline:
        scenes = [{"description": "calm", "duration_s": 1.5}] * 2
        answer = await pipeline.generate(job_id="guarded", scenes=scenes)
        assert answer.status_code == 202, answer.text
        told = await pipeline.ended("guarded")

    assert told["audio_status"]["status"] == "completed", told
    assert [scene["origin"] for scene in told["progress"]["scenes"]] == ["fresh", "continued"]


@pytest.mark.parametrize(
    ("user", "topic"),
    [("muxer", "scene.requested"), ("merger", "job.cancelled"), ("stranger", "video.muxed")],
)
async def test_nobody_writes_what_is_not_theirs(guarded: Guarded, user: str, topic: str) -> None:
    """A taken-over service cannot order music, nor end jobs."""
    await ensure_topics(guarded.settings(PREPARE, create_topics=True))
    async with AIOKafkaProducer(**connection_options(guarded.settings(user))) as producer:
        with pytest.raises(KafkaError, match=r"(?i)authoriz"):
            await asyncio.wait_for(producer.send_and_wait(topic, b"{}"), ANSWER_S)


async def test_an_operator_says_records_again_and_who_may_not_is_told_so(
    guarded: Guarded, postgres: Database, tmp_path: Path
) -> None:
    """The rights of `segue acls` are enough; a service's are not, and nothing is changed."""
    await ensure_topics(guarded.settings(PREPARE, create_topics=True))
    database, replay = await postgres(), ("replay", "audio.merged", "--apply", "--reason", "to see")
    async with api_fixture(database, tmp_path) as fixture:
        await _say(guarded, a_track())
        before = await _on(guarded, "audio.merged")

        looked = await segue(_environment(guarded, "muxer", fixture, tmp_path), *replay[:2])
        refused = await segue(_environment(guarded, "muxer", fixture, tmp_path), *replay)
        after = await _on(guarded, "audio.merged")
        operator = _environment(guarded, OPERATOR, fixture, tmp_path)
        allowed = [await segue(operator, *words) for words in (("lag",), ("dlq", "list"), replay)]

    assert looked[0] == 0, looked
    assert (refused[0], "segue acls" in refused[1]["error"]) == (4, True), refused
    assert after == before
    assert [code for code, _ in allowed] == [0, 0, 0], allowed
    assert len(await _on(guarded, "audio.merged")) == len(before) + allowed[-1][1]["copied"]


def _environment(guarded: Guarded, user: str, fixture: ApiFixture, folder: Path) -> dict[str, str]:
    """What a user's shell says."""
    return {
        "DATABASE_URL": fixture.url,
        "SEGUE_STORE_DIR": str(folder),
        "KAFKA_BOOTSTRAP_SERVERS": guarded.address,
        "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "KAFKA_SASL_USERNAME": f"segue-{user}",
        "KAFKA_SASL_PASSWORD": f"secret of {user}",
        "KAFKA_SSL_CA_FILE": str(guarded.ca),
    }


async def _say(guarded: Guarded, event: Event) -> None:
    settings = KafkaSettings.from_environment(bootstrap_servers=guarded.open_address)
    publisher = Publisher(settings, source="test", clock=SystemClock())
    await publisher.start()
    try:
        await publisher.publish(event)
    finally:
        await publisher.stop()


async def _on(guarded: Guarded, topic: str) -> list[Record]:
    return await records_of(guarded.open_address, topic, prefix="")


@refused
@pytest.mark.parametrize(
    "changes",
    [
        {"sasl_password": "wrong"},
        {"sasl_username": "segue-nobody"},
        {"ssl_ca_file": None},
        {"security_protocol": "SASL_PLAINTEXT", "ssl_ca_file": None},
    ],
    ids=["password", "user", "certificate", "no TLS"],
)
async def test_neither_side_goes_on_without_proof(
    guarded: Guarded, changes: dict[str, Any]
) -> None:
    """A wrong password, a stranger, a certificate that nobody we know signed, no TLS at all."""
    await asyncio.wait_for(check_kafka(guarded.settings("api")), ANSWER_S)

    with pytest.raises(RetryableError, match="Kafka at"):
        await asyncio.wait_for(check_kafka(guarded.settings("api", **changes)), ANSWER_S)
    gc.collect()


async def test_topic_configs_are_set_over_tls_by_a_user_who_may(guarded: Guarded) -> None:
    """The confluent-kafka client uses the same TLS and SASL settings as the others."""
    await ensure_topics(guarded.settings(PREPARE, create_topics=True))
    settings, topic = guarded.settings(OPERATOR), "video.muxed"
    changes = {topic: {"retention.ms": "60000"}}

    with pytest.raises(TopicAuthorizationFailedError, match=r"topic video.muxed: .*authoriz"):
        await set_topic_configs(settings, changes)
    _allow(guarded, OPERATOR, topic, "Alter_Configs", "Describe_Configs")
    await retrying(  # the broker applies new rights after a moment
        lambda: set_topic_configs(settings, changes),
        policy=RetryPolicy(first_s=0.2, max_s=1.0, attempts_max=10),
        clock=SystemClock(),
        errors=TopicAuthorizationFailedError,
    )

    async with admin_client(settings) as admin:
        [described] = (await describe_topics(admin, [topic], keys=["retention.ms"])).values()
    assert described.configs == {"retention.ms": "60000"}


@pytest.mark.parametrize(
    "changes",
    [{"sasl_password": "wrong"}, {"ssl_ca_file": None}],
    ids=["password", "certificate"],
)
async def test_topic_configs_are_not_set_without_proof(
    guarded: Guarded, changes: dict[str, Any]
) -> None:
    """A wrong password and an unknown certificate end in the same error as with aiokafka."""
    settings = guarded.settings(OPERATOR, **changes)

    with pytest.raises(RetryableError, match="Kafka at"):
        await set_topic_configs(settings, {"video.muxed": {"retention.ms": "1000"}}, timeout_s=5)


@refused
async def test_a_broker_under_another_name_is_not_believed(guarded: Guarded) -> None:
    """The certificate is for localhost; the same port by its number is not that."""
    by_number = guarded.address.replace("localhost", "127.0.0.1")

    with pytest.raises(RetryableError):
        await asyncio.wait_for(
            check_kafka(guarded.settings("api", bootstrap_servers=by_number)), ANSWER_S
        )
    gc.collect()


def test_a_certificate_file_that_is_none_is_named(guarded: Guarded, tmp_path: Path) -> None:
    """With its variable."""
    wrong = tmp_path / "ca.crt"
    wrong.write_text("no certificate")

    with pytest.raises(SettingsError, match="KAFKA_SSL_CA_FILE"):
        connection_options(guarded.settings("api", ssl_ca_file=wrong))
