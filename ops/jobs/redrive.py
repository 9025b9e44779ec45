"""The redrive command: regenerates a part of a job as its next run, and keeps the rest.

Applied, it starts the next run as the api does, rows and outbox in one transaction; the services
do the rest. If it is interrupted before its events were published, the same command resumes that
run.

I/O: PostgreSQL, Kafka and the store.
"""

import asyncio
import math
import shlex
from dataclasses import asdict
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from ops.cli.exit_codes import CommandError, Exit
from ops.cli.job_id import unknown_job
from ops.cli.layout import Hanging, Line, count_of
from ops.cli.operator import Operator, audited_action, operator_command
from ops.cli.options import Apply, DataDir, Json, Reason, named_provider
from ops.cli.output import dry_run
from ops.jobs.flush_outbox import flush_outbox
from services.api.operators import (
    Action,
    ActionState,
    LateStage,
    RedriveError,
    RedriveRequest,
    RequestInvalidError,
    RunSpec,
    audit,
    build_redrive_spec,
    check_cap,
    dollars,
    estimate_of,
    start_redrive,
)
from services.api.operators import redrive as rows
from shared.contract.events import AudioMerged, SegmentGenerated
from shared.contract.params import Kept
from shared.errors import NotFoundError
from shared.music_providers import PROVIDERS, list_of
from shared.pricing import PricingSettings
from shared.storage import ObjectStore, keys
from shared.storage.results import stored_result

COMMAND = "redrive"
PARALLEL_READS = 16
NAMED_MAX = 5  # scenes that a message names
Scene = Annotated[int | None, typer.Option(min=1, help="Only this scene; the first one is 1.")]
From = Annotated[int | None, typer.Option("--from", min=1, help="This scene and all after it.")]
Stage = Annotated[
    LateStage | None, typer.Option(help="No scene: the track (merge), or only the video (mux).")
]
RunProvider = Annotated[
    str | None,
    typer.Option("--provider", help=f"Provider of the new run: {list_of(PROVIDERS)}."),
]


