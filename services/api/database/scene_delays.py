"""Stores why scenes wait for their provider, as long as they wait."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from services.api.database import Connection
from services.api.domain.run_view import UNFINISHED, Delay
from shared.contract.events import WaitCode

SceneKey = tuple[str, int, int]  #: job, run, scene
_UNFINISHED = sorted(UNFINISHED)


async def save(connection: Connection, delays: Mapping[SceneKey, Delay | None]) -> None:
    """Write the current delay of scenes; None clears it. A finished scene has none."""
    if not delays:
        return
    await connection.executemany(
        """
        INSERT INTO scenes AS s (job_id, run, scene_index, state, delay)
        VALUES ($1, $2, $3, 'waiting', $4)
        ON CONFLICT (job_id, run, scene_index) DO UPDATE
        SET delay = excluded.delay WHERE s.state <> 'done'
        """,
        [(*scene, _dumped(delay)) for scene, delay in delays.items()],
    )


def delays_from(rows: Mapping[str, Any] | None) -> dict[int, Delay]:
    """Return the delays of a run by scene index."""
    return {int(index): Delay.model_validate(delay) for index, delay in (rows or {}).items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderPause:
    """The provider rejects the account, as waiting scenes report."""

    reason: str
    scenes: int


async def pause(connection: Connection) -> ProviderPause | None:
    """Return why scenes wait for a person to act; None if no scene does."""
    row = await connection.fetchrow(
        """
        SELECT count(*) AS scenes,
            (array_agg(delay->>'reason' ORDER BY delay->>'since' DESC))[1] AS reason
        FROM scenes s JOIN runs r USING (job_id, run)
        WHERE s.delay IS NOT NULL AND s.state = 'waiting' AND s.delay->>'code' = $1
            AND r.status = ANY($2)
        """,
        WaitCode.PROVIDER_PAUSED,
        _UNFINISHED,
    )
    if row is None or not row["scenes"]:
        return None
    return ProviderPause(reason=row["reason"], scenes=row["scenes"])


def _dumped(delay: Delay | None) -> Any:
    return None if delay is None else delay.model_dump(mode="json")
