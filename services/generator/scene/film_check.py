"""Checks the video of a run before its first scene is paid for.

A video that does not exist, or that the muxer would reject, fails the job at once instead of after
all music was made. Only its beginning and its index are downloaded: they show the address, the
size, the container, the codec, encryption and edits. What they do not show, the muxer finds.

I/O: the store, the network, a scratch folder, child processes that read the parts.
"""

import asyncio
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from services.generator.scene.style_sample import FETCH_RETRY
from services.generator.scene_ref import SceneRef
from services.generator.settings import GeneratorSettings
from shared.clock import Clock
from shared.contract.events import SceneRequested
from shared.contract.params import VideoRef
from shared.errors import MediaError, RetryableError, StoreUnavailableError
from shared.http.fetcher import Fetcher, MediaPart
from shared.http.video_source import UNAVAILABLE, video_fetcher
from shared.media.mp4_boxes import next_box
from shared.media.sandbox import MediaSandbox
from shared.media.video import check_beginning
from shared.media.video_container import demuxer_of_head
from shared.processing.cancellation import RunCancellation
from shared.processing.retry import retrying
from shared.scratch import Scratch, ScratchError
from shared.storage import ObjectStore
from shared.telemetry.log import Logger

SCRATCH_NAME = "film"
PART_S = 20.0  # deadline of each download
_HEAD_BYTES = 256 * 1024  # Matroska's tracks and an index at the beginning are here
_BOX_BYTES = 4096  # to find the next box of the file
_INDEX_BYTES_MAX = 16 * 1024 * 1024  # of a film of hours, in memory; the muxer reads larger ones
_BOXES_MAX = 12  # boxes before the index
_RUNS_MAX = 10_000  # that are remembered as checked

HasClaim = Callable[[SceneRef], Awaitable[bool]]


@dataclass(kw_only=True)
class FilmCheck:
    """Checks each run's video once. Safe to use from many lanes at once."""

    fetcher: Fetcher
    scratch: Scratch
    sandbox: MediaSandbox
    cancellation: RunCancellation
    clock: Clock
    log: Logger
    chance: random.Random = field(default_factory=random.Random)
    _checked: OrderedDict[tuple[str, int], None] = field(default_factory=OrderedDict)

    async def require(self, scene: SceneRequested, *, has_claim: HasClaim) -> None:
        """Return if the video of the scene's run may be scored, or none is requested.

        A scene with a claim may be paid for already, so its run continues.

        Raises:
            MediaError: the video is unavailable or unsuitable; the message is for users.
            RunEndedError: the run ended.
        """
        run = (scene.job_id, scene.run)
        ref = scene.video
        if ref is None or not scene.params.merge_with_video or run in self._checked:
            return
        if await has_claim(SceneRef.of(scene)):
            return
        await self.cancellation.unless_ended(*run, self._check(ref))
        self.log.debug("video checked", action="video.checked", job_id=scene.job_id, run=scene.run)
        self._checked[run] = None
        if len(self._checked) > _RUNS_MAX:
            self._checked.popitem(last=False)

    async def _check(self, ref: VideoRef) -> None:
        retried_later = (StoreUnavailableError, ScratchError)  # the record is retried instead
        try:
            await retrying(
                lambda: self._check_once(ref),
                policy=FETCH_RETRY,
                clock=self.clock,
                never=retried_later,
                chance=self.chance,
            )
        except retried_later:
            raise
        except RetryableError as error:
            raise MediaError(
                f"{error}; tried {FETCH_RETRY.attempts_max} times before any music was made",
                code=UNAVAILABLE,
                retryable=True,
            ) from error

    async def _check_once(self, ref: VideoRef) -> None:
        name = "video.url" if ref.object is None else "video.object"
        head = await self._part(ref, 0, _HEAD_BYTES)
        try:
            is_mp4 = demuxer_of_head(head.data) == "mov"
            index = await self._index(ref, head) if is_mp4 else None
            if index is not None or not is_mp4:
                await self._check_parts(head, index)
        except MediaError as error:
            if error.reason.startswith(name):
                raise
            raise MediaError(f"{name}: {error.reason}", code=error.code) from error

    async def _index(self, ref: VideoRef, head: MediaPart) -> MediaPart | None:
        """Return the box with the index of an MP4; None if it is not found."""
        part, place = head, 0
        for _ in range(_BOXES_MAX):
            box = next_box(part.data[place - part.start :])
            if box is None:
                part = await self._part(ref, place, _BOX_BYTES)
                box = next_box(part.data)
                if box is None:
                    return None
            kind, size = box
            if kind == "moov":
                if size > _INDEX_BYTES_MAX:
                    return None
                index = await self._part(ref, place, size)
                return index if len(index.data) == size else None
            place += size
        return None

    async def _part(self, ref: VideoRef, start: int, size_bytes: int) -> MediaPart:
        return await self.fetcher.fetch_part(
            ref, start=start, size_bytes=size_bytes, timeout_s=PART_S
        )

    async def _check_parts(self, head: MediaPart, index: MediaPart | None) -> None:
        async with self.scratch.folder() as folder:
            folder.reserve(len(head.data) + (len(index.data) if index else 0))
            path = folder.path / "parts"
            await asyncio.to_thread(_write, path, head, index)
            await self.sandbox.run(check_beginning, path)


def _write(path: Path, head: MediaPart, index: MediaPart | None) -> None:
    """Write the parts at their places; the rest of the file takes no space."""
    with path.open("wb") as file:
        file.write(head.data)
        if index is not None:
            file.seek(index.start)
            file.write(index.data)
        file.truncate(max(head.size_bytes or 0, file.seek(0, 2)))


def build_film_check(
    settings: GeneratorSettings,
    *,
    store: ObjectStore,
    cancellation: RunCancellation,
    sandbox: MediaSandbox,
    clock: Clock,
    log: Logger,
) -> FilmCheck:
    """Return the check of videos, built from the settings."""
    return FilmCheck(
        fetcher=video_fetcher(store, settings.fetch),
        scratch=Scratch(settings.scratch, name=SCRATCH_NAME),
        sandbox=sandbox,
        cancellation=cancellation,
        clock=clock,
        log=log,
    )
