"""One record after the other: order, repetition, runs, failure; with a store and a ledger."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from services.generator.providers import Clip, CompositionRequest
from services.generator.providers.mp3 import encode
from services.generator.settings import GeneratorSettings
from shared.contract.events import JobCancelled, Origin, PredictionEnded
from shared.contract.params import ErrorStrategy
from shared.errors import JobError, ProviderBusyError, ProviderRejectedError, SceneGapError
from shared.kafka.codec import Envelope, Record
from shared.media.samples import SAMPLE_RATE_HZ
from shared.storage.keys import segment_key
from tests.support.event_builders import a_scene
from tests.unit.services.generator.scene.handler_fixture import HandlerFixture, clip_of


@pytest.fixture
async def fixture(tmp_path: Path) -> HandlerFixture:
    """Return a fresh fixture."""
    return HandlerFixture(tmp_path)


async def test_each_scene_continues_the_one_before(fixture: HandlerFixture) -> None:
    """The second request carries a window on the first clip, and counts it in its duration."""
    for index in range(3):
        await fixture.handle(a_scene(index, count=3, duration_s=1.7))

    first, second, third = fixture.segments()
    assert [s.origin for s in (first, second, third)] == [
        Origin.FRESH,
        Origin.CONTINUED,
        Origin.CONTINUED,
    ]
    asked = fixture.provider.charged[1]
    assert asked.window is not None
    assert asked.window.clip_key == first.object_key
    assert asked.duration_s == 2 + 1
    assert second.window_samples == SAMPLE_RATE_HZ
    assert third.start_samples + third.samples == 244_800


async def test_a_redelivered_scene_is_said_again_and_not_paid_again(
    fixture: HandlerFixture,
) -> None:
    """The same event, to the letter."""
    await fixture.handle(a_scene(0))
    await fixture.handle(a_scene(0))

    assert fixture.published[0] == fixture.published[1]
    assert len(fixture.provider.charged) == 1


async def test_a_generator_that_forgot_everything_pays_nothing_again(
    fixture: HandlerFixture,
) -> None:
    """Table and memory lost, the store kept: every scene is said again, the next is made."""
    for index in range(2):
        await fixture.handle(a_scene(index))
    fixture.continuations.states.clear()
    fixture.published.clear()
    fixture.handler = fixture.process()

    for index in range(3):
        await fixture.handle(a_scene(index))

    assert [s.scene_index for s in fixture.segments()] == [0, 1, 2]
    assert len(fixture.provider.charged) == 3


async def test_state_lost_in_the_middle_is_rebuilt_from_the_store(fixture: HandlerFixture) -> None:
    """Scene 2 comes first after the loss: what it continues is read from the store."""
    for index in range(2):
        await fixture.handle(a_scene(index))
    kept = fixture.continuations.states["job-1"]
    fixture.continuations.states.clear()

    await fixture.handle(a_scene(2))

    asked = fixture.provider.charged[2]
    assert asked.window is not None
    assert kept.last_clip is not None
    assert asked.window.clip_key == kept.last_clip.clip_key


async def test_a_scene_that_skips_ahead_is_refused(fixture: HandlerFixture) -> None:
    """Its predecessor was never made: the topic is not ordered by job."""
    await fixture.handle(a_scene(0))

    with pytest.raises(SceneGapError, match="received scene 2, but run 1 has only 1 finished"):
        await fixture.handle(a_scene(2))

    assert len(fixture.provider.charged) == 1


async def test_a_newer_run_starts_over_and_an_older_one_is_skipped(fixture: HandlerFixture) -> None:
    """Events of an older run are never mixed in, and cost nothing."""
    await fixture.handle(a_scene(0))
    await fixture.handle(a_scene(0, run=2))
    await fixture.handle(a_scene(1))

    assert [(s.run, s.scene_index) for s in fixture.segments()] == [(1, 0), (2, 0)]
    assert len(fixture.provider.charged) == 2


async def test_a_process_that_only_has_the_table_still_knows_the_newer_run(
    fixture: HandlerFixture,
) -> None:
    """The newer run was made before this process began: the older one's records come to nothing."""
    await fixture.handle(a_scene(0, run=2))
    fixture.handler = fixture.process()

    await fixture.handle(a_scene(0))

    assert [s.run for s in fixture.segments()] == [2]
    assert len(fixture.provider.charged) == 1


