"""Plans a redrive: which scenes of the newest run are generated again and which are kept.

A redrive is an ordinary run with the parameters of the previous one; each of its requests states
whether the scene is generated or taken from an earlier run. The plan is therefore stored in the
rows and in the log, and repeating it is idempotent. See ADR-0018.

Scenes are counted from 0 here and from 1 in messages. Pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from services.api.domain.run_spec import RunSpec
from services.api.domain.run_view import UNFINISHED, RunStatus
from shared.contract.params import AudioParams, Kept, Scene, VideoRef
from shared.errors import SegueError

OPTIONS = "choose what to generate again: --scene N, --from N, --stage merge or --stage mux"

#: runs that ended without their result; to resume a cancelled one is an operator's decision
_RESUMABLE = frozenset({RunStatus.FAILED, RunStatus.CANCELLED})


class RedriveError(SegueError):
    """The redrive is not possible; nothing was changed. The message states the alternative."""


class LateStage(StrEnum):
    """A stage after generation."""

    MERGE = "merge"
    MUX = "mux"


@dataclass(frozen=True, slots=True, kw_only=True)
class RedriveRequest:
    """What to generate again; empty: resume a failed or cancelled run."""

    scene: int | None = None  #: this scene only, and the track
    first: int | None = None  #: this scene and all later ones
    stage: LateStage | None = None  #: this stage only, no scene


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviousScene:
    """One scene of the previous run."""

    scene: Scene
    is_done: bool
    kept: Kept | None = None  #: the run that the previous run took the scene from
    skip_cache: bool = False  #: generated without the cache


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviousRun:
    """The newest run of a job."""

    job_id: str
    run: int  #: 0: the job has no run
    status: RunStatus = RunStatus.SUBMITTED
    scenes: tuple[PreviousScene, ...] = ()
    is_whole: bool = True  #: the request of every scene is known
    params: AudioParams = field(default_factory=AudioParams)
    video: VideoRef | None = None
    provider: str | None = None  #: None: unknown
    failed_scene: int | None = None
    has_track: bool = False


def build_redrive_spec(
    previous: PreviousRun, request: RedriveRequest, *, provider: str | None = None
) -> RunSpec:
    """Return the next run: what it generates and what it keeps of `previous`.

    It has the provider of the previous run, unless `provider` names another.

    Raises:
        RedriveError: it is not possible; the message states the reason and the alternative.
    """
    _check_run(previous)
    _check_index(previous, request.scene, "--scene")
    _check_index(previous, request.first, "--from")
    request = request if request != RedriveRequest() else _resume_request(previous)
    if request.stage is LateStage.MUX:
        _check_mux(previous)
    spec = RunSpec(
        job_id=previous.job_id,
        scenes=tuple(scene.scene for scene in previous.scenes),
        video=previous.video,
        params=previous.params,
        kept=_kept(previous, request),
        provider=provider or previous.provider,
    )
    # a scene that was generated before would come from the cache
    scenes = previous.scenes
    skip_cache = frozenset(
        index for index in spec.to_generate if scenes[index].skip_cache or scenes[index].is_done
    )
    return replace(spec, skip_cache=skip_cache)


def _check_run(previous: PreviousRun) -> None:
    if not previous.run:
        raise RedriveError(f"job {previous.job_id} has no run yet: start one first")
    if previous.status in UNFINISHED:
        raise RedriveError(
            f"run {previous.run} is still running ({previous.status.value}): wait for it to end, "
            "or cancel it with segue cancel"
        )
    if not previous.is_whole or not previous.scenes:
        raise RedriveError(
            f"run {previous.run}: not every scene is known: start a new run of the job"
        )


def _check_index(previous: PreviousRun, index: int | None, option: str) -> None:
    last = len(previous.scenes) - 1
    if index is not None and not 0 <= index <= last:
        raise RedriveError(f"{option} {index + 1}: run {previous.run} has scenes 1 to {last + 1}")


def _check_mux(previous: PreviousRun) -> None:
    if not previous.params.merge_with_video or previous.video is None:
        raise RedriveError(
            f"run {previous.run} was requested without a video: use --stage merge to make its "
            "track again"
        )
    if not previous.has_track:
        raise RedriveError(f"run {previous.run} has no track yet: use --stage merge")


def _resume_request(previous: PreviousRun) -> RedriveRequest:
    """Return what a failed or cancelled run still lacks."""
    if previous.status not in _RESUMABLE:
        raise RedriveError(f"run {previous.run} is {previous.status.value}: {OPTIONS}")
    if any(not scene.is_done for scene in previous.scenes):
        return RedriveRequest()
    return RedriveRequest(stage=LateStage.MUX if previous.has_track else LateStage.MERGE)


def _kept(previous: PreviousRun, request: RedriveRequest) -> Mapping[int, Kept]:
    """Return what the next run takes from earlier ones, by scene."""
    track = request.stage is LateStage.MUX
    kept: dict[int, Kept] = {}
    for index, scene in enumerate(previous.scenes):
        source = _source(previous, request, index, scene)
        if source is None:
            continue
        bridged = index > 0 and index - 1 not in kept
        kept[index] = source.model_copy(
            update={"track": track, "bridged": source.bridged or bridged}
        )
    return kept


def _source(
    previous: PreviousRun, request: RedriveRequest, index: int, scene: PreviousScene
) -> Kept | None:
    """Return the run that a scene is taken from; None if it is generated."""
    resumes = request == RedriveRequest()
    if index == request.scene or (request.first is not None and index >= request.first):
        return None
    if scene.is_done:
        return Kept(run=previous.run)
    if resumes:  # keep what that run was to keep; generate the scene at which it failed
        return None if index == previous.failed_scene else scene.kept
    first = index if request.scene is None else min(index, request.scene)
    raise RedriveError(
        f"scene {index + 1} cannot be kept: run {previous.run} did not generate it; to generate "
        f"it as well: --from {first + 1}"
    )
