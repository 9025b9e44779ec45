"""Replicate house: claims and attempts around a `ReplicateLine`, as one generator has them.

What a fault did to its scenes is written to standard output as a row of figures, which
`docs/reliability.md` has in a table; `-rP` shows it.
"""

import sys

from services.generator.clip.inspection import ClipInspector, ClipSpec
from services.generator.composition.attempts import Attempts, ComposedClip
from services.generator.composition.cancellation import RunCancellation
from services.generator.composition.claims import Claims
from services.generator.providers import CompositionRequest
from services.generator.scene_ref import SceneRef
from services.generator.settings import GeneratorSettings
from shared.errors import RetryableError
from shared.processing.active_runs import ActiveRuns
from shared.storage.filesystem import FolderStore
from shared.telemetry.log import logger_of
from tests.support.replicate_provider import ReplicateFixture

FRESH = ClipSpec(
    request=CompositionRequest(prompt="calm", duration_s=1, window=None, seed=1),
    so_far_samples=0,
    needed_samples=48_000,
)


class ClaimsFixture:
    """One generator's parts around the provider."""

    def __init__(self, replicate: ReplicateFixture, store: FolderStore) -> None:
        self.replicate = replicate
        self.store = store
        self.settings = GeneratorSettings(claim_settle_s=40, claim_lease_s=30)
        self.attempts = self.generator()
        self._charged_before = self._posted_before = 0

    def generator(self) -> Attempts:
        """A process that knows nothing but the store."""
        return Attempts(
            provider=self.replicate.provider,
            claims=Claims(
                self.store,
                self.replicate.provider,
                clock=self.replicate.clock,
                lease_s=self.settings.claim_lease_s,
                settle_s=self.settings.claim_settle_s,
            ),
            cancellation=RunCancellation(ActiveRuns()),
            inspector=ClipInspector(store=self.store),
            settings=self.settings,
            clock=self.replicate.clock,
            log=logger_of("test"),
        )

    async def scene(self, job: str = "job-1") -> ComposedClip:
        """One scene, run again as the lane does while the world is busy."""
        for _ in range(30):
            try:
                return await self.attempts.compose(
                    SceneRef(job_id=job, run=1, scene_index=0), FRESH, before_paying=self.nothing
                )
            except RetryableError as error:
                await self.replicate.clock.sleep(error.retry_after_s or 1.0)
        raise AssertionError("thirty tries were not enough")

    async def timed(self, job: str = "job-1") -> tuple[ComposedClip, float]:
        """One scene, and the seconds that it took by the line's clock."""
        begun = self.replicate.clock.monotonic()
        made = await self.scene(job)
        return made, self.replicate.clock.monotonic() - begun

    async def undisturbed_s(self) -> float:
        """Seconds of a scene that nothing disturbs, before the one that counts."""
        took_s = [(await self.timed(f"calm-{number}"))[1] for number in range(3)]
        self._charged_before, self._posted_before = self.charged, self.posted
        return min(took_s)

    async def nothing(self) -> None:
        """A gate that stands open."""

    @property
    def charged(self) -> int:
        """Predictions that were charged."""
        return len(self.replicate.fake.ledger.charged) - self._charged_before

    @property
    def posted(self) -> int:
        """Requests to create a prediction, whatever became of them."""
        requests = self.replicate.fake.requests
        posted = sum(count for (place, _), count in requests.items() if place == "create")
        return posted - self._posted_before


def say(row: str, *, finished: int, asked: int, charged: int, added_s: float) -> None:
    """A row of the fault table: what came of it."""
    sys.stdout.write(
        f"{row}: {finished} of {asked} scenes finished, {charged / asked:.2f} charged per scene,"
        f" {added_s:.1f} s added\n"
    )
