"""Cache: music that was made and paid for once is not paid for again.

An entry answers one question, whoever asks it: this prompt, after this window, by this model at
this address, so long. Its key is the hash of the question; the seed is no part of it, because
every attempt has a seed of its own. `SEGUE_SCENE_CACHE` says who may share an answer: `all`, the
runs of one `job`, or nobody (`off`); a run that says `use_cache: false` asks anew, and its answer
takes the place of the older one. Equal questions asked in the same moment are both paid for.

An entry is two objects: the clip, and what is known of it. The second is written last and names
the first by its hash, so half an entry, or a wrong one, is no entry. Music is copied out of the
cache, never referred to: an entry may be deleted at any time. See ADR-0014.

I/O: the object store.
"""

import hashlib
import json
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, ValidationError

from services.generator.composition.attempts import Made
from services.generator.providers import CompositionRequest, MusicProvider
from services.generator.settings import CacheScope
from shared.clock import Clock
from shared.errors import NotFoundError, RetryableError
from shared.media.samples import SAMPLE_RATE_HZ
from shared.storage import ObjectStore
from shared.storage.keys import cache_key, cached_facts_key
from shared.telemetry.log import Logger
from shared.telemetry.metrics import CACHE_TOTAL

FORMAT = 1  # of entries and of the question; another number makes every entry unknown
_LATE_SAMPLES = SAMPLE_RATE_HZ // 4  # more in front than the window: a whole track so far


class CachedFacts(BaseModel):
    """What is known of a cached clip."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: int = FORMAT
    sha256: str
    content_type: str
    clip_samples: int
    old_samples: int  #: where the new music begins in the clip, as measured
    padding_samples: int = 0  #: of them, nothing: what a file without its header begins with
    needed_samples: int  #: of new music, as far as it was inspected
    seed: int | None = None
    prediction_id: str | None = None
    generation_s: float | None = None
    cost_usd: float | None = None  #: what it cost when it was made, failed attempts included
    made_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedClip:
    """A hit."""

    data: bytes
    facts: CachedFacts


@dataclass(frozen=True, kw_only=True)
class SceneCache:
    """Finds and keeps clips by what was asked for. Safe to use from many lanes at once."""

    store: ObjectStore
    provider: MusicProvider
    scope: CacheScope
    source: str  #: where the provider is: a stand-in of it may call itself the same
    clock: Clock
    log: Logger

    def digest_of(self, request: CompositionRequest, *, job_id: str) -> str | None:
        """The key of the question; None: it cannot be answered from a cache."""
        window = request.window
        unknown = window is not None and window.clip_sha256 is None  # by a state of older times
        if self.scope == "off" or self.provider.makes_silence or unknown:
            return None
        question = {
            "format": FORMAT,
            "provider": self.provider.name,
            "model": self.provider.model,
            "source": self.source,
            "seeds": "any" if self.scope == "all" else f"job {job_id}",
            "prompt": request.prompt,
            "duration_s": request.duration_s,
            "window": None
            if window is None
            else {
                "clip": window.clip_sha256,
                "start_s": window.start_s,
                "end_s": window.end_s,
            },
        }
        return hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()

    async def find(self, digest: str, *, needed_samples: int) -> CachedClip | None:
        """The clip that answers; None if there is none that can be trusted for so much music.

        Raises:
            StoreUnavailableError: the store did not answer: not knowing is not a miss.
        """
        found = await self._read(digest)
        if found is not None and found.facts.needed_samples < needed_samples:
            found = None  # of scenes with the same whole seconds, one may need more of them
        CACHE_TOTAL.labels("miss" if found is None else "hit").inc()
        return found

    async def keep(self, digest: str, made: Made, *, needed_samples: int) -> None:
        """Keep what was made as it was asked for; that it cannot be kept harms nobody."""
        window = made.prediction.request.window
        window_samples = window.length_s * SAMPLE_RATE_HZ if window else 0
        as_asked = window is None or made.clip.continued
        whole_track = made.replaces or made.old_samples > window_samples + _LATE_SAMPLES
        if not as_asked or whole_track:
            return
        clip = made.clip
        facts = CachedFacts(
            sha256=hashlib.sha256(clip.data).hexdigest(),
            content_type=clip.content_type,
            clip_samples=made.clip_samples,
            old_samples=made.old_samples,
            padding_samples=made.padding_samples,
            needed_samples=needed_samples,
            seed=made.prediction.request.seed,
            prediction_id=made.prediction.id,
            generation_s=clip.generation_s,
            cost_usd=made.cost_usd,
            made_at=self.clock.now().isoformat(timespec="seconds"),
        )
        try:
            await self.store.put(cache_key(digest), clip.data, content_type=clip.content_type)
            await self.store.put(cached_facts_key(digest), facts.model_dump_json().encode())
        except RetryableError as error:
            self.log.warning("clip not cached", action="cache.write_failed", reason=str(error))

    async def _read(self, digest: str) -> CachedClip | None:
        try:
            facts = CachedFacts.model_validate_json(await self.store.get(cached_facts_key(digest)))
            data = await self.store.get(cache_key(digest))
        except (NotFoundError, ValidationError):
            return None
        if facts.format != FORMAT or hashlib.sha256(data).hexdigest() != facts.sha256:
            return None
        return CachedClip(data=data, facts=facts)
