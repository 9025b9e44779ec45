"""Reads the boxes of an MP4 or MOV file that FFmpeg does not report: edits and sample entries.

FFmpeg presents an edit list correctly, but can copy only a picture that one edit shows.
`single_edit_patch` returns the bytes that turn an edit list that means one edit into one: edits of
length 0 are removed, and an edit that continues the previous one is joined with it.

Sources: ISO/IEC 14496-12 (boxes, edit lists, sample entries), 14496-12 8.12 (protected entries).
Units: positions and sizes in bytes, times in the timescale that the field names. Only the headers
of boxes and a few small boxes are read, never sample tables. I/O: reads one local file.
"""

import itertools
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

from shared.errors import MediaError

EDITS_MAX = 10_000  # an editor's reference movie has hundreds
_BOXES_MAX = 200_000  # two per fragment of a film of six hours
_ENTRIES_MAX = 64  # sample entries of a track, and boxes in one
_TRACKS_MAX = 256
_VISUAL_ENTRY_BYTES = 78  # fields of a picture's sample entry before its boxes
_TICKS_MAX = 0xFFFFFFFF  # of an edit in an edit list of version 0
_EMPTY = -1  # media time of an edit that shows nothing
_NORMAL_SPEED = 0x10000
_LIST_HEAD = struct.Struct(">I4sB3xI")
_HEAD_BYTES, _LONG_HEAD_BYTES = 8, 16  # of a box: size and type, then a 64-bit size
_FILE_BYTES_MAX = 1 << 48
_SPHERICAL_V1 = bytes.fromhex("ffcc8263f8554a938814587a02521fdd")
_PROTECTED = frozenset({"encv", "drmi"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """One entry of an edit list."""

    length: int  #: in the movie's timescale
    start: int  #: media time in the track's timescale; -1: nothing is shown
    rate: int  #: 16.16 fixed point; 65,536 is normal speed


@dataclass(frozen=True, slots=True, kw_only=True)
class EditList:
    """The edits of a track and their position in the file."""

    position: int  #: of the whole box
    size: int  #: of the whole box
    version: int  #: 1: entries have 64-bit fields
    edits: tuple[Edit, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mp4Track:
    """What the index says about one track."""

    track_id: int = 0
    timescale: int = 0  #: of media times, per second
    duration: int = 0  #: of the media, in `timescale`
    edit_list: EditList | None = None
    sample_entries: tuple[str, ...] = ()  #: their types, such as "avc1"
    entry_boxes: frozenset[str] = frozenset()  #: types of the boxes in the sample entries
    is_spherical_v1: bool = False  #: marked as spherical by XML, which version 2 replaced by boxes

    @property
    def is_encrypted(self) -> bool:
        """Whether a sample entry is protected (CENC, FairPlay)."""
        return "sinf" in self.entry_boxes or not _PROTECTED.isdisjoint(self.sample_entries)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mp4Index:
    """The index of a file; empty if the file has none."""

    is_complete: bool  #: no box extends beyond the end of the file
    is_fragmented: bool
    timescale: int  #: of edit lengths, per second
    tracks: tuple[Mp4Track, ...]

    def lead_s(self, track: Mp4Track) -> Fraction:
        """Return how long the edit list shows nothing before the track begins, in seconds."""
        edits = () if track.edit_list is None else track.edit_list.edits
        empty = itertools.takewhile(lambda edit: edit.start == _EMPTY, edits)
        return Fraction(sum(edit.length for edit in empty), self.timescale or 1)

    def track(self, track_id: int) -> Mp4Track:
        """Return the track with this id, or one without content."""
        return next((t for t in self.tracks if t.track_id == track_id), Mp4Track())


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """Bytes to replace at a position of a file."""

    position: int
    hex: str  #: the new bytes, in a form that crosses processes
    joins_edits: bool = False  #: the result shows in one edit what several edits showed

    @property
    def data(self) -> bytes:
        """Return the new bytes."""
        return bytes.fromhex(self.hex)

    def apply(self, path: Path) -> None:
        """Replace the bytes in the file at `path`."""
        with path.open("r+b") as file:
            file.seek(self.position)
            file.write(self.data)


@dataclass(frozen=True, slots=True)
class _Box:
    kind: str
    start: int  # of the content
    end: int
    place: int = 0  # of the header


def read_index(path: Path) -> Mp4Index:
    """Return the index of the MP4 or MOV file at `path`.

    Raises:
        MediaError: an edit list or a sample entry is longer than any valid one.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        is_complete, movie = True, _Box("moov", 0, 0)
        for box in _boxes(file, 0, size):
            is_complete = is_complete and box.end <= size
            if box.kind == "moov":
                movie = box
        parts = list(_boxes(file, movie.start, min(movie.end, size)))
        header = next((b for b in parts if b.kind == "mvhd"), None)
        traks = [box for box in parts if box.kind == "trak"][:_TRACKS_MAX]
        return Mp4Index(
            is_complete=is_complete,
            is_fragmented=any(box.kind == "mvex" for box in parts),
            timescale=0 if header is None else _times(file, header)[0],
            tracks=tuple(_track(file, box) for box in traks),
        )


def next_box(data: bytes) -> tuple[str, int] | None:
    """Return type and size of the box whose header `data` begins with; None: incomplete."""
    if len(data) < _LONG_HEAD_BYTES:
        return None
    size, kind = struct.unpack(">I4s", data[:_HEAD_BYTES])
    if size == 1:
        (size,) = struct.unpack(">Q", data[_HEAD_BYTES:_LONG_HEAD_BYTES])
    return (kind.decode("latin-1"), size) if size >= _HEAD_BYTES else None


def single_edit_patch(index: Mp4Index, track: Mp4Track) -> Patch | None:
    """Return the patch after which one edit shows the picture; None if none is needed.

    Raises:
        MediaError: several edits, or one with another speed, show the picture.
    """
    if track.edit_list is None or not track.timescale or not index.timescale:
        return None
    edits = track.edit_list.edits
    if any(edit.rate != _NORMAL_SPEED and edit.start != _EMPTY for edit in edits):
        raise MediaError("the film's edit list shows the picture at another speed")
    simple = _joined(_with_length(edits, index, track), index, track)
    shown = [edit for edit in simple if edit.start != _EMPTY]
    if len(shown) > 1 or (shown and simple[-1] is not shown[0]):
        raise MediaError(f"the film's edit list shows the picture in {len(simple)} parts")
    if tuple(simple) == edits:
        return None
    return Patch(
        position=track.edit_list.position,
        hex=_rewritten(track.edit_list, simple).hex(),
        joins_edits=sum(edit.start != _EMPTY and edit.length > 0 for edit in edits) > 1,
    )


def end_patch(index: Mp4Index, track: Mp4Track, length_s: float) -> Patch | None:
    """Return the patch that ends the last edit after `length_s`; None if it ends before."""
    if track.edit_list is None or not track.edit_list.edits:
        return None
    *others, last = track.edit_list.edits
    length = math.ceil(round(length_s * index.timescale, 3))
    if last.start == _EMPTY or last.length <= length:
        return None
    edits = [*others, replace(last, length=length)]
    return Patch(position=track.edit_list.position, hex=_rewritten(track.edit_list, edits).hex())


def _rewritten(old: EditList, edits: Sequence[Edit]) -> bytes:
    """Return the bytes of the box `old` with fewer edits; a free box fills the rest."""
    entry = ">QqI" if old.version else ">IiI"
    data = b"".join(struct.pack(entry, edit.length, edit.start, edit.rate) for edit in edits)
    size = _LIST_HEAD.size + len(data)
    rest = old.size - size
    free = struct.pack(">I4s", rest, b"free").ljust(rest, b"\0")
    if rest < _HEAD_BYTES:
        size, free = old.size, bytes(rest)
    return _LIST_HEAD.pack(size, b"elst", old.version, len(edits)) + data + free


def _with_length(edits: Sequence[Edit], index: Mp4Index, track: Mp4Track) -> list[Edit]:
    """Return the edits without empty ones; a single edit of length 0 shows the whole media."""
    long = [edit for edit in edits if edit.length > 0]
    shown = [edit for edit in edits if edit.start != _EMPTY]
    if any(edit.start != _EMPTY for edit in long) or not shown or index.is_fragmented:
        return long or list(edits)
    ticks = -(-track.duration * index.timescale // track.timescale)
    whole = replace(shown[0], length=min(max(ticks, 1), _TICKS_MAX))
    return [*(edit for edit in long if edit.start == _EMPTY), whole]


def _joined(edits: Sequence[Edit], index: Mp4Index, track: Mp4Track) -> list[Edit]:
    """Join each edit that continues the previous one; lengths are rounded to the movie's ticks."""
    result: list[Edit] = []
    for edit in edits:
        last = result[-1] if result else None
        if last is not None and _EMPTY not in (last.start, edit.start):
            tick = Fraction(track.timescale, index.timescale)
            end = last.start + last.length * tick
            if abs(edit.start - end) <= max(tick, Fraction(1)):
                result[-1] = replace(last, length=last.length + edit.length)
                continue
        result.append(edit)
    return result


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[_Box]:
    """Yield the boxes from `start`; the last one may extend beyond `end`."""
    for _ in range(_BOXES_MAX):
        if not _HEAD_BYTES <= end - start <= _FILE_BYTES_MAX:
            return
        file.seek(start)
        header = file.read(_LONG_HEAD_BYTES)
        if len(header) < _HEAD_BYTES:
            return
        size, kind = struct.unpack(">I4s", header[:_HEAD_BYTES])
        content = start + _HEAD_BYTES
        if size == 1 and len(header) == _LONG_HEAD_BYTES:
            (size,) = struct.unpack(">Q", header[_HEAD_BYTES:])
            content = start + _LONG_HEAD_BYTES
        elif size == 0:  # to the end of the file
            size = end - start
        if start + size < content:
            return
        yield _Box(kind.decode("latin-1"), content, start + size, start)
        start += size


def _track(file: BinaryIO, trak: _Box) -> Mp4Track:
    track = Mp4Track()
    for box in _boxes(file, trak.start, trak.end):
        if box.kind == "tkhd":
            version = _read(file, box, 0, 1)[0]
            at = 20 if version else 12
            track = replace(track, track_id=int.from_bytes(_read(file, box, at, 4)))
        elif box.kind == "edts":
            for inner in _boxes(file, box.start, box.end):
                if inner.kind == "elst":
                    track = replace(track, edit_list=_edit_list(file, inner))
        elif box.kind == "uuid" and _read(file, box, 0, 16) == _SPHERICAL_V1:
            track = replace(track, is_spherical_v1=True)
        elif box.kind == "mdia":
            track = _with_media(file, box, track)
    return track


def _with_media(file: BinaryIO, mdia: _Box, track: Mp4Track) -> Mp4Track:
    for box in _boxes(file, mdia.start, mdia.end):
        if box.kind == "mdhd":
            timescale, duration = _times(file, box)
            track = replace(track, timescale=timescale, duration=duration)
        elif box.kind == "minf":
            for table in _boxes(file, box.start, box.end):
                if table.kind != "stbl":
                    continue
                for entries in _boxes(file, table.start, table.end):
                    if entries.kind == "stsd":
                        track = _with_entries(file, entries, track)
    return track


def _with_entries(file: BinaryIO, stsd: _Box, track: Mp4Track) -> Mp4Track:
    kinds: list[str] = []
    inside: set[str] = set()
    for number, entry in enumerate(_boxes(file, stsd.start + 8, stsd.end)):
        if number == _ENTRIES_MAX:
            raise MediaError(f"a track has more than {_ENTRIES_MAX} sample descriptions")
        kinds.append(entry.kind)
        boxes = _boxes(file, entry.start + _VISUAL_ENTRY_BYTES, entry.end)
        inside.update(box.kind for box, _ in zip(boxes, range(_ENTRIES_MAX), strict=False))
    return replace(track, sample_entries=tuple(kinds), entry_boxes=frozenset(inside))


def _edit_list(file: BinaryIO, box: _Box) -> EditList:
    version = _read(file, box, 0, 1)[0]
    count = int.from_bytes(_read(file, box, 4, 4))
    if count > EDITS_MAX:
        raise MediaError(f"an edit list has {count} entries, at most {EDITS_MAX} are allowed")
    entry = struct.Struct(">QqI" if version else ">IiI")
    data = file.read(min(count * entry.size, max(box.end - box.start - 8, 0)))
    whole = data[: len(data) // entry.size * entry.size]
    edits = tuple(Edit(length=n, start=s, rate=r) for n, s, r in entry.iter_unpack(whole))
    return EditList(
        position=box.place, size=box.end - box.place, version=min(version, 1), edits=edits
    )


def _times(file: BinaryIO, box: _Box) -> tuple[int, int]:
    """Return timescale and duration of `mvhd` or `mdhd`."""
    fields = ">II" if _read(file, box, 0, 1)[0] == 0 else ">IQ"
    at = 12 if fields == ">II" else 20
    data = _read(file, box, at, struct.calcsize(fields))
    timescale, duration = struct.unpack(fields, data)
    return timescale, duration


def _read(file: BinaryIO, box: _Box, at: int, size: int) -> bytes:
    """Return `size` bytes at `at` of the box, zeros after its end."""
    file.seek(box.start + at)
    data = file.read(max(0, min(size, box.end - box.start - at)))
    return data.ljust(size, b"\0")
