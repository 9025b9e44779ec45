"""Tests of the muxer's slots: how many videos are in its scratch folder at once."""

import asyncio
from pathlib import Path
from typing import Any

from typing_extensions import override

from services.muxer.mux import Mux
from services.muxer.settings import MuxerSettings
from shared.contract.params import VideoRef
from shared.errors import MediaError
from shared.media.ffmpeg import Ffmpeg
from shared.settings import FfmpegSettings, ScratchSettings
from shared.storage import ObjectStat
from shared.storage.filesystem import FolderStore
from tests.support.run_builders import a_track

SLOTS = 2
FILM = "uploads/film"


class ScratchCountingStore(FolderStore):
    """Counts the scratch folders that exist whenever a video is fetched; has no video."""

    def __init__(self, root: Path, scratch: Path) -> None:
        super().__init__(root)
        self._scratch = scratch
        self.counts: list[int] = []

    @override
    async def stat(self, key: str) -> ObjectStat | None:
        if key == FILM:
            await asyncio.sleep(0.01)
            self.counts.append(len(list(self._scratch.iterdir())))
        return await super().stat(key)


async def test_the_muxer_runs_at_most_as_many_muxes_as_slots(tmp_path: Path) -> None:
    """Fetching included; the others wait without a file."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    store = ScratchCountingStore(tmp_path / "store", scratch)
    settings = MuxerSettings(scratch=ScratchSettings(folder=scratch), slots=SLOTS)
    mux = Mux(store=store, ffmpeg=Ffmpeg(FfmpegSettings()), settings=settings)
    film = VideoRef(object=FILM)
    tracks = [a_track(run).model_copy(update={"video": film}) for run in range(1, 6)]

    results: list[Any] = await asyncio.gather(
        *(mux.run(track) for track in tracks), return_exceptions=True
    )

    assert [type(result) for result in results] == [MediaError] * len(tracks)
    assert len(store.counts) == len(tracks)
    assert max(store.counts) == SLOTS
    assert list(scratch.iterdir()) == []
