"""Plans `segue score --dry-run`: the requests, their cost, and the verdict.

The request passes the api's own rules with this machine's settings, so the plan is what a stack
here would decide. Nothing is started, requested, uploaded or written. An api elsewhere (`--api`)
may have other settings, and the contents of the scene cache are not known here.

Units: seconds, US dollars. I/O: reads the settings, and whether a stack runs.
"""

import json
from typing import Any

from pydantic import ValidationError

from ops.cli.exit_codes import CommandError, Exit
from ops.cli.output import scene_numbers
from ops.cli.settings import CommandSettings
from ops.score.provider import choose
from ops.score.request import ScoreRequest
from services.api.operators import (
    DefaultSettings,
    GenerateBody,
    LimitSettings,
    RequestInvalidError,
    RunEstimate,
    RunSpec,
    body_problems,
    build_run_spec,
    check_cap,
    dollars,
    estimate_of,
    is_over_cap,
    parse_body,
    spec_of_body,
)
from shared.contract.params import OnMaxCost, Scene
from shared.cost_estimate import estimate, fits_budget, requested_s
from shared.local_stack import find_stack
from shared.music_providers import PROVIDERS, ProviderChoice, provider_named
from shared.pricing import PricingSettings, ReplicateAccount

_PLACEHOLDER = "dry-run"  # object key of a file that would be uploaded


def plan(
    request: ScoreRequest, settings: CommandSettings, *, provider: str | None
) -> dict[str, Any]:
    """Return what `request` would lead to.

    Raises:
        CommandError: the request is invalid for another reason than its cost.
    """
    choice, notes = _provider(settings, provider)
    name = choice.name
    emulated = name == "fake-replicate"
    pricing = PricingSettings.from_environment(
        wanted="replicate" if emulated else name, emulated=emulated
    )
    spec = _run_spec(request)
    total = estimate_of(spec, pricing)
    params = spec.params.model_dump(mode="json")
    return {
        "dry_run": True,
        "job_id": spec.job_id,
        "provider": name,
        "provider_reason": choice.reason,
        "scenes": _scenes(spec, pricing),
        "estimate": total.model_dump(),
        "max_cost": params["max_cost"],
        "on_max_cost": params["on_max_cost"],
        **_verdict(spec, total, pricing),
        "notes": notes,
    }


def check_against_limits(request: ScoreRequest) -> None:
    """Raise if the api of a stack on this machine would reject the request.

    Raises:
        CommandError: names the scene and the field.
    """
    _run_spec(request)


def plan_lines(planned: dict[str, Any]) -> list[str]:
    """Return the plan as lines for a terminal."""
    count, total = len(planned["scenes"]), planned["estimate"]
    description = PROVIDERS[provider_named(planned["provider"])].description
    lines = [
        f"Music: {planned['provider']} ({description}), because {planned['provider_reason']}",
        f"Plan of job {planned['job_id']}:",
    ]
    for scene in planned["scenes"]:
        window = f" ({scene['window_s']} s of window)" if scene["window_s"] else ""
        lines.append(
            f"scene {scene['index'] + 1}/{count}  {scene['duration_s']:g} s  requests "
            f"{scene['asked_s']} s{window}, {dollars(scene['cost_usd'])}, prompt from "
            f"{scene['prompt_from']}: {scene['prompt']}"
        )
    lines.append(
        f"Estimate: at most {dollars(total['cost_usd'])} for {total['music_s']} s of music by "
        f"{planned['provider']}, about {total['seconds']:g} s"
    )
    if planned["max_cost"] is not None:
        limit = dollars(planned["max_cost"])
        lines.append(f"Cost limit: {limit} (--max-cost, AUDIO_MAX_COST)")
    starts = "Would start" if planned["verdict"] == "begins" else "Would be refused"
    lines.append(f"{starts}: {planned['why']}.")
    lines += [f"note: {note}" for note in planned["notes"]]
    return [*lines, "Dry run: nothing was started. To score it: leave out --dry-run."]


