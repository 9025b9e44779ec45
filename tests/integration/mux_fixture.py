"""A muxer with its own store and scratch folder, and jobs for it."""

import hashlib
from pathlib import Path
from typing import Any

from services.muxer.mux import Mux
from services.muxer.settings import MuxerSettings
from shared.contract.events import AudioMerged, VideoMuxed
from shared.contract.params import AudioParams, SyncMode, VideoRef
from shared.http.video_source import FetchSettings
from shared.media.ffmpeg import Ffmpeg
from shared.media.samples import samples_at
from shared.settings import ScratchSettings
from shared.storage import keys
from shared.storage.filesystem import FolderStore
from tests.support.films import (
    a_track,
    real_ffmpeg,
)

UPLOAD = "uploads/film"


class MuxFixture:
    """A muxer with its own store and a visible scratch folder."""

    def __init__(self, folder: Path, ffmpeg: Ffmpeg | None = None, **settings: Any) -> None:
        self.folder = folder
        self.store = FolderStore(folder / "store")
        self.scratch = folder / "scratch"
        self.scratch.mkdir(parents=True)
        given = {
            "fetch": FetchSettings(allowed_private_hosts="127.0.0.1"),
            "scratch": ScratchSettings(folder=self.scratch),
            **settings,
        }
        self.settings = MuxerSettings(**given)
        self.mux = Mux(store=self.store, ffmpeg=ffmpeg or real_ffmpeg(), settings=self.settings)

    async def store_track(
        self,
        *,
        video: Path | VideoRef | None,
        track_s: float,
        mode: SyncMode = SyncMode.TRIM,
        bursts_s: tuple[float, ...] = (),
    ) -> AudioMerged:
        """Store a track of `track_s` and its video; return the track's event."""
        if isinstance(video, Path):
            await self.store.put_file(UPLOAD, video)
            video = VideoRef(object=UPLOAD)
        samples = samples_at(track_s)
        bursts = [samples_at(moment) for moment in bursts_s]
        track = await a_track(self.folder / "track.mp3", samples=samples, bursts=bursts)
        key = keys.track_key("job-1", 1)
        await self.store.put_file(key, track)
        return AudioMerged(
            job_id="job-1",
            run=1,
            scene_count=3,
            object_key=key,
            sha256=hashlib.sha256(track.read_bytes()).hexdigest(),
            size_bytes=track.stat().st_size,
            samples=samples,
            duration_s=track_s,
            loudness_lufs=-14.0,
            params=AudioParams(sync_mode=mode, merge_with_video=True),
            video=video,
        )

    async def result(self, event: VideoMuxed) -> Path:
        """Return the stored video as a file; check that the scratch folder is empty."""
        path = self.folder / "result.mp4"
        await self.store.get_file(event.object_key, path)
        assert hashlib.sha256(path.read_bytes()).hexdigest() == event.sha256
        assert path.stat().st_size == event.size_bytes
        assert not list(self.scratch.iterdir())
        return path

    async def assert_no_video(self) -> None:
        """Check that the track is stored, no video is, and the scratch folder is empty."""
        assert await self.store.stat(keys.track_key("job-1", 1)) is not None
        assert await self.store.stat(keys.video_key("job-1", 1)) is None
        assert await self.store.stat(keys.muxed_key("job-1", 1)) is None
        assert not list(self.scratch.iterdir())
