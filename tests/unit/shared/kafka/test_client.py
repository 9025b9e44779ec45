"""A cluster that asks who one is: what the settings refuse, and what clients are told."""

import ssl
from pathlib import Path
from typing import Any

import pytest

from shared.errors import SettingsError
from shared.kafka.admin import required_topics
from shared.kafka.client import connection_options
from shared.settings import UNSECURED, KafkaSettings

USER: dict[str, Any] = {"sasl_username": "segue-api", "sasl_password": "secret"}


@pytest.mark.parametrize(
    ("given", "variable"),
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
def test_half_of_a_protection_is_refused_by_name(given: dict[str, Any], variable: str) -> None:
    """A password that nobody asks for, or a certificate without TLS, is a mistake."""
    with pytest.raises(SettingsError, match=variable):
        KafkaSettings.from_environment(**given)


def test_a_user_over_tls_is_told_to_every_client_in_full() -> None:
    """The host's name is checked, and a certificate is demanded."""
    told = connection_options(KafkaSettings(security_protocol="SASL_SSL", **USER))

    context = told.pop("ssl_context")
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert told == {
        "bootstrap_servers": "127.0.0.1:9092",
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "segue-api",
        "sasl_plain_password": "secret",
    }


def test_a_password_does_not_show_in_words() -> None:
    """Settings get printed."""
    assert "secret" not in repr(KafkaSettings(security_protocol="SASL_SSL", **USER))


def test_a_broker_of_this_machine_needs_nothing_whatever_the_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The embedded stack starts in a shell that knows the production cluster."""
    monkeypatch.setenv("KAFKA_SECURITY_PROTOCOL", "SASL_SSL")
    monkeypatch.setenv("KAFKA_SASL_USERNAME", "segue-api")
    monkeypatch.setenv("KAFKA_SASL_PASSWORD", "secret")
    monkeypatch.setenv("KAFKA_SSL_CA_FILE", "/nowhere/ca.crt")

    told = connection_options(KafkaSettings.from_environment(**UNSECURED))

    assert told["security_protocol"] == "PLAINTEXT"
    assert told["ssl_context"] is None


@pytest.mark.parametrize(("replication", "in_sync"), [(1, None), (2, None), (3, "2")])
def test_three_copies_mean_that_two_must_have_it(replication: int, in_sync: str | None) -> None:
    """With fewer, the loss of one broker would stop all writing."""
    topics = required_topics(KafkaSettings(replication=replication))

    assert {topic.topic_configs.get("min.insync.replicas") for topic in topics} == {in_sync}
