"""Slots of the muxer: how many videos lie in its scratch folder at once."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from services.muxer.mux import Mux
from services.muxer.settings import MuxerSettings
from shared.contract.params import VideoRef
from shared.media.ffmpeg import Ffmpeg
from shared.settings import FfmpegSettings
from shared.storage.filesystem import FolderStore
from tests.support.run_builders import a_track

SLOTS = 2


async def test_no_more_videos_are_muxed_at_once_than_there_are_slots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fetching included: the others wait with nothing."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    mux = Mux(
        store=FolderStore(tmp_path / "store"),
        ffmpeg=Ffmpeg(FfmpegSettings()),
        settings=MuxerSettings(scratch_dir=scratch, slots=SLOTS),
    )
    at_once: list[int] = []

    async def make(*_: Any) -> None:
        at_once.append(len(list(scratch.iterdir())))
        await asyncio.sleep(0.01)

    async def result(merged: Any, *_: Any) -> Any:
        return merged

    monkeypatch.setattr(mux, "_make", make)
    monkeypatch.setattr(mux, "_store_result", result)
    film = VideoRef(object="uploads/film")
    tracks: list[Any] = [a_track(run).model_copy(update={"video": film}) for run in range(1, 6)]

    assert await asyncio.gather(*(mux.run(track) for track in tracks)) == tracks
    assert max(at_once) == SLOTS
    assert list(scratch.iterdir()) == []
