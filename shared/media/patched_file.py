"""A read-only file in which some bytes are replaced, so that the file itself stays unchanged.

I/O: reads one local file.
"""

import io
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import override

from shared.media.mp4_boxes import Patch

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class PatchedFile(io.RawIOBase):
    """The file at `path` as it would be with `patch` applied."""

    def __init__(self, path: Path, patch: Patch) -> None:
        self._file = path.open("rb")
        self._position, self._data = patch.position, patch.data

    @override
    def readable(self) -> bool:
        return True

    @override
    def seekable(self) -> bool:
        return True

    @override
    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return self._file.seek(offset, whence)

    @override
    def tell(self) -> int:
        return self._file.tell()

    @override
    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        start = self._file.tell()
        view = memoryview(buffer).cast("B")
        size = self._file.readinto(view)
        position = self._position
        first = max(start, position)
        last = min(start + size, position + len(self._data))
        if first < last:
            view[first - start : last - start] = self._data[first - position : last - position]
        return size

    @override
    def close(self) -> None:
        self._file.close()
        super().close()
