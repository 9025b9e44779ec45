"""A generator's claims and attempts on a Replicate emulator, and the row of the fault table.

Each test writes the figures of its fault to standard output, as a row of the table in
`docs/reliability.md`; `pytest -rP` shows it.
"""

import sys

from services.generator.clip.inspection import ClipInspector, ClipSpec
from services.generator.composition.attempts import Attempts, ComposedClip
from services.generator.composition.claims import Claims
from services.generator.providers import CompositionRequest
from services.generator.scene_ref import SceneRef
from services.generator.settings import GeneratorSettings
from shared.errors import RetryableError
from shared.media.sandbox import MediaSandbox
from shared.processing.active_runs import ActiveRuns
from shared.processing.cancellation import RunCancellation
from shared.settings import MediaSettings
from shared.storage.filesystem import FolderStore
from shared.telemetry.log import logger_of
from tests.support.replicate_provider import ReplicateFixture

FRESH = ClipSpec(
    request=CompositionRequest(prompt="calm", duration_s=1, window=None, seed=1),
    so_far_samples=0,
    needed_samples=48_000,
)


class ClaimsFixture:
    """Claims and attempts of one generator, and the emulator's counters."""

    def __init__(self, replicate: ReplicateFixture, store: FolderStore) -> None:
        self.replicate = replicate
        self.store = store
        self.settings = GeneratorSettings(claim_settle_s=40, claim_lease_s=30)
        self.attempts = self.generator()
        self._charged_before = self._posted_before = 0

    def generator(self) -> Attempts:
        """Return the attempts of a new process, which shares only the store."""
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
            inspector=ClipInspector(store=self.store, sandbox=MediaSandbox(MediaSettings())),
            settings=self.settings,
            clock=self.replicate.clock,
            log=logger_of("test"),
        )

    async def scene(self, job: str = "job-1") -> ComposedClip:
        """Generate a scene; retry after retryable errors, as the lane does."""
        for _ in range(30):
            try:
                return await self.attempts.compose(
                    SceneRef(job_id=job, run=1, scene_index=0), FRESH, before_paying=self.nothing
                )
            except RetryableError as error:
                await self.replicate.clock.sleep(error.retry_after_s or 1.0)
        raise AssertionError("not generated after 30 attempts")

    async def timed(self, job: str = "job-1") -> tuple[ComposedClip, float]:
        """Generate a scene; return it with the seconds that it took by the fixture's clock."""
        start_s = self.replicate.clock.monotonic()
        made = await self.scene(job)
        return made, self.replicate.clock.monotonic() - start_s

    async def undisturbed_s(self) -> float:
        """Return the seconds of a scene without faults, and reset the counters."""
        took_s = [(await self.timed(f"calm-{number}"))[1] for number in range(3)]
        self._charged_before, self._posted_before = self.charged, self.posted
        return min(took_s)

    async def nothing(self) -> None:
        """Allow the payment."""

    @property
    def charged(self) -> int:
        """Return the number of charged predictions."""
        return len(self.replicate.fake.ledger.charged) - self._charged_before

    @property
    def posted(self) -> int:
        """Return the number of requests to create a prediction, failed ones included."""
        requests = self.replicate.fake.requests
        posted = sum(count for (place, _), count in requests.items() if place == "create")
        return posted - self._posted_before


def write_figures(row: str, *, finished: int, requested: int, charged: int, added_s: float) -> None:
    """Write the row of a fault for the table in docs/reliability.md."""
    sys.stdout.write(
        f"{row}: {finished} of {requested} scenes finished,"
        f" {charged / requested:.2f} charged per scene,"
        f" {added_s:.1f} s added\n"
    )
