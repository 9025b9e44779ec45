"""The request of `segue score`: the film, its scenes and the audio parameters.

I/O: reads the video and the style sample.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from rich.console import Console

from ops.cli.exit_codes import CommandError, Exit
from ops.cli.film import check_film
from ops.cli.terminal import shown
from shared.contract import ids
from shared.contract.params import COMPRESS_TEMPO_MAX, COMPRESS_TEMPO_MIN, Scene, SyncMode
from shared.contract.prompt import TEMPLATE, Mood, prompt_for
from shared.contract.validation import closest_name
from shared.media.video import VideoInfo

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
    scenes_file: Path | None = None
    info: VideoInfo | None = None  #: of the video, if it was read already

    @classmethod
    def of(
        cls,
        *,
        video: Path | None,
        scenes: Sequence[Scene],
        audio_params: Mapping[str, Any],
        style: str | None,
        job_id: str | None,
        scenes_file: Path | None = None,
        info: VideoInfo | None = None,
    ) -> Self:
        """Return the request of these options; None: not given."""
        given = {
            name: value.value if isinstance(value, Enum) else value
            for name, value in audio_params.items()
            if value is not None
        }
        _check_text({**given, "style": style})
        is_url = style is not None and style.lower().startswith(("http://", "https://"))
        if style is not None and is_url:
            given["style_audio"] = {"url": style}
        return cls(
            video=video,
            scenes=scenes,
            audio_params=given,
            style=None if style is None or is_url else Path(style),
            given_job_id=job_id,
            scenes_file=scenes_file,
            info=info,
        )

    @cached_property
    def job_id(self) -> str:
        """Return the given id, or one derived from files and parameters."""
        if self.given_job_id is not None:
            return self.given_job_id
        digest = hashlib.sha256(json.dumps(self.body(""), sort_keys=True).encode())
        if self.film is not None:
            digest.update(bytes.fromhex(self.film["sha256"]))
        if self.style is not None:
            digest.update(bytes.fromhex(_digest_of(self.style)))
        stem = re.sub(r"[^A-Za-z0-9]+", "-", self.video.stem if self.video else "track")
        return (
            f"{stem.strip('-')[:_NAME_CHARS_MAX] or 'video'}-{digest.hexdigest()[:_DIGEST_CHARS]}"
        )

    @property
    def inputs(self) -> list[Path]:
        """Return every file that the command reads and must not change."""
        return [path for path in (self.video, self.scenes_file, self.style) if path is not None]

    @cached_property
    def film(self) -> dict[str, Any] | None:
        """Return the film's entry in the report."""
        return None if self.video is None else film_entry(self.video)

    def body(self, job_id: str) -> dict[str, Any]:
        """Return the HTTP body, without the object keys of uploaded files."""
        scenes = [scene.model_dump(mode="json", exclude_none=True) for scene in self.scenes]
        params = {**self.audio_params, "merge_with_video": self.video is not None}
        return {"job_id": job_id, "scenes": scenes, "audio_params": params}


def _check_text(options: Mapping[str, Any]) -> None:
    """Raise if an option has bytes that are not UTF-8, which a request cannot hold."""
    for name, value in options.items():
        is_text = name != "style" or str(value).lower().startswith("http")
        if isinstance(value, str) and is_text:  # a style sample's path may have any bytes
            try:
                value.encode()
            except UnicodeEncodeError as error:
                option = f"--{name.replace('_', '-')}"
                raise CommandError(
                    Exit.USAGE, f"{option}: {shown(value)} is not UTF-8; write it in UTF-8"
                ) from error


def check_request(request: ScoreRequest, console: Console) -> list[str]:
    """Raise on what is wrong with the request before a stack is started; return and print notes.

    Raises:
        CommandError: the video cannot be read or scored, or the job id or the style sample is
            invalid.
    """
    if request.given_job_id is not None:
        try:
            ids.check_job_id(request.given_job_id)
        except ValueError as error:
            raise CommandError(Exit.USAGE, f"--job-id: {error}") from error
    if request.style is not None and not request.style.is_file():
        raise CommandError(
            Exit.USAGE,
            f"--style: {shown(request.style)} is not a file; name one, or a URL with http(s)://",
        )
    notes = list(_mood_notes(request.scenes))
    info_notes: tuple[str, ...] = ()
    if request.video is not None:
        info = request.info or check_film(request.video)
        info_notes = info.notes  # the run's warnings have them as well
        notes += _length_notes(request, info)
    for note in (*info_notes, *notes):
        console.print(f"note: {note}")
    return notes


def film_entry(video: Path) -> dict[str, Any]:
    """Return the entry of a film in the report."""
    return {"path": str(video), "sha256": _digest_of(video)}


def _digest_of(path: Path) -> str:
    """Return the SHA-256 of a file; blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _length_notes(request: ScoreRequest, info: VideoInfo) -> list[str]:
    """Return what happens if the scenes are shorter or longer than the film.

    Raises:
        CommandError: the run would fail, after its music was made.
    """
    scenes_s = sum(scene.duration_s for scene in request.scenes)
    difference_s = scenes_s - info.duration_s
    if abs(difference_s) <= _LENGTH_TOLERANCE_S:
        return []
    lengths = f"the scenes last {scenes_s:.3f} s, the film {info.duration_s:.3f} s"
    mode = SyncMode(request.audio_params.get("sync_mode", SyncMode.TRIM))
    tempo = scenes_s / info.duration_s
    if mode is SyncMode.COMPRESS and not COMPRESS_TEMPO_MIN <= tempo <= COMPRESS_TEMPO_MAX:
        raise CommandError(
            Exit.USAGE,
            f"{lengths}: --sync-mode compress allows a ratio of {COMPRESS_TEMPO_MIN} to "
            f"{COMPRESS_TEMPO_MAX}, not {tempo:.2f}; use stretch or trim, or change the scenes",
        )
    if mode is not SyncMode.TRIM:
        effect = f"the music is played at {tempo:.3f} times its tempo"
    elif difference_s < 0:
        effect = (
            f"the last {-difference_s:.3f} s of the film have no music; add a scene, or use "
            "--sync-mode stretch"
        )
    else:
        effect = f"the last {difference_s:.3f} s of the music are cut; shorten the scenes"
    return [f"{lengths}: {effect}"]


def _mood_notes(scenes: Sequence[Scene]) -> Iterator[str]:
    """Yield a note for each mood that is probably misspelt; other words are used as they are."""
    names = [mood.name.lower() for mood in Mood]
    for number, scene in enumerate(scenes, start=1):
        text = " ".join((scene.mood or "").split())
        prompt = prompt_for(description="", mood=text, scene_prompt=None, run_prompt=None)
        is_free_text = prompt == TEMPLATE.format(mood=text) and text not in set(Mood)
        if text and is_free_text and (closest := closest_name(text, names)):
            yield (
                f'scene {number}: mood "{text}" is used as it is; did you mean {closest}? '
                f"Moods: {', '.join(names)}"
            )
