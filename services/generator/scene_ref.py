"""Names one scene of one run, and the objects and seeds that belong to it."""

from dataclasses import dataclass
from typing import Self

from shared.contract.events import SceneRequested
from shared.contract.ids import scene_seed
from shared.storage import keys

NO_ATTEMPT = 0  # attempts count from 1; a clip that was copied or cached has this number


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneRef:
    """Identifies a scene of a run."""

    job_id: str
    run: int
    scene_index: int

    @classmethod
    def of(cls, scene: SceneRequested) -> Self:
        """Return the reference of a requested scene."""
        return cls(job_id=scene.job_id, run=scene.run, scene_index=scene.scene_index)

    def claim_key(self, attempt: int) -> str:
        """Return the key of the attempt's claim."""
        return keys.claim_key(self.job_id, self.run, self.scene_index, attempt)

    def prediction_key(self, attempt: int) -> str:
        """Return the key of the prediction id that belongs to the claim."""
        return keys.prediction_key(self.job_id, self.run, self.scene_index, attempt)

    def clip_key(self, attempt: int) -> str:
        """Return the key of the attempt's clip."""
        return keys.clip_key(self.job_id, self.run, self.scene_index, attempt)

    def seed(self, attempt: int) -> int:
        """Return the attempt's seed, the same in every process."""
        return scene_seed(self.job_id, self.run, self.scene_index, attempt)
