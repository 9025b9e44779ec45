"""Fixtures of the fault suite: a broker whose groups behave as in production."""

import pytest

from tests.support.servers import KafkaServer


@pytest.fixture(scope="session")
def kafka(kafka: KafkaServer) -> KafkaServer:
    """The broker of this run, if it is a real one."""
    if not kafka.real:
        pytest.skip("the stand-in's groups notice a death in their own time; it proves nothing")
    return kafka
