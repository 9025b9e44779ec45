"""Many jobs at once, one of 200 with a poison record: the others are not affected.

Waves of the same jobs are requested at once, with and without poison. The provider returns silence
after a delay; generator and broker are real. A poisoned job has an undecodable record: it is
dead-lettered, and so is the scene after it.
"""

import asyncio
import logging
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Self

import pytest
import structlog
from aiokafka import AIOKafkaConsumer
from typing_extensions import override

from services.generator.app import run
from services.generator.providers import Clip, CompositionRequest
from services.generator.providers.silence import SilenceProvider
from services.generator.settings import GeneratorSettings
from shared.clock import SystemClock
from shared.contract.events import JobFailed, SceneRequested, SegmentGenerated
from shared.kafka.admin import ensure_topics
from shared.kafka.codec import Record
from shared.kafka.producer import Publisher
from shared.settings import KafkaSettings, StoreSettings
from shared.storage.filesystem import FolderStore
from tests.faults.harness import checker, history
from tests.faults.harness.durations import long_or
from tests.faults.harness.history import Recorder
from tests.support.event_builders import a_scene
from tests.support.processes import eventually, records_of
from tests.support.servers import KafkaServer

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore::shared.storage.StandInWarning"),
]

JOBS = long_or(long=1000, short=60)
POISONED_EACH = long_or(long=200, short=60)
SCENES = 2
POISON = 0  # the undecodable scene; the next one is then out of order
WAVES = long_or(long=(False, True, True, False), short=(False, True))
WARM_JOBS = JOBS // 5
WORK_S = 0.5
SLOTS = 10  # few, so that the provider limits the rate and not the CPU
DONE_S = 240.0
#: of the median of all jobs, against waves without poison; a short wave varies with the machine
SLOWED_MAX = long_or(long=0.02, short=1.0)
#: of the median of the jobs in one partition, against the same wave: a stall of 2 s is seen
PARTITION_SLOWED_MAX = 0.4


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Log errors only."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    yield
    structlog.reset_defaults()


class DelayedSilence(SilenceProvider):
    """Silence after a delay, encoded once per length."""

    def __init__(self) -> None:
        super().__init__()
        self._clips: dict[int, Clip] = {}

    @override
    async def collect(self, prediction_id: str, request: CompositionRequest) -> Clip:
        await asyncio.sleep(WORK_S)
        if request.duration_s not in self._clips:
            self._clips[request.duration_s] = await super().collect(prediction_id, request)
        return self._clips[request.duration_s]


@dataclass(frozen=True, kw_only=True)
class Wave:
    """Jobs that are requested at once."""

    number: int
    is_poisoned: bool
    size: int = JOBS

    def jobs(self) -> list[str]:
        """Return every job."""
        return [self.name(number) for number in range(self.size)]

    def name(self, number: int) -> str:
        """Return the name of a job."""
        return f"wave-{self.number}-job-{number}"

    def poisoned(self) -> list[str]:
        """Return the jobs with a poison record in a poisoned wave."""
        return [self.name(number) for number in range(0, self.size, POISONED_EACH)]

    def healthy(self) -> list[str]:
        """Return the other jobs, which are measured in every wave."""
        return [job for job in self.jobs() if job not in set(self.poisoned())]

    def done(self) -> list[str]:
        """Return the jobs that must complete."""
        return self.healthy() if self.is_poisoned else self.jobs()


@asynccontextmanager
async def _generator(kafka: KafkaSettings, folder: Path) -> AsyncIterator[None]:
    stop, ready = asyncio.Event(), asyncio.Event()
    settings = GeneratorSettings(
        kafka=kafka, store=StoreSettings(folder=folder), slots=SLOTS, scene_cache="off"
    )
    running = asyncio.create_task(run(settings, stop=stop, ready=ready, provider=DelayedSilence()))
    waiting = asyncio.create_task(ready.wait())
    try:
        await asyncio.wait({running, waiting}, timeout=60, return_when=asyncio.FIRST_COMPLETED)
        yield
    finally:
        waiting.cancel()
        stop.set()
        await running


async def _publish_wave(wave: Wave, publisher: Publisher) -> None:
    """Publish a wave's records, each job's in order."""
    poisoned = set(wave.poisoned()) if wave.is_poisoned else set()

    async def publish(job: str, index: int) -> None:
        if job in poisoned and index == POISON:
            await publisher.send(
                topic=SceneRequested.kind, key=job.encode(), value=b'{"job_id": ', headers=()
            )
        else:
            await publisher.publish(a_scene(index, count=SCENES, job_id=job, duration_s=1.1))

    for index in range(SCENES):
        await asyncio.gather(*(publish(job, index) for job in wave.jobs()))


