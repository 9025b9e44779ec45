"""Demo: `segue demo`, a video made here, scored on a stack of its own, to listen to.

Five scenes that look nothing alike, with lengths that are no whole seconds. A video and scenes
of one's own take their place. The stack lies in the demo's own folder and meets no other.

I/O: ffmpeg, a stack, files.
"""

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from pathlib import Path
from typing import Any

from rich.console import Console

from ops.cli.exit_codes import CommandError, Exit
from ops.score.api_client import ApiClient
from ops.score.command import PICTURE, TRACK, ScoreRequest, check, score
from ops.score.local_stack import a_stack
from ops.score.scenes_file import read_scenes
from ops.score.waveform import SeamMark, picture
from shared.contract.params import Scene
from shared.media.decode import decode
from shared.media.ffmpeg import find_binary
from shared.media.samples import exact_seconds, samples_at
from shared.settings import FfmpegSettings

RATE = 24  # pictures a second
_SIZE = "640x360"
_MAKE_S = 120.0
_WITHIN_S = 300.0


@dataclass(frozen=True, kw_only=True)
class DemoScene:
    """One scene of the demo's video: what it shows, and how ffmpeg draws it."""

    pictures: int  #: its length, so that cuts lie between pictures
    description: str
    source: str  #: of ffmpeg's lavfi, without size and rate
    look: str = "null"  #: filters on it

    @property
    def duration_s(self) -> float:
        """Seconds; pictures in threes make eighths of a second, exact as decimals."""
        return self.pictures / RATE


SCENES = (
    DemoScene(
        pictures=102,
        description="A calm dawn: soft colours drift slowly over a quiet lake",
        source="gradients=n=4:c0=0x1d3557:c1=0xf4a261:c2=0x457b9d:c3=0xffe8d6:speed=0.02:seed=7",
    ),
    DemoScene(
        pictures=81,
        description="Exciting and dynamic: lights race past in a fast, playful rush",
        source="life=mold=12:ratio=0.18:death_color=0x7209b7:life_color=0x4cc9f0:seed=3",
        look="scale=640:360:flags=neighbor,hue=H=2*PI*t/3",
    ),
    DemoScene(
        pictures=123,
        description="Dramatic and intense: a storm of dark shapes closes in",
        source="mandelbrot=start_scale=0.9:end_scale=0.02:end_pts=130:maxiter=300",
        look="hue=h=150:s=0.6,curves=preset=darker",
    ),
    DemoScene(
        pictures=87,
        description="Elegant luxury: gold on black velvet, polished and refined",
        source="sierpinski=type=carpet:jump=40:seed=5",
        look="colorchannelmixer=rr=0.95:gg=0.72:bb=0.25",
    ),
    DemoScene(
        pictures=69,
        description="The team shows the finished product",
        source="testsrc2",
        look="hue=s=0.6",
    ),
)


def make_video(place: Path) -> None:
    """Write the demo's video to `place`.

    Raises:
        CommandError: ffmpeg cannot make it.
    """
    argv = [find_binary(FfmpegSettings.from_environment()), "-v", "error", "-nostdin", "-y"]
    chains = []
    for index, scene in enumerate(SCENES):
        joint = ":" if "=" in scene.source else "="
        source = f"{scene.source}{joint}size={_SIZE}:rate={RATE}"
        argv += ["-f", "lavfi", "-i", source]
        cut = f"trim=end_frame={scene.pictures},setpts=PTS-STARTPTS,format=yuv420p,setsar=1"
        chains.append(f"[{index}:v]{scene.look},{cut}[v{index}]")
    joined = "".join(f"[v{index}]" for index in range(len(SCENES)))
    chains.append(f"{joined}concat=n={len(SCENES)}[v]")
    half = place.with_name(f"half-{place.name}")
    argv += ["-filter_complex", ";".join(chains), "-map", "[v]", "-c:v", "libx264"]
    argv += ["-preset", "veryfast", "-crf", "23", "-movflags", "+faststart", str(half)]
    try:
        subprocess.run(argv, check=True, capture_output=True, timeout=_MAKE_S)  # noqa: S603 - a list of our own
    except (OSError, subprocess.SubprocessError) as error:
        words = getattr(error, "stderr", None) or str(error).encode()
        told = words.decode(errors="replace").strip()
        raise CommandError(Exit.FAILED, f"ffmpeg cannot make the demo's video: {told}") from error
    half.rename(place)


def make_scenes(place: Path) -> None:
    """Write the demo's scenes to `place`, as `segue score` reads them."""
    scenes = [{"description": s.description, "duration_s": s.duration_s} for s in SCENES]
    place.write_text(json.dumps({"scenes": scenes}, indent=2) + "\n")


def demo(
    *, video: Path | None, scenes: Path | None, out: Path, provider: str, console: Console
) -> dict[str, Any]:
    """Score the demo's video, or the given one; the report.

    Raises:
        CommandError: what went wrong; the stack's own words lie in `out`.
    """
    if (video is None) != (scenes is None):
        raise CommandError(Exit.USAGE, "give both a video and its scenes, or neither")
    out.mkdir(parents=True, exist_ok=True)
    if video is None or scenes is None:
        video, scenes = out / "video.mp4", out / "scenes.json"
        console.print(f"making a video of {len(SCENES)} scenes: {video}", highlight=False)
        make_video(video)
        make_scenes(scenes)
    request = ScoreRequest(video=video, scenes=read_scenes(scenes))
    check(request, console)
    home = (out / ".stack").absolute()
    with (
        a_stack(home, provider=provider, say=console.print) as stack,
        ApiClient(stack.api_url) as api,
    ):
        report = score(api, request, out=out, within_s=_WITHIN_S, console=console)
    shutil.rmtree(home, ignore_errors=True)
    report["files"][PICTURE] = {"path": str(draw(out, request.scenes, report))}
    return report


def draw(out: Path, scenes: Sequence[Scene], report: dict[str, Any]) -> Path:
    """Draw the track in `out` with its seams; the picture's path."""
    track = decode((out / TRACK).read_bytes())
    place = out / PICTURE
    facts = report["track"]
    loudness = "" if facts["loudness_lufs"] is None else f", {facts['loudness_lufs']:.1f} LUFS"
    picture(
        track,
        scene_starts=_starts(scenes),
        seams=[SeamMark(at_samples=s["at_samples"], kind=s["kind"]) for s in facts["seams"]],
        title=f"{report['job_id']}: {facts['duration_s']:.3f} s{loudness}",
    ).save(place)
    return place


def _starts(scenes: Sequence[Scene]) -> list[int]:
    """Where each scene begins, in samples: the moments are rounded, not the lengths."""
    lengths_s = [exact_seconds(scene.duration_s) for scene in scenes]
    return [samples_at(moment) for moment in accumulate(lengths_s[:-1], initial=Fraction())]
