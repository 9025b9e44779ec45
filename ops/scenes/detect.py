"""Detects the scenes of a film for a command, with progress.

I/O: reads the film; the console.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from ops.cli.exit_codes import CommandError, Exit
from ops.cli.progress import progress_bar
from ops.cli.terminal import shown
from shared.errors import MediaError
from shared.media.video import VideoInfo
from shared.scene_detection.analysis import Analysis, DetectedScene, analyse
from shared.scene_detection.scenes import SceneLimits


def detect_scenes(film: Path, info: VideoInfo, limits: SceneLimits, console: Console) -> Analysis:
    """Return the analysis of the film, with progress on `console`.

    Raises:
        CommandError: the film cannot be decoded, or the limits do not fit its length.
    """
    with progress_bar(console) as bar:
        task = bar.add_task("Detecting scenes", total=info.duration_s)
        try:
            return analyse(
                film, info, limits, progress=lambda time_s: bar.update(task, completed=time_s)
            )
        except MediaError as error:
            raise CommandError(Exit.USAGE, f"{shown(film)}: {error.reason}") from error
        except ValueError as error:
            raise CommandError(Exit.USAGE, f"{shown(film)}: {error}") from error


def scene_entries(scenes_found: Sequence[DetectedScene]) -> list[dict[str, Any]]:
    """Return the scenes as entries of a scenes file."""
    return [
        {
            "start_s": scene.start_s,
            "duration_s": scene.duration_s,
            "description": scene.description.text,
            "mood": scene.description.mood.name.lower(),
        }
        for scene in scenes_found
    ]
