"""Builds tiny MP4 files that claim, or contain, very much."""

import struct

_MATRIX = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
_WIDTH, _HEIGHT = 64, 48


def index_bomb(*, tracks: int = 1, samples: int = 20_000_000) -> bytes:
    """Return a file of 656 bytes whose index claims 20 million samples, or more in each track."""
    return _mp4(tracks=tracks, samples=samples, chunks=1, data=bytes(64))


def packet_bomb(*, samples: int = 1_000_000) -> bytes:
    """Return a file of 5.6 KB with a million packets on the same kilobyte."""
    return _mp4(tracks=1, samples=samples, chunks=1000, data=bytes(1024))


def _mp4(*, tracks: int, samples: int, chunks: int, data: bytes) -> bytes:
    head = _box(b"ftyp", b"isom\0\0\2\0isomiso2mp41")
    offsets = struct.pack(">I", len(head) + 8) * chunks
    traks = [_trak(number, samples, chunks, offsets) for number in range(1, tracks + 1)]
    times = struct.pack(">IIIIIH10x", 0, 0, 1000, 1000, 0x10000, 0x100)
    movie = _full(b"mvhd", times, _MATRIX, bytes(24), struct.pack(">I", tracks + 1))
    return head + _box(b"mdat", data) + _box(b"moov", movie, *traks)


def _trak(number: int, samples: int, chunks: int, offsets: bytes) -> bytes:
    entry = struct.pack(
        ">6xH16xHHIIIH32sHh", 1, _WIDTH, _HEIGHT, 0x480000, 0x480000, 0, 1, b"", 24, -1
    )
    table = _box(
        b"stbl",
        _full(b"stsd", struct.pack(">I", 1), _box(b"mp4v", entry)),
        _full(b"stts", struct.pack(">III", 1, samples, 1)),
        _full(b"stsc", struct.pack(">IIII", 1, 1, samples // chunks, 1)),
        _full(b"stsz", struct.pack(">II", 1, samples)),
        _full(b"stco", struct.pack(">I", chunks), offsets),
    )
    reference = _box(b"dinf", _full(b"dref", struct.pack(">I", 1), _full(b"url ", flags=1)))
    media = _box(
        b"mdia",
        _full(b"mdhd", struct.pack(">IIIIHH", 0, 0, 1_000_000, samples, 0x55C4, 0)),
        _full(b"hdlr", bytes(4), b"vide", bytes(12), b"v\0"),
        _box(b"minf", _full(b"vmhd", bytes(8), flags=1), reference, table),
    )
    times = struct.pack(">IIIII8xHHHH", 0, 0, number, 0, 1000, 0, 0, 0, 0)
    size = struct.pack(">II", _WIDTH << 16, _HEIGHT << 16)
    return _box(b"trak", _full(b"tkhd", times, _MATRIX, size, flags=3), media)


def _box(kind: bytes, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return struct.pack(">I", len(content) + 8) + kind + content


def _full(kind: bytes, *parts: bytes, flags: int = 0) -> bytes:
    return _box(kind, struct.pack(">I", flags), *parts)
