"""Fixtures of the fault tests: a broker whose consumer groups behave as in production."""

import pytest

from tests.support.servers import KafkaServer


@pytest.fixture(scope="session")
def kafka(kafka: KafkaServer) -> KafkaServer:
    """The broker of this run; the tests are skipped if it is the stand-in."""
    if not kafka.real:
        pytest.skip("needs a real Kafka: the stand-in's groups detect a dead member differently")
    return kafka
