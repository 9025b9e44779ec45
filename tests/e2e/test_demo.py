"""Tests of `segue demo`, which `make demo` runs."""

import json
from pathlib import Path

import pytest
from PIL import Image

from shared.media.video import probe_video
from tests.support.stack_process import none_left, segue

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


def test_the_demo_makes_a_film_scores_it_and_draws_its_track(tmp_path: Path) -> None:
    """Each of at least four scenes continues the one before; no process and no data are left."""
    out = tmp_path / "out" / "demo"

    result = segue("demo", "--out", out, "--json")

    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    scenes = report["progress"]["scenes"]
    assert len(scenes) >= 4
    assert [scene["origin"] for scene in scenes] == ["fresh"] + ["continued"] * (len(scenes) - 1)
    assert len(report["track"]["seams"]) == len(scenes) - 1
    film, scored = probe_video(out / "video.mp4"), probe_video(out / "scored.mp4")
    assert scored.picture_sha256 == film.picture_sha256
    assert scored.has_audio
    assert report["track"]["samples"] == film.samples
    with Image.open(out / "track.png") as picture:
        assert picture.width > picture.height
    for file in report["files"].values():
        assert Path(file["path"]).is_file()
    assert none_left(out)
    assert not (out / ".stack").exists()
