"""Fetches a run's style sample: the user's own music, which the run's first music continues.

The sample is fetched once per run. Its last audible whole seconds are stored as a clip, and the
result is stored next to it, create-if-absent: every retry of a scene plans the same, even if the
address returns something else by then. The reason why a sample is unusable is stored as well; the
run then begins without it, or stops, as requested. See ADR-0015.

Units: whole seconds. I/O: the store, the network, a temporary file; decoding in child processes.
"""

import asyncio
import hashlib
import random
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict

from services.generator.providers import MusicProvider, mp3
from services.generator.scene.plan import Continuation, StyleSample
from services.generator.settings import GeneratorSettings
from shared.clock import Clock
from shared.contract.events import SceneRequested
from shared.contract.params import AudioRef
from shared.errors import (
    JobError,
    MediaError,
    NotFoundError,
    RetryableError,
    StoreUnavailableError,
)
from shared.http.fetcher import Fetcher, FetchSpec
from shared.media.decode import decode
from shared.media.samples import CLIP_RATE_HZ, Audio
from shared.media.sandbox import MediaSandbox
from shared.media.style_sample import Style, read_style
from shared.processing.cancellation import RunCancellation
from shared.processing.retry import RetryPolicy, retrying
from shared.scratch import Scratch, ScratchError
from shared.storage import ObjectStore
from shared.storage.keys import style_facts_key, style_key
from shared.telemetry.log import Logger

FIELD = "audio_params.style_audio"
SCRATCH_NAME = "style"
FETCH_RETRY = RetryPolicy(first_s=2.0, max_s=20.0, attempts_max=3, asked_max_s=20.0)
_BIT_RATE = 320_000  # the best of MP3: the provider encodes the music once more


class StyleUnusableError(JobError):
    """The style sample is unusable, and the run must stop."""

    code = "style_unusable"


