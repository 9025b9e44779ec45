"""Options that several commands share, or that one command has many of, with their help."""

from pathlib import Path
from typing import Annotated

import typer

from ops.cli.exit_codes import CommandError, Exit
from ops.cli.times import FORMS, Moment, parse_moment
from services.api.operators import MOODS
from shared.clock import SystemClock
from shared.contract.params import (
    COST_USD_MAX,
    ErrorStrategy,
    OnMaxCost,
    PromptStyle,
    SyncMode,
    Transition,
)
from shared.music_providers import PROVIDERS, StackProvider, list_of, provider_named

Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
ApiUrl = Annotated[
    str | None,
    typer.Option(
        "--api", help="URL of a running api (SEGUE_API_URL); default: the stack on this machine."
    ),
]
DataDir = Annotated[
    Path | None, typer.Option(help="Data directory of the embedded stack (SEGUE_DATA_DIR).")
]
Provider = Annotated[
    str | None,
    typer.Option(
        help=f"Music provider (MUSIC_PROVIDER): {list_of(PROVIDERS)}; default: replicate with "
        "REPLICATE_API_KEY, else synth."
    ),
]

Video = Annotated[Path | None, typer.Argument(metavar="VIDEO", help="The stitched video.")]
Scenes = Annotated[
    Path | None,
    typer.Option(
        help="JSON file (-: standard input) with description and duration_s, or start_s and end_s "
        "(seconds, or 00:01:02.5), of each scene; may have prompt, or mood: "
        f"{MOODS}, or other words. Default: detect the scenes of VIDEO."
    ),
]
SceneNumber = Annotated[
    int | None,
    typer.Option(
        "--scene", min=1, help="Regenerate only this scene (from 1) of the film's newest result."
    ),
]
Force = Annotated[
    bool, typer.Option("--force", help="Replace files in the output folder that are not results.")
]
Prompt = Annotated[str | None, typer.Option(help="Prompt of scenes that have none.")]
PromptWords = Annotated[
    PromptStyle | None,
    typer.Option(
        "--prompt-style",
        help="scene: add each scene's own words to its prompt (AUDIO_PROMPT_STYLE).",
    ),
]
Sync = Annotated[SyncMode | None, typer.Option(help="How the track is fitted to the video.")]
FadeDuration = Annotated[float | None, typer.Option(help="Fade between scenes: seconds, 0 to 30.")]
TransitionKind = Annotated[
    Transition | None, typer.Option(help="Transition between scenes; auto splices continued music.")
]
OnError = Annotated[ErrorStrategy | None, typer.Option(help="What to do if a scene fails.")]
Style = Annotated[
    str | None, typer.Option(metavar="FILE|URL", help="Music that the first scene continues.")
]
MaxCost = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=COST_USD_MAX,
        help="Cost limit of the run in US dollars (AUDIO_MAX_COST; default 10).",
    ),
]
OnOverCost = Annotated[
    OnMaxCost | None, typer.Option(help="What to do above --max-cost (AUDIO_ON_MAX_COST).")
]
NoCache = Annotated[
    bool, typer.Option("--no-cache", help="Generate every scene, without the cache.")
]
NoVideo = Annotated[bool, typer.Option("--no-video", help="Only the track, no video.")]
Out = Annotated[Path | None, typer.Option(help="Output folder; default: out/FILM.")]
JobOut = Annotated[Path | None, typer.Option("--out", help="Output folder; default: out/JOB_ID.")]
JobId = Annotated[str | None, typer.Option(help="Job id; default: derived from the content.")]
Timeout = Annotated[
    float | None, typer.Option(help="Seconds to wait for the job (SEGUE_SCORE_TIMEOUT_S).")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show what it would do and cost, without doing it.")
]

Apply = Annotated[bool, typer.Option("--apply", help="Apply the changes; default: a dry run.")]
Rate = Annotated[float | None, typer.Option(min=0.1, help="Records per second at most.")]
Reason = Annotated[
    str | None, typer.Option(help="Reason, stored in the audit; required with --apply.")
]


def _moment(text: str) -> Moment:
    """Return a time option.

    Raises:
        BadParameter: it has no known form.
    """
    try:
        return parse_moment(text, now=SystemClock().now())
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


Since = Annotated[
    Moment | None,
    typer.Option(parser=_moment, metavar="TIME", help=f"From this time on: {FORMS}."),
]
Until = Annotated[
    Moment | None,
    typer.Option(parser=_moment, metavar="TIME", help="Before this time; forms as for --since."),
]


def named_provider(name: str) -> StackProvider:
    """Return the provider that `--provider` names.

    Raises:
        CommandError: there is no such provider.
    """
    try:
        return provider_named(name)
    except ValueError as error:
        raise CommandError(Exit.USAGE, f"--provider: {error}") from error
