"""Kafka security: incomplete settings are rejected; every client gets the same TLS and SASL."""

import ssl
from pathlib import Path
from typing import Any

import pytest

from shared.errors import SettingsError
from shared.kafka.admin import required_topics
from shared.kafka.client import connection_options, librdkafka_options
from shared.settings import UNSECURED, KafkaSettings

USER: dict[str, Any] = {"sasl_username": "segue-api", "sasl_password": "secret"}


@pytest.mark.parametrize(
    ("values", "variable"),
    [
        ({"security_protocol": "SASL_SSL", "sasl_password": "x"}, "KAFKA_SASL_USERNAME"),
        ({"security_protocol": "SASL_SSL", "sasl_username": "x"}, "KAFKA_SASL_PASSWORD"),
        ({"security_protocol": "SSL", **USER}, "KAFKA_SECURITY_PROTOCOL"),
        ({"security_protocol": "PLAINTEXT", **USER}, "KAFKA_SECURITY_PROTOCOL"),
        ({"ssl_ca_file": Path("ca.crt")}, "KAFKA_SECURITY_PROTOCOL"),
        ({"security_protocol": "SSL", "ssl_cert_file": Path("c")}, "KAFKA_SSL_CERT_FILE"),
        ({"security_protocol": "SSL", "ssl_key_file": Path("k")}, "KAFKA_SSL_CERT_FILE"),
        ({"security_protocol": "TLS"}, "security_protocol|KAFKA_SECURITY_PROTOCOL"),
    ],
)
def test_incomplete_security_settings_are_rejected_by_name(
    values: dict[str, Any], variable: str
) -> None:
    """A password without SASL, or a certificate without TLS, is a mistake."""
    with pytest.raises(SettingsError, match=variable):
        KafkaSettings.from_environment(**values)


def test_an_aiokafka_client_gets_user_and_tls() -> None:
    """The host name is verified and a certificate is required."""
    options = connection_options(KafkaSettings(security_protocol="SASL_SSL", **USER))

    context = options.pop("ssl_context")
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert options == {
        "bootstrap_servers": "127.0.0.1:9092",
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "segue-api",
        "sasl_plain_password": "secret",
    }


def test_a_confluent_client_gets_user_and_tls() -> None:
    """It trusts the authorities that Python trusts, and verifies the host name."""
    options = librdkafka_options(KafkaSettings(security_protocol="SASL_SSL", **USER))

    assert options == {
        "bootstrap.servers": "127.0.0.1:9092",
        "security.protocol": "SASL_SSL",
        "ssl.ca.location": ssl.get_default_verify_paths().cafile or "probe",
        "ssl.endpoint.identification.algorithm": "https",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "segue-api",
        "sasl.password": "secret",
    }


def test_a_confluent_client_without_security_gets_the_address_only() -> None:
    """PLAINTEXT needs neither certificates nor a user."""
    assert librdkafka_options(KafkaSettings.from_environment(**UNSECURED)) == {
        "bootstrap.servers": "127.0.0.1:9092",
        "security.protocol": "PLAINTEXT",
    }


def test_an_unusable_ca_file_is_reported_before_a_confluent_client_is_built(
    tmp_path: Path,
) -> None:
    """The error names the variable."""
    wrong = tmp_path / "ca.crt"
    wrong.write_text("no certificate")

    with pytest.raises(SettingsError, match="KAFKA_SSL_CA_FILE"):
        librdkafka_options(KafkaSettings(security_protocol="SSL", ssl_ca_file=wrong))


def test_a_password_is_not_printed() -> None:
    """Settings may be logged."""
    assert "secret" not in repr(KafkaSettings(security_protocol="SASL_SSL", **USER))


def test_the_embedded_broker_ignores_the_security_settings_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The embedded stack may start in a shell that is configured for the production cluster."""
    monkeypatch.setenv("KAFKA_SECURITY_PROTOCOL", "SASL_SSL")
    monkeypatch.setenv("KAFKA_SASL_USERNAME", "segue-api")
    monkeypatch.setenv("KAFKA_SASL_PASSWORD", "secret")
    monkeypatch.setenv("KAFKA_SSL_CA_FILE", "/nowhere/ca.crt")

    options = connection_options(KafkaSettings.from_environment(**UNSECURED))

    assert options["security_protocol"] == "PLAINTEXT"
    assert options["ssl_context"] is None


@pytest.mark.parametrize(("replication", "in_sync"), [(1, None), (2, None), (3, "2")])
def test_three_replicas_require_two_in_sync(replication: int, in_sync: str | None) -> None:
    """With fewer replicas, the loss of one broker would stop all writes."""
    topics = required_topics(KafkaSettings(replication=replication))

    assert {topic.topic_configs.get("min.insync.replicas") for topic in topics} == {in_sync}
