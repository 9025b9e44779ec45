"""Style: somebody's own music, as what the first music of a run continues.

The sample is fetched once for a run, its last whole seconds that sound are stored as a clip, and
what was found is written down beside it, create-if-absent: whoever makes a scene of the run again
plans the same, even if the address gives something else by then. So is the reason why a sample
cannot be used; the run then begins without it, or ends, as it asked for. See ADR-0015.

Units: whole seconds. I/O: the store, the network, a temporary file; decoding in threads.
"""

import asyncio
import hashlib
import random
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from services.generator.composition.cancellation import Interrupts
from services.generator.providers import MusicProvider, mp3
from services.generator.providers.synth.voices import RATE_HZ
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
from shared.media.samples import Audio
from shared.media.style_sample import STYLE_RATE_HZ, Style, read_style
from shared.processing.retry import RetryPolicy, retrying
from shared.storage import ObjectStore
from shared.storage.keys import style_facts_key, style_key
from shared.telemetry.log import Logger

FIELD = "audio_params.style_audio"
AWAY = RetryPolicy(first_s=2.0, max_s=20.0, attempts_max=3, asked_max_s=20.0)
READ_S = 120.0  # an hour of sound, on a busy machine
AT_ONCE_MAX = 2  # each may hold a whole file in the temporary folder, and the end of one in memory
_BIT_RATE = 320_000  # the best that MP3 has: the provider codes the music once more

assert STYLE_RATE_HZ == RATE_HZ, "a window is sent at the model's own rate"


class StyleUnusableError(JobError):
    """The style sample cannot be continued, and the run asks to stop then."""

    code = "style_unusable"


class _FolderError(RetryableError):
    """The temporary folder is full or away: our fault, and the record waits for it."""


class StyleFacts(BaseModel):
    """What was found out about the style sample of a run."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    clip_sha256: str | None = None  #: of the clip at `style_key`; None: there is none
    length_s: int = 0
    fault: str | None = None  #: why there is none, for the status


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What a scene without music before it begins from."""

    sample: StyleSample | None = None
    fault: str | None = None  #: why there is none, though one was named