async def test_a_run_that_is_superseded_while_it_waits_is_not_paid_for(
    fixture: HandlerFixture,
) -> None:
    """The newer run's record was seen, though its turn has not come."""
    fixture.handler.cancellation.active_runs.observe("job-1", 2)

    await fixture.handle(a_scene(0))

    assert fixture.provider.charged == []
    assert fixture.published == []


async def test_a_cancelled_run_spends_nothing_more(fixture: HandlerFixture) -> None:
    """`job.cancelled` stops the scenes that are still to come."""
    await fixture.handle(a_scene(0))
    cancelled = JobCancelled(job_id="job-1", run=1)
    record = Record(topic=cancelled.kind, partition=0, offset=1, key=None, value=None)
    fixture.handler.on_received(
        Envelope(event=cancelled, event_id="", traceparent=None, record=record)
    )

    await fixture.handle(a_scene(1))

    assert len(fixture.provider.charged) == 1


async def test_news_of_a_prediction_is_heard_before_its_turn_and_decides_nothing(
    fixture: HandlerFixture,
) -> None:
    """Whoever waits looks at once: the record need not wait behind the scene it is about."""
    news = PredictionEnded(job_id="job-1", prediction_id="p1")
    record = Record(topic=news.kind, partition=0, offset=0, key=None, value=None)
    envelope = Envelope(event=news, event_id="", traceparent=None, record=record)

    fixture.handler.on_received(envelope)

    assert fixture.provider.nudged == ["p1"]
    await fixture.handler.handle(envelope)
    assert (fixture.provider.nudged, fixture.provider.charged, fixture.published) == (
        ["p1"],
        [],
        [],
    )


async def test_a_failed_scene_becomes_silence_and_the_next_continues_the_last_music(
    fixture: HandlerFixture,
) -> None:
    """The default strategy; the silence says why."""
    await fixture.handle(a_scene(0))
    fixture.provider.reject[2] = ProviderRejectedError("content refused")
    await fixture.handle(a_scene(1))
    await fixture.handle(a_scene(2))

    first, silent, third = fixture.segments()
    assert silent.origin is Origin.SILENCE
    assert silent.object_key is None
    assert silent.reason == "content refused"
    assert third.origin is Origin.CONTINUED
    window = fixture.provider.charged[2].window
    assert window is not None
    assert window.clip_key == first.object_key


@pytest.mark.parametrize(
    "params", [{"error_strategy": ErrorStrategy.HALT}, {"fail_on_error": True}]
)
async def test_a_run_that_wants_no_silence_ends_at_its_first_failure(
    fixture: HandlerFixture, params: dict[str, object]
) -> None:
    """The failure is told again when the record is, and later scenes are not made."""
    fixture.provider.reject[1] = ProviderRejectedError("content refused")
    scene = a_scene(0, params=params)
    with pytest.raises(JobError, match="content refused"):
        await fixture.handle(scene)
    with pytest.raises(JobError, match="content refused"):
        await fixture.handle(scene)
    await fixture.handle(a_scene(1, params=params))

    assert len(fixture.provider.charged) == 1
    assert fixture.published == []


async def test_a_prediction_that_failed_by_accident_is_tried_again_with_a_new_seed(
    fixture: HandlerFixture,
) -> None:
    """At most so often as the settings say, and the segment tells of it."""
    fixture.provider.reject[1] = ProviderRejectedError("interrupted", retryable=True)

    await fixture.handle(a_scene(0))

    (segment,) = fixture.segments()
    assert segment.origin is Origin.FRESH
    assert segment.attempts == 2
    assert segment.warnings == ("attempt 1: interrupted",)
    seeds = {request.seed for request in fixture.provider.charged}
    assert len(seeds) == 2


