"""Stores the first response to each idempotency key.

The key is inserted in the transaction of the request. A second request with the same key waits
for that transaction, at most `WAIT_MS`, and then returns its response; an error rolls the key
back together with the request.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from services.api.database import Connection

WAIT_MS = 3_000


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResponse:
    """Response to the first request with a key."""

    request_hash: str
    status_code: int | None
    response: dict[str, Any] | None


async def reserve(
    connection: Connection, key: str, request_hash: str, *, now: datetime, oldest: datetime
) -> StoredResponse | None:
    """Reserve the key for this request; return the stored response if it was used before.

    Raises:
        LockWaitError: the first request with this key is still running.
    """
    await connection.execute(f"SET LOCAL lock_timeout = {WAIT_MS}")
    await connection.execute(
        """
        DELETE FROM idempotency_keys WHERE key IN (
            SELECT key FROM idempotency_keys WHERE created_at < $1 LIMIT 100 FOR UPDATE SKIP LOCKED)
        """,
        oldest,
    )
    reserved = await connection.fetchval(
        """
        INSERT INTO idempotency_keys AS kept (key, request_hash, created_at) VALUES ($1, $2, $3)
        ON CONFLICT (key) DO UPDATE
        SET request_hash = excluded.request_hash, created_at = excluded.created_at,
            status_code = NULL, answer = NULL
        WHERE kept.created_at < $4
        RETURNING true
        """,
        key,
        request_hash,
        now,
        oldest,
    )
    if reserved:
        return None
    row = await connection.fetchrow(
        "SELECT request_hash, status_code, answer AS response FROM idempotency_keys WHERE key = $1",
        key,
    )
    assert row is not None, "a conflicting key exists"
    return StoredResponse(**row)


async def store(
    connection: Connection, key: str, *, status_code: int, response: dict[str, Any]
) -> None:
    """Store the response for repeated requests with this key."""
    await connection.execute(
        "UPDATE idempotency_keys SET status_code = $2, answer = $3 WHERE key = $1",
        key,
        status_code,
        response,
    )
