"""Runs a one-node Apache Kafka broker from its published jars, without Docker.

Maven fetches the jars that `toolchain/pins/kafka/pom.xml` pins, once per user;
`toolchain/java.py` finds the Java that runs them. The broker is its own controller (KRaft) and
stores its log in a folder.

I/O: processes, files, two ports of 127.0.0.1; Maven's registry at the first start.
"""

import base64
import os
import re
import shutil
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from embedded.servers.process import Server, file_errors, run_tool
from embedded.toolchain import cache
from embedded.toolchain.cache import ToolSettings
from embedded.toolchain.java import invalid_java_home, java_home
from shared.errors import ServerStartError
from shared.http.server import free_ports

_POM = Path(__file__).parents[1] / "toolchain/pins/kafka" / "pom.xml"
VERSION = re.findall(r"<artifactId>kafka_[\d.]+</artifactId>\s*<version>(.+?)<", _POM.read_text())[
    0
]
_FETCH_S = 300.0  # 43 MB; 7 s here
_TOOL_S = 60.0  # 2 s here
_READY_S = 60.0  # 2.5 s on two idle cores
_ANSWER_S = 1.0
# a small heap and a fast start rather than throughput: 310 MB resident, measured
_JVM = ("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
_CLUSTER_ID_BYTES = 16
# in the broker's folder, where it runs: Kafka reads a path with a comma as two
_PROPERTIES_FILE, _FORMAT_FILE, _LOG4J_FILE = "server.properties", "format.properties", "log4j2.xml"
_DATA, _HALF = "data", "data.half"
_LOCALE = {"LC_ALL": "C.UTF-8"}  # for file names; Java reads them by the locale
_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={folder}
num.partitions=4
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
"""
_LOG4J = """\
<Configuration status="warn">
  <Appenders><Console name="out"><PatternLayout pattern="%d %p %c: %m%n"/></Console></Appenders>
  <Loggers><Root level="warn"><AppenderRef ref="out"/></Root></Loggers>
</Configuration>
"""


class NativeKafka:
    """A broker on `folder`, which no other server uses."""

    def __init__(self, folder: Path, settings: ToolSettings) -> None:
        self.folder = folder.resolve()
        self.data = self.folder / _DATA
        self._settings = settings
        self._port: int | None = None  #: the requested port
        self.server = Server(f"Apache Kafka {VERSION}", log=self.folder / "kafka.log")

    @staticmethod
    def available(settings: ToolSettings) -> str | None:
        """Return why it cannot start here; None if it can, perhaps after downloads."""
        if reason := invalid_java_home(settings):
            return reason
        if not _cache_folder(settings).is_dir() and shutil.which("mvn") is None:
            return "its jars are not cached and Maven (mvn) is not installed to fetch them"
        return None

    @staticmethod
    def is_fetched(settings: ToolSettings) -> bool:
        """Return whether a start downloads nothing."""
        return _cache_folder(settings).is_dir()

    @staticmethod
    def fetch(settings: ToolSettings) -> tuple[Path, Path]:
        """Download what is not cached; return `java` and the jars' folder.

        Raises:
            ServerStartError: no usable Java, or Maven failed.
        """
        home = java_home(settings)

        def fetch_jars(folder: Path) -> None:
            goal = ["dependency:copy-dependencies", f"-DoutputDirectory={folder}"]
            run_tool(
                "fetching Kafka's jars",
                ["mvn", "-q", "-B", "-f", _POM, *goal],
                timeout_s=_FETCH_S,
                environment={"JAVA_HOME": str(home)},
            )

        jars = cache.fill(_cache_folder(settings), fetch_jars, deadline_s=_FETCH_S)
        return home / "bin" / "java", jars

    def start(self, *, port: int | None = None) -> str:
        """Format the folder if it is new, and start; return the bootstrap address.

        `port` is for a restart with clients that know the address; None: any free port.

        Raises:
            ServerStartError: it did not start.
        """
        java, jars = self.fetch(self._settings)
        self._port = port
        command: list[str | Path] = [java, *_JVM, f"-Dlog4j2.configurationFile={_LOG4J_FILE}"]
        command += ["-cp", f"{jars}/*"]
        self.server.lock()
        try:
            with file_errors(self.server.name):
                port, properties = self._configure()
                if not (self.folder / _DATA / "meta.properties").exists():
                    self._format(command, properties.read_text())
        except BaseException:
            self.server.stop()
            raise
        address = f"127.0.0.1:{port}"
        self.server.start(
            [*command, "kafka.Kafka", _PROPERTIES_FILE],
            answers=lambda: is_broker(address),
            ready_s=_READY_S,
            environment=_LOCALE,
            folder=self.folder,
        )
        return address

    def cluster_id(self) -> str:
        """Return the cluster id; it changes when an emptied folder is formatted again."""
        return dict(
            line.split("=", 1)
            for line in (self.folder / _DATA / "meta.properties").read_text().splitlines()
            if "=" in line
        )["cluster.id"]

    def stop(self) -> None:
        """Stop the broker; idempotent."""
        self.server.stop()

    def _configure(self) -> tuple[int, Path]:
        """Write the broker's configuration; return its port and the file."""
        port, controller = free_ports(2)
        port = self._port or port
        (self.folder / _LOG4J_FILE).write_text(_LOG4J)
        properties = self.folder / _PROPERTIES_FILE
        properties.write_text(_PROPERTIES.format(port=port, controller=controller, folder=_DATA))
        return port, properties

    def _format(self, command: list[str | Path], properties: str) -> None:
        """Create the data folder; it is complete or missing, whenever this is interrupted."""
        data = self.folder / _DATA
        if data.exists() and (topics := [path.name for path in data.glob("*-[0-9]*")]):
            raise ServerStartError(
                f"{self.server.name}: {data} has records ({len(topics)} partitions) and no "
                "meta.properties; restore that file, or move the folder away"
            )
        for folder in (data, self.folder / _HALF):  # of an interrupted start
            shutil.rmtree(folder, ignore_errors=True)
        text = properties.replace(f"log.dirs={_DATA}\n", f"log.dirs={_HALF}\n")
        (self.folder / _FORMAT_FILE).write_text(text)
        cluster = base64.urlsafe_b64encode(os.urandom(_CLUSTER_ID_BYTES)).decode().rstrip("=")
        arguments = ["format", f"--cluster-id={cluster}", "-c", _FORMAT_FILE]
        arguments.append("--standalone")  # and "=" because an id may begin with a dash
        run_tool(
            "formatting Kafka's folder",
            [*command, "kafka.tools.StorageTool", *arguments],
            timeout_s=_TOOL_S,
            environment=_LOCALE,
            folder=self.folder,
        )
        (self.folder / _HALF).rename(data)


def _cache_folder(settings: ToolSettings) -> Path:
    return cache.cached_path(settings, f"kafka-{VERSION}", _POM.read_bytes())


def is_broker(address: str) -> bool:
    """Return whether a broker answers at this address."""
    client = AdminClient({"bootstrap.servers": address, "log_level": 0})
    try:
        return bool(client.list_topics(timeout=_ANSWER_S).brokers)
    except KafkaException:
        return False
