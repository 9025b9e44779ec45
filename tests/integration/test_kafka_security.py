"""A Kafka cluster with TLS, SCRAM and ACLs: the rights of `segue acls` are just enough.

One real broker with its own certificate, an authorizer, and the rights that `segue acls` prints;
every service is a user of its own.
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
# asyncio leaves the connection of a failed TLS handshake to the garbage collector, which warns
# when it runs: in these tests, at their end
unclosed_handshake = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
ANSWER_S = 30
#: on top of Apache Kafka's defaults; the listener without users is for the test only
SECURED = """
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
class SecuredCluster:
    """The broker's addresses and its certificate."""

    open_address: str  #: of the listener without users, for the test itself
    address: str
    ca: Path

    def settings(self, user: str, **changes: Any) -> KafkaSettings:
        """Return the settings of one user."""
        fields: dict[str, Any] = {
            "bootstrap_servers": self.address,
            "security_protocol": "SASL_SSL",
            "sasl_username": f"segue-{user}",
            "sasl_password": f"secret of {user}",
            "ssl_ca_file": self.ca,
            "create_topics": False,
            "session_timeout_s": 6,
            "heartbeat_s": 1,
        }
        return KafkaSettings.from_environment(**{**fields, **changes})


class _SecuredKafka(NativeKafka):
    """A native broker with a second listener, which requires TLS and SCRAM."""

    secure: int

    @override
    def _configure(self) -> tuple[int, Path]:
        port, properties = super()._configure()
        defaults = properties.read_text()
        controller = defaults.split("127.0.0.1:")[1].split()[0]
        (self.secure,) = free_ports(1)
        secured = SECURED.format(
            port=port,
            secure=self.secure,
            controller=controller,
            pem=_pem(self.folder),
            scram="org.apache.kafka.common.security.scram.ScramLoginModule",
        )
        names = {line.split("=")[0] for line in secured.splitlines() if line}
        other_lines = [line for line in defaults.splitlines() if line.split("=")[0] not in names]
        properties.write_text("\n".join(other_lines) + secured)
        return port, properties


def _pem(folder: Path) -> Path:
    """Write a key with a self-signed certificate for localhost, and `ca.crt` beside it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)  # noqa: TID251 - for a certificate, not a service
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
def secured(
    kafka: KafkaServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SecuredCluster]:
    """Yield a secured broker with users, their rights, and the topics."""
    if not kafka.real:
        pytest.skip("no Kafka; the embedded broker knows no users")
    tools = ToolSettings.from_environment()
    if why_not := NativeKafka.available(tools):
        pytest.skip(f"Apache Kafka cannot be started: {why_not}")
    folder = tmp_path_factory.mktemp("secured")
    broker = _SecuredKafka(folder, tools)
    try:
        address = broker.start()
        _create_users(AdminClient({"bootstrap.servers": address}))
        yield SecuredCluster(
            open_address=address,
            address=f"localhost:{broker.secure}",
            ca=folder / "ca.crt",
        )
    finally:
        broker.stop()


def _create_users(admin: AdminClient) -> None:
    """Create each service's user with exactly the rights that `segue acls` prints."""
    users: list[UserScramCredentialAlteration] = [
        UserScramCredentialUpsertion(
            f"segue-{name}",
            ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096),
            f"secret of {name}".encode(),
        )
        for name in (*SERVICES, PREPARE, OPERATOR, "stranger")
    ]
    for altered in admin.alter_user_scram_credentials(users).values():
        altered.result(ANSWER_S)
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
    for created in admin.create_acls(list(dict.fromkeys(rights))).values():
        created.result(ANSWER_S)


def _allow(secured: SecuredCluster, user: str, topic: str, *operations: str) -> None:
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
    admin = AdminClient({"bootstrap.servers": secured.open_address})
    for created in admin.create_acls(rights).values():
        created.result(ANSWER_S)


