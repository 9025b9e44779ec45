"""Translates the Kafka settings into the options of the client libraries: address, TLS and SASL.

aiokafka and Faust take an SSL context, librdkafka (confluent-kafka) takes file names.

I/O: reads certificate files, once per client.
"""

import ssl
from pathlib import Path
from typing import Any

from aiokafka.errors import KafkaConnectionError

from shared.errors import RetryableError, SettingsError
from shared.kafka.fetch.fetcher import isolate_undecodable_batches
from shared.settings import KafkaSettings

METADATA_MS = 10_000  # how soon topics are discovered that are new, or were created again
READ_COMMITTED = "read_committed"  # of every reader: records of aborted transactions are not read


def connection_options(settings: KafkaSettings) -> dict[str, Any]:
    """Return the connection arguments of an aiokafka client.

    Raises:
        SettingsError: a certificate file cannot be used.
    """
    isolate_undecodable_batches()
    options: dict[str, Any] = {
        "bootstrap_servers": settings.bootstrap_servers,
        "security_protocol": settings.security_protocol,
        "ssl_context": ssl_context(settings),
    }
    if settings.security_protocol.startswith("SASL"):
        options |= {
            "sasl_mechanism": settings.sasl_mechanism,
            "sasl_plain_username": settings.sasl_username,
            "sasl_plain_password": settings.sasl_password.get_secret_value(),
        }
    return options


def group_options(
    settings: KafkaSettings, group: str, *, max_poll_interval_ms: int
) -> dict[str, Any]:
    """Return the arguments of an aiokafka consumer in a group, which commits its own offsets.

    Raises:
        SettingsError: a certificate file cannot be used.
    """
    return {
        **connection_options(settings),
        "group_id": settings.topic_prefix + group,
        "client_id": group,
        "enable_auto_commit": False,
        "auto_offset_reset": "earliest",
        "isolation_level": READ_COMMITTED,
        "session_timeout_ms": int(settings.session_timeout_s * 1000),
        "heartbeat_interval_ms": int(settings.heartbeat_s * 1000),
        "max_poll_interval_ms": max_poll_interval_ms,
        "fetch_max_wait_ms": settings.fetch_max_wait_ms,
        "metadata_max_age_ms": METADATA_MS,
    }


def librdkafka_options(settings: KafkaSettings) -> dict[str, Any]:
    """Return the connection configuration of a confluent-kafka client.

    Without a CA file, TLS trusts the authorities that Python trusts, as `ssl_context` does.

    Raises:
        SettingsError: a certificate file cannot be used.
    """
    options: dict[str, Any] = {
        "bootstrap.servers": settings.bootstrap_servers,
        "security.protocol": settings.security_protocol,
    }
    if ssl_context(settings) is not None:
        authorities = settings.ssl_ca_file or ssl.get_default_verify_paths().cafile
        files = {
            "ssl.ca.location": authorities or "probe",
            "ssl.certificate.location": settings.ssl_cert_file,
            "ssl.key.location": settings.ssl_key_file,
        }
        options |= {name: str(file) for name, file in files.items() if file is not None}
        options["ssl.endpoint.identification.algorithm"] = "https"  # host names are verified
    if settings.security_protocol.startswith("SASL"):
        options |= {
            "sasl.mechanism": settings.sasl_mechanism,
            "sasl.username": settings.sasl_username,
            "sasl.password": settings.sasl_password.get_secret_value(),
        }
    return options


def unavailable(settings: KafkaSettings, reason: object) -> RetryableError:
    """Return the error of a cluster that did not respond or rejected a request."""
    if isinstance(reason, KafkaConnectionError):
        reason = "no broker responds"  # the client's text repeats the addresses as Python objects
    return RetryableError(f"Kafka at {settings.bootstrap_servers}: {reason}")


def ssl_context(settings: KafkaSettings) -> ssl.SSLContext | None:
    """Return the TLS context, which verifies host names; None without TLS.

    Raises:
        SettingsError: a certificate file cannot be used.
    """
    if not settings.security_protocol.endswith("SSL"):
        return None
    context = _context_trusting(settings.ssl_ca_file)
    if settings.ssl_cert_file is not None:
        try:
            context.load_cert_chain(settings.ssl_cert_file, settings.ssl_key_file)
        except (OSError, ValueError) as error:  # SSLError is an OSError
            raise SettingsError("KAFKA_SSL_CERT_FILE", _reason(error)) from error
    return context


def _context_trusting(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ValueError) as error:
        raise SettingsError("KAFKA_SSL_CA_FILE", _reason(error)) from error


def _reason(error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return f"cannot be used: {reason or type(error).__name__}"
