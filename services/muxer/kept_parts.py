"""Decides what the result keeps of a film beside its picture: subtitles, chapters, metadata.

The music replaces the film's sound. Text subtitles, chapters and metadata are kept; what MP4 does
not hold, or FFmpeg does not write, is listed in the warnings of the result.

Pure.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shared.media.film_extras import FilmExtras, SubtitleStream

#: nothing beside the picture and the music
NOTHING_ELSE = ("-map_metadata", "-1", "-map_chapters", "-1", "-sn", "-dn")
_NAMES_MAX = 8  # in one warning
_MP4_TEXT = "mov_text"
_TEXT = frozenset({_MP4_TEXT, "subrip", "webvtt", "text", "ass", "ssa"})
_STYLED = frozenset({"ass", "ssa"})
#: Apple's players reject "hev1", and Dolby Vision without another picture in "hvc1"
_HEVC_TAGS = {"dvh1": "dvh1", "dvhe": "dvh1"}


def tag_args(codec: str, source_tag: str) -> tuple[str, ...]:
    """Return the ffmpeg arguments that choose the type of the picture's sample entry."""
    return ("-tag:v", _HEVC_TAGS.get(source_tag, "hvc1")) if codec == "hevc" else ()


def kept_args(extras: "FilmExtras") -> tuple[str, ...]:
    """Return the ffmpeg arguments that copy what MP4 can hold from the first input."""
    args: list[str] = ["-map_metadata", "0", "-map_chapters", "0", "-dn"]
    if extras.has_no_date:
        args += ["-metadata", "creation_time="]
    for name, value in extras.renamed:
        args += ["-metadata", f"{name}={value}"]
    kept = [stream for stream in extras.subtitles if stream.codec in _TEXT]
    for number, stream in enumerate(kept):
        codec = "copy" if stream.codec == _MP4_TEXT else _MP4_TEXT
        args += ["-map", f"0:{stream.index}", f"-c:s:{number}", codec]
    return tuple(args)


def kept_warnings(source: "FilmExtras", result: "FilmExtras") -> tuple[str, ...]:
    """Return warnings that list what the result lacks of the source."""
    lost = [*_lost(source.streams, result.streams), *_lost_subtitles(source, result)]
    if result.chapter_count < source.chapter_count:
        lost.append(f"{source.chapter_count - result.chapter_count} chapters")
    for noun, names in (
        ("metadata", _lost(source.metadata, result.metadata)),
        ("boxes of the picture", _lost(source.picture_boxes, result.picture_boxes)),
    ):
        if names:
            lost.append(f"{noun} ({_listed(names)})")
    warnings = [f"not kept of the video: {_listed(lost)}"] if lost else []
    if any(stream.codec in _STYLED for stream in source.subtitles) and result.subtitles:
        warnings.append("the subtitles are kept as text without their styles")
    return tuple(warnings)


def _lost_subtitles(source: "FilmExtras", result: "FilmExtras") -> list[str]:
    """Return the missing subtitles; the result has the kept ones in the order of the source."""
    missing: list[SubtitleStream] = [s for s in source.subtitles if s.codec not in _TEXT]
    texts = [stream for stream in source.subtitles if stream.codec in _TEXT]
    missing += texts[len(result.subtitles) :]
    return [f"subtitles ({stream.label})" for stream in missing]


def _lost(source: Sequence[str], result: Sequence[str]) -> list[str]:
    """Return what `result` lacks of `source`, each as often as it lacks it."""
    rest = list(result)
    lost: list[str] = []
    for name in source:
        if name in rest:
            rest.remove(name)
        else:
            lost.append(name)
    return lost


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMES_MAX
    return ", ".join(names[:_NAMES_MAX]) + (f" and {more} more" if more > 0 else "")
