"""Embedded broker: speaks Kafka's protocol inside this process, for one machine.

It is librdkafka's mock cluster, from the confluent-kafka wheel: a real socket on loopback, real
clients, groups, commits and idempotent producers; its threads are librdkafka's own. A stand-in,
and says so when built: it holds everything in memory, at most 5 MiB a partition (older records
are dropped), makes each topic on first use with 4 partitions, answers no request to create
topics, and does not wake a waiting fetch (so clients ask with a short `fetch_max_wait_ms`).

It is driven through librdkafka's C API, because the Python one cannot shorten the time a new
group waits for its first assignment: 3 s there, `GROUP_DELAY_MS` here.

I/O: a listening socket on 127.0.0.1.
"""

import ctypes
import warnings
from functools import cache

from confluent_kafka import cimpl

from shared.errors import ServerStartError
from shared.storage import StandInWarning

PARTITIONS = 4  # of every topic; librdkafka's own choice
GROUP_DELAY_MS = 300  # long enough that services started side by side share one assignment
_ERROR_BYTES = 512
_PRODUCER = 0  # rd_kafka_type_t; the handle only lends the cluster its threads
_OK = 0


class EmbeddedBroker:
    """A one-node cluster that lives as long as this object is started."""

    def __init__(self) -> None:
        warnings.warn(
            "the embedded broker keeps records in memory only, 5 MiB a partition",
            StandInWarning,
            stacklevel=2,
        )
        self._handle: int | None = None
        self._cluster: int | None = None

    def start(self) -> str:
        """Listen; the bootstrap address, `127.0.0.1:PORT`.

        Raises:
            ServerStartError: librdkafka could not make it.
        """
        assert self._handle is None, "the broker runs already"
        library = _librdkafka()
        error = ctypes.create_string_buffer(_ERROR_BYTES)
        config = library.rd_kafka_conf_new()
        # 3: errors alone; at its default it warns that this handle knows no broker, rightly
        if library.rd_kafka_conf_set(config, b"log_level", b"3", error, _ERROR_BYTES) != _OK:
            raise ServerStartError(f"embedded broker: {error.value.decode()}")
        self._handle = library.rd_kafka_new(_PRODUCER, config, error, _ERROR_BYTES)
        if self._handle is None:
            raise ServerStartError(f"embedded broker: {error.value.decode()}")
        self._cluster = library.rd_kafka_mock_cluster_new(self._handle, 1)
        if self._cluster is None:
            self.stop()
            raise ServerStartError("embedded broker: librdkafka made no cluster")
        library.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, GROUP_DELAY_MS)
        address: bytes = library.rd_kafka_mock_cluster_bootstraps(self._cluster)
        return address.decode()

    def stop(self) -> None:
        """Close the socket and forget every record; nothing happens when it does not run."""
        library = _librdkafka()
        if self._cluster is not None:
            library.rd_kafka_mock_cluster_destroy(self._cluster)
            self._cluster = None
        if self._handle is not None:
            library.rd_kafka_destroy(self._handle)
            self._handle = None


@cache
def _librdkafka() -> ctypes.CDLL:
    """The library that confluent-kafka's own module is linked to, with the types of its calls."""
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
        call = getattr(library, name)
        call.restype, call.argtypes = result, arguments
    return library
