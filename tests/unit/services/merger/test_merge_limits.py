"""A run over a limit fails with the reason, before anything is written."""

from pathlib import Path

import pytest

from services.merger.merge import Merge
from services.merger.settings import MergerSettings
from shared.errors import JobError
from shared.media.ffmpeg import Ffmpeg
from shared.settings import FfmpegSettings, RunLimitSettings, ScratchSettings
from shared.storage.filesystem import FolderStore
from tests.unit.services.merger.test_merge import a_run_of_mp3s, store_run


@pytest.mark.parametrize(
    ("settings", "code", "message"),
    [
        ({"limits": RunLimitSettings(run_s_max=2.5)}, "limit_exceeded", "SEGUE_RUN_S_MAX"),
        ({"limits": RunLimitSettings(scenes_max=2)}, "limit_exceeded", "SEGUE_SCENES_MAX"),
        ({"run_bytes_max": 3 * 48_000 * 8}, "scratch_limit", "SEGUE_SCRATCH_RUN_BYTES_MAX"),
    ],
)
async def test_a_run_over_a_limit_fails_without_scratch_space(
    tmp_path: Path, settings: dict[str, object], code: str, message: str
) -> None:
    """Length, number of scenes, scratch space: three scenes of a second."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    limits = {name: settings.pop(name) for name in ("run_bytes_max",) if name in settings}
    given = MergerSettings(scratch=ScratchSettings(folder=scratch, **limits), **settings)  # type: ignore[arg-type]
    store = FolderStore(tmp_path / "store")
    merge = Merge(store=store, ffmpeg=Ffmpeg(FfmpegSettings()), settings=given)
    last = await store_run(store, a_run_of_mp3s([1, 1, 1]))

    with pytest.raises(JobError, match=message) as caught:
        await merge.run(last)
    assert caught.value.code == code
    assert list(scratch.iterdir()) == []
