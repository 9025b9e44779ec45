"""Redriving: whether what a redrive keeps is still in the store, and what the operator is told.

I/O: the object store.
"""

import asyncio
import math
from typing import Any

from pydantic import ValidationError

from ops.cli.exit_codes import CommandError, Exit
from services.api.operators import RedriveRequest, RunSpec, check_cap, dollars, estimate_of
from shared.contract.events import AudioMerged, SegmentGenerated
from shared.contract.params import Kept
from shared.errors import NotFoundError
from shared.pricing import PricingSettings
from shared.storage import ObjectStore, keys
from shared.storage.results import stored_result

AT_ONCE_MAX = 16  # looks into the store
NAMED_MAX = 5


async def check_kept(store: ObjectStore, asked: RunSpec, wish: RedriveRequest) -> None:
    """Return if all that is to be kept is there.

    Raises:
        CommandError: which scenes are not, and the way out.
    """
    room = asyncio.Semaphore(AT_ONCE_MAX)

    async def look(index: int, kept: Kept) -> str | None:
        async with room:
            return await _fault(store, asked.job_id, index, kept)

    places = sorted(asked.kept.items())
    faults = await asyncio.gather(*(look(index, kept) for index, kept in places))
    lost = {index: fault for (index, _), fault in zip(places, faults, strict=True) if fault}
    if lost:
        first = min(lost) if wish.scene is None else min(*lost, wish.scene)
        told = "; ".join(
            f"scene {index}: {fault}" for index, fault in list(lost.items())[:NAMED_MAX]
        )
        more = f" and {len(lost) - NAMED_MAX} more" if len(lost) > NAMED_MAX else ""
        raise CommandError(
            Exit.REFUSED,
            f"not everything can be kept: {told}{more}; clips stay for SEGUE_CLIP_RETENTION_DAYS: "
            f"--from {first} makes that and the rest anew",
            detail={"lost": sorted(lost)},
        )
    if (run := track_kept(asked)) is not None and not await _has_track(store, asked.job_id, run):
        told = f"the track of run {run} is not in the store any more: --stage merge makes it again"
        raise CommandError(Exit.REFUSED, told)


def track_kept(asked: RunSpec) -> int | None:
    """The run whose track is kept; None: it is made."""
    return next((kept.run for kept in asked.kept.values() if kept.track), None)


async def _fault(store: ObjectStore, job_id: str, index: int, kept: Kept) -> str | None:
    """Why a scene cannot be kept; None: it can."""
    try:
        stored = await store.get(keys.segment_key(job_id, kept.run, index))
        segment = SegmentGenerated.model_validate_json(stored)
    except NotFoundError:
        return f"its segment of run {kept.run} is not in the store"
    except ValidationError:
        return f"its segment of run {kept.run} cannot be read"
    if segment.object_key is not None and await store.stat(segment.object_key) is None:
        return f"its clip of run {kept.run} is not in the store any more"
    return None


async def _has_track(store: ObjectStore, job_id: str, run: int) -> bool:
    return await stored_result(store, keys.merged_key(job_id, run), AudioMerged) is not None


def plan_of(asked: RunSpec, *, of_run: int, pricing: PricingSettings) -> dict[str, Any]:
    """What the redrive would come to, for scripts.

    Raises:
        RequestInvalidError: it may cost more than its cap.
    """
    estimate = estimate_of(asked, pricing)
    check_cap(asked, estimate)
    track = track_kept(asked)
    return {
        "job_id": asked.job_id,
        "applied": False,
        "of_run": of_run,
        "run": of_run + 1,
        "scenes": [_scene(asked, index) for index in range(len(asked.scenes))],
        "made": list(asked.to_generate),
        "kept": sorted(asked.kept),
        "bridged": [index for index, kept in sorted(asked.kept.items()) if kept.bridged],
        "track": "made" if track is None else "kept",
        "video": "made" if asked.params.merge_with_video else None,
        "calls_at_most": len(asked.to_generate),
        "cost_usd_at_most": estimate.cost_usd,
        "seconds": estimate.seconds,
        "provider": estimate.provider,
    }


def _scene(asked: RunSpec, index: int) -> dict[str, Any]:
    kept = asked.kept.get(index)
    return {
        "index": index,
        "description": asked.scenes[index].description,
        "duration_s": asked.scenes[index].duration_s,
        "made": kept is None,
        "kept_from_run": kept and kept.run,
        "bridged": kept is not None and kept.bridged,
    }


def lines(told: dict[str, Any]) -> list[str]:
    """The outcome in words."""
    begins = "begins" if told["applied"] else "would begin"
    count, made = len(told["scenes"]), told["calls_at_most"]
    found = [f"{told['job_id']}: run {told['run']} {begins}, of run {told['of_run']}"]
    found += [_line(scene, count=count) for scene in told["scenes"]]
    if told["bridged"]:
        found.append(
            "bridged: it continued other music; both sound together for a moment where it begins"
        )
    found.append(f"track {told['track']}" + (", video made" if told["video"] else ""))
    cost, seconds = dollars(told["cost_usd_at_most"]), math.ceil(told["seconds"])
    found.append(f"{made} of {count} scenes to be made, for {cost} at most, in about {seconds} s")
    return [*found, told["message"]]


def _line(scene: dict[str, Any], *, count: int) -> str:
    """A scene; some count from 1, and the option counts from 0."""
    does = "made" if scene["made"] else f"kept from run {scene['kept_from_run']}"
    does += ", bridged" * scene["bridged"]
    place = f"scene {scene['index']:>3}  {scene['index'] + 1}/{count}"
    return f"{place}  {scene['duration_s']:>7g} s  {does:<25} {scene['description']}".rstrip()
