"""The `segue demo` command: makes a video and scores it.

The video has five different scenes whose lengths are no whole seconds; a video and scenes can be
given instead. The command starts its own stack, with its data in the demo's folder.

I/O: ffmpeg, a stack, files.
"""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ops.cli import options
from ops.cli.exit_codes import CommandError, Exit, report_errors
from ops.cli.film import check_film
from ops.cli.options import Json, named_provider
from ops.cli.output import show_files
from ops.cli.progress import progress_console
from ops.cli.terminal import shown
from ops.score.api_client import ApiClient
from ops.score.command import detected_scenes, run_score
from ops.score.local_stack import use_stack
from ops.score.outputs import RESULTS, open_output
from ops.score.provider import OPTION, announce_choice
from ops.score.request import ScoreRequest, check_request
from ops.score.scenes_file import read_scenes
from shared.local_stack import STACK_LOCK
from shared.media.ffmpeg import find_binary
from shared.media.paths import media_path
from shared.music_providers import ProviderChoice
from shared.settings import FfmpegSettings

FRAME_RATE = 24
FILM, SCENES_FILE = "video.mp4", "scenes.json"
_STACK = ".stack"  # the data folder of the demo's own stack
_SIZE = "640x360"
_FFMPEG_S = 120.0
_SCORE_S = 300.0
_FREE = ProviderChoice(
    name="synth", reason="the demo is free; --provider replicate uses MusicGen and your account"
)


@dataclass(frozen=True, kw_only=True)
class DemoScene:
    """One scene of the demo's video, and how ffmpeg draws it."""

    frames: int  #: a whole number, so that cuts are between frames
    description: str
    source: str  #: an ffmpeg lavfi source, without size and rate
    filters: str = "null"

    @property
    def duration_s(self) -> float:
        """Return the length; a multiple of three frames is exact as a decimal."""
        return self.frames / FRAME_RATE


SCENES = (
    DemoScene(
        frames=102,
        description="A calm dawn: soft colours drift slowly over a quiet lake",
        source="gradients=n=4:c0=0x1d3557:c1=0xf4a261:c2=0x457b9d:c3=0xffe8d6:speed=0.02:seed=7",
    ),
    DemoScene(
        frames=81,
        description="Exciting and dynamic: lights race past in a fast, playful rush",
        source="life=mold=12:ratio=0.18:death_color=0x7209b7:life_color=0x4cc9f0:seed=3",
        filters="scale=640:360:flags=neighbor,hue=H=2*PI*t/3",
    ),
    DemoScene(
        frames=123,
        description="Dramatic and intense: a storm of dark shapes closes in",
        source="mandelbrot=start_scale=0.9:end_scale=0.02:end_pts=130:maxiter=300",
        filters="hue=h=150:s=0.6,curves=preset=darker",
    ),
    DemoScene(
        frames=87,
        description="Elegant luxury: gold on black velvet, polished and refined",
        source="sierpinski=type=carpet:jump=40:seed=5",
        filters="colorchannelmixer=rr=0.95:gg=0.72:bb=0.25",
    ),
    DemoScene(
        frames=69,
        description="The team shows the finished product",
        source="testsrc2",
        filters="hue=s=0.6",
    ),
)


