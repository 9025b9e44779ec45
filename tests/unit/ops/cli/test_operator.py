"""Operating: how a command ends when a server says no, or nothing."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NoReturn

import pytest
from aiokafka.errors import KafkaConnectionError, KafkaError, TopicAuthorizationFailedError

from ops.cli import operator
from ops.cli.exit_codes import CommandError, Exit
from shared.errors import RetryableError


def wrapped(cause: KafkaError) -> RetryableError:
    """As the publisher raises it."""
    error = RetryableError("publishing was not confirmed")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (RetryableError("PostgreSQL is away"), Exit.UNREACHABLE, "PostgreSQL is away"),
        (KafkaConnectionError("gone"), Exit.UNREACHABLE, "Kafka: "),
        (wrapped(KafkaConnectionError("gone")), Exit.UNREACHABLE, "not confirmed"),
        (TopicAuthorizationFailedError("video.muxed"), Exit.REFUSED, "permission denied"),
        (wrapped(TopicAuthorizationFailedError("video.muxed")), Exit.REFUSED, "video.muxed"),
    ],
)
def test_no_answer_can_be_tried_again_and_no_right_cannot(
    monkeypatch: pytest.MonkeyPatch, error: Exception, code: Exit, told: str
) -> None:
    """The exit code tells them apart, and the words the way out."""

    @asynccontextmanager
    async def no_servers(*_: Any, **__: Any) -> AsyncIterator[None]:
        yield None

    async def body(_: operator.Operator) -> NoReturn:
        raise error

    monkeypatch.setattr(operator, "_settings", lambda _: (None, "an operator", True))
    monkeypatch.setattr(operator, "_operator", no_servers)

    with pytest.raises(CommandError, match=told) as raised:
        operator.run_with_operator(body, as_json=True)

    assert raised.value.code is code
