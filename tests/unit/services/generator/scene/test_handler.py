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
from tests.unit.services.generator.scene.handler_fixture import Bench, clip_of


@pytest.fixture
async def bench(tmp_path: Path) -> Bench:
    """A fresh one."""
    return Bench(tmp_path)


async def test_each_scene_continues_the_one_before(bench: Bench) -> None:
    """The second request carries a window on the first clip, and counts it in its duration."""
    for index in range(3):
        await bench.ask(a_scene(index, count=3, duration_s=1.7))

    first, second, third = bench.segments()
    assert [s.origin for s in (first, second, third)] == [
        Origin.FRESH,
        Origin.CONTINUED,
        Origin.CONTINUED,
    ]
    asked = bench.provider.charged[1]
    assert asked.window is not None
    assert asked.window.clip_key == first.object_key
    assert asked.duration_s == 2 + 1
    assert second.window_samples == SAMPLE_RATE_HZ
    assert third.start_samples + third.samples == 244_800


async def test_a_redelivered_scene_is_said_again_and_not_paid_again(bench: Bench) -> None:
    """The same event, to the letter."""
    await bench.ask(a_scene(0))
    await bench.ask(a_scene(0))

    assert bench.said[0] == bench.said[1]
    assert len(bench.provider.charged) == 1


async def test_a_generator_that_forgot_everything_pays_nothing_again(bench: Bench) -> None:
    """Table and memory lost, the store kept: every scene is said again, the next is made."""
    for index in range(2):
        await bench.ask(a_scene(index))
    bench.memory.states.clear()
    bench.said.clear()
    bench.work = bench.process()

    for index in range(3):
        await bench.ask(a_scene(index))

    assert [s.scene_index for s in bench.segments()] == [0, 1, 2]
    assert len(bench.provider.charged) == 3


async def test_state_lost_in_the_middle_is_rebuilt_from_the_store(bench: Bench) -> None:
    """Scene 2 comes first after the loss: what it continues is read from the store."""
    for index in range(2):
        await bench.ask(a_scene(index))
    kept = bench.memory.states["job-1"]
    bench.memory.states.clear()

    await bench.ask(a_scene(2))

    asked = bench.provider.charged[2]
    assert asked.window is not None
    assert kept.last_clip is not None
    assert asked.window.clip_key == kept.last_clip.clip_key


async def test_a_scene_that_skips_ahead_is_refused(bench: Bench) -> None:
    """Its predecessor was never made: the topic is not ordered by job."""
    await bench.ask(a_scene(0))

    with pytest.raises(SceneGapError, match="scene 2 came"):
        await bench.ask(a_scene(2))

    assert len(bench.provider.charged) == 1


async def test_a_newer_run_starts_over_and_an_older_one_is_skipped(bench: Bench) -> None:
    """Events of an older run are never mixed in, and cost nothing."""
    await bench.ask(a_scene(0))
    await bench.ask(a_scene(0, run=2))
    await bench.ask(a_scene(1))

    assert [(s.run, s.scene_index) for s in bench.segments()] == [(1, 0), (2, 0)]
    assert len(bench.provider.charged) == 2


async def test_a_process_that_only_has_the_table_still_knows_the_newer_run(bench: Bench) -> None:
    """The newer run was made before this process began: the older one's records come to nothing."""
    await bench.ask(a_scene(0, run=2))
    bench.work = bench.process()

    await bench.ask(a_scene(0))

    assert [s.run for s in bench.segments()] == [2]
    assert len(bench.provider.charged) == 1


async def test_a_run_that_is_superseded_while_it_waits_is_not_paid_for(bench: Bench) -> None:
    """The newer run's record was seen, though its turn has not come."""
    bench.work.interrupts.active_runs.observe("job-1", 2)

    await bench.ask(a_scene(0))

    assert bench.provider.charged == []
    assert bench.said == []


async def test_a_cancelled_run_spends_nothing_more(bench: Bench) -> None:
    """`job.cancelled` stops the scenes that are still to come."""
    await bench.ask(a_scene(0))
    cancelled = JobCancelled(job_id="job-1", run=1)
    record = Record(topic=cancelled.kind, partition=0, offset=1, key=None, value=None)
    bench.work.seen(Envelope(event=cancelled, event_id="", traceparent=None, record=record))

    await bench.ask(a_scene(1))

    assert len(bench.provider.charged) == 1


async def test_news_of_a_prediction_is_heard_before_its_turn_and_decides_nothing(
    bench: Bench,
) -> None:
    """Whoever waits looks at once: the record need not wait behind the scene it is about."""
    news = PredictionEnded(job_id="job-1", prediction_id="p1")
    record = Record(topic=news.kind, partition=0, offset=0, key=None, value=None)
    envelope = Envelope(event=news, event_id="", traceparent=None, record=record)

    bench.work.seen(envelope)

    assert bench.provider.nudged == ["p1"]
    await bench.work.noted(envelope)
    assert (bench.provider.nudged, bench.provider.charged, bench.said) == (["p1"], [], [])