def make_video(path: Path) -> None:
    """Write the demo's video to `path`.

    Raises:
        CommandError: ffmpeg failed.
    """
    argv = [find_binary(FfmpegSettings.from_environment()), "-v", "error", "-nostdin", "-y"]
    chains = []
    for index, scene in enumerate(SCENES):
        separator = ":" if "=" in scene.source else "="
        source = f"{scene.source}{separator}size={_SIZE}:rate={FRAME_RATE}"
        argv += ["-f", "lavfi", "-i", source]
        cut = f"trim=end_frame={scene.frames},setpts=PTS-STARTPTS,format=yuv420p,setsar=1"
        chains.append(f"[{index}:v]{scene.filters},{cut}[v{index}]")
    joined = "".join(f"[v{index}]" for index in range(len(SCENES)))
    chains.append(f"{joined}concat=n={len(SCENES)}[v]")
    half = path.with_name(f"half-{path.name}")
    argv += ["-filter_complex", ";".join(chains), "-map", "[v]", "-c:v", "libx264"]
    argv += ["-preset", "veryfast", "-crf", "23", "-movflags", "+faststart", media_path(half)]
    try:
        subprocess.run(argv, check=True, capture_output=True, timeout=_FFMPEG_S)  # noqa: S603 - our own arguments
    except (OSError, subprocess.SubprocessError) as error:
        stderr = getattr(error, "stderr", None) or str(error).encode()
        message = stderr.decode(errors="replace").strip()
        raise CommandError(
            Exit.FAILED, f"ffmpeg could not make the demo's video: {message}"
        ) from error
    half.rename(path)


def make_scenes(path: Path) -> None:
    """Write the demo's scenes file to `path`."""
    scenes = [{"description": s.description, "duration_s": s.duration_s} for s in SCENES]
    path.write_text(json.dumps({"scenes": scenes}, indent=2) + "\n")


def demo(
    *,
    video: Annotated[Path | None, typer.Option(help="A video to score instead.")] = None,
    scenes: Annotated[
        Path | None, typer.Option(help="The scenes file of --video; default: detect them.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("out/demo"),
    provider: Annotated[
        str | None, typer.Option(help="Provider of the music; default: synth, which is free.")
    ] = None,
    force: options.Force = False,
    as_json: Json = False,
) -> None:
    """Make a short video and score it: the quickest way to a result."""
    with report_errors(as_json=as_json):
        report = run_demo(
            video=video,
            scenes=scenes,
            out=out,
            provider=provider,
            force=force,
            console=progress_console(quiet=as_json),
        )
        show_files(report, as_json=as_json)


def run_demo(
    *,
    video: Path | None,
    scenes: Path | None,
    out: Path,
    provider: str | None,
    force: bool,
    console: Console,
) -> dict[str, Any]:
    """Score the demo's video, or the given one, and return the report.

    Raises:
        CommandError: a step failed; the log of the stack is in `out`.
    """
    if video is None and scenes is not None:
        raise CommandError(Exit.USAGE, "--scenes was given without --video; name the film, too")
    inputs = [path for path in (video, scenes) if path is not None]
    names = RESULTS if inputs else (*RESULTS, FILM, SCENES_FILE)
    data_dir = (out / _STACK).absolute()
    choice = _FREE
    if provider is not None:
        choice = ProviderChoice(name=named_provider(provider), reason=f"{OPTION} is {provider}")
    announce_choice(choice, console=console)
    _check_data_dir(data_dir)
    with open_output(out, inputs=inputs, names=names, force=force) as output:
        if video is None:
            video, scenes = output.staging / FILM, output.staging / SCENES_FILE
            console.print(f"Making a video of {len(SCENES)} scenes: {shown(out / FILM)}")
            make_video(video)
            make_scenes(scenes)
        info = check_film(video)
        found = read_scenes(scenes) if scenes else detected_scenes(video, info, console)
        request = ScoreRequest(video=video, scenes=found, info=info)
        notes = check_request(request, console)
        with (
            use_stack(data_dir, provider=choice.name, notify=console.print) as stack,
            ApiClient(stack.api_url) as api,
        ):
            report = run_score(
                api, request, output=output, timeout_s=_SCORE_S, console=console, notes=notes
            )
    shutil.rmtree(data_dir, ignore_errors=True)
    return report


def _check_data_dir(folder: Path) -> None:
    """Raise if the folder, which the demo removes, is not a stack's."""
    if os.path.lexists(folder) and not (folder / STACK_LOCK).is_file() and any(folder.iterdir()):
        raise CommandError(Exit.USAGE, f"{shown(folder)} is not the data of a stack; change --out")
