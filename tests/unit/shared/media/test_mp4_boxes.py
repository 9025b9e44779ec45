"""Tests of reading an MP4's boxes: edit lists that mean one edit, and damaged files."""

import random
import struct
from pathlib import Path

import pytest

from shared.errors import MediaError
from shared.media.mp4_boxes import (
    Edit,
    EditList,
    Mp4Index,
    Mp4Track,
    Patch,
    end_patch,
    read_index,
    single_edit_patch,
)
from shared.media.patched_file import PatchedFile
from tests.support.odd_films import Box

NORMAL = 0x10000


def patch_of(*edits: tuple[int, int], rate: int = NORMAL, fragmented: bool = False) -> Patch | None:
    """Return the patch of edits (length in 1/1000 s, start in 1/12800 s) of a film of 4 s."""
    listed = tuple(Edit(length=length, start=start, rate=rate) for length, start in edits)
    track = Mp4Track(
        track_id=1,
        timescale=12_800,
        duration=51_200,
        edit_list=EditList(position=100, size=16 + 12 * len(listed), version=0, edits=listed),
    )
    index = Mp4Index(is_complete=True, is_fragmented=fragmented, timescale=1000, tracks=(track,))
    return single_edit_patch(index, track)


@pytest.mark.parametrize(
    "edits",
    [
        ((4000, 1024),),
        ((500, -1), (4000, 1024)),  # the picture begins later
        (),
    ],
)
def test_one_edit_needs_no_patch(edits: tuple[tuple[int, int], ...]) -> None:
    """Also after an empty edit, which the muxer writes as well."""
    assert patch_of(*edits) is None


def test_edits_that_continue_each_other_become_one() -> None:
    """The rest of the box becomes a free box; a tick of the movie may be lost by rounding."""
    patch = patch_of((1500, 1024), (0, 7), (2500, 20_229))

    assert patch is not None
    assert patch.position == 100
    assert patch.joins_edits
    assert patch.data == (
        struct.pack(">I4sII", 28, b"elst", 0, 1)
        + struct.pack(">IiI", 4000, 1024, NORMAL)
        + struct.pack(">I4s", 24, b"free")
        + bytes(16)
    )


def test_an_only_edit_of_length_0_shows_the_whole_media() -> None:
    """Except in fragments, where 0 means that the length is not known yet."""
    patch = patch_of((0, 1024))

    assert patch is not None
    assert not patch.joins_edits
    assert patch.data[16:] == struct.pack(">IiI", 4000, 1024, NORMAL)
    assert patch_of((0, 1024), fragmented=True) is None


@pytest.mark.parametrize(
    ("edits", "rate", "message"),
    [
        (((1000, 0), (1000, 25_600)), NORMAL, "in 2 parts"),
        (((1000, 0), (1000, 12_900)), NORMAL, "in 2 parts"),
        (((1000, 0), (500, -1), (1000, 12_800)), NORMAL, "in 3 parts"),
        (((1000, 0), (500, -1)), NORMAL, "in 2 parts"),
        (((1000, 0),), 2 * NORMAL, "at another speed"),
        (((1000, 0),), 0, "at another speed"),
    ],
)
def test_edits_that_one_edit_cannot_mean_are_refused(
    edits: tuple[tuple[int, int], ...], rate: int, message: str
) -> None:
    """The picture of the result would differ."""
    with pytest.raises(MediaError, match=message):
        patch_of(*edits, rate=rate)


def test_the_end_of_the_last_edit_can_be_moved_forward() -> None:
    """By whole ticks of the movie; an edit that ends before stays."""
    edits = (Edit(length=500, start=-1, rate=NORMAL), Edit(length=880, start=1024, rate=NORMAL))
    track = Mp4Track(
        track_id=1,
        timescale=12_800,
        edit_list=EditList(position=100, size=40, version=0, edits=edits),
    )
    index = Mp4Index(is_complete=True, is_fragmented=False, timescale=1000, tracks=(track,))

    patch = end_patch(index, track, 0.7924)

    assert patch is not None
    assert patch.position == 100
    assert patch.data[16:] == struct.pack(">IiI", 500, -1, NORMAL) + struct.pack(
        ">IiI", 793, 1024, NORMAL
    )
    assert end_patch(index, track, 0.9) is None
    assert end_patch(index, Mp4Track(), 0.1) is None


def test_a_patched_file_reads_the_new_bytes_and_stays_unchanged(tmp_path: Path) -> None:
    """At every position and in parts of every length."""
    path = tmp_path / "file"
    path.write_bytes(bytes(range(100)))
    expected = bytes(range(40)) + b"abcdef" + bytes(range(46, 100))
    patch = Patch(position=40, hex=b"abcdef".hex())

    with PatchedFile(path, patch) as file:
        for start in range(36, 48):
            for size in (1, 3, 20):
                file.seek(start)
                assert file.read(size) == expected[start : start + size]
    assert path.read_bytes() == bytes(range(100))
    patch.apply(path)
    assert path.read_bytes() == expected


def test_a_long_edit_list_is_refused(tmp_path: Path) -> None:
    """Before it is read: the count may be 4 billion."""
    edits = Box(b"edts", inside=[Box(b"elst", struct.pack(">II", 0, 10_001) + bytes(12))])
    path = tmp_path / "a.mp4"
    path.write_bytes(Box(b"moov", inside=[Box(b"trak", inside=[edits])]).dump())

    with pytest.raises(MediaError, match="an edit list has 10001 entries"):
        read_index(path)


def test_a_damaged_index_is_read_or_refused(tmp_path: Path) -> None:
    """500 damaged files with a fixed seed raise no other error; sizes may point anywhere."""
    chance = random.Random(11)
    header = Box(b"mdhd", bytes(12) + struct.pack(">II", 1000, 4000))
    entry = Box(b"avc1", bytes(78) + Box(b"avcC", bytes(9)).dump())
    table = Box(b"stbl", inside=[Box(b"stsd", struct.pack(">II", 0, 1) + entry.dump())])
    media = Box(b"mdia", inside=[header, Box(b"minf", inside=[table])])
    edits = Box(b"edts", inside=[Box(b"elst", struct.pack(">IIIiI", 0, 1, 9, 0, NORMAL))])
    tracks = [Box(b"trak", inside=[Box(b"tkhd", bytes(24)), edits, media])] * 2
    film = Box(b"ftyp", b"isom").dump() + Box(b"moov", inside=tracks).dump()
    path = tmp_path / "a.mp4"
    complete = 0
    for _ in range(500):
        data = bytearray(film)
        for _ in range(chance.choice([0, 1, 5, 50])):
            data[chance.randrange(len(data))] = chance.choice([0, 1, 127, 255])
        path.write_bytes(data)
        try:
            complete += read_index(path).is_complete
        except MediaError:
            continue

    assert 0 < complete < 500
