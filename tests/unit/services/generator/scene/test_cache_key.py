"""Checks the cache key: equal requests have equal keys, others never."""

from dataclasses import replace
from typing import cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.generator.providers import CompositionRequest, ContinuationWindow
from services.generator.scene.cache import SceneCache
from services.generator.settings import CacheScope, GeneratorSettings
from shared.storage import ObjectStore
from shared.telemetry.log import logger_of
from tests.fakes.clock import FakeClock
from tests.fakes.provider import LedgerProvider
from tests.unit.services.generator.scene.handler_fixture import clip_of

WINDOW = ContinuationWindow(
    clip_key="jobs/a/clip", clip_url=None, start_s=2, end_s=3, clip_sha256="ab"
)
REQUEST = CompositionRequest(prompt="calm", duration_s=5, window=WINDOW, seed=7, job_id="job-1")

# few values of each, so that equal ones meet
windows = st.builds(
    ContinuationWindow,
    clip_key=st.sampled_from(["jobs/a", "jobs/b"]),
    clip_url=st.sampled_from([None, "https://a.example/out.mp3"]),
    clip_sha256=st.sampled_from(["ab", "cd"]),
    start_s=st.integers(0, 1),
    end_s=st.integers(2, 3),
)
requests = st.builds(
    CompositionRequest,
    prompt=st.sampled_from(["calm", "calm ", "Calm", "calm\x00", "\u00e9", "e\u0301"]),
    duration_s=st.integers(4, 6),
    window=st.none() | windows,
    seed=st.integers(1, 2),
    must_continue=st.booleans(),
    job_id=st.sampled_from(["job-1", "job-2"]),
)


def a_cache(
    scope: CacheScope = "all", provider: LedgerProvider | None = None, source: str = "here"
) -> SceneCache:
    """Return a cache without a store, which keys do not need."""
    return SceneCache(
        store=cast("ObjectStore", None),
        provider=provider or LedgerProvider(clip_of=clip_of),
        scope=scope,
        source=source,
        clock=FakeClock(),
        log=logger_of("test"),
    )


def key_of(cache: SceneCache, request: CompositionRequest) -> str | None:
    """Return the key of a request."""
    return cache.digest_of(request, job_id=request.job_id)


def sound_of(request: CompositionRequest) -> tuple[object, ...]:
    """Return the fields that decide the music."""
    window = request.window
    window_fields = window and (window.clip_sha256, window.start_s, window.end_s)
    return request.prompt, request.duration_s, window_fields


@given(first=requests, second=requests)
@example(first=REQUEST, second=replace(REQUEST, seed=8, job_id="job-2", must_continue=True))
@example(first=REQUEST, second=replace(REQUEST, window=replace(WINDOW, clip_key="b", clip_url="c")))
@example(first=REQUEST, second=replace(REQUEST, window=None))
def test_keys_are_equal_exactly_if_the_music_may_be_equal(
    first: CompositionRequest, second: CompositionRequest
) -> None:
    """Job, seed and the window's location are not part of the key."""
    cache = a_cache()

    same = key_of(cache, first) == key_of(cache, second)

    assert same is (sound_of(first) == sound_of(second))


@given(first=requests, second=requests)
def test_scope_job_has_a_key_per_job(first: CompositionRequest, second: CompositionRequest) -> None:
    """As above within one job; never equal to a key of scope `all`."""
    cache = a_cache("job")

    same = key_of(cache, first) == key_of(cache, second)

    assert same is ((first.job_id, sound_of(first)) == (second.job_id, sound_of(second)))
    assert key_of(cache, first) != key_of(a_cache(), first)


def test_another_provider_model_or_address_has_another_key() -> None:
    """An emulator has the real provider's name and version, but another address."""
    caches = [
        a_cache(),
        a_cache(provider=LedgerProvider(clip_of=clip_of, name="other")),
        a_cache(provider=LedgerProvider(clip_of=clip_of, model="other")),
        a_cache(provider=LedgerProvider(clip_of=clip_of, model=None)),
        a_cache(source="http://127.0.0.1:5050/v1"),
    ]

    assert len({key_of(cache, REQUEST) for cache in caches}) == len(caches)


def test_the_key_is_stable() -> None:
    """Entries outlive releases: a change of the hashed fields needs a new `FORMAT`."""
    expected = "f63673fcb24d7ff3b5e148a6d1539ccbb7925483959105d538c6dec6ed0729f2"

    assert key_of(a_cache(), REQUEST) == expected


@pytest.mark.parametrize(
    ("cache", "request_"),
    [
        (a_cache("off"), REQUEST),
        (a_cache(provider=LedgerProvider(clip_of=clip_of, makes_silence=True)), REQUEST),
        (a_cache(), replace(REQUEST, window=replace(WINDOW, clip_sha256=None))),
    ],
    ids=["off", "silence", "window of unknown bytes"],
)
def test_some_requests_have_no_key(cache: SceneCache, request_: CompositionRequest) -> None:
    """They must not be answered from the cache."""
    assert key_of(cache, request_) is None


def test_jobs_do_not_share_the_cache_by_default() -> None:
    """Jobs with similar descriptions would get the same track."""
    assert GeneratorSettings().scene_cache == "job"
