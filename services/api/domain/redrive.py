"""Redriving: which scenes of a job's newest run are made again, and what the next run keeps of it.

A redrive is a run like any other, asked for with the brief of the run before it; its requests say
of each scene whether it is made, or taken from an earlier run. So it stands in the rows and in
the log, and whoever repeats it finds what is there. See ADR-0018.

Scenes count from 0. Pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from services.api.domain.run_spec import RunSpec
from services.api.domain.run_view import UNFINISHED, RunStatus
from shared.contract.params import AudioParams, Kept, Scene, VideoRef
from shared.errors import SegueError

WAYS = "name what is to be made again: --scene N, --from N, --stage merge or --stage mux"


class RedriveError(SegueError):
    """It cannot be made again as wished; nothing was changed. The message says the way out."""


class LateStage(StrEnum):
    """A stage behind the scenes."""

    MERGE = "merge"
    MUX = "mux"


@dataclass(frozen=True, slots=True, kw_only=True)
class RedriveRequest:
    """What is to be made again; nothing named: what the run that failed still lacks."""

    scene: int | None = None  #: this scene alone, and the track
    first: int | None = None  #: this scene and all behind it
    stage: LateStage | None = None  #: no scene


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviousScene:
    """One scene of the earlier run."""

    scene: Scene
    is_done: bool
    kept: Kept | None = None  #: where that run had, or would have had it from
    anew: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviousRun:
    """The newest run of a job."""

    job_id: str
    run: int  #: 0: there is none
    status: RunStatus = RunStatus.SUBMITTED
    parts: tuple[PreviousScene, ...] = ()
    is_whole: bool = True  #: the request of every scene is known
    params: AudioParams = field(default_factory=AudioParams)
    video: VideoRef | None = None
    failed_scene: int | None = None
    has_track: bool = False


def build_redrive_spec(earlier: PreviousRun, wish: RedriveRequest) -> RunSpec:
    """The next run: the brief of `earlier`, what is kept of it, and what is made.

    Raises:
        RedriveError: why not, and what would do.
    """
    _check_run(earlier)
    _check_index(earlier, wish.scene, "--scene")
    _check_index(earlier, wish.first, "--from")
    wish = wish if wish != RedriveRequest() else _missing_part(earlier)
    if wish.stage is LateStage.MUX:
        _check_mux(earlier)
    kept = _kept(earlier, wish)
    asked = RunSpec(
        job_id=earlier.job_id,
        scenes=tuple(part.scene for part in earlier.parts),
        video=earlier.video,
        params=earlier.params,
        kept=kept,
    )
    parts = earlier.parts  # music that is there is asked for anew, or the cache would answer
    anew = frozenset(
        index for index in asked.to_generate if parts[index].anew or parts[index].is_done
    )
    return replace(asked, anew=anew)


def _check_run(earlier: PreviousRun) -> None:
    if not earlier.run:
        raise RedriveError(f"job {earlier.job_id} has no run yet: ask for its music first")
    if earlier.status in UNFINISHED:
        raise RedriveError(
            f"run {earlier.run} is under way ({earlier.status.value}): wait for its end, or stop "
            f"it first with segue cancel"
        )
    if not earlier.is_whole or not earlier.parts:
        raise RedriveError(
            f"of run {earlier.run} not every scene is known: ask for the job's music again"
        )


def _check_index(earlier: PreviousRun, index: int | None, option: str) -> None:
    last = len(earlier.parts) - 1
    if index is not None and not 0 <= index <= last:
        raise RedriveError(
            f"{option} {index}: run {earlier.run} has the scenes 0 to {last}, and no other"
        )


def _check_mux(earlier: PreviousRun) -> None:
    if not earlier.params.merge_with_video or earlier.video is None:
        raise RedriveError(
            f"run {earlier.run} was asked for no video: --stage merge makes its track again"
        )
    if not earlier.has_track:
        raise RedriveError(f"run {earlier.run} has no track yet: --stage merge makes it first")


def _missing_part(earlier: PreviousRun) -> RedriveRequest:
    """What a run that failed still lacks."""
    if earlier.status is not RunStatus.FAILED:
        raise RedriveError(f"run {earlier.run} did not fail ({earlier.status.value}): {WAYS}")
    if any(not part.is_done for part in earlier.parts):
        return RedriveRequest()
    return RedriveRequest(stage=LateStage.MUX if earlier.has_track else LateStage.MERGE)


def _kept(earlier: PreviousRun, wish: RedriveRequest) -> Mapping[int, Kept]:
    """What the next run takes from earlier ones, by scene."""
    track = wish.stage is LateStage.MUX
    kept: dict[int, Kept] = {}
    for index, part in enumerate(earlier.parts):
        source = _source(earlier, wish, index, part)
        if source is None:
            continue
        bridged = index > 0 and index - 1 not in kept
        kept[index] = source.model_copy(
            update={"track": track, "bridged": source.bridged or bridged}
        )
    return kept


def _source(
    earlier: PreviousRun, wish: RedriveRequest, index: int, part: PreviousScene
) -> Kept | None:
    """Where a scene is taken from; None: it is made."""
    goes_on = wish == RedriveRequest()
    if index == wish.scene or (wish.first is not None and index >= wish.first):
        return None
    if part.is_done:
        return Kept(run=earlier.run)
    if goes_on:  # what that run was to keep, this one keeps; what it failed at is made
        return None if index == earlier.failed_scene else part.kept
    first = index if wish.scene is None else min(index, wish.scene)
    raise RedriveError(
        f"scene {index} was to be kept, and run {earlier.run} never made it: "
        f"--from {first} makes it, too"
    )
