"""What replay and requeue share: the cost of republished records, the rate, what was appended.

I/O: Kafka and PostgreSQL.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from ops.cli.operator import Operator
from services.api.operators import RunState, RunStatus, run_state
from shared.contract.events import (
    AudioMerged,
    Event,
    SceneRequested,
    SegmentGenerated,
    VideoMuxed,
    VideoStitched,
    run_of,
)
from shared.kafka.log_reader import LogReader, OffsetRange
from shared.music_providers import PROVIDERS
from shared.pricing import PricingSettings

#: the topics of a job's stages, in the order in which a job passes them
STAGE_TOPICS = (SceneRequested.kind, SegmentGenerated.kind, AudioMerged.kind, VideoMuxed.kind)
ENDED_FOR_GOOD = frozenset({RunStatus.COMPLETED, RunStatus.CANCELLED, RunStatus.SUPERSEDED})
BATCH_RECORDS = 500  # in flight to the broker at once
RUNS_PER_QUERY = 5000
SETTLE_S = 0.5  # the last records of a killed process may still arrive in the log
UNAVAILABLE = "{error}; once it is back, run the same command again to resume"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordSummary:
    """The fields of one record that its cost depends on; there may be a million records."""

    kind: str
    scene_index: int = 0
    scenes_s: tuple[float, ...] = ()  #: durations of the scenes that the record requests
    provider: str | None = None  #: that the record names

    @classmethod
    def of(cls, event: Event) -> Self:
        """Return the summary of `event`."""
        if isinstance(event, SceneRequested):
            lengths: tuple[float, ...] = (event.duration_s,)
            return cls(
                kind=event.kind,
                scene_index=event.scene_index,
                scenes_s=lengths,
                provider=event.provider,
            )
        if isinstance(event, VideoStitched):
            lengths = tuple(scene.duration_s for scene in event.scenes)
            return cls(kind=event.kind, scenes_s=lengths)
        return cls(kind=event.kind)

    def is_done(self, state: RunState | None, *, is_known: bool) -> bool:
        """Return whether the services have stored the result of this record."""
        if self.kind == VideoStitched.kind:
            return is_known
        if state is None:
            return self.kind not in STAGE_TOPICS
        if state.status in ENDED_FOR_GOOD:
            return True
        stored = {
            SceneRequested.kind: self.scene_index in state.stored_scenes,
            SegmentGenerated.kind: state.has_track,
            AudioMerged.kind: state.has_video,
        }
        return stored.get(self.kind, True)  # the other events report results


@dataclass(kw_only=True)
class RepublishPlan:
    """The work and the cost that republished records would cause."""

    records: Counter[str] = field(default_factory=Counter)  #: by topic
    runs: dict[tuple[str, int], list[RecordSummary]] = field(default_factory=dict)
    states: Counter[str] = field(default_factory=Counter)  #: runs by status
    running: list[str] = field(default_factory=list)  #: jobs
    already_done: int = 0  #: records whose result is stored
    #: scenes that may be generated again: their lengths by provider; None: the stack's own
    scenes_s: dict[str | None, list[float]] = field(default_factory=dict)

    @property
    def calls_at_most(self) -> int:
        """The number of scenes that may be generated again."""
        return sum(len(lengths) for lengths in self.scenes_s.values())

    def cost_usd(self, pricing: PricingSettings) -> float:
        """Return what these scenes cost at most, each with the provider of its run."""
        return sum(
            pricing.estimate(lengths, provider=name, continues=True).cost_usd
            for name, lengths in self.scenes_s.items()
        )

    def add(self, event: Event) -> None:
        """Count one event."""
        self.add_summary(event.job_id, run_of(event), RecordSummary.of(event))

    def add_summary(self, job_id: str, run: int, summary: RecordSummary) -> None:
        """Count one record by its summary."""
        self.records[summary.kind] += 1
        self.runs.setdefault((job_id, run), []).append(summary)

    async def compare_with_rows(self, operator: Operator) -> None:
        """Read the state of every run from PostgreSQL and count what is done."""
        known, states = frozenset[str](), dict[tuple[str, int], RunState]()
        runs = list(self.runs)
        async with operator.database.connection() as connection:
            for at in range(0, len(runs), RUNS_PER_QUERY):
                some = runs[at : at + RUNS_PER_QUERY]
                states |= await run_state.for_runs(connection, some)
                known |= await run_state.existing_jobs(connection, {job_id for job_id, _ in some})
        self._count_done(states, known)

    def _count_done(
        self, states: Mapping[tuple[str, int], RunState], known: frozenset[str]
    ) -> None:
        for run, summaries in self.runs.items():
            state, is_known = states.get(run), run[0] in known
            self.states[state.status.value if state else "none" if is_known else "unknown"] += 1
            if state is not None and state.is_running:
                self.running.append(run[0])
            for summary in summaries:
                if summary.is_done(state, is_known=is_known):
                    self.already_done += 1
                elif summary.scenes_s:
                    self._add_scenes(summary, state)

    def _add_scenes(self, summary: RecordSummary, state: RunState | None) -> None:
        name = summary.provider or (state.provider if state else None)
        if name not in PROVIDERS:
            name = None  # an unknown one composes nothing; the stack's own is the upper bound
        self.scenes_s.setdefault(name, []).extend(summary.scenes_s)


class RateLimit:
    """Limits records per second; unused time is not made up for."""

    def __init__(self, rate: float | None) -> None:
        self._rate = rate
        #: one second's records at most, so that a low rate is even
        self.batch = BATCH_RECORDS if rate is None else max(1, min(BATCH_RECORDS, int(rate)))
        self._next = 0.0

    async def wait(self, count: int) -> None:
        """Wait until `count` more records may be published."""
        if self._rate is None:
            return
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(self._next - loop.time(), 0))
        self._next = loop.time() + count / self._rate


async def appended_since(reader: LogReader, offsets: OffsetRange) -> OffsetRange:
    """Return the range written after `offsets`, once no more records arrive."""
    end = await _end_offset(reader, offsets)
    while end > offsets.end:
        await asyncio.sleep(SETTLE_S)
        later = await _end_offset(reader, offsets)
        if later == end:
            break
        end = later
    return OffsetRange(topic=offsets.topic, partition=offsets.partition, start=offsets.end, end=end)


async def _end_offset(reader: LogReader, offsets: OffsetRange) -> int:
    return next(
        (
            stored.end
            for stored in await reader.ranges(offsets.topic)
            if stored.partition == offsets.partition
        ),
        0,
    )
