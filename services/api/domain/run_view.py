"""Folds the events of a run into what is known of it: its view and status.

A view only gains facts, and the status is a function of the facts whose rank never falls when a
fact is added. Neither the order in which topics are read, nor duplicates, nor replays change the
result: a completed run stays completed, a result after a failure (an operator retried it)
completes the run, and the first event of a newer run starts a view of its own. Late events of an
older run change that run only. Within one topic the order counts; it is the same on every read.

What a scene waits for is not such a fact: the latest event of its topic counts, until the
segment is known. It does not affect the status.

Pure. The projection (`projection/`) reads the events, `database/runs.py` stores the views.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import assert_never

from shared.contract.events import (
    AudioMerged,
    Event,
    JobCancelled,
    JobFailed,
    SceneDelayed,
    SceneRequested,
    SegmentGenerated,
    Stage,
    VideoMuxed,
    WaitCode,
)
from shared.contract.params import AudioParams, Value, VideoRef

#: every event of a run; a test compares the union with the subclasses of `RunEvent`
AnyRunEvent = (
    SceneRequested
    | SceneDelayed
    | SegmentGenerated
    | AudioMerged
    | VideoMuxed
    | JobFailed
    | JobCancelled
)


class RunStatus(StrEnum):
    """Status of a run; the order of the members is their rank."""

    SUBMITTED = "submitted"  #: requested; no segment yet
    GENERATING = "generating"  #: the first segment is stored
    MERGING = "merging"  #: every segment is stored
    MUXING = "muxing"  #: the track is stored, the video is not
    SUPERSEDED = "superseded"  #: a newer run started before this one ended
    FAILED = "failed"  #: a stage failed; stored objects remain
    CANCELLED = "cancelled"  #: cancelled before it completed
    COMPLETED = "completed"  #: the requested result is stored


RANK: Mapping[RunStatus, int] = {status: rank for rank, status in enumerate(RunStatus)}
UNFINISHED = frozenset(
    {RunStatus.SUBMITTED, RunStatus.GENERATING, RunStatus.MERGING, RunStatus.MUXING}
)
#: Allowed transitions; a test compares them with docs/job-states.md.
ALLOWED: Mapping[RunStatus, frozenset[RunStatus]] = {
    RunStatus.SUBMITTED: frozenset(RunStatus) - {RunStatus.SUBMITTED},
    RunStatus.GENERATING: frozenset(RunStatus) - {RunStatus.SUBMITTED, RunStatus.GENERATING},
    RunStatus.MERGING: frozenset(RunStatus)
    - {RunStatus.SUBMITTED, RunStatus.GENERATING, RunStatus.MERGING},
    RunStatus.MUXING: frozenset(
        {RunStatus.SUPERSEDED, RunStatus.FAILED, RunStatus.CANCELLED, RunStatus.COMPLETED}
    ),
    RunStatus.SUPERSEDED: frozenset({RunStatus.FAILED, RunStatus.CANCELLED, RunStatus.COMPLETED}),
    RunStatus.FAILED: frozenset({RunStatus.CANCELLED, RunStatus.COMPLETED}),
    RunStatus.CANCELLED: frozenset({RunStatus.COMPLETED}),
    RunStatus.COMPLETED: frozenset(),
}

_STAGE_RANK = {stage: rank for rank, stage in enumerate(Stage)}
_SHARE_SCENES = 90  # percent of a run that is generating; the rest is merging and muxing
_SHARE_TRACK = 95


class Delay(Value):
    """Why a scene waits, and since when; a new reason keeps the start time."""

    code: WaitCode
    reason: str
    since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """What the events of one run state."""

    job_id: str
    run: int
    scene_count: int = 0  #: 0: unknown
    params: AudioParams | None = None  #: None: unknown
    video: VideoRef | None = None
    provider: str | None = None  #: None: the requests name none
    requested: frozenset[int] = frozenset()  #: scenes with a request
    done: frozenset[int] = frozenset()  #: scenes with a segment
    delays: Mapping[int, Delay] = field(default_factory=dict)  #: by scene without a segment
    track: AudioMerged | None = None
    muxed: VideoMuxed | None = None
    failure: JobFailed | None = None
    cancelled: JobCancelled | None = None
    started_at: datetime  #: time of the first request, else of the first event
    generated_at: datetime | None = None  #: when the first track was merged

    def status_beside(self, newest: int) -> RunStatus:
        """Return the status in a job whose newest run is `newest`."""
        superseded = self.run < newest and self.status in UNFINISHED
        return RunStatus.SUPERSEDED if superseded else self.status

    @property
    def status(self) -> RunStatus:
        """The status by the run's own events."""
        if self._has_result:
            return RunStatus.COMPLETED
        if self.cancelled is not None:
            return RunStatus.CANCELLED
        if self.failure is not None:
            return RunStatus.FAILED
        if self.track is not None:
            return RunStatus.MUXING
        if self.scene_count and len(self.done) >= self.scene_count:
            return RunStatus.MERGING
        return RunStatus.GENERATING if self.done else RunStatus.SUBMITTED

    @property
    def percentage(self) -> int:
        """Progress from 0 to 100; it never falls."""
        if self._has_result:
            return 100
        if self.track is not None:
            return _SHARE_TRACK
        share = min(len(self.done) / self.scene_count, 1.0) if self.scene_count else 0.0
        return int(share * _SHARE_SCENES)

    @property
    def _has_result(self) -> bool:
        if self.muxed is not None:
            return True
        wants_video = self.params is None or self.params.merge_with_video
        return self.track is not None and not wants_video


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewChange:
    """Result of applying one event."""

    view: RunView
    scene: AnyRunEvent | None = None  #: the event if it changes its scene