@dataclass(kw_only=True)
class Styles:
    """Finds the opening of runs. Safe to use from many lanes at once."""

    store: ObjectStore
    provider: MusicProvider
    fetcher: Fetcher
    window_s: int
    interrupts: Interrupts
    clock: Clock
    log: Logger
    chance: random.Random = field(default_factory=random.Random)

    def __post_init__(self) -> None:
        """Bound what lies in the temporary folder."""
        self._slots = asyncio.Semaphore(AT_ONCE_MAX)

    async def opening(
        self, scene: SceneRequested, state: Continuation, *, must_have: bool
    ) -> Opening:
        """What `scene` begins from; nothing where there is music before it, or no sample named.

        Raises:
            StyleUnusableError: the sample cannot be used, and the run `must_have` it.
            RunEndedError: the run is no longer wanted.
        """
        ref = scene.params.style_audio
        if ref is None or state.last_clip is not None or self.provider.makes_silence:
            return Opening()
        facts = await self._known(scene)
        if facts is None:
            facts = await self.interrupts.unless_ended(
                scene.job_id, scene.run, self._decided(scene, ref), on_end=_nothing
            )
        if facts.clip_sha256 is not None:
            key = style_key(scene.job_id, scene.run)
            return Opening(
                sample=StyleSample(
                    clip_key=key, clip_sha256=facts.clip_sha256, length_s=facts.length_s
                )
            )
        if must_have:
            raise StyleUnusableError(facts.fault or "")
        return Opening(fault=facts.fault)

    async def _known(self, scene: SceneRequested) -> StyleFacts | None:
        try:
            stored = await self.store.get(style_facts_key(scene.job_id, scene.run))
        except NotFoundError:
            return None
        return StyleFacts.model_validate_json(stored)

    async def _decided(self, scene: SceneRequested, ref: AudioRef) -> StyleFacts:
        """The facts, written down; if another process was first, its facts count."""
        try:
            style = await self._taken(ref)
        except MediaError as error:
            told = error.reason if error.reason.startswith(FIELD) else f"{FIELD}: {error.reason}"
            facts = StyleFacts(fault=told)
        else:
            facts = await self._stored(scene, style.window)
        key = style_facts_key(scene.job_id, scene.run)
        if not await self.store.put_if_absent(key, facts.model_dump_json().encode()):
            facts = StyleFacts.model_validate_json(await self.store.get(key))
        self._say(scene, facts)
        return facts

    async def _stored(self, scene: SceneRequested, window: Audio) -> StyleFacts:
        """The window as a clip; if another process was first, its clip counts."""
        key = style_key(scene.job_id, scene.run)
        data = await asyncio.to_thread(mp3.encode, window, bit_rate=_BIT_RATE)
        if not await self.store.put_if_absent(key, data):
            data = await self.store.get(key)
        await self.store.put(key, data, content_type=mp3.CONTENT_TYPE)  # the same, with its type
        music = await asyncio.to_thread(decode, data, rate_hz=RATE_HZ)
        return StyleFacts(
            clip_sha256=hashlib.sha256(data).hexdigest(),
            length_s=round(music.shape[1] / RATE_HZ),
        )

    async def _taken(self, ref: AudioRef) -> Style:
        """The sample, fetched and read; a host that is away is asked again a few times.

        Raises:
            MediaError: it cannot be used, in words for a person.
            RetryableError: the store or the disk is busy.
        """
        ours = (StoreUnavailableError, _FolderError)  # no fault of the sample
        try:
            return await retrying(
                lambda: self._read(ref),
                policy=AWAY,
                clock=self.clock,
                never=ours,
                chance=self.chance,
            )
        except ours:
            raise
        except RetryableError as error:
            raise MediaError(f"{error}; asked {AWAY.attempts_max} times") from error

    async def _read(self, ref: AudioRef) -> Style:
        async with self._slots:
            try:
                with tempfile.TemporaryDirectory(prefix="segue-style-") as folder:
                    path = Path(folder, "style")
                    await self.fetcher.fetch(ref, path)
                    async with asyncio.timeout(READ_S):
                        return await asyncio.to_thread(read_style, path, window_s=self.window_s)
            except TimeoutError as error:
                raise MediaError(
                    f"takes longer than {READ_S:g} s to read; send a shorter piece"
                ) from error
            except OSError as error:
                raise _FolderError(f"temporary folder: {error.strerror or error}") from error

    def _say(self, scene: SceneRequested, facts: StyleFacts) -> None:
        about = {"job_id": scene.job_id, "run": scene.run, "scene_index": scene.scene_index}
        if facts.clip_sha256 is not None:
            self.log.info(
                "style sample accepted", action="style.accepted", seconds=facts.length_s, **about
            )
            return
        self.log.warning(
            "style sample rejected", action="style.rejected", reason=facts.fault, **about
        )


def build_styles(
    settings: GeneratorSettings,
    *,
    store: ObjectStore,
    provider: MusicProvider,
    interrupts: Interrupts,
    clock: Clock,
    log: Logger,
) -> Styles:
    """The styles of one generator, from its settings."""
    wanted = FetchSpec(
        noun="style sample",
        field=FIELD,
        code=StyleUnusableError.code,
        bytes_max=settings.style.bytes_max,
        bytes_max_setting="SEGUE_STYLE_BYTES_MAX",
        timeout_s=settings.style.timeout_s,
    )
    return Styles(
        store=store,
        provider=provider,
        fetcher=Fetcher(store, wanted, private=settings.style.private_hosts),
        window_s=settings.style_window_s,
        interrupts=interrupts,
        clock=clock,
        log=log,
    )


async def _nothing() -> None:
    """There is nothing to cancel."""
