"""Writes small and unusual films for tests: ffmpeg makes them, and their boxes are rewritten."""

import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.films import real_ffmpeg

_CONTAINERS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts"}
_SPHERICAL_V1 = bytes.fromhex("ffcc8263f8554a938814587a02521fdd") + (
    b'<?xml version="1.0"?><rdf:SphericalVideo xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-'
    b'ns#" xmlns:GSpherical="http://ns.google.com/videos/1.0/spherical/"><GSpherical:Spherical>true'
    b"</GSpherical:Spherical><GSpherical:Stitched>true</GSpherical:Stitched>"
    b"<GSpherical:StitchingSoftware>a camera</GSpherical:StitchingSoftware>"
    b"<GSpherical:ProjectionType>equirectangular</GSpherical:ProjectionType></rdf:SphericalVideo>"
)


X264 = ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-g", "25")
B_FRAMES = (*X264, "-bf", "2")
VP9 = ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8")
HEVC = ("-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=none")
FILM_S = 2


def ffmpeg(*args: str | Path) -> None:
    """Run ffmpeg; it must succeed."""
    argv = [real_ffmpeg().binary, "-v", "error", "-y", *map(str, args)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def film(path: Path, *args: str, size: str = "96x64", sound: bool = False) -> Path:
    """Encode a test picture of 2 s in 25 frames per second."""
    audio = ("-f", "lavfi", "-i", f"sine=r=48000:d={FILM_S}", "-c:a", "aac") if sound else ()
    inputs = ("-f", "lavfi", "-i", f"testsrc2=s={size}:r=25:d={FILM_S}", *audio[:4])
    ffmpeg(*inputs, *audio[4:], *args, path)
    return path


@dataclass
class Box:
    """A box: its content is bytes, or boxes if it is a container."""

    kind: bytes
    data: bytes = b""
    inside: "list[Box]" = field(default_factory=list)

    def child(self, *path: bytes) -> "Box":
        """Return the first box at this path."""
        box = self
        for kind in path:
            box = next(inner for inner in box.inside if inner.kind == kind)
        return box

    def dump(self) -> bytes:
        """Return the bytes of the box."""
        content = self.data + b"".join(inner.dump() for inner in self.inside)
        return struct.pack(">I4s", len(content) + 8, self.kind) + content


def boxes_of(data: bytes) -> Iterator[Box]:
    """Yield the boxes of `data`."""
    start = 0
    while start + 8 <= len(data):
        size, kind = struct.unpack(">I4s", data[start : start + 8])
        content = data[start + 8 : start + size]
        if kind in _CONTAINERS:
            yield Box(kind, inside=list(boxes_of(content)))
        else:
            yield Box(kind, content)
        start += size


class OddFilm:
    """An MP4 whose index follows its media, as ffmpeg writes it by default."""

    def __init__(self, source: Path) -> None:
        self.boxes = list(boxes_of(source.read_bytes()))
        self.movie = next(box for box in self.boxes if box.kind == b"moov")
        self.tracks = [box for box in self.movie.inside if box.kind == b"trak"]
        self.picture = next(
            t for t in self.tracks if t.child(b"mdia", b"hdlr").data[8:12] == b"vide"
        )

    def write(self, path: Path) -> Path:
        """Write the film and return its path."""
        path.write_bytes(b"".join(box.dump() for box in self.boxes))
        return path

    def with_edits(self, *edits: tuple[float, float], rate: int = 1) -> "OddFilm":
        """Show these parts (from, to; seconds), in this order; a negative start shows nothing."""
        movie_scale = int.from_bytes(self.movie.child(b"mvhd").data[12:16])
        for track in self.tracks:
            scale = int.from_bytes(track.child(b"mdia", b"mdhd").data[12:16])
            box = track.child(b"edts", b"elst")
            (offset,) = struct.unpack(">i", box.data[12:16])
            entries = [
                struct.pack(
                    ">IiHH",
                    round((end - start) * movie_scale),
                    -1 if start < 0 else offset + round(start * scale),
                    rate,
                    0,
                )
                for start, end in edits
            ]
            box.data = struct.pack(">II", 0, len(entries)) + b"".join(entries)
        return self

    def with_entry_box(self, box: Box) -> "OddFilm":
        """Add a box to the picture's sample entry."""
        stsd = self._table(b"stsd")
        entry = stsd.data[8:] + box.dump()
        stsd.data = stsd.data[:8] + struct.pack(">I", len(entry)) + entry[4:]
        return self

    def with_entry_type(self, kind: bytes) -> "OddFilm":
        """Replace the type of the picture's sample entry."""
        stsd = self._table(b"stsd")
        stsd.data = stsd.data[:12] + kind + stsd.data[16:]
        return self

    def with_spherical(self, version: int) -> "OddFilm":
        """Mark the picture as spherical, as version 1 (XML) or 2 (boxes) of the specification."""
        if version == 1:
            self.picture.inside.append(Box(b"uuid", _SPHERICAL_V1))
            return self
        projection = Box(b"proj", inside=[Box(b"prhd", bytes(16)), Box(b"equi", bytes(20))])
        self.with_entry_box(Box(b"st3d", bytes(4) + b"\1"))
        return self.with_entry_box(
            Box(b"sv3d", inside=[Box(b"svhd", bytes(4) + b"x\0"), projection])
        )

    def with_dolby_vision(self, profile: int, compatibility: int) -> "OddFilm":
        """Add the configuration of a Dolby Vision profile."""
        flags = struct.pack(">H", profile << 9 | 1 << 3 | 0b101)
        data = b"\1\0" + flags + bytes([compatibility << 4]) + bytes(19)
        return self.with_entry_box(Box(b"dvvC" if profile > 7 else b"dvcC", data))

    def with_length(self, length_s: float) -> "OddFilm":
        """Let every header claim this length."""
        movie = self.movie.child(b"mvhd")
        scale = int.from_bytes(movie.data[12:16])
        movie.data = _with_u32(movie.data, 16, round(length_s * scale))
        for track in self.tracks:
            header = track.child(b"tkhd")
            header.data = _with_u32(header.data, 20, round(length_s * scale))
            media = track.child(b"mdia", b"mdhd")
            ticks = round(length_s * int.from_bytes(media.data[12:16]))
            media.data = _with_u32(media.data, 16, ticks)
        return self

    def with_second_description(self, other: "OddFilm", *, samples: int) -> "OddFilm":
        """Describe all but the first `samples` frames by the sample entry of `other`."""
        stsd, sizes, chunks = self._table(b"stsd"), self._table(b"stsz"), self._table(b"stco")
        stsd.data = struct.pack(">II", 0, 2) + stsd.data[8:] + other._table(b"stsd").data[8:]
        (position,) = struct.unpack(">I", chunks.data[8:])  # of the only chunk
        positions = []  # a chunk for each frame
        for (size,) in struct.iter_unpack(">I", sizes.data[12:]):
            positions.append(position)
            position += size
        chunks.data = struct.pack(f">II{len(positions)}I", 0, len(positions), *positions)
        self._table(b"stsc").data = struct.pack(">8I", 0, 2, 1, 1, 1, samples + 1, 1, 2)
        return self

    def _table(self, kind: bytes) -> Box:
        return self.picture.child(b"mdia", b"minf", b"stbl", kind)


def entry_boxes(path: Path) -> tuple[str, set[str]]:
    """Return the type of the picture's sample entry and the types of the boxes in it."""
    data = OddFilm(path)._table(b"stsd").data[8:]
    (entry,) = boxes_of(data)
    return entry.kind.decode(), {box.kind.decode() for box in boxes_of(entry.data[78:])}


def _with_u32(data: bytes, at: int, value: int) -> bytes:
    return data[:at] + struct.pack(">I", value) + data[at + 4 :]


def matroska_with_encryption(data: bytes) -> bytes:
    """Return WebM `data` whose first track says that its frames are encrypted."""
    encryption = _element("5035", _element("47e1", b"\5") + _element("47e2", b"\1"))
    encoding = _element("6240", _element("5033", b"\1") + encryption)
    encodings = _element("6d80", encoding)
    segment = data.index(bytes.fromhex("18538067"))
    tracks = data.rindex(bytes.fromhex("1654ae6b"), segment, segment + 512)  # not its seek entry
    entry = data.index(b"\xae", tracks + 5)
    for at in (segment + 4, tracks + 4, entry + 1):
        data = _with_more(data, at, len(encodings))
    _, start, size = _size_at(data, entry + 1)
    end = start + size - len(encodings)
    return data[:end] + encodings + data[end:]


def _element(kind: str, content: bytes) -> bytes:
    return bytes.fromhex(kind) + bytes([0x80 | len(content)]) + content


def _size_at(data: bytes, at: int) -> tuple[int, int, int]:
    width = 9 - data[at].bit_length()
    value = int.from_bytes(data[at : at + width]) & ((1 << 7 * width) - 1)
    return width, at + width, value


def _with_more(data: bytes, at: int, more: int) -> bytes:
    """Return `data` with a larger size at `at`, in as many bytes."""
    width, end, value = _size_at(data, at)
    assert value + more < (1 << 7 * width) - 1, "the size has room"
    return data[:at] + (1 << 7 * width | value + more).to_bytes(width) + data[end:]
