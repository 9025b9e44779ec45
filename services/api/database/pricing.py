"""Records the provider and the prices of the running api, for the commands that quote a price.

A command runs in another environment than the stack; a price from there would be wrong.
"""

from datetime import datetime

from services.api.database import Connection
from shared.pricing import PricingSettings, ReplicateAccount

_EMULATOR = "fake-replicate"


async def record(connection: Connection, pricing: PricingSettings, *, now: datetime) -> None:
    """Replace the recorded settings by those of this api."""
    await connection.execute(
        """
        INSERT INTO pricing (provider, usd_per_s, window_s, style_window_s, recorded_at)
        VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (only_row) DO UPDATE SET
            provider = excluded.provider, usd_per_s = excluded.usd_per_s,
            window_s = excluded.window_s, style_window_s = excluded.style_window_s,
            recorded_at = excluded.recorded_at
        """,
        pricing.provider,
        pricing.replicate.usd_per_s,
        pricing.window_s,
        pricing.style_window_s,
        now,
    )


async def read(connection: Connection) -> PricingSettings | None:
    """Return the settings of the last api that started; None if none has recorded them."""
    row = await connection.fetchrow(
        "SELECT provider, usd_per_s, window_s, style_window_s FROM pricing"
    )
    if row is None:
        return None
    emulated = row["provider"] == _EMULATOR
    return PricingSettings.from_environment(
        wanted="replicate" if emulated else row["provider"],
        emulated=emulated,
        window_s=row["window_s"],
        style_window_s=row["style_window_s"],
        replicate=ReplicateAccount.from_environment(usd_per_s=row["usd_per_s"]),
    )
