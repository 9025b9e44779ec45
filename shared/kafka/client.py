"""Security: how a client reaches the cluster, and who it says it is.

One place turns the settings into what aiokafka takes; the generator's Faust is given the same
parts as credentials.

I/O: reads certificate files, once per client.
"""

import ssl
from pathlib import Path
from typing import Any

from shared.errors import SettingsError
from shared.settings import KafkaSettings


def connection_options(settings: KafkaSettings) -> dict[str, Any]:
    """The keyword arguments of every aiokafka client that concern the connection.

    Raises:
        SettingsError: a certificate file cannot be used.
    """
    told: dict[str, Any] = {
        "bootstrap_servers": settings.bootstrap_servers,
        "security_protocol": settings.security_protocol,
        "ssl_context": ssl_context(settings),
    }
    if settings.security_protocol.startswith("SASL"):
        told |= {
            "sasl_mechanism": settings.sasl_mechanism,
            "sasl_plain_username": settings.sasl_username,
            "sasl_plain_password": settings.sasl_password.get_secret_value(),
        }
    return told


def ssl_context(settings: KafkaSettings) -> ssl.SSLContext | None:
    """What TLS trusts and shows; None without TLS. Host names are checked.

    Raises:
        SettingsError: a certificate file cannot be used.
    """
    if not settings.security_protocol.endswith("SSL"):
        return None
    context = _trusting(settings.ssl_ca_file)
    if settings.ssl_cert_file is not None:
        try:
            context.load_cert_chain(settings.ssl_cert_file, settings.ssl_key_file)
        except (OSError, ValueError) as error:  # SSLError is an OSError
            raise SettingsError("KAFKA_SSL_CERT_FILE", _words(error)) from error
    return context


def _trusting(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ValueError) as error:
        raise SettingsError("KAFKA_SSL_CA_FILE", _words(error)) from error


def _words(error: Exception) -> str:
    said = error.strerror if isinstance(error, OSError) else str(error)
    return f"cannot be used: {said or type(error).__name__}"
