"""Caches clips by their request, so that equal music is not paid for twice.

The key of an entry is the hash of the request: prompt, window, provider, model, address and
duration. The seed is not included, because every attempt has its own seed. `SEGUE_SCENE_CACHE`
sets who shares entries: the runs of one `job`, `all` jobs, or none (`off`). A run with
`use_cache: false` composes again, and its clip replaces the entry. Equal requests at the same
moment are both paid for.

An entry is two objects: the clip and its facts. The facts are stored last and contain the clip's
hash, so an incomplete or damaged entry is ignored. A clip is copied from the cache and not
referenced: an entry may be deleted at any time. See ADR-0014.

I/O: the object store.
"""

import hashlib
import json
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, ValidationError

from services.generator.composition.attempts import ComposedClip
from services.generator.providers import CompositionRequest, MusicProvider
from services.generator.settings import CacheScope
from shared.clock import Clock
from shared.errors import NotFoundError, RetryableError
from shared.media.samples import SAMPLE_RATE_HZ
from shared.storage import ObjectStore
from shared.storage.keys import cache_key, cached_facts_key
from shared.telemetry.log import Logger
from shared.telemetry.metrics import CACHE_TOTAL

FORMAT = 1  # of entries and of the hashed request; a new number invalidates every entry
_LATE_SAMPLES = SAMPLE_RATE_HZ // 4  # more old music than the window: a cumulative track


class CachedFacts(BaseModel):
    """The metadata of a cached clip."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: int = FORMAT
    sha256: str
    content_type: str
    clip_samples: int
    old_samples: int  #: where the new music begins in the clip, measured
    padding_samples: int = 0  #: of them, padding that the file does not declare
    needed_samples: int  #: of new music, inspected
    seed: int | None = None
    prediction_id: str | None = None
    generation_s: float | None = None
    cost_usd: float | None = None  #: of the original generation, including failed attempts
    made_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedClip:
    """A cache hit."""

    data: bytes
    facts: CachedFacts


@dataclass(frozen=True, kw_only=True)
class SceneCache:
    """Stores and finds clips by request. Safe to use from many lanes at once."""

    store: ObjectStore
    provider: MusicProvider
    scope: CacheScope
    source: str  #: the provider's address: an emulator may have the same name
    clock: Clock
    log: Logger

    def digest_of(self, request: CompositionRequest, *, job_id: str) -> str | None:
        """Return the key of a request; None if it cannot be cached."""
        window = request.window
        unhashed = window is not None and window.clip_sha256 is None
        if self.scope == "off" or self.provider.makes_silence or unhashed:
            return None
        hashed = {
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
        return hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()

    async def find(self, digest: str, *, needed_samples: int) -> CachedClip | None:
        """Return the cached clip; None if there is none with enough inspected music.

        Raises:
            StoreUnavailableError: the store did not answer; that is not a miss.
        """
        hit = await self._read(digest)
        if hit is not None and hit.facts.needed_samples < needed_samples:
            hit = None  # two scenes of the same whole seconds may need different lengths
        CACHE_TOTAL.labels("miss" if hit is None else "hit").inc()
        return hit

    async def put(self, digest: str, composed: ComposedClip, *, needed_samples: int) -> None:
        """Store a clip that matches its request; log a failure and continue."""
        window = composed.prediction.request.window
        window_samples = window.length_s * SAMPLE_RATE_HZ if window else 0
        matches_request = window is None or composed.clip.continued
        is_cumulative = composed.replaces or composed.old_samples > window_samples + _LATE_SAMPLES
        if not matches_request or is_cumulative:
            return
        clip = composed.clip
        facts = CachedFacts(
            sha256=hashlib.sha256(clip.data).hexdigest(),
            content_type=clip.content_type,
            clip_samples=composed.clip_samples,
            old_samples=composed.old_samples,
            padding_samples=composed.padding_samples,
            needed_samples=needed_samples,
            seed=composed.prediction.request.seed,
            prediction_id=composed.prediction.id,
            generation_s=clip.generation_s,
            cost_usd=composed.cost_usd,
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
