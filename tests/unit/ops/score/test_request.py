"""Tests of ops/score/request.py: the request of `segue score`, and what is rejected early."""

import asyncio
import os
from pathlib import Path

import pytest
from rich.console import Console

from ops.cli.exit_codes import CommandError, Exit
from ops.cli.film import check_film
from ops.cli.progress import progress_console
from ops.score.request import ScoreRequest, check_request
from shared.contract.params import OnMaxCost, Scene
from tests.support.films import real_ffmpeg

SCENES = (Scene(duration_s=1.7, description="a lake"), Scene(duration_s=2.3))
QUIET = Console(quiet=True)


def test_the_same_video_and_parameters_have_the_same_job_id(tmp_path: Path) -> None:
    """A repeated command finds the work of the first."""
    video = tmp_path / "my film.mp4"
    video.write_bytes(b"pictures")

    first = ScoreRequest(video=video, scenes=SCENES).job_id

    assert first == ScoreRequest(video=video, scenes=SCENES).job_id
    assert first.startswith("my-film-")


def test_another_parameter_or_video_has_another_job_id(tmp_path: Path) -> None:
    """Two different requests do not supersede each other."""
    video = tmp_path / "film.mp4"
    video.write_bytes(b"pictures")
    plain = ScoreRequest(video=video, scenes=SCENES).job_id
    prompted = ScoreRequest(video=video, scenes=SCENES, audio_params={"prompt": "harp"}).job_id
    video.write_bytes(b"other pictures")
    changed = ScoreRequest(video=video, scenes=SCENES).job_id

    assert len({plain, prompted, changed}) == 3


def test_a_request_without_a_video_does_not_mux() -> None:
    """`--no-video` makes only the track."""
    body = ScoreRequest(video=None, scenes=SCENES).body("j")

    assert body["audio_params"] == {"merge_with_video": False}
    assert [scene["duration_s"] for scene in body["scenes"]] == [1.7, 2.3]


def test_a_text_file_is_rejected_as_video(tmp_path: Path) -> None:
    """The check runs before a stack starts."""
    video = tmp_path / "film.mp4"
    video.write_text("not a film")

    with pytest.raises(CommandError, match=r"film\.mp4: not a video") as caught:
        check_request(ScoreRequest(video=video, scenes=SCENES), QUIET)

    assert caught.value.code is Exit.USAGE


def test_a_style_sample_at_a_url_is_passed_on() -> None:
    """The URL becomes an audio parameter; nothing is uploaded."""
    url = "HTTPS://x.example/song.mp3"
    params = {"on_max_cost": OnMaxCost.ERROR_STRATEGY, "use_cache": False, "prompt": None}

    request = ScoreRequest.of(
        video=None, scenes=SCENES, audio_params=params, style=url, job_id=None
    )

    assert request.style is None
    assert request.audio_params == {
        "on_max_cost": "error_strategy",
        "use_cache": False,
        "style_audio": {"url": url},
    }


def test_another_style_sample_has_another_job_id(tmp_path: Path) -> None:
    """The content counts, not the file name."""
    song = tmp_path / "song.mp3"
    job_ids = set()
    for content in (b"one", b"two"):
        song.write_bytes(content)
        job_ids.add(ScoreRequest(video=None, scenes=SCENES, style=song).job_id)
    job_ids.add(ScoreRequest(video=None, scenes=SCENES).job_id)

    assert len(job_ids) == 3


def test_a_style_sample_that_is_not_a_file_is_rejected(tmp_path: Path) -> None:
    """The error names the option, and nothing was uploaded."""
    for path in (tmp_path, tmp_path / "nowhere.mp3"):
        request = ScoreRequest(video=None, scenes=SCENES, style=path)
        with pytest.raises(CommandError, match="--style: "):
            check_request(request, QUIET)


