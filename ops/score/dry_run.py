"""Plan: `segue score --dry-run`, what would be asked for and what it would cost.

The request passes the api's own rules with this machine's settings, so a plan that says
"begins" is what a stack here would answer. Nothing is started, asked, handed in or written: an
api elsewhere (`--api`) may have other settings, and what the cache holds is not known here.

Units: seconds, US dollars. I/O: reads the settings, and whether a stack runs.
"""

import json
from typing import Any

from pydantic import ValidationError

from ops.cli.exit_codes import CommandError, Exit
from ops.cli.settings import CommandSettings
from ops.score.command import ScoreRequest
from services.api.http.schemas import CostEstimate, GenerateBody
from services.api.operators import (
    DefaultSettings,
    LimitSettings,
    RequestInvalidError,
    RunSpec,
    build_run_spec,
    check_cap,
    dollars,
    estimate_of,
    is_over_cap,
    problems_of,
    spec_of_body,
)
from shared.contract.params import OnMaxCost, Scene
from shared.contract.prompt import prompt_for
from shared.cost_estimate import estimate, fits_budget, requested_s
from shared.local_stack import find_stack
from shared.pricing import PricingSettings

STACK_PROVIDER = "synth"  # of a stack on this machine that is told nothing
PROVIDERS = ("synth", "silence", "replicate", "fake-replicate")
_STAND_IN = "dry-run"  # key of a file that would be handed in


def plan(
    request: ScoreRequest, settings: CommandSettings, *, provider: str | None
) -> dict[str, Any]:
    """What `request` would lead to.

    Raises:
        CommandError: the request is wrong, and would be refused for more than its price.
    """
    name, notes = _provider(settings, provider)
    pricing = PricingSettings.from_environment(
        wanted="replicate" if name == "fake-replicate" else name
    )
    asked = _asked(request)
    told = estimate_of(asked, pricing)
    params = asked.params.model_dump(mode="json")
    return {
        "dry_run": True,
        "job_id": asked.job_id,
        "provider": name,
        "scenes": _scenes(asked, pricing),
        "estimate": {**told.model_dump(), "provider": name},
        "max_cost": params["max_cost"],
        "on_max_cost": params["on_max_cost"],
        **_verdict(asked, told, pricing),
        "notes": notes,
    }


def lines(told: dict[str, Any]) -> list[str]:
    """A plan for people."""
    count, whole = len(told["scenes"]), told["estimate"]
    found = [f"dry run of job {told['job_id']}: nothing is started, asked or written"]
    for scene in told["scenes"]:
        window = f" ({scene['window_s']} s of window)" if scene["window_s"] else ""
        found.append(
            f"scene {scene['index'] + 1:>3}/{count}  {scene['duration_s']:8.3f} s  asks for "
            f"{scene['asked_s']} s{window}, {dollars(scene['cost_usd'])}, prompt from "
            f"{scene['prompt_from']}: {scene['prompt']}"
        )
    found.append(
        f"estimate: at most {dollars(whole['cost_usd'])} for {whole['music_s']} s of music by "
        f"{told['provider']}, in about {whole['seconds']:g} s"
    )
    cap = "none" if told["max_cost"] is None else dollars(told["max_cost"])
    found += [f"cap: {cap}", f"verdict: {told['verdict']}: {told['why']}"]
    return [*found, *(f"note: {note}" for note in told["notes"])]


def _provider(settings: CommandSettings, said: str | None) -> tuple[str, list[str]]:
    """Who would make the music, and what is to be known of that."""
    notes = []
    if settings.api_url is not None:
        notes.append(f"planned with this machine's settings; {settings.api_url} may have others")
        name = said or settings.provider or PricingSettings.from_environment().provider
    else:
        running = find_stack(settings.home.folder)
        of_stack = running.provider if running else settings.provider or STACK_PROVIDER
        name = said or of_stack
        if running and name != running.provider:
            notes.append(f"the stack at {running.api_url} makes its music with {running.provider}")
    if name not in PROVIDERS:
        known = ", ".join(PROVIDERS)
        raise CommandError(Exit.USAGE, f"provider {name} is not known: choose one of {known}")
    if name == "fake-replicate":
        notes.append("fake-replicate charges its own ledger alone")
    return name, notes


def _asked(request: ScoreRequest) -> RunSpec:
    body = request.body(request.named_job)
    if request.video is not None:
        body["video"] = {"object": _STAND_IN}
    if request.style is not None:
        body["audio_params"]["style_audio"] = {"object": _STAND_IN}
    try:
        parsed = GenerateBody.model_validate_json(json.dumps(body))
        return build_run_spec(
            parsed.job_id,
            job=spec_of_body(parsed, LimitSettings.from_environment()),
            params=parsed.audio_params,
            defaults=DefaultSettings.from_environment(),
        )
    except ValidationError as error:
        raise CommandError(Exit.USAGE, str(RequestInvalidError(problems_of(error)))) from error
    except RequestInvalidError as error:
        raise CommandError(Exit.USAGE, str(error)) from error


def _scenes(asked: RunSpec, pricing: PricingSettings) -> list[dict[str, Any]]:
    has_style = asked.params.style_audio is not None
    told = []
    for index, scene in enumerate(asked.scenes):
        first_s = pricing.style_window_s if has_style else 0
        window_s = pricing.window_s if index else first_s
        told.append(
            {
                "index": index,
                "duration_s": scene.duration_s,
                "window_s": window_s,
                "asked_s": requested_s(scene.duration_s, window_s=window_s),
                "cost_usd": _cost_usd(scene, window_s, pricing),
                "prompt_from": _prompt_from(scene, asked.params.prompt),
                "prompt": prompt_for(
                    description=scene.description,
                    mood=scene.mood,
                    scene_prompt=scene.prompt,
                    run_prompt=asked.params.prompt,
                ),
            }
        )
    return told


def _cost_usd(scene: Scene, window_s: int, pricing: PricingSettings) -> float:
    return estimate(
        [scene.duration_s],
        window_s=window_s,
        first_window_s=window_s,
        provider=pricing.provider,
        usd_per_s=pricing.replicate.usd_per_s,
    ).cost_usd


def _prompt_from(scene: Scene, run_prompt: str | None) -> str:
    for said, name in ((scene.prompt, "the scene"), (run_prompt, "--prompt")):
        if said and said.strip():
            return name
    return "its mood" if scene.mood and scene.mood.strip() else "its description"


def _verdict(asked: RunSpec, told: CostEstimate, pricing: PricingSettings) -> dict[str, Any]:
    """Whether the run would begin, and how it would end if the estimate came true."""
    if not is_over_cap(asked, told):
        why = "there is no cap" if asked.params.max_cost is None else "the estimate is within it"
        return {"verdict": "begins", "why": why, "scenes_paid": len(asked.scenes)}
    if asked.params.on_max_cost is OnMaxCost.REFUSE:
        try:
            check_cap(asked, told)
        except RequestInvalidError as error:
            return {"verdict": "refused", "why": str(error), "scenes_paid": 0}
    paid, spent_usd = 0, 0.0
    for scene in _scenes(asked, pricing):
        if not fits_budget(asked.params.max_cost, spent_usd=spent_usd, next_usd=scene["cost_usd"]):
            break
        paid, spent_usd = paid + 1, spent_usd + scene["cost_usd"]
    strategy = asked.params.error_strategy.value
    why = f"the cap surely pays for {paid} of {len(asked.scenes)} scenes, then {strategy}"
    return {"verdict": "begins", "why": why, "scenes_paid": paid}
