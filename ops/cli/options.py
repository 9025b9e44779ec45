"""Options: what several commands take, or one command takes in number, with their help."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from shared.contract.params import COST_USD_MAX, ErrorStrategy, OnMaxCost, SyncMode, Transition

Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
ApiUrl = Annotated[
    str | None, typer.Option("--api", help="A running api (SEGUE_API_URL); else this machine's.")
]
DataDir = Annotated[
    Path | None, typer.Option(help="Where the embedded stack keeps its data (SEGUE_DATA_DIR).")
]
Provider = Annotated[
    str | None,
    typer.Option(
        help="Who makes the music: synth, silence, replicate, fake-replicate (MUSIC_PROVIDER)."
    ),
]

Video = Annotated[Path | None, typer.Argument(metavar="VIDEO", help="The stitched video.")]
Scenes = Annotated[
    Path, typer.Option(help="JSON: description and duration_s (or start_s, end_s) of each.")
]
Prompt = Annotated[str | None, typer.Option(help="For scenes without their own.")]
Sync = Annotated[SyncMode | None, typer.Option(help="How it fits the picture.")]
FadeDuration = Annotated[float | None, typer.Option(help="Seconds, 0 to 30.")]
TransitionKind = Annotated[Transition | None, typer.Option(help="auto splices music.")]
OnError = Annotated[ErrorStrategy | None, typer.Option(help="For a scene.")]
Style = Annotated[
    str | None, typer.Option(metavar="FILE|URL", help="Music that the first scene continues.")
]
MaxCost = Annotated[
    float | None,
    typer.Option(min=0, max=COST_USD_MAX, help="US dollars of the run (AUDIO_MAX_COST)."),
]
OnOverCost = Annotated[
    OnMaxCost | None, typer.Option(help="If it would cost more (AUDIO_ON_MAX_COST).")
]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Compose anew what was composed before.")]
NoVideo = Annotated[bool, typer.Option("--no-video", help="The track alone.")]
Out = Annotated[Path | None, typer.Option(help="Folder; default out/JOB.")]
JobId = Annotated[str | None, typer.Option(help="Default: made from the content.")]
Timeout = Annotated[float | None, typer.Option(help="Seconds (SEGUE_SCORE_TIMEOUT_S).")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what it would do and cost; do nothing.")
]

Apply = Annotated[bool, typer.Option("--apply", help="Do it; else say what would be done.")]
Reason = Annotated[str | None, typer.Option(help="Why; kept in the audit. Needed with --apply.")]
Moment = Annotated[
    datetime | None,
    typer.Option(formats=["%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d"], help="UTC."),
]


def utc(moment: datetime | None) -> datetime | None:
    """A moment as it was given; without a zone it is UTC."""
    if moment is None or moment.tzinfo is not None:
        return moment
    return moment.replace(tzinfo=UTC)
