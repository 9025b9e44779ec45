"""Digests the packets of a picture that its presented frames need, in decoding order.

An edit list may begin inside a group of pictures, so packets precede the first presented one that
are only decoded. A copy may leave out those before the last key frame of them, and those after the
last presented packet: no presented frame needs them.
"""

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer


class NeededPackets:
    """The packets from the key frame before the first presented one to the last presented one."""

    def __init__(self) -> None:
        self.whole = hashlib.sha256()  #: over all packets
        self._late: hashlib._Hash | None = None  # from a later key frame on
        self._key_time: int | None = None
        self._is_first = True
        self._is_presented = False
        self._refers_back = False  # a presented frame is shown before the later key frame
        self._before_rest: tuple[hashlib._Hash, hashlib._Hash | None] | None = None

    def add(self, data: "Buffer", *, time: int | None, is_key_frame: bool, is_hidden: bool) -> None:
        """Add the next packet in decoding order; `time` is when its frame is shown."""
        if is_hidden:
            if self._is_presented and self._before_rest is None:
                late = self._late
                self._before_rest = (self.whole.copy(), None if late is None else late.copy())
        else:
            self._before_rest = None
        if is_key_frame and not self._is_presented and not self._is_first:
            self._late, self._key_time = hashlib.sha256(), time
        if not is_hidden:
            self._is_presented = True
            key_time = self._key_time
            if self._late is not None:
                self._refers_back |= time is None or key_time is None or time < key_time
        self._is_first = False
        self.whole.update(data)
        if self._late is not None:
            self._late.update(data)

    def hexdigest(self) -> str:
        """Return the digest of the needed packets."""
        whole, late = self._before_rest or (self.whole, self._late)
        return (whole if late is None or self._refers_back else late).hexdigest()