def _provider(settings: CommandSettings, option: str | None) -> tuple[ProviderChoice, list[str]]:
    """Return the provider that would make the music and why, and notes about it."""
    notes = []
    stack = None
    if settings.api_url is not None:
        notes.append(f"planned with the settings of this machine, not those of {settings.api_url}")
    else:
        stack = find_stack(settings.home.folder)
    choice = choose(settings, option, stack=stack, may_differ=True)
    if stack and choice.name != stack.provider:
        notes.append(f"the stack at {stack.api_url} uses the provider {stack.provider}")
    if choice.name == "fake-replicate":
        notes.append("fake-replicate charges only its own ledger")
    if choice.name == "replicate" and not ReplicateAccount.from_environment().has_key:
        notes.append("REPLICATE_API_KEY is not set: the run itself would be refused")
    return choice, notes


def _run_spec(request: ScoreRequest) -> RunSpec:
    body = request.body(request.job_id)
    if request.video is not None:
        body["video"] = {"object": _PLACEHOLDER}
    if request.style is not None:
        body["audio_params"]["style_audio"] = {"object": _PLACEHOLDER}
    try:
        parsed = parse_body(GenerateBody, json.dumps(body))
        return build_run_spec(
            parsed.job_id,
            job=spec_of_body(parsed, LimitSettings.from_environment()),
            params=parsed.audio_params,
            defaults=DefaultSettings.from_environment(),
        )
    except ValidationError as error:
        invalid = RequestInvalidError(body_problems(error))
        raise CommandError(Exit.USAGE, scene_numbers(str(invalid))) from error
    except RequestInvalidError as error:
        raise CommandError(Exit.USAGE, scene_numbers(str(error))) from error


def _scenes(spec: RunSpec, pricing: PricingSettings) -> list[dict[str, Any]]:
    has_style = spec.params.style_audio is not None
    scenes = []
    for index, scene in enumerate(spec.scenes):
        first_s = pricing.style_window_s if has_style else 0
        window_s = pricing.window_s if index else first_s
        scenes.append(
            {
                "index": index,
                "duration_s": scene.duration_s,
                "window_s": window_s,
                "asked_s": requested_s(scene.duration_s, window_s=window_s),
                "cost_usd": _cost_usd(scene, window_s, pricing),
                "prompt_from": _prompt_from(scene, spec.params.prompt),
                "prompt": spec.prompts[index],
            }
        )
    return scenes


def _cost_usd(scene: Scene, window_s: int, pricing: PricingSettings) -> float:
    return estimate(
        [scene.duration_s],
        window_s=window_s,
        first_window_s=window_s,
        provider=pricing.provider,
        usd_per_s=pricing.replicate.usd_per_s,
    ).cost_usd


def _prompt_from(scene: Scene, run_prompt: str | None) -> str:
    for prompt, name in ((scene.prompt, "the scene"), (run_prompt, "--prompt")):
        if prompt and prompt.strip():
            return name
    return "its mood" if scene.mood and scene.mood.strip() else "its description"


def _verdict(spec: RunSpec, total: RunEstimate, pricing: PricingSettings) -> dict[str, Any]:
    """Return whether the run would start, why, and how many scenes are paid."""
    max_cost = spec.params.max_cost
    if not is_over_cap(spec, total):
        why = (
            "no cost limit is set" if max_cost is None else "the estimate is within the cost limit"
        )
        return {"verdict": "begins", "why": why, "scenes_paid": len(spec.scenes)}
    if spec.params.on_max_cost is OnMaxCost.REFUSE:
        try:
            check_cap(spec, total)
        except RequestInvalidError as error:
            return {"verdict": "refused", "why": str(error), "scenes_paid": 0}
    paid, spent_usd = 0, 0.0
    for scene in _scenes(spec, pricing):
        if not fits_budget(max_cost, spent_usd=spent_usd, next_usd=scene["cost_usd"]):
            break
        paid, spent_usd = paid + 1, spent_usd + scene["cost_usd"]
    strategy = spec.params.error_strategy.value
    why = f"the cost limit pays for {paid} of {len(spec.scenes)} scenes, then {strategy}"
    return {"verdict": "begins", "why": why, "scenes_paid": paid}