@asynccontextmanager
async def secured_pipeline(
    secured: SecuredCluster, database: str, folder: Path
) -> AsyncIterator[Pipeline]:
    """Run the four services, each as its own user."""
    store = StoreSettings(folder=folder / "store")
    links = LinkSettings.from_environment(keys="a secret for tests only")
    (port,) = free_ports(1)
    common: dict[str, Any] = {"store": store}
    stop = asyncio.Event()

    def settings_of(name: str) -> dict[str, Any]:
        return {**common, "kafka": secured.settings(name)}

    api = ApiSettings.from_environment(
        **settings_of("api"),
        port=port,
        links=links,
        database=DatabaseSettings.from_environment(url=database),
    )
    generator = GeneratorSettings.from_environment(
        **settings_of("generator"), wanted="synth", links=links
    )
    services = [
        run_api(api, stop=stop),
        run_generator(generator, stop=stop),
        run_merger(MergerSettings.from_environment(**settings_of("merger")), stop=stop),
        run_muxer(MuxerSettings.from_environment(**settings_of("muxer")), stop=stop),
    ]
    async with AsyncExitStack() as stack:
        tasks = [asyncio.create_task(service) for service in services]

        async def end() -> None:
            stop.set()
            await asyncio.wait(tasks, timeout=20)
            for task in tasks:
                task.result()

        stack.push_async_callback(end)
        client = await stack.enter_async_context(_client(port))
        pipeline = Pipeline(
            kafka=KafkaServer(label="secured", bootstrap=secured.address),
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
async def test_the_rights_of_segue_acls_are_enough_to_score_a_job(
    secured: SecuredCluster, postgres: Database, tmp_path: Path
) -> None:
    """`segue-prepare` creates the topics; then each service works as its own user."""
    topics = await ensure_topics(secured.settings(PREPARE, create_topics=True))
    assert "scene.requested" in topics

    async with secured_pipeline(secured, await postgres(), tmp_path) as pipeline:
        scenes = [{"description": "calm", "duration_s": 1.5}] * 2
        answer = await pipeline.generate(job_id="secured", scenes=scenes)
        assert answer.status_code == 202, answer.text
        status = await pipeline.ended("secured")

    assert status["audio_status"]["status"] == "completed", status
    assert [scene["origin"] for scene in status["progress"]["scenes"]] == ["fresh", "continued"]


@pytest.mark.parametrize(
    ("user", "topic"),
    [("muxer", "scene.requested"), ("merger", "job.cancelled"), ("stranger", "video.muxed")],
)
async def test_a_user_cannot_publish_to_a_topic_of_another_service(
    secured: SecuredCluster, user: str, topic: str
) -> None:
    """A compromised service can neither request music nor cancel jobs."""
    await ensure_topics(secured.settings(PREPARE, create_topics=True))
    async with AIOKafkaProducer(**connection_options(secured.settings(user))) as producer:
        with pytest.raises(KafkaError, match=r"(?i)authoriz"):
            await asyncio.wait_for(producer.send_and_wait(topic, b"{}"), ANSWER_S)


async def test_an_operator_can_replay_records_and_a_service_cannot(
    secured: SecuredCluster, postgres: Database, tmp_path: Path
) -> None:
    """The rights of an operator are enough; with a service's rights nothing is changed."""
    await ensure_topics(secured.settings(PREPARE, create_topics=True))
    database, replay = await postgres(), ("replay", "audio.merged", "--apply", "--reason", "a test")
    async with api_fixture(database, tmp_path) as fixture:
        await _publish(secured, a_track())
        before = await _records(secured, "audio.merged")

        dry_run = await segue(_environment(secured, "muxer", fixture, tmp_path), *replay[:2])
        rejected = await segue(_environment(secured, "muxer", fixture, tmp_path), *replay)
        after = await _records(secured, "audio.merged")
        operator = _environment(secured, OPERATOR, fixture, tmp_path)
        allowed = [
            await segue(operator, *arguments) for arguments in (("lag",), ("dlq", "list"), replay)
        ]

    assert dry_run[0] == 0, dry_run
    assert (rejected[0], "segue acls" in rejected[1]["error"]) == (4, True), rejected
    assert after == before
    assert [code for code, _ in allowed] == [0, 0, 0], allowed
    assert len(await _records(secured, "audio.merged")) == len(before) + allowed[-1][1]["copied"]


def _environment(
    secured: SecuredCluster, user: str, fixture: ApiFixture, folder: Path
) -> dict[str, str]:
    """Return the environment of a user's shell."""
    return {
        "DATABASE_URL": fixture.url,
        "SEGUE_STORE_DIR": str(folder),
        "KAFKA_BOOTSTRAP_SERVERS": secured.address,
        "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "KAFKA_SASL_USERNAME": f"segue-{user}",
        "KAFKA_SASL_PASSWORD": f"secret of {user}",
        "KAFKA_SSL_CA_FILE": str(secured.ca),
    }


async def _publish(secured: SecuredCluster, event: Event) -> None:
    settings = KafkaSettings.from_environment(bootstrap_servers=secured.open_address)
    publisher = Publisher(settings, source="test", clock=SystemClock())
    await publisher.start()
    try:
        await publisher.publish(event)
    finally:
        await publisher.stop()


async def _records(secured: SecuredCluster, topic: str) -> list[Record]:
    return await records_of(secured.open_address, topic, prefix="")


@unclosed_handshake
@pytest.mark.parametrize(
    "changes",
    [
        {"sasl_password": "wrong"},
        {"sasl_username": "segue-unknown"},
        {"ssl_ca_file": None},
        {"security_protocol": "SASL_PLAINTEXT", "ssl_ca_file": None},
    ],
    ids=["password", "user", "certificate", "no TLS"],
)
async def test_a_client_and_a_broker_reject_each_other_without_proof(
    secured: SecuredCluster, changes: dict[str, Any]
) -> None:
    """A wrong password, an unknown user, an unknown certificate, no TLS."""
    await asyncio.wait_for(check_kafka(secured.settings("api")), ANSWER_S)

    with pytest.raises(RetryableError, match="Kafka at"):
        await asyncio.wait_for(check_kafka(secured.settings("api", **changes)), ANSWER_S)
    gc.collect()


async def test_topic_configs_are_set_over_tls_by_a_user_who_may(secured: SecuredCluster) -> None:
    """The confluent-kafka client uses the same TLS and SASL settings as the others."""
    await ensure_topics(secured.settings(PREPARE, create_topics=True))
    settings, topic = secured.settings(OPERATOR), "video.muxed"
    changes = {topic: {"retention.ms": "60000"}}

    with pytest.raises(TopicAuthorizationFailedError, match=r"topic video.muxed: .*authoriz"):
        await set_topic_configs(settings, changes)
    _allow(secured, OPERATOR, topic, "Alter_Configs", "Describe_Configs")
    await retrying(  # the broker applies new rights a moment later
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
    secured: SecuredCluster, changes: dict[str, Any]
) -> None:
    """A wrong password and an unknown certificate end in the same error as with aiokafka."""
    settings = secured.settings(OPERATOR, **changes)

    with pytest.raises(RetryableError, match="Kafka at"):
        await set_topic_configs(settings, {"video.muxed": {"retention.ms": "1000"}}, timeout_s=5)


@unclosed_handshake
async def test_a_broker_under_another_name_is_rejected(secured: SecuredCluster) -> None:
    """The certificate is for localhost, not for the address."""
    by_number = secured.address.replace("localhost", "127.0.0.1")

    with pytest.raises(RetryableError):
        await asyncio.wait_for(
            check_kafka(secured.settings("api", bootstrap_servers=by_number)), ANSWER_S
        )
    gc.collect()


def test_an_invalid_certificate_file_is_rejected_with_its_setting(
    secured: SecuredCluster, tmp_path: Path
) -> None:
    """The error names KAFKA_SSL_CA_FILE."""
    invalid = tmp_path / "ca.crt"
    invalid.write_text("no certificate")

    with pytest.raises(SettingsError, match="KAFKA_SSL_CA_FILE"):
        connection_options(secured.settings("api", ssl_ca_file=invalid))
