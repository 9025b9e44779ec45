"""Score: `segue score`, from a video and its scenes to files to listen to.

Hands the video in, starts a run, follows it, and writes `scored.mp4`, `track.mp3` and
`report.json`. A run that fails still leaves what was made: the track, when there is one, and the
report that says why. Each file is written beside its place and renamed into it.

I/O: HTTP, files.
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
from ops.cli.progress import JobProgress
from ops.score.api_client import ApiClient
from ops.score.follow import follow
from services.api.http.schemas import StatusAnswer
from shared.contract import ids
from shared.contract.params import Scene
from shared.errors import MediaError
from shared.media.video import VideoInfo, probe_video

TRACK, VIDEO, REPORT, PICTURE = "track.mp3", "scored.mp4", "report.json", "track.png"
_NAME_CHARS_MAX = 60
_DIGEST_CHARS = 8
_APART_S = 0.1  # below it nobody hears that scenes and picture differ


@dataclass(frozen=True, kw_only=True)
class ScoreRequest:
    """What is to be scored, and how."""

    video: Path | None  #: None: the track alone
    scenes: Sequence[Scene]
    audio_params: dict[str, Any] = field(default_factory=dict)  #: what was said, nothing more
    style: Path | None = None  #: a style sample to be handed in; a URL is in `audio_params`
    job_id: str | None = None  #: None: made from the content

    @classmethod
    def of(
        cls,
        *,
        video: Path | None,
        scenes: Sequence[Scene],
        wishes: Mapping[str, Any],
        style: str | None,
        job_id: str | None,
    ) -> Self:
        """From options: None says nothing, enums travel as their values."""
        said = {
            name: value.value if isinstance(value, Enum) else value
            for name, value in wishes.items()
            if value is not None
        }
        is_url = style is not None and style.lower().startswith(("http://", "https://"))
        if style is not None and is_url:
            said["style_audio"] = {"url": style}
        return cls(
            video=video,
            scenes=scenes,
            audio_params=said,
            style=None if style is None or is_url else Path(style),
            job_id=job_id,
        )

    @property
    def named_job(self) -> str:
        """The job's id: the same video and wishes have the same."""
        if self.job_id is not None:
            return self.job_id
        digest = hashlib.sha256(json.dumps(self.body(""), sort_keys=True).encode())
        for place in (self.video, self.style):
            if place is not None:
                with place.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
        stem = re.sub(r"[^A-Za-z0-9]+", "-", self.video.stem if self.video else "track")
        return (
            f"{stem.strip('-')[:_NAME_CHARS_MAX] or 'video'}-{digest.hexdigest()[:_DIGEST_CHARS]}"
        )

    def body(self, job_id: str) -> dict[str, Any]:
        """The request, but for the keys of what is to be handed in."""
        scenes = [scene.model_dump(mode="json", exclude_none=True) for scene in self.scenes]
        wishes = {**self.audio_params, "merge_with_video": self.video is not None}
        return {"job_id": job_id, "scenes": scenes, "audio_params": wishes}


def check(request: ScoreRequest, console: Console) -> None:
    """Find what can be found before a stack is started.

    Raises:
        CommandError: the video cannot be scored, or the job's id is not one.
    """
    if request.job_id is not None:
        try:
            ids.check_job_id(request.job_id)
        except ValueError as error:
            raise CommandError(Exit.USAGE, f"--job-id: {error}") from error
    if request.style is not None and not request.style.is_file():
        raise CommandError(
            Exit.USAGE, f"--style: {request.style} is no file: name one, or a URL with http(s)://"
        )
    if request.video is None:
        return
    info = _probe(request.video)
    scenes_s = sum(scene.duration_s for scene in request.scenes)
    if abs(scenes_s - info.duration_s) > _APART_S:
        mode = request.audio_params.get("sync_mode", "trim")
        console.print(
            f"note: the scenes last {scenes_s:.3f} s, the picture {info.duration_s:.3f} s; "
            f"the track is fitted by sync mode {mode}",
            highlight=False,
        )


def score(
    api: ApiClient, request: ScoreRequest, *, out: Path, within_s: float, console: Console
) -> dict[str, Any]:
    """Score it, write the files into `out`, and return the report.

    Raises:
        CommandError: it failed; the files that could be made are there.
    """
    job_id = request.named_job
    body = request.body(job_id)
    _make_room(out, request.video)
    if request.video is not None:
        console.print(f"handing in {request.video}", highlight=False)
        body["video"] = api.upload(request.video).video.model_dump(exclude_none=True)
    if request.style is not None:
        console.print(f"handing in {request.style}", highlight=False)
        style = api.upload_style(request.style).style_audio
        body["audio_params"]["style_audio"] = style.model_dump(exclude_none=True)
    started = api.start(body)
    console.print(f"job {job_id}, run {started.run}, at {api.url}", highlight=False)
    with JobProgress(console) as progress:
        status = follow(api, job_id, run=started.run, tell=progress.update, within_s=within_s)
    files = _fetch(api, status, out)
    report = {**_report(api, request, status, files), "report": str(out / REPORT)}
    _write(out / REPORT, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    if status.audio_status.status != "completed":
        raise CommandError(Exit.FAILED, _why(status, files), detail={"report": report})
    return report


def _make_room(out: Path, video: Path | None) -> None:
    if video is not None and video.resolve() == (out / VIDEO).resolve():
        raise CommandError(
            Exit.USAGE, f"{video} would be overwritten by its own result: change --out"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(Exit.USAGE, f"{out}: cannot be made ({error.strerror})") from error


def _probe(video: Path) -> VideoInfo:
    try:
        return probe_video(video)
    except MediaError as error:
        raise CommandError(Exit.USAGE, f"{video}: {error.reason}") from error
    except OSError as error:
        raise CommandError(Exit.USAGE, f"{video}: cannot be read ({error.strerror})") from error


def _fetch(api: ApiClient, status: StatusAnswer, out: Path) -> dict[str, dict[str, Any]]:
    """What was made; a file of an earlier run that this one did not make is removed."""
    files: dict[str, dict[str, Any]] = {}
    for name, link, facts in (
        (TRACK, status.links.download, status.track),
        (VIDEO, status.links.video, status.video),
    ):
        (out / name).unlink(missing_ok=True)
        if link is None or facts is None:  # a link without facts is an earlier run's
            continue
        files[name] = api.download(link, out / name)
        if files[name]["sha256"] != facts.sha256:
            raise CommandError(Exit.FAILED, f"{out / name} is not what the api promised: try again")
    return files


def _report(
    api: ApiClient, request: ScoreRequest, status: StatusAnswer, files: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Everything that is known of the run."""
    facts = status.model_dump(mode="json", exclude={"links"})
    for scene, said in zip(facts["progress"]["scenes"], request.scenes, strict=False):
        scene.pop("links")
        scene["description"] = said.description
    asked = request.body(status.job_id)["audio_params"]
    return {**facts, "asked": asked, "api_url": api.url, "files": files}


def _write(place: Path, text: str) -> None:
    half = place.with_name(f".{place.name}.half")
    half.write_text(text, encoding="utf-8")
    half.rename(place)


def _why(status: StatusAnswer, files: dict[str, dict[str, Any]]) -> str:
    if status.failure is not None:
        why = f"{status.failure.stage}: {status.failure.message} ({status.failure.code})"
    else:
        why = status.audio_status.error or status.audio_status.status
    kept = f"; the track was made: {files[TRACK]['path']}" if TRACK in files else ""
    return f"job {status.job_id} {status.audio_status.status}: {why}{kept}"
