"""Projection: what the events of a run say about it; a pure fold.

A run's view only ever gains facts, and its status is a function of the facts whose rank never
falls when one is added. So the order in which topics are read, duplicates and replays decide
nothing: a finished run stays finished, a result that comes after a failure (an operator ran it
again) completes the run, and the first event of a newer run, whoever asked for it, begins a
view of its own. What is still told of an older run is a fact of that run alone. Only of the
records of one topic does the order count, and that is the same however often they are read.

What a scene waits for is no such fact: it comes and goes, so the last word of its own topic
counts, and none once the segment is known. It decides nothing about the status.

Pure. `projector.py` reads, `repository/` writes.
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
    """Where a run stands; the order of the members is their rank."""

    SUBMITTED = "submitted"  #: asked for; no segment yet
    GENERATING = "generating"  #: the first segment is there
    MERGING = "merging"  #: every segment is there
    MUXING = "muxing"  #: the track is there, a video was asked for
    SUPERSEDED = "superseded"  #: a newer run began before this one was done
    FAILED = "failed"  #: a stage said why; what was made stays
    CANCELLED = "cancelled"  #: somebody said stop before it was done
    COMPLETED = "completed"  #: what was asked for is there


RANK: Mapping[RunStatus, int] = {status: rank for rank, status in enumerate(RunStatus)}
UNFINISHED = frozenset(
    {RunStatus.SUBMITTED, RunStatus.GENERATING, RunStatus.MERGING, RunStatus.MUXING}
)
#: What may follow what: docs/job-states.md draws it, a test compares the two.
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
_SHARE_SCENES = 90  # percent of a run that is making the segments; the rest is joining
_SHARE_TRACK = 95


class Delay(Value):
    """What a scene waits for, and since when; another reason does not begin the time anew."""

    code: WaitCode
    reason: str
    since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """What is known of one run."""

    job_id: str
    run: int
    scene_count: int = 0  #: 0: not known yet
    params: AudioParams | None = None  #: None: not known yet
    video: VideoRef | None = None
    requested: frozenset[int] = frozenset()  #: scenes whose request is known
    done: frozenset[int] = frozenset()  #: scenes whose segment is known
    delays: Mapping[int, Delay] = field(default_factory=dict)  #: of scenes that are not done
    track: AudioMerged | None = None
    muxed: VideoMuxed | None = None
    failure: JobFailed | None = None
    cancelled: JobCancelled | None = None
    started_at: datetime  #: of its first request, else of its first event of any kind
    generated_at: datetime | None = None  #: when the track was there first

    def status_beside(self, newest: int) -> RunStatus:
        """Where the run stands in a job whose newest run is `newest`."""
        superseded = self.run < newest and self.status in UNFINISHED
        return RunStatus.SUPERSEDED if superseded else self.status

    @property
    def status(self) -> RunStatus:
        """Where the run stands by its own facts."""
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
        """How far the run is, 0 to 100; never falls."""
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
    """What an event did."""

    view: RunView
    scene: AnyRunEvent | None = None  #: the event, when it says something new of a scene


def run_event(event: Event) -> AnyRunEvent | None:
    """`event` if it speaks of a run; None for what upstream says of a job."""
    return event if isinstance(event, AnyRunEvent) else None


def project(view: RunView | None, event: AnyRunEvent, *, at: datetime) -> ViewChange:
    """What is known after `event`, made `at`; `view` is that of its own run, None before any."""
    if view is None:
        view = RunView(job_id=event.job_id, run=event.run, started_at=at)
    assert (view.job_id, view.run) == (event.job_id, event.run), "each run has its own view"
    scene = event if _is_news(view, event) else None
    return ViewChange(view=_with(view, event, at=at), scene=scene)


def _with(view: RunView, event: AnyRunEvent, *, at: datetime) -> RunView:
    """`view` with the fact that `event` is."""
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
            view = replace(view, failure=_graver(view.failure, event))
        case JobCancelled():
            view = replace(view, cancelled=view.cancelled or event)
        case _:
            assert_never(event)
    return view


def _delayed(view: RunView, event: SceneDelayed, *, at: datetime) -> RunView:
    """`view` after a scene said that it waits, or waits no longer."""
    if event.scene_index in view.done:
        return view
    delays = dict(view.delays)
    known = delays.pop(event.scene_index, None)
    if not event.over:
        since = known.since if known is not None else at
        delays[event.scene_index] = Delay(code=event.code, reason=event.reason, since=since)
    return replace(view, delays=delays)


def _is_news(view: RunView, event: AnyRunEvent) -> bool:
    """Whether `event` says something new of a scene; of its segment the first word counts."""
    match event:
        case SceneRequested():
            return event.scene_index not in view.requested
        case SegmentGenerated():
            return event.scene_index not in view.done
        case JobFailed():
            return event.scene_index is not None and event.scene_index not in view.done
        case SceneDelayed():
            known = view.delays.get(event.scene_index)
            said = None if event.over else (event.code, event.reason)
            told = None if known is None else (known.code, known.reason)
            return event.scene_index not in view.done and said != told
        case _:
            return False


def _graver(known: JobFailed | None, failure: JobFailed) -> JobFailed:
    """Of two failures the later stage's counts, whichever was read first."""
    return failure if known is None or _gravity(failure) > _gravity(known) else known


def _gravity(failure: JobFailed) -> tuple[int, int, str]:
    index = -1 if failure.scene_index is None else failure.scene_index
    return (_STAGE_RANK[failure.stage], index, failure.code)


def _started(view: RunView, event: AnyRunEvent, *, at: datetime) -> RunView:
    """When the run began: with its earliest request; until one is read, its earliest event."""
    is_request = isinstance(event, SceneRequested)
    if view.requested and not is_request:
        return view
    first = at if is_request and not view.requested else min(view.started_at, at)
    return view if first == view.started_at else replace(view, started_at=first)


def _described(view: RunView, event: SceneRequested | SegmentGenerated | AudioMerged) -> RunView:
    """What every event of the line repeats about its run.

    Should two of them differ, one of both counts whichever was read first, and so that no
    status falls: fewer scenes, no video to be made.
    """
    count, params, video = event.scene_count, event.params, event.video
    if view.scene_count:
        count = min(count, view.scene_count)
    if view.params is not None and view.params != params:
        params = min(params, view.params, key=_settled)
    if view.video is not None and view.video != video:
        video = view.video if video is None else min(video, view.video, key=_text)
    return replace(view, scene_count=count, params=params, video=video)


def _settled(params: AudioParams) -> tuple[bool, str]:
    return (params.merge_with_video, _text(params))


def _text(value: Value) -> str:
    return value.model_dump_json()