async def test_a_failed_scene_becomes_silence_and_the_next_continues_the_last_music(
    bench: Bench,
) -> None:
    """The default strategy; the silence says why."""
    await bench.ask(a_scene(0))
    bench.provider.reject[2] = ProviderRejectedError("content refused")
    await bench.ask(a_scene(1))
    await bench.ask(a_scene(2))

    first, silent, third = bench.segments()
    assert silent.origin is Origin.SILENCE
    assert silent.object_key is None
    assert silent.reason == "content refused"
    assert third.origin is Origin.CONTINUED
    window = bench.provider.charged[2].window
    assert window is not None
    assert window.clip_key == first.object_key


@pytest.mark.parametrize(
    "params", [{"error_strategy": ErrorStrategy.HALT}, {"fail_on_error": True}]
)
async def test_a_run_that_wants_no_silence_ends_at_its_first_failure(
    bench: Bench, params: dict[str, object]
) -> None:
    """The failure is told again when the record is, and later scenes are not made."""
    bench.provider.reject[1] = ProviderRejectedError("content refused")
    scene = a_scene(0, params=params)
    with pytest.raises(JobError, match="content refused"):
        await bench.ask(scene)
    with pytest.raises(JobError, match="content refused"):
        await bench.ask(scene)
    await bench.ask(a_scene(1, params=params))

    assert len(bench.provider.charged) == 1
    assert bench.said == []


async def test_a_prediction_that_failed_by_accident_is_tried_again_with_a_new_seed(
    bench: Bench,
) -> None:
    """At most so often as the settings say, and the segment tells of it."""
    bench.provider.reject[1] = ProviderRejectedError("interrupted", retryable=True)

    await bench.ask(a_scene(0))

    (segment,) = bench.segments()
    assert segment.origin is Origin.FRESH
    assert segment.attempts == 2
    assert segment.warnings == ("attempt 1: interrupted",)
    seeds = {request.seed for request in bench.provider.charged}
    assert len(seeds) == 2


async def test_a_clip_of_the_wrong_length_is_not_taken(bench: Bench) -> None:
    """Measured, not believed: after the last try the scene is silence, with the reason."""
    bench.provider.clip_of = lambda request: clip_of(
        CompositionRequest(prompt="", duration_s=request.duration_s + 5, window=None, seed=1)
    )

    await bench.ask(a_scene(0))

    (segment,) = bench.segments()
    assert segment.origin is Origin.SILENCE
    assert segment.reason is not None
    assert "8.00 s instead of 3.00 s" in segment.reason
    assert len(bench.provider.charged) == GeneratorSettings().scene_attempts_max


async def test_what_another_process_finished_first_counts(bench: Bench) -> None:
    """Two made the same scene: one segment is stored, and both say that one."""
    await bench.ask(a_scene(0))
    stored = await bench.store.get(segment_key("job-1", 1, 0))
    bench.memory.states.clear()

    await bench.ask(a_scene(0))

    assert await bench.store.get(segment_key("job-1", 1, 0)) == stored
    assert bench.said[0] == bench.said[1]


async def test_a_run_that_is_cancelled_while_its_prediction_runs_cancels_it(bench: Bench) -> None:
    """Nobody sits out the provider's minutes for music that is not wanted."""
    asked = asyncio.Event()

    async def never(prediction_id: str, request: CompositionRequest) -> Clip:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError(f"{prediction_id} came to its end: {request}")

    bench.provider.collect = never  # type: ignore[method-assign]  # this script has no other end
    scene = asyncio.create_task(bench.ask(a_scene(0)))
    await asked.wait()
    cancelled = JobCancelled(job_id="job-1", run=1)
    record = Record(topic=cancelled.kind, partition=0, offset=1, key=None, value=None)
    bench.work.seen(Envelope(event=cancelled, event_id="", traceparent=None, record=record))
    await scene

    assert len(bench.provider.cancelled) == 1
    assert bench.said == []


async def test_a_clip_that_came_without_its_window_is_placed_as_new_music(bench: Bench) -> None:
    """Recognised by ear: nothing of what was sent is heard at its head."""
    await bench.ask(a_scene(0))

    def other(request: CompositionRequest) -> bytes:
        noise = np.random.default_rng(2).standard_normal((2, request.duration_s * 32_000))
        return encode((0.1 * noise).astype(np.float32))

    bench.provider.clip_of = other
    await bench.ask(a_scene(1))

    second = bench.segments()[1]
    assert second.origin is Origin.CONTINUED
    assert second.window_samples == 0


async def test_a_busy_provider_is_asked_again_without_burning_attempts(bench: Bench) -> None:
    """What was refused before the claim leaves none; a successor begins at the same attempt."""
    refusals = iter([True, True, False])

    async def ready(*, within_s: float) -> None:
        if next(refusals):
            raise ProviderBusyError("no turn", retry_after_s=1)

    bench.provider.ready = ready  # type: ignore[method-assign]  # the script of this test
    await bench.ask(a_scene(0))

    claims = [one.key async for one in bench.store.list_objects("jobs/")]
    assert [key.rpartition("/")[2] for key in claims if "claim" in key] == ["claim-1"]
    assert len(bench.provider.charged) == 1


async def test_a_silent_clip_is_not_taken(bench: Bench) -> None:
    """The quality gate: a new try with a new seed, then the error strategy, and it is named."""
    bench.provider.clip_of = lambda request: encode(
        np.zeros((2, request.duration_s * 32_000), dtype=np.float32)
    )

    await bench.ask(a_scene(0))

    (segment,) = bench.segments()
    assert segment.origin is Origin.SILENCE
    assert segment.reason == "Invalid audio output format: silent"
