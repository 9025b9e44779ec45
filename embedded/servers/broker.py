"""Runs a Kafka broker inside this process: librdkafka's mock cluster.

It comes with the confluent-kafka wheel and has a real socket on loopback, groups, commits and
idempotent producers. It is a stand-in for Kafka and warns so: it keeps records in memory, at most
5 MiB a partition (older records are dropped), creates each topic on first use with 4 partitions,
rejects requests to create topics, and does not wake a waiting fetch (so clients use a short
`fetch_max_wait_ms`).

It is controlled through librdkafka's C API, because the Python API cannot shorten the initial
rebalance delay of a group: 3 s there, `GROUP_DELAY_MS` here.

I/O: a listening socket on 127.0.0.1.
"""

import ctypes
import warnings
from functools import cache

from confluent_kafka import cimpl

from shared.errors import ServerStartError
from shared.storage import StandInWarning

PARTITIONS = 4  # of every topic; librdkafka's default
GROUP_DELAY_MS = 300  # enough for services started in parallel to share one assignment
_ERROR_BYTES = 512
_PRODUCER = 0  # rd_kafka_type_t; the handle only provides threads
_OK = 0


class EmbeddedBroker:
    """A one-node cluster between `start` and `stop`."""

    def __init__(self) -> None:
        warnings.warn(
            "the embedded broker keeps records in memory only, 5 MiB a partition",
            StandInWarning,
            stacklevel=2,
        )
        self._handle: int | None = None
        self._cluster: int | None = None

    def start(self) -> str:
        """Start listening; return the bootstrap address `127.0.0.1:PORT`.

        Raises:
            ServerStartError: librdkafka could not create the cluster.
        """
        assert self._handle is None, "the broker runs already"
        library = _librdkafka()
        error = ctypes.create_string_buffer(_ERROR_BYTES)
        config = library.rd_kafka_conf_new()
        # 3: errors only; by default it warns that this handle has no broker
        if library.rd_kafka_conf_set(config, b"log_level", b"3", error, _ERROR_BYTES) != _OK:
            raise ServerStartError(f"embedded broker: {error.value.decode()}")
        self._handle = library.rd_kafka_new(_PRODUCER, config, error, _ERROR_BYTES)
        if self._handle is None:
            raise ServerStartError(f"embedded broker: {error.value.decode()}")
        self._cluster = library.rd_kafka_mock_cluster_new(self._handle, 1)
        if self._cluster is None:
            self.stop()
            raise ServerStartError("embedded broker: librdkafka created no cluster")
        library.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, GROUP_DELAY_MS)
        address: bytes = library.rd_kafka_mock_cluster_bootstraps(self._cluster)
        return address.decode()

    def stop(self) -> None:
        """Close the socket and discard every record; idempotent."""
        library = _librdkafka()
        if self._cluster is not None:
            library.rd_kafka_mock_cluster_destroy(self._cluster)
            self._cluster = None
        if self._handle is not None:
            library.rd_kafka_destroy(self._handle)
            self._handle = None


@cache
def _librdkafka() -> ctypes.CDLL:
    """Return the library of confluent-kafka's extension module, with typed functions."""
    library = ctypes.CDLL(cimpl.__file__)
    pointer, text, size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t
    signatures: dict[str, tuple[object, list[object]]] = {
        "rd_kafka_conf_new": (pointer, []),
        "rd_kafka_conf_set": (ctypes.c_int, [pointer, text, text, text, size]),
        "rd_kafka_new": (pointer, [ctypes.c_int, pointer, text, size]),
        "rd_kafka_destroy": (None, [pointer]),
        "rd_kafka_mock_cluster_new": (pointer, [pointer, ctypes.c_int]),
        "rd_kafka_mock_cluster_destroy": (None, [pointer]),
        "rd_kafka_mock_cluster_bootstraps": (text, [pointer]),
        "rd_kafka_mock_group_initial_rebalance_delay_ms": (None, [pointer, ctypes.c_int32]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
