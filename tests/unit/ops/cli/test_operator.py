"""Operating: how a command ends when a server says no, or nothing."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest
from aiokafka.errors import KafkaConnectionError, KafkaError, TopicAuthorizationFailedError

from ops.cli.exit_codes import CommandError, Exit
from ops.cli.operator import Operator, run_with_operator
from services.api.operators import ApiSettings, Database
from shared.errors import RetryableError
from shared.storage.filesystem import FolderStore


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
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception, code: Exit, told: str
) -> None:
    """The exit code tells them apart, and the words the way out."""

    @asynccontextmanager
    async def no_servers(settings: ApiSettings, **options: Any) -> AsyncIterator[Operator]:
        yield Operator(
            settings=settings,
            database=Database(settings.database),
            store=FolderStore(tmp_path),
            **options,
        )

    async def body(_: Operator) -> NoReturn:
        raise error

    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9")
    monkeypatch.setenv("DATABASE_URL", "postgresql://127.0.0.1:9/segue")

    with pytest.raises(CommandError, match=told) as raised:
        run_with_operator(body, as_json=True, connect=no_servers)

    assert raised.value.code is code