class StyleFacts(BaseModel):
    """The stored result for a run's style sample."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    clip_sha256: str | None = None  #: of the clip at `style_key`; None: unusable
    length_s: int = 0
    fault: str | None = None  #: why it is unusable, for the job's status


@dataclass(frozen=True, slots=True, kw_only=True)
class StyleResult:
    """The style sample that a scene continues, or why it continues none."""

    sample: StyleSample | None = None
    fault: str | None = None  #: why there is none, if one was requested


@dataclass(kw_only=True)
class StyleSamples:
    """Resolves the style samples of runs. Safe to use from many lanes at once."""

    store: ObjectStore
    provider: MusicProvider
    fetcher: Fetcher
    scratch: Scratch
    sandbox: MediaSandbox
    window_s: int
    cancellation: RunCancellation
    clock: Clock
    log: Logger
    chance: random.Random = field(default_factory=random.Random)

    async def resolve(
        self, scene: SceneRequested, state: Continuation, *, required: bool
    ) -> StyleResult:
        """Return the style sample for `scene`; none if it follows music or requests no sample.

        Raises:
            StyleUnusableError: the sample is unusable and `required`.
            RunEndedError: the run ended.
        """
        ref = scene.params.style_audio
        if ref is None or state.last_clip is not None or self.provider.makes_silence:
            return StyleResult()
        facts = await self._read_facts(scene)
        if facts is None:
            facts = await self.cancellation.unless_ended(
                scene.job_id, scene.run, self._create_facts(scene, ref)
            )
        if facts.clip_sha256 is not None:
            key = style_key(scene.job_id, scene.run)
            return StyleResult(
                sample=StyleSample(
                    clip_key=key, clip_sha256=facts.clip_sha256, length_s=facts.length_s
                )
            )
        if required:
            raise StyleUnusableError(facts.fault or "")
        return StyleResult(fault=facts.fault)

    async def _read_facts(self, scene: SceneRequested) -> StyleFacts | None:
        try:
            stored = await self.store.get(style_facts_key(scene.job_id, scene.run))
        except NotFoundError:
            return None
        return StyleFacts.model_validate_json(stored)

    async def _create_facts(self, scene: SceneRequested, ref: AudioRef) -> StyleFacts:
        """Create and return the facts; return another process's if it was first."""
        try:
            style = await self._fetch(ref)
        except MediaError as error:
            reason = error.reason
            facts = StyleFacts(fault=reason if reason.startswith(FIELD) else f"{FIELD}: {reason}")
        else:
            facts = await self._store_clip(scene, style.window)
        key = style_facts_key(scene.job_id, scene.run)
        if not await self.store.put_if_absent(key, facts.model_dump_json().encode()):
            facts = StyleFacts.model_validate_json(await self.store.get(key))
        self._log_facts(scene, facts)
        return facts

    async def _store_clip(self, scene: SceneRequested, window: Audio) -> StyleFacts:
        """Store the window as a clip, unless another process was first; return its facts."""
        key = style_key(scene.job_id, scene.run)
        data = await asyncio.to_thread(mp3.encode, window, bit_rate=_BIT_RATE)
        if not await self.store.put_if_absent(key, data):
            data = await self.store.get(key)
        # the same bytes, with their type
        await self.store.put(key, data, content_type=mp3.CONTENT_TYPE)
        music = await asyncio.to_thread(decode, data, rate_hz=CLIP_RATE_HZ)
        return StyleFacts(
            clip_sha256=hashlib.sha256(data).hexdigest(),
            length_s=round(music.shape[1] / CLIP_RATE_HZ),
        )

    async def _fetch(self, ref: AudioRef) -> Style:
        """Return the fetched sample; retry a few times if the host is unavailable.

        Raises:
            MediaError: it is unusable; the message is for a person.
            RetryableError: the store or the disk is unavailable.
        """
        retried_later = (StoreUnavailableError, ScratchError)  # the record is retried instead
        try:
            return await retrying(
                lambda: self._fetch_once(ref),
                policy=FETCH_RETRY,
                clock=self.clock,
                never=retried_later,
                chance=self.chance,
            )
        except retried_later:
            raise
        except RetryableError as error:
            raise MediaError(f"{error}; tried {FETCH_RETRY.attempts_max} times") from error

    async def _fetch_once(self, ref: AudioRef) -> Style:
        async with self.scratch.folder() as folder:
            path = folder.path / "style"
            await self.fetcher.fetch(ref, path, reserve=folder.reserve)
            return await self.sandbox.run(read_style, path, window_s=self.window_s)

    def _log_facts(self, scene: SceneRequested, facts: StyleFacts) -> None:
        about = {"job_id": scene.job_id, "run": scene.run, "scene_index": scene.scene_index}
        if facts.clip_sha256 is not None:
            self.log.info(
                "style sample accepted", action="style.accepted", seconds=facts.length_s, **about
            )
            return
        self.log.warning(
            "style sample rejected", action="style.rejected", reason=facts.fault, **about
        )


def build_style_samples(
    settings: GeneratorSettings,
    *,
    store: ObjectStore,
    provider: MusicProvider,
    cancellation: RunCancellation,
    sandbox: MediaSandbox,
    clock: Clock,
    log: Logger,
) -> StyleSamples:
    """Return the style samples, built from the settings."""
    spec = FetchSpec(
        noun="style sample",
        field=FIELD,
        code=StyleUnusableError.code,
        bytes_max=settings.style.bytes_max,
        bytes_max_setting="SEGUE_STYLE_BYTES_MAX",
        timeout_s=settings.style.timeout_s,
        rate_bytes_per_s_min=settings.style.rate_bytes_per_s_min,
        rate_window_s=settings.style.rate_window_s,
        host_slots=settings.style.host_slots,
        slots=settings.style.fetch_slots,
    )
    return StyleSamples(
        store=store,
        provider=provider,
        fetcher=Fetcher(store, spec, private=settings.style.private_hosts),
        scratch=Scratch(settings.scratch, name=SCRATCH_NAME),
        sandbox=sandbox,
        window_s=settings.style_window_s,
        cancellation=cancellation,
        clock=clock,
        log=log,
    )
