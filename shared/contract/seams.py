"""Seams: what was measured where two segments meet on a track; travels inside `audio.merged`.

Units: samples are whole, per channel, at 48 kHz. Pure.
"""

from typing import Annotated, Literal

from pydantic import Field

from shared.contract.params import Value


class Seam(Value):
    """What was measured at one joint of the track."""

    scene_index: Annotated[int, Field(ge=1)] = Field(description="The scene that begins here.")
    at_samples: int
    kind: Literal["splice", "fade"]
    gain_db: float = Field(default=0.0, description="Applied to the entering clip.")
    level_step_db: float | None = Field(default=None, description="Level after over before.")
    correlation: float | None = Field(default=None, description="Of tail and window, -1 to 1.")
    lag_samples: int = Field(default=0, description="By how much the window was shifted.")
    click: float | None = Field(
        default=None, description="Largest second difference over its median; 3 to 6 is music."
    )
    bridge_samples: Annotated[int, Field(ge=0)] = Field(
        default=0,
        description="Both sound for so long: a kept scene behind one that was made anew.",
    )
