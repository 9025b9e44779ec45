"""Ends a download whose sender is too slow: a minimum rate over every window of time.

A timeout per read does not do this: a sender of one byte per second never exceeds it.

Units: bytes, seconds.
"""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator

WINDOW_S = 15.0  #: a pause of the network is shorter


class TooSlowError(Exception):
    """The sender sent less than the minimum in a window."""


async def at_minimum_rate(
    chunks: AsyncIterable[bytes], *, bytes_per_s: float, window_s: float = WINDOW_S
) -> AsyncIterator[bytes]:
    """Yield `chunks`; the time that the reader of this iterator takes is not counted.

    Raises:
        TooSlowError: less than `bytes_per_s` arrived on average over `window_s`.
    """
    loop = asyncio.get_running_loop()
    stream = aiter(chunks)
    received, ends_s = 0, loop.time() + window_s
    while True:
        try:
            async with asyncio.timeout_at(ends_s):
                chunk = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            raise TooSlowError(
                f"{received} bytes in {window_s:g} s; at least {bytes_per_s:g} bytes per second "
                "are required"
            ) from error
        received += len(chunk)
        if received >= bytes_per_s * window_s:
            received, ends_s = 0, loop.time() + window_s
        handed_over_s = loop.time()
        yield chunk
        ends_s += loop.time() - handed_over_s
