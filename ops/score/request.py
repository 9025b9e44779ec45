"""The request of `segue score`: the film, its scenes and the audio parameters.

I/O: reads the video and the style sample.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Self

from rich.console import Console

from ops.cli.exit_codes import CommandError, Exit
from shared.contract import ids
from shared.contract.params import Scene
from shared.errors import MediaError
from shared.media.video import VideoInfo, probe_video

_NAME_CHARS_MAX = 60
_DIGEST_CHARS = 8
_LENGTH_TOLERANCE_S = 0.1  # a smaller difference between scenes and video is not audible


@dataclass(frozen=True, kw_only=True)
class ScoreRequest:
    """One film to score."""

    video: Path | None  #: None: only the track is made
    scenes: Sequence[Scene]
    audio_params: dict[str, Any] = field(default_factory=dict)  #: only those that were given
    style: Path | None = None  #: a style sample to upload; a URL is in `audio_params`
    given_job_id: str | None = None  #: None: derived from the content

    @classmethod
    def of(
        cls,
        *,
        video: Path | None,
        scenes: Sequence[Scene],
        audio_params: Mapping[str, Any],
        style: str | None,
        job_id: str | None,
    ) -> Self:
        """Return the request of these options; None: not given."""
        given = {
            name: value.value if isinstance(value, Enum) else value
            for name, value in audio_params.items()
            if value is not None
        }
        is_url = style is not None and style.lower().startswith(("http://", "https://"))
        if style is not None and is_url:
            given["style_audio"] = {"url": style}
        return cls(
            video=video,
            scenes=scenes,
            audio_params=given,
            style=None if style is None or is_url else Path(style),
            given_job_id=job_id,
        )

    @property
    def job_id(self) -> str:
        """Return the given id, or one derived from files and parameters."""
        if self.given_job_id is not None:
            return self.given_job_id
        digest = hashlib.sha256(json.dumps(self.body(""), sort_keys=True).encode())
        for path in (self.video, self.style):
            if path is not None:
                with path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
        stem = re.sub(r"[^A-Za-z0-9]+", "-", self.video.stem if self.video else "track")
        return (
            f"{stem.strip('-')[:_NAME_CHARS_MAX] or 'video'}-{digest.hexdigest()[:_DIGEST_CHARS]}"
        )

    def body(self, job_id: str) -> dict[str, Any]:
        """Return the HTTP body, without the object keys of uploaded files."""
        scenes = [scene.model_dump(mode="json", exclude_none=True) for scene in self.scenes]
        params = {**self.audio_params, "merge_with_video": self.video is not None}
        return {"job_id": job_id, "scenes": scenes, "audio_params": params}


def check_request(request: ScoreRequest, console: Console) -> None:
    """Raise on what is wrong with the request before a stack is started.

    Raises:
        CommandError: the video cannot be read, or the job id or the style sample is invalid.
    """
    if request.given_job_id is not None:
        try:
            ids.check_job_id(request.given_job_id)
        except ValueError as error:
            raise CommandError(Exit.USAGE, f"--job-id: {error}") from error
    if request.style is not None and not request.style.is_file():
        raise CommandError(
            Exit.USAGE,
            f"--style: {request.style} is not a file; name one, or a URL with http(s)://",
        )
    if request.video is None:
        return
    info = _probe(request.video)
    for note in info.notes:
        console.print(f"note: {note}", highlight=False)
    scenes_s = sum(scene.duration_s for scene in request.scenes)
    if abs(scenes_s - info.duration_s) > _LENGTH_TOLERANCE_S:
        mode = request.audio_params.get("sync_mode", "trim")
        console.print(
            f"note: the scenes last {scenes_s:.3f} s, the video {info.duration_s:.3f} s; "
            f"sync mode {mode} fits the track to the video",
            highlight=False,
        )


def _probe(video: Path) -> VideoInfo:
    try:
        return probe_video(video)
    except MediaError as error:
        raise CommandError(Exit.USAGE, f"{video}: {error.reason}") from error
    except OSError as error:
        raise CommandError(Exit.USAGE, f"{video}: cannot be read ({error.strerror})") from error