def redrive(
    job_id: str,
    *,
    scene: Scene = None,
    first: From = None,
    stage: Stage = None,
    provider: RunProvider = None,
    apply: Apply = False,
    reason: Reason = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Regenerate a part of JOB_ID as its next run, and keep the rest of the newest run.

    Without an option: what a failed or cancelled run still lacks. A kept scene after
    a regenerated one is bridged: both sound together for a moment where it begins.
    The new run keeps the provider of the newest one unless --provider names another.
    """
    with operator_command(
        apply=apply, reason=reason, data_dir=data_dir, as_json=as_json
    ) as command:
        options = {"--scene": scene, "--from": first, "--stage": stage}
        given = [option for option, value in options.items() if value is not None]
        if len(given) > 1:
            raise CommandError(Exit.USAGE, f"{' and '.join(given)}: use only one of them")
        request = RedriveRequest(scene=_index(scene), first=_index(first), stage=stage)
        name = None if provider is None else named_provider(provider)
        command.run(lambda operator: redrive_job(operator, job_id, request, name), lines=lines)


def _index(number: int | None) -> int | None:
    """Return the index of a scene; people number scenes from 1."""
    return None if number is None else number - 1


async def redrive_job(
    operator: Operator, job_id: str, request: RedriveRequest, provider: str | None = None
) -> dict[str, Any]:
    """Return what the redrive would do or, if the operator applies it, what it started.

    `provider` None: that of the newest run.

    Raises:
        CommandError: the job is unknown, or the redrive is not possible.
    """
    async with operator.database.connection() as connection:
        previous = await rows.previous_run(connection, job_id)
    if previous is None:
        raise unknown_job(job_id)
    arguments = {"job_id": job_id, **asdict(request)}
    if provider is not None:
        arguments["provider"] = provider
    if operator.apply:
        interrupted = await _find_interrupted(operator, arguments, run=previous.run)
        if interrupted is not None:
            return await _resume(operator, interrupted)
    try:
        spec = build_redrive_spec(previous, request, provider=provider)
        pricing = await operator.pricing()
        plan = _plan(spec, of_run=previous.run, pricing=pricing)
        await _check_kept(operator.store, spec, request)
        if not operator.apply:
            message = dry_run(f"run {plan['run']} would be started", "start it")
            return {**plan, "message": message}
        return await _start(operator, request, plan, arguments=arguments, pricing=pricing)
    except (RedriveError, RequestInvalidError) as error:
        raise CommandError(Exit.REFUSED, str(error)) from error


async def _start(
    operator: Operator,
    request: RedriveRequest,
    plan: dict[str, Any],
    *,
    arguments: dict[str, Any],
    pricing: PricingSettings,
) -> dict[str, Any]:
    async with audited_action(operator, COMMAND, arguments=arguments) as row:
        result = {**plan, "applied": True, "redrive": row.number}
        async with operator.database.transaction() as connection:
            await start_redrive(
                connection,
                plan["job_id"],
                request,
                of_run=plan["of_run"],
                pricing=pricing,
                now=operator.clock.now(),
                provider=plan["provider"],
            )
            await audit.save_progress(connection, row.number, result)
        return {**result, "message": await _publish(operator, result)}


async def _resume(operator: Operator, interrupted: Action) -> dict[str, Any]:
    """Publish the events of a run that an interrupted redrive started."""
    async with audited_action(
        operator, COMMAND, arguments=interrupted.arguments, resumes=interrupted
    ):
        result = dict(interrupted.progress)
        message = await _publish(operator, result)
        return {**result, "message": f"Resuming run {result['run']}. {message}"}


async def _publish(operator: Operator, result: dict[str, Any]) -> str:
    """Publish the outbox; return how to follow the run."""
    relay_note = "" if await flush_outbox(operator) else "The api's relay publishes it. "
    job = shlex.quote(result["job_id"])
    return (
        f"{relay_note}To follow run {result['run']}: segue status {job} --watch. "
        f"To write its files: segue fetch {job} --out DIR"
    )


async def _find_interrupted(
    operator: Operator, arguments: dict[str, Any], *, run: int
) -> Action | None:
    """Return the redrive that started `run` with these arguments and did not finish."""
    async with operator.database.connection() as connection:
        actions = await audit.of_job(connection, arguments["job_id"], command=COMMAND)
    return next(
        (
            action
            for action in actions
            if action.state is not ActionState.DONE
            and action.progress.get("run") == run
            and action.arguments == arguments
        ),
        None,
    )


async def _check_kept(store: ObjectStore, spec: RunSpec, request: RedriveRequest) -> None:
    """Raise unless the store has everything that the run keeps.

    Raises:
        CommandError: the scenes or the track that are missing, and the option to use.
    """
    limit = asyncio.Semaphore(PARALLEL_READS)

    async def check(index: int, kept: Kept) -> str | None:
        async with limit:
            return await _missing_part(store, spec.job_id, index, kept)

    scenes = sorted(spec.kept.items())
    problems = await asyncio.gather(*(check(index, kept) for index, kept in scenes))
    lost = {index: problem for (index, _), problem in zip(scenes, problems, strict=True) if problem}
    if lost:
        first = min(lost) if request.scene is None else min(*lost, request.scene)
        named = "; ".join(
            f"scene {index + 1}: {problem}" for index, problem in list(lost.items())[:NAMED_MAX]
        )
        more = f" and {len(lost) - NAMED_MAX} more" if len(lost) > NAMED_MAX else ""
        raise CommandError(
            Exit.REFUSED,
            f"some scenes cannot be kept: {named}{more}; use --from {first + 1} to regenerate them "
            "(clips are kept for SEGUE_CLIP_RETENTION_DAYS)",
            detail={"lost": sorted(lost)},
        )
    run = _track_run(spec)
    if run is None:
        return
    if await stored_result(store, keys.merged_key(spec.job_id, run), AudioMerged) is None:
        message = f"the track of run {run} is no longer in the store: use --stage merge"
        raise CommandError(Exit.REFUSED, message)


def _track_run(spec: RunSpec) -> int | None:
    """Return the run whose track is kept; None if the track is merged again."""
    return next((kept.run for kept in spec.kept.values() if kept.track), None)


async def _missing_part(store: ObjectStore, job_id: str, index: int, kept: Kept) -> str | None:
    """Return why a scene cannot be kept; None if it can."""
    try:
        stored = await store.get(keys.segment_key(job_id, kept.run, index))
        segment = SegmentGenerated.model_validate_json(stored)
    except NotFoundError:
        return f"its segment of run {kept.run} is no longer in the store"
    except ValidationError:
        return f"its segment of run {kept.run} is invalid"
    if segment.object_key is not None and await store.stat(segment.object_key) is None:
        return f"its clip of run {kept.run} is no longer in the store"
    return None


def _plan(spec: RunSpec, *, of_run: int, pricing: PricingSettings) -> dict[str, Any]:
    """Return what the redrive would generate and cost.

    Raises:
        RequestInvalidError: it may cost more than its limit.
    """
    estimate = estimate_of(spec, pricing)
    check_cap(spec, estimate)
    return {
        "job_id": spec.job_id,
        "applied": False,
        "of_run": of_run,
        "run": of_run + 1,
        "scenes": [_scene(spec, index) for index in range(len(spec.scenes))],
        "made": list(spec.to_generate),
        "kept": sorted(spec.kept),
        "bridged": [index for index, kept in sorted(spec.kept.items()) if kept.bridged],
        "track": "made" if _track_run(spec) is None else "kept",
        "video": "made" if spec.params.merge_with_video else None,
        "calls_at_most": len(spec.to_generate),
        "cost_usd_at_most": estimate.cost_usd,
        "seconds": estimate.seconds,
        "provider": estimate.provider,
    }


def _scene(spec: RunSpec, index: int) -> dict[str, Any]:
    kept = spec.kept.get(index)
    return {
        "index": index,
        "description": spec.scenes[index].description,
        "duration_s": spec.scenes[index].duration_s,
        "made": kept is None,
        "kept_from_run": kept and kept.run,
        "bridged": kept is not None and kept.bridged,
    }


def lines(result: dict[str, Any]) -> list[Line]:
    """Return the result as text."""
    starts = "starts" if result["applied"] else "would start"
    count, generated = len(result["scenes"]), result["calls_at_most"]
    text: list[Line] = [
        f"{result['job_id']}: run {result['run']} {starts}, based on run {result['of_run']}"
    ]
    text += [_scene_line(scene, count=count) for scene in result["scenes"]]
    if result["bridged"]:
        text.append(
            "bridged: continued other music; both sound together for a moment where it begins"
        )
    track = "track merged" if result["track"] == "made" else "track kept"
    text.append(track + (", video muxed" if result["video"] else ""))
    cost, seconds = dollars(result["cost_usd_at_most"]), math.ceil(result["seconds"])
    regenerates = "Regenerates" if result["applied"] else "Would regenerate"
    text.append(
        f"{regenerates} {generated} of {count_of(count, 'scene')} with {result['provider']}: "
        f"at most {cost}, "
        f"about {seconds} s."
    )
    return [*text, result["message"]]


def _scene_line(scene: dict[str, Any], *, count: int) -> Hanging:
    """Return one scene, with its number for the options and in `segue status`."""
    action = "regenerated" if scene["made"] else f"kept from run {scene['kept_from_run']}"
    action += ", bridged" * scene["bridged"]
    number = f"scene {scene['index'] + 1:>{len(str(count))}}/{count}"
    head = f"{number}  {scene['duration_s']:>7g} s  {action:<25} "
    return Hanging(head, scene["description"] or "(no description)")