class SegmentConsumer:
    """Consumes segments with their timestamps and partitions."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._consumer = AIOKafkaConsumer(
            kafka.topic_prefix + SegmentGenerated.kind,
            bootstrap_servers=kafka.bootstrap_servers,
            auto_offset_reset="earliest",
        )
        self._scenes: Counter[str] = Counter()
        self._last_ms: dict[str, int] = {}
        self.partitions: dict[str, int] = {}  #: of each job

    async def __aenter__(self) -> Self:
        await self._consumer.start()
        return self

    async def __aexit__(self, *_about: object) -> None:
        await self._consumer.stop()

    async def done_ms(self, jobs: Sequence[str]) -> dict[str, int]:
        """Wait for every scene of these jobs; return when the last of each was published."""

        async def poll() -> bool | None:
            for polled in (await self._consumer.getmany(timeout_ms=200)).values():
                for raw in polled:
                    self._scenes[raw.key.decode()] += 1
                    self._last_ms[raw.key.decode()] = raw.timestamp
                    self.partitions[raw.key.decode()] = raw.partition
            return all(self._scenes[job] == SCENES for job in jobs) or None

        await eventually(poll, within_s=DONE_S, what=f"{len(jobs)} jobs like {jobs[0]}")
        return {job: self._last_ms[job] for job in jobs}


async def _took_s(wave: Wave, publisher: Publisher, segments: SegmentConsumer) -> dict[str, float]:
    """Return per healthy job the seconds from the wave's first record to its last segment."""
    start_ms = SystemClock().now().timestamp() * 1000
    await _publish_wave(wave, publisher)
    done_ms = await segments.done_ms(wave.done())
    return {job: (done_ms[job] - start_ms) / 1000 for job in wave.healthy()}


def _partition_slowed(took_s: Mapping[str, float], partitions: Mapping[str, int]) -> float:
    """Return how much slower the slowest partition was than all jobs; by medians, 0.1 is 10 %."""
    by_partition: dict[int, list[float]] = defaultdict(list)
    for job, seconds in took_s.items():
        by_partition[partitions[job]].append(seconds)
    return max(map(median, by_partition.values())) / median(took_s.values()) - 1


async def _records(kafka: KafkaSettings, topic: str) -> list[Record]:
    return await records_of(kafka.bootstrap_servers, topic, prefix=kafka.topic_prefix)


async def _violations(waves: Sequence[Wave], kafka: KafkaSettings, folder: Path) -> list[str]:
    """Return the violations; charges are not checked because the provider has no ledger."""
    recorder = Recorder(folder / "history.jsonl")
    for wave in waves:
        for job in wave.jobs():
            excused = None if job in set(wave.done()) else checker.POISON
            recorder.wanted(job, scene_count=SCENES, excused=excused)
    kinds = [SegmentGenerated.kind, JobFailed.kind]
    await recorder.publishes(kafka.bootstrap_servers, kinds, prefix=kafka.topic_prefix)
    await recorder.objects(FolderStore(folder / "store"))
    facts = history.read(recorder.path)
    rules = [rule for rule in checker.RULES if rule is not checker.charged_once]
    return [violation for rule in rules for violation in rule(facts)]


async def test_a_poison_record_does_not_affect_the_other_jobs(
    kafka: KafkaServer, topic_prefix: str, tmp_path: Path
) -> None:
    """They complete in order and about as fast; poison is dead-lettered."""
    settings = KafkaSettings(
        bootstrap_servers=kafka.bootstrap, topic_prefix=topic_prefix, fetch_max_wait_ms=100
    )
    await ensure_topics(settings)
    warm = Wave(number=0, is_poisoned=False, size=WARM_JOBS)
    waves = [Wave(number=n, is_poisoned=is_bad) for n, is_bad in enumerate(WAVES, start=1)]
    publisher = Publisher(settings, source="test", clock=SystemClock())
    await publisher.start()
    took: dict[bool, list[float]] = {False: [], True: []}
    stalls: list[float] = []
    try:
        async with _generator(settings, tmp_path / "store"), SegmentConsumer(settings) as segments:
            await _took_s(warm, publisher, segments)
            for wave in waves:
                took_s = await _took_s(wave, publisher, segments)
                took[wave.is_poisoned] += took_s.values()
                if wave.is_poisoned:
                    stalls.append(_partition_slowed(took_s, segments.partitions))
    finally:
        await publisher.stop()

    violations = await _violations([warm, *waves], settings, tmp_path)
    dead = Counter((r.key or b"").decode() for r in await _records(settings, "scene.requested.dlq"))
    clean_s, poisoned_s = median(took[False]), median(took[True])
    slowed = poisoned_s / clean_s - 1
    sys.stdout.write(
        f"{JOBS} jobs of {SCENES} scenes at once, {len(waves[0].poisoned())} of them poisoned, "
        f"{len(waves)} waves: violations {len(violations)}, dead letters {sum(dead.values())}"
        f" of {len(dead)} jobs, median {clean_s:.2f} s without poison, "
        f"{poisoned_s:.2f} s with poison: {slowed:+.1%}; slowest partition {max(stalls):+.1%}\n"
    )
    assert violations == []
    poisoned = [job for wave in waves if wave.is_poisoned for job in wave.poisoned()]
    assert dead == dict.fromkeys(poisoned, SCENES - POISON)
    assert slowed < SLOWED_MAX
    assert max(stalls) < PARTITION_SLOWED_MAX, "a partition waited for its poisoned job"