def run_event(event: Event) -> AnyRunEvent | None:
    """Return `event` if it belongs to a run; None otherwise."""
    return event if isinstance(event, AnyRunEvent) else None


def project(view: RunView | None, event: AnyRunEvent, *, at: datetime) -> ViewChange:
    """Return the view after `event`, published `at`; `view` is None before the first event."""
    if view is None:
        view = RunView(job_id=event.job_id, run=event.run, started_at=at)
    assert (view.job_id, view.run) == (event.job_id, event.run), "the view of the same run"
    scene = event if _changes_scene(view, event) else None
    return ViewChange(view=_with(view, event, at=at), scene=scene)


def _with(view: RunView, event: AnyRunEvent, *, at: datetime) -> RunView:
    """Return `view` with the fact of `event`."""
    if isinstance(event, SceneRequested | SegmentGenerated | AudioMerged):
        view = _described(view, event)
    view = _started(view, event, at=at)
    match event:
        case SceneRequested():
            view = replace(view, requested=view.requested | {event.scene_index})
        case SceneDelayed():
            view = _delayed(view, event, at=at)
        case SegmentGenerated():
            left = {index: d for index, d in view.delays.items() if index != event.scene_index}
            view = replace(view, done=view.done | {event.scene_index}, delays=left)
        case AudioMerged():
            view = replace(view, track=event, generated_at=view.generated_at or at)
        case VideoMuxed():
            view = replace(view, muxed=event)
        case JobFailed():
            view = replace(view, failure=_decisive(view.failure, event))
        case JobCancelled():
            view = replace(view, cancelled=view.cancelled or event)
        case _:
            assert_never(event)
    return view


def _delayed(view: RunView, event: SceneDelayed, *, at: datetime) -> RunView:
    """Return `view` after a scene started or stopped waiting."""
    if event.scene_index in view.done:
        return view
    delays = dict(view.delays)
    known = delays.pop(event.scene_index, None)
    if not event.over:
        since = known.since if known is not None else at
        delays[event.scene_index] = Delay(code=event.code, reason=event.reason, since=since)
    return replace(view, delays=delays)


def _changes_scene(view: RunView, event: AnyRunEvent) -> bool:
    """Return whether `event` changes its scene; the first segment of a scene counts."""
    match event:
        case SceneRequested():
            return event.scene_index not in view.requested
        case SegmentGenerated():
            return event.scene_index not in view.done
        case JobFailed():
            return event.scene_index is not None and event.scene_index not in view.done
        case SceneDelayed():
            known = view.delays.get(event.scene_index)
            after = None if event.over else (event.code, event.reason)
            before = None if known is None else (known.code, known.reason)
            return event.scene_index not in view.done and after != before
        case _:
            return False


def _decisive(known: JobFailed | None, failure: JobFailed) -> JobFailed:
    """Return the failure of the later stage, whichever was read first."""
    return failure if known is None or _failure_rank(failure) > _failure_rank(known) else known


def _failure_rank(failure: JobFailed) -> tuple[int, int, str]:
    index = -1 if failure.scene_index is None else failure.scene_index
    return (_STAGE_RANK[failure.stage], index, failure.code)


def _started(view: RunView, event: AnyRunEvent, *, at: datetime) -> RunView:
    """Return `view` with its start: the earliest request, else the earliest event."""
    is_request = isinstance(event, SceneRequested)
    if view.requested and not is_request:
        return view
    first = at if is_request and not view.requested else min(view.started_at, at)
    return view if first == view.started_at else replace(view, started_at=first)


def _described(view: RunView, event: SceneRequested | SegmentGenerated | AudioMerged) -> RunView:
    """Return `view` with what every event of a run repeats: count, parameters, video, provider.

    If two events differ, the same one counts in any order, and no status falls: the smaller
    scene count, and no video.
    """
    count, params, video = event.scene_count, event.params, event.video
    if view.scene_count:
        count = min(count, view.scene_count)
    if view.params is not None and view.params != params:
        params = min(params, view.params, key=_params_rank)
    if view.video is not None and view.video != video:
        video = view.video if video is None else min(video, view.video, key=_text)
    provider = view.provider
    if isinstance(event, SceneRequested) and event.provider is not None:
        provider = min(event.provider, provider or event.provider)
    return replace(view, scene_count=count, params=params, video=video, provider=provider)


def _params_rank(params: AudioParams) -> tuple[bool, str]:
    return (params.merge_with_video, _text(params))


def _text(value: Value) -> str:
    return value.model_dump_json()
