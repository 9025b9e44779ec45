"""Detects the container of a video from its first bytes, and whether the file was cut off.

I/O: reads one local file.
"""

from pathlib import Path

from shared.errors import MediaError
from shared.media.mp4_boxes import read_index

NAMES = {"mov": "MP4", "matroska": "Matroska"}
#: makes an H.264 MP4 of anything that FFmpeg reads; H.264 needs even sizes
CONVERT = (
    'ffmpeg -i IN -vf "crop=trunc(iw/2)*2:trunc(ih/2)*2" '
    "-c:v libx264 -crf 18 -pix_fmt yuv420p -c:a aac OUT.mp4"
)
_ADVICE = f"MP4, MOV, Matroska and WebM are supported; convert it: {CONVERT}"
_HEAD_BYTES = 512
_MOV_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp"})
_MATROSKA_MAGIC = b"\x1a\x45\xdf\xa3"
_SEGMENT = b"\x18\x53\x80\x67"


def demuxer_of(path: Path) -> str:
    """Return FFmpeg's name of the demuxer: "mov" or "matroska".

    Raises:
        MediaError: the file is neither; the message is for users.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    return demuxer_of_head(head)


def demuxer_of_head(head: bytes) -> str:
    """Return FFmpeg's name of the demuxer for a file that begins with `head`.

    Raises:
        MediaError: as `demuxer_of`.
    """
    if head[4:8] in _MOV_BOXES:
        return "mov"
    if head.startswith(_MATROSKA_MAGIC):
        return "matroska"
    if not head:
        raise MediaError("not a video: the file is empty")
    if "".join(head.decode("utf-8", errors="ignore").split()).isprintable():
        raise MediaError(f"not a video: the file is text. {_ADVICE}")
    raise MediaError(f"not a video, or an unsupported format. {_ADVICE}")


def is_cut(path: Path) -> bool:
    """Return whether the file is shorter than its own structure says."""
    if demuxer_of(path) == "mov":
        return not read_index(path).is_complete
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    _, header_start, header_size = _element(head, 0)
    if header_size is None:
        return False
    kind, start, length = _element(head, header_start + header_size)
    return kind == _SEGMENT and length is not None and start + length > size


def _element(data: bytes, at: int) -> tuple[bytes, int, int | None]:
    """Return id, start and size of the EBML element at `at`; None: the size is unknown."""
    kind = data[at : at + 4]
    first = data[at + 4 : at + 5]
    if not first or not first[0]:
        return kind, at, None
    width = 9 - first[0].bit_length()
    value = int.from_bytes(data[at + 4 : at + 4 + width]) & ((1 << 7 * width) - 1)
    is_unknown = value == (1 << 7 * width) - 1
    return kind, at + 4 + width, None if is_unknown else value