@pytest.mark.parametrize("job_id", ["a/b", "x" * 201, ""])
def test_an_invalid_job_id_is_rejected(job_id: str) -> None:
    """The error names the option, which the api's would not."""
    request = ScoreRequest(video=None, scenes=SCENES, given_job_id=job_id)

    with pytest.raises(CommandError, match="--job-id: "):
        check_request(request, QUIET)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a film of four seconds."""
    path = tmp_path_factory.mktemp("films") / "film.mp4"
    source = ["-f", "lavfi", "-i", "testsrc2=s=64x36:r=25:d=4"]
    asyncio.run(real_ffmpeg().run(["-v", "error", *source, "-c:v", "libx264", path]))
    return path


@pytest.mark.parametrize(
    ("durations_s", "mode", "note"),
    [
        ((2.0, 2.0), None, None),
        ((2.0, 1.95), None, None),
        ((1.5,), None, "the last 2.500 s of the film have no music; add a scene"),
        ((2.0, 3.5), "trim", "the last 1.500 s of the music are cut; shorten the scenes"),
        ((5.0,), "stretch", "the music is played at 1.250 times its tempo"),
        ((5.0,), "compress", "the music is played at 1.250 times its tempo"),
    ],
)
def test_scenes_that_are_not_as_long_as_the_film_are_reported_before_the_run(
    film: Path,
    capsys: pytest.CaptureFixture[str],
    durations_s: tuple[float, ...],
    mode: str | None,
    note: str | None,
) -> None:
    """The note says what will be heard, and what to change."""
    params = {} if mode is None else {"sync_mode": mode}
    scenes = [Scene(duration_s=length) for length in durations_s]
    request = ScoreRequest(video=film, scenes=scenes, audio_params=params)

    notes = check_request(request, progress_console(quiet=False))

    output = capsys.readouterr().out
    assert output == "".join(f"note: {text}\n" for text in notes)
    if note is None:
        assert notes == []
    else:
        assert f"the scenes last {sum(durations_s):.3f} s, the film 4.000 s" in output
        assert note in output


def test_music_that_cannot_be_compressed_is_refused_before_the_run(film: Path) -> None:
    """Its run would fail at the end, after all its music was made."""
    request = ScoreRequest(
        video=film, scenes=[Scene(duration_s=12.25)], audio_params={"sync_mode": "compress"}
    )

    with pytest.raises(CommandError, match=r"allows a ratio of 0\.5 to 2\.0, not 3\.06"):
        check_request(request, QUIET)


def test_a_mood_that_is_almost_one_of_the_list_is_noted(film: Path) -> None:
    """Free text, and each word that the prompt rule knows, are not."""
    moods = ("exitting", "Calm", "excited", "dark and stormy", "like rain on a tin roof", None)
    scenes = [Scene(duration_s=4 / len(moods), mood=mood) for mood in moods]

    (note,) = check_request(ScoreRequest(video=film, scenes=scenes), QUIET)

    assert note.startswith('scene 1: mood "exitting" is used as it is; did you mean exciting? ')
    assert "exciting, calm, dramatic, elegant, professional" in note


def test_what_is_no_film_file_is_refused_with_what_to_do(film: Path, tmp_path: Path) -> None:
    """A URL, standard input, a pipe, a folder, a name with a typing error."""
    os.mkfifo(tmp_path / "pipe")
    cases = {
        Path("https://x.example/film.mp4"): "curl -fLO https://x.example/film.mp4",
        Path("-"): "save it (cat > film.mp4)",
        tmp_path / "pipe": "cat ",
        Path("/dev/null"): "it is a pipe or a device",
        tmp_path: "cannot be read (it is a folder); name a film in it",
        film.with_name("flim.mp4"): f"did you mean {film}?",
        film / "x.mp4": "cannot be read (Not a directory)",
    }
    for path, message in cases.items():
        with pytest.raises(CommandError) as caught:
            check_film(path)
        assert caught.value.code is Exit.USAGE
        assert message in str(caught.value)


def test_every_file_that_is_read_is_an_input(tmp_path: Path) -> None:
    """A URL and standard input are none."""
    song = tmp_path / "song.mp3"
    scenes = tmp_path / "s.json"
    local = ScoreRequest.of(
        video=None, scenes=SCENES, audio_params={}, style=str(song), job_id=None, scenes_file=scenes
    )
    remote = ScoreRequest.of(
        video=tmp_path, scenes=SCENES, audio_params={}, style="https://x/s.mp3", job_id=None
    )

    assert local.inputs == [scenes, song]
    assert remote.inputs == [tmp_path]


def test_text_that_is_not_utf8_is_rejected_with_its_option() -> None:
    """A path may have any bytes; the request is JSON."""
    text = os.fsdecode(b"caf\xe9")

    def request(prompt: str | None, style: str | None) -> ScoreRequest:
        return ScoreRequest.of(
            video=None, scenes=SCENES, audio_params={"prompt": prompt}, style=style, job_id=None
        )

    with pytest.raises(CommandError, match=r"--prompt: caf\? is not UTF-8"):
        request(text, None)
    with pytest.raises(CommandError, match="--style: "):
        request(None, f"https://x.example/{text}")
    assert request(None, text).style == Path(text)
