"""Checks the style sample: planned, continued, rejected, and resolved once per run."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.generator.providers import CompositionRequest
from services.generator.scene.plan import Continuation, ScenePlan, StyleSample, plan_scene
from services.generator.scene.style_sample import FIELD
from services.generator.settings import StyleSettings
from shared.contract.events import Origin, SegmentGenerated
from shared.contract.params import AudioParams, AudioRef, ErrorStrategy
from shared.errors import JobError, ProviderRejectedError
from shared.media.decode import decode
from shared.media.samples import SAMPLE_RATE_HZ, exact_seconds, samples_at
from shared.storage.keys import style_facts_key, style_key
from tests.fakes.provider import LedgerProvider
from tests.support.event_builders import a_scene, a_segment
from tests.support.style_audio import Continuing, a_song, audio_file, quiet
from tests.unit.services.generator.scene.handler_fixture import HandlerFixture
from tests.unit.shared.http.upstream_server import Answer, upstream

SONG = audio_file(a_song(7.4))
STYLE = StyleSample(clip_key="jobs/x/runs/1/style.mp3", clip_sha256="s", length_s=5)
PRIVATE = StyleSettings(allowed_private_hosts="127.0.0.1", timeout_s=5)


def _made(plan: ScenePlan, index: int, duration_s: float, *, silent: bool) -> SegmentGenerated:
    if silent:
        origin, key, clip = Origin.SILENCE, None, 0
    else:
        origin = Origin.CONTINUED if plan.window else Origin.FRESH
        key, clip = f"jobs/x/{index}", plan.duration_s * SAMPLE_RATE_HZ
    return a_segment(
        index,
        count=99,
        origin=origin,
        object_key=key,
        duration_s=duration_s,
        start_samples=plan.start_samples,
        samples=plan.samples,
        clip_samples=clip,
        window_samples=0 if silent else plan.window_samples,
        join_samples=plan.start_samples if silent else plan.join_samples,
    )


@given(
    scenes=st.lists(
        st.tuples(
            st.decimals(min_value="0.05", max_value="40", places=6).map(float), st.booleans()
        ),
        min_size=1,
        max_size=20,
    ),
    window_s=st.integers(min_value=1, max_value=20),
    style_s=st.integers(min_value=1, max_value=20),
)
def test_a_style_opens_only_the_first_music_and_moves_nothing(
    scenes: list[tuple[float, bool]], window_s: int, style_s: int
) -> None:
    """Lengths add up, the style ends where the music begins, without a gap."""
    style = StyleSample(clip_key="k", clip_sha256="s", length_s=style_s)
    state, at = Continuation(run=1), 0
    for index, (length, silent) in enumerate(scenes):
        first = state.last_clip is None
        scene = a_scene(index, count=99, duration_s=length)
        plan = plan_scene(state, scene, window_s=window_s, style=style)
        assert plan.start_samples == at
        at += plan.samples
        assert plan.continues_style == first
        assert plan.window is not None
        if first:
            assert plan.window == style.window
            assert (plan.window.start_s, plan.window.end_s) == (0, style_s)
            assert plan.window_samples == style_s * SAMPLE_RATE_HZ
            assert plan.join_samples == plan.start_samples
        else:
            assert plan.window.clip_key != style.clip_key
        CompositionRequest(prompt="p", duration_s=plan.duration_s, window=plan.window, seed=1)
        clip_end = plan.join_samples + plan.duration_s * SAMPLE_RATE_HZ - plan.window_samples
        assert clip_end >= plan.start_samples + plan.samples
        state = state.after(_made(plan, index, length, silent=silent))
    assert at == samples_at(sum(exact_seconds(length) for length, _ in scenes))


def test_the_requested_duration_includes_the_style() -> None:
    """2.5 s after 5 s of style: 3 + 5."""
    plan = plan_scene(Continuation(run=1), a_scene(0), window_s=1, style=STYLE)

    assert plan.duration_s == 3 + 5
    assert plan.window_samples == 5 * SAMPLE_RATE_HZ


def handler_fixture(folder: Path, **settings: Any) -> HandlerFixture:
    """Return a fixture that may fetch from 127.0.0.1."""
    fixture = HandlerFixture(folder, **{"style": PRIVATE, **settings})
    fixture.provider = LedgerProvider(clip_of=Continuing(folder=folder, song=a_song(7.4)).clip_of)
    fixture.handler = fixture.process()
    return fixture


async def _styled(fixture: HandlerFixture, index: int = 0, *, ref: AudioRef, **params: Any) -> None:
    params = {"style_audio": ref, **params}
    await fixture.handle(a_scene(index, duration_s=1.7, params=AudioParams(**params)))


async def in_store(fixture: HandlerFixture, data: bytes = SONG) -> AudioRef:
    """Store a sample as the api does; return its reference."""
    await fixture.store.put("uploads/song", data)
    return AudioRef(object="uploads/song")


async def test_scene_0_continues_the_end_of_the_sample(tmp_path: Path) -> None:
    """Its last five seconds are stored as a clip; the next scene continues the first."""
    fixture = handler_fixture(tmp_path)
    ref = await in_store(fixture)
    for index in range(2):
        await _styled(fixture, index, ref=ref)

    first, second = fixture.segments()
    assert (first.origin, first.reason) == (Origin.CONTINUED, "continues the style sample")
    assert first.window_samples == 5 * SAMPLE_RATE_HZ
    assert first.join_samples == first.start_samples == 0
    assert first.warnings == ()
    assert (second.origin, second.reason) == (Origin.CONTINUED, None)
    requests = [(request.duration_s, request.window) for request in fixture.provider.charged]
    assert requests[0][0] == 2 + 5
    window = requests[0][1]
    assert window is not None
    clip = await fixture.store.get(style_key("job-1", 1))
    assert window.clip_key == style_key("job-1", 1)
    assert window.clip_sha256 == hashlib.sha256(clip).hexdigest()
    assert requests[1][1] is not None
    assert requests[1][1].clip_key == first.object_key
    sent, expected = decode(clip, rate_hz=32_000), a_song(7.4)[:, -5 * 32_000 :]
    assert sent.shape == expected.shape
    together = float(np.vdot(sent, expected)) / np.linalg.norm(sent) / np.linalg.norm(expected)
    assert together > 0.99


@pytest.mark.parametrize(("seconds", "setting", "window_s"), [(2.9, 5, 2), (7.4, 3, 3)])
async def test_the_window_is_the_setting_or_the_whole_sample(
    tmp_path: Path, seconds: float, setting: int, window_s: int
) -> None:
    """In whole seconds."""
    fixture = handler_fixture(tmp_path, style_window_s=setting)
    song = a_song(7.4)[:, -round(seconds * 32_000) :]
    await _styled(fixture, ref=await in_store(fixture, audio_file(song)))

    assert fixture.segments()[0].window_samples == window_s * SAMPLE_RATE_HZ
    assert fixture.provider.charged[0].duration_s == 2 + window_s


async def test_the_first_music_after_silence_continues_the_style(
    tmp_path: Path,
) -> None:
    """Scene 0 failed: the music begins with scene 1."""
    fixture = handler_fixture(tmp_path)
    ref = await in_store(fixture)
    fixture.provider.reject = {1: ProviderRejectedError("no")}
    for index in range(3):
        await _styled(fixture, index, ref=ref)

    silent, opening, after = fixture.segments()
    assert silent.origin is Origin.SILENCE
    assert opening.reason == "continues the style sample"
    assert opening.window_samples == 5 * SAMPLE_RATE_HZ
    assert opening.join_samples == opening.start_samples == silent.samples
    assert after.reason is None


async def test_a_style_url_is_fetched_once_per_run(tmp_path: Path) -> None:
    """A retry plans the same, whatever the address returns by then."""
    fixture = handler_fixture(tmp_path)
    fixture.provider.reject = {1: ProviderRejectedError("no")}
    async with upstream() as server:
        server.answers["/song"] = Answer(body=SONG)
        ref = AudioRef(url=f"http://127.0.0.1:{server.port}/song")
        await _styled(fixture, 0, ref=ref)
        server.answers["/song"] = Answer(body=audio_file(a_song(3.0, root_hz=300)))
        fixture.continuations.states.clear()
        fixture.handler = fixture.process()
        await _styled(fixture, 1, ref=ref)

        assert len(server.requests) == 1
    windows = [request.window for request in fixture.provider.charged]
    assert windows[0] is not None
    assert windows[0] == windows[1]


async def test_two_processes_that_read_different_songs_continue_the_same(tmp_path: Path) -> None:
    """Both continue the clip that was stored first."""
    fixture = handler_fixture(tmp_path)
    other = handler_fixture(tmp_path)
    ref = await in_store(other, audio_file(a_song(3.9, root_hz=300)))
    await _styled(other, ref=ref)
    await fixture.store.delete(style_facts_key("job-1", 1))  # as if both resolved it at once
    await fixture.store.delete(other.segments()[0].object_key or "")
    for key in [o.key async for o in fixture.store.list_objects("jobs/") if "scenes" in o.key]:
        await fixture.store.delete(key)

    await _styled(fixture, ref=await in_store(fixture))

    assert fixture.provider.charged[0].window == other.provider.charged[0].window


BAD = {
    "404": (Answer(status="404 Not Found"), "returned 404"),
    "not audio": (Answer(body=b"<html>no</html>"), "not audio"),
    "silent": (Answer(body=audio_file(quiet(3.0))), "is silent"),
    "too short": (Answer(body=audio_file(a_song(0.5))), "at least 1 s"),
    "too large": (Answer(body=bytes(2_000_000)), "SEGUE_STYLE_BYTES_MAX"),
    "away": (Answer(status="503 Busy"), "returned 503; tried 3 times"),
    "a redirect inside": (
        Answer(status="302 Found", headers={"Location": "http://127.0.0.2/x"}),
        "127.0.0.2 resolves to a private address",
    ),
}


@pytest.mark.parametrize("name", BAD)
async def test_an_unusable_style_is_reported_and_the_scene_starts_afresh(
    tmp_path: Path, name: str
) -> None:
    """The segment has the reason; a retry does not fetch again."""
    answer, reason = BAD[name]
    fixture = handler_fixture(
        tmp_path, style=StyleSettings(allowed_private_hosts="127.0.0.1", bytes_max=1_000_000)
    )
    async with upstream() as server:
        server.answers["/song"] = answer
        await _styled(fixture, ref=AudioRef(url=f"http://127.0.0.1:{server.port}/song"))
        fetches = len(server.requests)

    (segment,) = fixture.segments()
    assert segment.origin is Origin.FRESH
    assert segment.reason is not None
    assert segment.reason.startswith(FIELD)
    assert reason in segment.reason
    assert segment.warnings == (segment.reason,)
    assert fixture.provider.charged[0].window is None
    assert fixture.provider.charged[0].duration_s == 2
    assert fetches == (3 if name == "away" else 1)


@pytest.mark.parametrize(
    "params", [{"error_strategy": ErrorStrategy.HALT}, {"fail_on_error": True}], ids=str
)
@pytest.mark.parametrize(
    "ref",
    [AudioRef(object="uploads/none"), AudioRef(url="http://127.0.0.2:9/x")],
    ids=["gone", "private"],
)
async def test_a_run_that_requires_the_style_stops_before_it_pays(
    tmp_path: Path, params: dict[str, Any], ref: AudioRef
) -> None:
    """With the code `style_unusable`."""
    fixture = handler_fixture(tmp_path)

    for _ in range(2):  # a redelivered record raises the same
        with pytest.raises(JobError, match=FIELD) as caught:
            await _styled(fixture, ref=ref, **params)
        assert caught.value.code == "style_unusable"
    assert fixture.provider.charged == []
    assert fixture.published == []


async def test_the_silence_provider_fetches_no_style(tmp_path: Path) -> None:
    """Its clips are not continued, so nothing is fetched."""
    fixture = handler_fixture(tmp_path)
    fixture.provider.makes_silence = True

    await _styled(fixture, ref=AudioRef(object="uploads/none"), fail_on_error=True)

    assert fixture.segments()[0].warnings == ()
    assert fixture.provider.charged[0].window is None


async def test_the_same_style_is_answered_from_the_cache(tmp_path: Path) -> None:
    """The window's music is part of the key, the run is not."""
    fixture = handler_fixture(tmp_path, scene_cache="all")
    ref = await in_store(fixture)
    params = AudioParams(style_audio=ref)
    await fixture.handle(a_scene(0, job_id="one", duration_s=1.7, params=params))
    await fixture.handle(a_scene(0, job_id="two", duration_s=1.7, params=params))
    await fixture.store.put("uploads/song", audio_file(a_song(6.0, root_hz=300)))
    await fixture.handle(a_scene(0, job_id="three", duration_s=1.7, params=params))

    origins = [segment.origin for segment in fixture.segments()]
    assert origins == [Origin.CONTINUED, Origin.CACHED, Origin.CONTINUED]
    assert fixture.segments()[1].window_samples == 5 * SAMPLE_RATE_HZ
