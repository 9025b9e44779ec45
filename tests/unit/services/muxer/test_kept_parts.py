"""Tests of what the result keeps of a film beside its picture."""

import pytest

from services.muxer.kept_parts import kept_args, kept_warnings, tag_args
from shared.media.film_extras import FilmExtras, SubtitleStream


def subtitles(index: int, codec: str, language: str = "") -> SubtitleStream:
    """Return a stream of subtitles."""
    return SubtitleStream(index=index, codec=codec, language=language)


@pytest.mark.parametrize(
    ("codec", "tag", "expected"),
    [
        ("h264", "avc1", ()),
        ("hevc", "hev1", ("-tag:v", "hvc1")),
        ("hevc", "hvc1", ("-tag:v", "hvc1")),
        ("hevc", "\\0\\0\\0\\0", ("-tag:v", "hvc1")),
        ("hevc", "dvhe", ("-tag:v", "dvh1")),
        ("hevc", "dvh1", ("-tag:v", "dvh1")),
    ],
)
def test_hevc_gets_the_tag_that_apples_players_accept(
    codec: str, tag: str, expected: tuple[str, ...]
) -> None:
    """Whatever tag the source has; Dolby Vision without a compatible picture keeps its own."""
    assert tag_args(codec, tag) == expected


def test_text_subtitles_are_mapped_and_converted_where_necessary() -> None:
    """MP4 has one text codec; pictures are left out."""
    extras = FilmExtras(
        subtitles=(
            subtitles(2, "mov_text"),
            subtitles(3, "hdmv_pgs_subtitle"),
            subtitles(5, "subrip"),
        )
    )

    command = " ".join(kept_args(extras))

    assert "-map 0:2 -c:s:0 copy -map 0:5 -c:s:1 mov_text" in command
    assert "0:3" not in command
    assert "creation_time" not in command


def test_an_unknown_date_is_not_copied() -> None:
    """MP4's creation time 0 would become the year 1970."""
    assert "-metadata creation_time=" in " ".join(kept_args(FilmExtras(has_no_date=True)))


def test_metadata_with_another_name_is_written_under_its_own() -> None:
    """The value is one argument, whatever it contains."""
    args = kept_args(FilmExtras(renamed=(("location", "+1+2/ -y"),)))

    assert args[args.index("-metadata") + 1] == "location=+1+2/ -y"


def test_a_complete_result_has_no_warnings() -> None:
    """Additional parts of the result do not matter."""
    source = FilmExtras(chapter_count=2, metadata=("title",), subtitles=(subtitles(2, "subrip"),))
    result = FilmExtras(
        chapter_count=2, metadata=("encoder", "title"), subtitles=(subtitles(2, "mov_text"),)
    )

    assert kept_warnings(source, result) == ()


def test_everything_that_the_result_lacks_is_listed() -> None:
    """In one warning; a long list ends with its length."""
    source = FilmExtras(
        subtitles=(subtitles(2, "dvd_subtitle", "eng"), subtitles(3, "subrip", "deu")),
        chapter_count=3,
        metadata=tuple(f"name{number}" for number in range(10)),
        picture_boxes=("avcC", "new1"),
        streams=("a cover picture", "a cover picture"),
    )
    result = FilmExtras(chapter_count=1, picture_boxes=("avcC",), streams=("a cover picture",))

    names = ", ".join(f"name{number}" for number in range(8))
    expected = (
        "not kept of the video: a cover picture, subtitles (dvd_subtitle, eng), "
        f"subtitles (subrip, deu), 2 chapters, metadata ({names} and 2 more), "
        "boxes of the picture (new1)"
    )
    assert kept_warnings(source, result) == (expected,)


def test_subtitles_that_lose_their_styles_are_reported() -> None:
    """ASS becomes text."""
    source = FilmExtras(subtitles=(subtitles(1, "ass"),))
    result = FilmExtras(subtitles=(subtitles(2, "mov_text"),))

    assert kept_warnings(source, result) == ("the subtitles are kept as text without their styles",)
