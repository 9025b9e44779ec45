"""Tests from generator to track: clips of every form become one piece, at the right place.

The provider plays a known piece, so the track is known as well: the piece at one level. Everything
but Kafka is real: encoding, measuring, joining and ffmpeg.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.merger.merge import Merge
from services.merger.settings import MergerSettings
from shared.contract.events import AudioMerged, SegmentGenerated
from shared.contract.params import AudioParams
from shared.media.decode import decode
from shared.media.ffmpeg import Ffmpeg
from shared.media.samples import SAMPLE_RATE_HZ, Audio, rms, samples_at
from shared.settings import FfmpegSettings
from tests.fakes.player import Form, Player, Shape
from tests.fakes.provider import LedgerProvider
from tests.support.audio_builders import music
from tests.support.event_builders import a_scene
from tests.unit.services.generator.scene.handler_fixture import HandlerFixture

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

ODD_SCENES = [1.7, 2.3, 1.25, 3.0, 2.6, 1.1, 2.2, 1.9, 2.75, 1.4, 2.05, 1.6]
WHOLE_SCENES = [2.0] * 12
#: some end before their own music enters, at the whole second after the cut
SHORT_SCENES = [2.4, 0.4, 1.7, 0.2, 0.2, 0.3, 2.0, 0.05, 0.9, 1.5, 0.6, 1.25]
DRIFT_SAMPLES_MAX = 3  # half a sample of rounding a clip, to either side
_HALF = SAMPLE_RATE_HZ // 4


@dataclass(frozen=True, kw_only=True)
class MergedRun:
    """A merged run."""

    merged: AudioMerged
    segments: list[SegmentGenerated]
    track: Audio
    charged_s: list[int]  #: requested durations, scene by scene


async def merge_run(
    lengths: Sequence[float], forms: Sequence[Form], *, fade_s: float = 1.0
) -> MergedRun:
    """Generate and merge a run of these scenes, each clip in its form."""
    with tempfile.TemporaryDirectory() as name:
        fixture = HandlerFixture(Path(name))
        fixture.provider = LedgerProvider(clip_of=Player(folder=Path(name), forms=forms).clip_of)
        fixture.handler = fixture.process()
        params = AudioParams(fade_duration=fade_s)
        for index, length in enumerate(lengths):
            await fixture.handle(
                a_scene(index, count=len(lengths), duration_s=length, params=params)
            )
        segments = fixture.segments()
        merge = Merge(
            store=fixture.store, ffmpeg=Ffmpeg(FfmpegSettings()), settings=MergerSettings()
        )
        merged = await merge.run(segments[-1])
        return MergedRun(
            merged=merged,
            segments=segments,
            track=decode(await fixture.store.get(merged.object_key)),
            charged_s=[request.duration_s for request in fixture.provider.charged],
        )


def drift_at(track: Audio, place: int) -> int:
    """Return the offset in samples of the music around `place`; fail for other music."""
    here = track[:, place - _HALF : place + _HALF].astype(np.float64)
    correlations = {}
    for off in range(-40, 41):
        piece = music(np.arange(place - _HALF, place + _HALF) - off).astype(np.float64)
        correlations[off] = float(
            np.vdot(here, piece) / np.linalg.norm(here) / np.linalg.norm(piece)
        )
    best = max(correlations, key=lambda off: correlations[off])
    assert correlations[best] > 0.98, f"other music at {place}"
    return best


def level_db_at(track: Audio, place: int) -> float:
    """Return the level of the track around `place` relative to the piece."""
    here = slice(place - _HALF, place + _HALF)
    return float(20 * np.log10(rms(track[:, here]) / rms(music(np.arange(here.start, here.stop)))))


SAME, BARE = Form(), Form(header=False)
ALL_OF_THE_CLIP, ALL_OF_THE_TRACK = Form(shape="clip_so_far"), Form(shape="track_so_far")
ALL_BUT_BARE = Form(shape="clip_so_far", header=False)


@pytest.mark.parametrize(
    ("lengths", "forms", "seams"),
    [
        pytest.param(ODD_SCENES, [SAME], 11, id="headers"),
        pytest.param(ODD_SCENES, [BARE], 11, id="no header"),
        pytest.param(WHOLE_SCENES, [BARE], 11, id="no header, whole seconds"),
        pytest.param(WHOLE_SCENES, [BARE, SAME] * 6, 11, id="by turns"),
        pytest.param(SHORT_SCENES, [BARE, SAME] * 6, 11, id="by turns, short scenes"),
        pytest.param(ODD_SCENES, [SAME, ALL_OF_THE_CLIP], 0, id="clip so far"),
        pytest.param(WHOLE_SCENES, [SAME, ALL_OF_THE_TRACK], 0, id="track so far"),
        pytest.param(WHOLE_SCENES, [BARE, ALL_BUT_BARE], 0, id="clip so far, no header"),
    ],
)
async def test_twelve_scenes_are_the_piece_itself_in_place_and_at_one_level(
    lengths: list[float], forms: list[Form], seams: int
) -> None:
    """Every scene has its music, and nothing adds up from clip to clip."""
    result = await merge_run(lengths, forms)

    total = sum(map(samples_at, lengths))
    assert len(result.charged_s) == len(lengths)
    assert result.track.shape[1] == result.merged.samples == total
    assert [seam.kind for seam in result.merged.seams] == ["splice"] * seams
    for seam in result.merged.seams:
        assert seam.click is not None
        assert seam.click <= 10
        assert abs(seam.gain_db) < 0.1
        assert abs(seam.level_step_db or 0) <= 1
        assert seam.correlation is not None
        assert seam.correlation > 0.99
    places = np.linspace(SAMPLE_RATE_HZ, total - SAMPLE_RATE_HZ, 9).astype(int)
    assert max(abs(drift_at(result.track, int(place))) for place in places) <= DRIFT_SAMPLES_MAX
    assert np.ptp([level_db_at(result.track, int(place)) for place in places]) < 0.2
    assert result.merged.warnings == ()


async def test_padding_in_whole_second_scenes_costs_one_second_once() -> None:
    """The clip reaches the cut, but its last whole second ends 35 ms before it."""
    result = await merge_run(WHOLE_SCENES, [BARE])

    assert result.charged_s == [2, 4] + [3] * 10
    assert result.segments[1].join_samples == 96_000 - 1658


async def test_a_cumulative_clip_replaces_the_clips_before_it_at_its_level() -> None:
    """Two clips at other levels, then all music so far: no seam until the next clip."""
    forms = [Form(), Form(gain_db=3), Form(shape="track_so_far", gain_db=-3), Form(gain_db=1)]
    result = await merge_run([2.5, 1.7, 2.0, 1.6], forms)

    assert [s.replaces for s in result.segments] == [False, False, True, False]
    assert [(s.scene_index, s.kind) for s in result.merged.seams] == [(3, "splice")]
    assert result.merged.seams[0].gain_db == pytest.approx(-4, abs=0.05)
    places = range(SAMPLE_RATE_HZ, result.merged.samples - SAMPLE_RATE_HZ, SAMPLE_RATE_HZ)
    assert np.ptp([level_db_at(result.track, place) for place in places]) < 0.2


shapes: st.SearchStrategy[Shape] = st.sampled_from(
    ["window", "window", "no_window", "clip_so_far", "track_so_far"]
)
forms_of_clips = st.builds(
    Form, shape=shapes, header=st.booleans(), gain_db=st.sampled_from([-3.0, 0.0, 2.5])
)


@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.sampled_from([1.3, 2.0, 2.45, 3.0]), min_size=3, max_size=6),
    forms=st.lists(forms_of_clips, min_size=6, max_size=6),
)
async def test_any_mix_of_forms_is_as_long_as_its_scenes_and_in_its_place(
    lengths: list[float], forms: list[Form]
) -> None:
    """Between its seams every scene has its music."""
    result = await merge_run(lengths, forms, fade_s=0.05)

    assert result.track.shape[1] == sum(map(samples_at, lengths))
    seam_places = {seam.at_samples for seam in result.merged.seams}
    for place in range(_HALF + 2400, result.track.shape[1] - _HALF - 2400, SAMPLE_RATE_HZ // 3):
        if all(abs(place - seam_place) > _HALF + 7200 for seam_place in seam_places):
            assert abs(drift_at(result.track, place)) <= DRIFT_SAMPLES_MAX
    assert result.merged.warnings == ()