async def test_a_clip_of_the_wrong_length_is_not_taken(fixture: HandlerFixture) -> None:
    """Measured, not believed: after the last try the scene is silence, with the reason."""
    fixture.provider.clip_of = lambda request: clip_of(
        CompositionRequest(prompt="", duration_s=request.duration_s + 5, window=None, seed=1)
    )

    await fixture.handle(a_scene(0))

    (segment,) = fixture.segments()
    assert segment.origin is Origin.SILENCE
    assert segment.reason is not None
    assert "8.00 s instead of 3.00 s" in segment.reason
    assert len(fixture.provider.charged) == GeneratorSettings().scene_attempts_max


async def test_what_another_process_finished_first_counts(fixture: HandlerFixture) -> None:
    """Two made the same scene: one segment is stored, and both say that one."""
    await fixture.handle(a_scene(0))
    stored = await fixture.store.get(segment_key("job-1", 1, 0))
    fixture.continuations.states.clear()

    await fixture.handle(a_scene(0))

    assert await fixture.store.get(segment_key("job-1", 1, 0)) == stored
    assert fixture.published[0] == fixture.published[1]


async def test_a_run_that_is_cancelled_while_its_prediction_runs_cancels_it(
    fixture: HandlerFixture,
) -> None:
    """Nobody sits out the provider's minutes for music that is not wanted."""
    asked = asyncio.Event()

    async def never(prediction_id: str, request: CompositionRequest) -> Clip:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError(f"{prediction_id} came to its end: {request}")

    fixture.provider.collect = never  # type: ignore[method-assign]  # this script has no other end
    scene = asyncio.create_task(fixture.handle(a_scene(0)))
    await asked.wait()
    cancelled = JobCancelled(job_id="job-1", run=1)
    record = Record(topic=cancelled.kind, partition=0, offset=1, key=None, value=None)
    fixture.handler.on_received(
        Envelope(event=cancelled, event_id="", traceparent=None, record=record)
    )
    await scene

    assert len(fixture.provider.cancelled) == 1
    assert fixture.published == []


async def test_a_clip_that_came_without_its_window_is_placed_as_new_music(
    fixture: HandlerFixture,
) -> None:
    """Recognised by ear: nothing of what was sent is heard at its head."""
    await fixture.handle(a_scene(0))

    def other(request: CompositionRequest) -> bytes:
        noise = np.random.default_rng(2).standard_normal((2, request.duration_s * 32_000))
        return encode((0.1 * noise).astype(np.float32))

    fixture.provider.clip_of = other
    await fixture.handle(a_scene(1))

    second = fixture.segments()[1]
    assert second.origin is Origin.CONTINUED
    assert second.window_samples == 0


async def test_a_busy_provider_is_asked_again_without_burning_attempts(
    fixture: HandlerFixture,
) -> None:
    """What was refused before the claim leaves none; a successor begins at the same attempt."""
    refusals = iter([True, True, False])

    async def ready(*, within_s: float) -> None:
        if next(refusals):
            raise ProviderBusyError("no turn", retry_after_s=1)

    fixture.provider.ready = ready  # type: ignore[method-assign]  # the script of this test
    await fixture.handle(a_scene(0))

    claims = [one.key async for one in fixture.store.list_objects("jobs/")]
    assert [key.rpartition("/")[2] for key in claims if "claim" in key] == ["claim-1"]
    assert len(fixture.provider.charged) == 1


async def test_a_silent_clip_is_not_taken(fixture: HandlerFixture) -> None:
    """The quality gate: a new try with a new seed, then the error strategy, and it is named."""
    fixture.provider.clip_of = lambda request: encode(
        np.zeros((2, request.duration_s * 32_000), dtype=np.float32)
    )

    await fixture.handle(a_scene(0))

    (segment,) = fixture.segments()
    assert segment.origin is Origin.SILENCE
    assert segment.reason == "Invalid audio output format: silent"
