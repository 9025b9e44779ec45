"""Lists what a film contains beside its picture and its sound: subtitles, chapters, metadata.

The muxer keeps what MP4 can hold and reports the rest, so that nothing disappears silently.

I/O: reads the headers of an open container.
"""

from dataclasses import dataclass

from av.container import InputContainer
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from shared.media.mp4_boxes import Mp4Index, Mp4Track

_CONTAINER_OWN = frozenset(  # facts of the old container, which the new one has its own of
    {
        "timecode",
        "major_brand",
        "minor_version",
        "compatible_brands",
        "encoder",
        "handler_name",
        "vendor_id",
    }
    | {"duration", "language", "encoded_by", "software", "writing_application"}
)
#: boxes of a sample entry that an encoder writes or that repeat what the stream says
_ENTRY_OWN = frozenset({"btrt", "free", "wide", "fiel", "gama", "pasp", "sinf", "skip", "bitr"})
#: Apple's names, which FFmpeg does not write into MP4, of what MP4 has a place for
_APPLE = {
    "com.apple.quicktime.location.iso6709": "location",
    "com.apple.quicktime.creationdate": "date",
    "com.apple.quicktime.title": "title",
    "com.apple.quicktime.description": "description",
    "com.apple.quicktime.artist": "artist",
}
_VALUE_CHARS_MAX = 1000
_NO_DATE = "1970-01-01T00:00:00"  # MP4's creation time 0: unknown
_CHAPTER_ENTRIES = frozenset({"text", "tx3g", "sbtl"})
_TIMECODE = "a data stream (tmcd)"  # of MP4; Matroska has the time code as metadata
_NAME_CHARS_MAX = 60
_LANGUAGE_CHARS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class SubtitleStream:
    """One stream of subtitles."""

    index: int  #: of the stream in the file
    codec: str
    language: str  #: empty: not given

    @property
    def label(self) -> str:
        """Return codec and language as warnings show them."""
        return f"{self.codec}, {self.language}" if self.language else self.codec


@dataclass(frozen=True, slots=True, kw_only=True)
class FilmExtras:
    """What a film contains beside its picture and its sound."""

    subtitles: tuple[SubtitleStream, ...] = ()
    chapter_count: int = 0
    metadata: tuple[str, ...] = ()  #: names in lower case, sorted, without the container's own
    renamed: tuple[tuple[str, str], ...] = ()  #: name and value of metadata under Apple's names
    has_no_date: bool = False  #: the creation time is present and says "unknown"
    #: types of the boxes in its sample entry, such as "dvvC" (Dolby Vision); MP4 only
    picture_boxes: tuple[str, ...] = ()
    streams: tuple[str, ...] = ()  #: other streams, described for users


def read_extras(
    container: InputContainer, picture: VideoStream, index: Mp4Index | None
) -> FilmExtras:
    """Return what the open `container` has beside `picture` and sound."""
    chapter_count = len(container.chapters())
    subtitles, others = [], []
    for stream in container.streams:
        track = Mp4Track() if index is None else index.track(stream.id)
        if stream.index == picture.index or stream.type == "audio":
            continue
        if stream.type == "subtitle":
            subtitles.append(
                SubtitleStream(
                    index=stream.index,
                    codec=_codec(stream, track),
                    language=_named(stream.metadata.get("language", "")).replace("und", ""),
                )
            )
        elif not (chapter_count and _CHAPTER_ENTRIES.intersection(track.sample_entries)):
            others.append(_description(stream, track))
    if picture.metadata.get("alpha_mode") == "1":
        others.append("the transparency of the picture")
    if "timecode" in container.metadata and _TIMECODE not in others:
        others.append(_TIMECODE)
    track = Mp4Track() if index is None else index.track(picture.id)
    spherical = {"sv3d"} if track.is_spherical_v1 else set()  # FFmpeg writes it as version 2
    date = container.metadata.get("creation_time", "")
    has_no_date = date.startswith(_NO_DATE)
    found = {_name(name): value for name, value in container.metadata.items()}
    renamed = {
        _APPLE[name]: value[:_VALUE_CHARS_MAX]
        for name, value in found.items()
        if name in _APPLE and _APPLE[name] not in found
    }
    names = {_APPLE.get(name, name) for name in found} - _CONTAINER_OWN
    return FilmExtras(
        subtitles=tuple(subtitles),
        chapter_count=chapter_count,
        metadata=tuple(sorted(names - {"creation_time"} if has_no_date else names)),
        renamed=tuple(sorted(renamed.items())),
        has_no_date=has_no_date,
        picture_boxes=tuple(sorted((track.entry_boxes | spherical) - _ENTRY_OWN)),
        streams=tuple(others),
    )


def _description(stream: Stream, track: Mp4Track) -> str:
    if stream.type == "video":
        if stream.disposition & Disposition.attached_pic:
            return "a cover picture"
        return f"a second video stream ({_codec(stream, track)})"
    if stream.type == "attachment":
        return f"an attachment ({_named(stream.metadata.get('filename', 'without a name'))})"
    return f"a data stream ({_codec(stream, track)})"


def _codec(stream: Stream, track: Mp4Track) -> str:
    """Return the codec's name, or the type in the index where FFmpeg has none."""
    context = getattr(stream, "codec_context", None)
    if context is not None:
        return str(context.codec.canonical_name)
    return _named(track.sample_entries[0]) if track.sample_entries else "unknown"


def _name(text: str) -> str:
    """Return the name of a metadata entry without the language that FFmpeg appends."""
    name, dash, language = text.lower().rpartition("-")
    is_language = dash and len(language) == _LANGUAGE_CHARS and language.isalpha()
    return _named(name if is_language else text.lower())


def _named(text: str) -> str:
    printable = "".join(c if c.isprintable() else "?" for c in text)
    return printable[:_NAME_CHARS_MAX]
