"""Prints what a call sees in the sandbox, before and after the server is killed, as JSON lines.

`python -m tests.support.sandbox_program`; a test runs it with a forked server and with its own.
"""

import asyncio
import json
import os
import signal
from importlib import import_module
from pathlib import Path

from shared.errors import RetryableError
from shared.media.sandbox import MediaSandbox
from shared.settings import MediaSettings
from tests.support.forked_sandbox import is_sandbox_server

_ENDS_S = 20.0


def surroundings() -> str:
    """Return what this process has of the program that called it."""
    return json.dumps(
        {
            "environment": sorted(os.environ),  # noqa: TID251 - it is the result
            "files": [
                Path(f"/proc/self/fd/{number}").resolve().name.partition(":")[0]
                for number in range(3)
            ],
            "session": os.getsid(0),
            "server": os.getppid(),
        }
    )


async def _call(sandbox: MediaSandbox) -> str:
    """Return the result of a call, repeated while the killed server ends."""
    async with asyncio.timeout(_ENDS_S):
        while True:
            try:
                return await sandbox.run(surroundings)
            except RetryableError:
                await asyncio.sleep(0)


async def main() -> None:
    """Call twice; kill the server in between."""
    sandbox = MediaSandbox(MediaSettings())
    for _ in range(2):
        seen = json.loads(await _call(sandbox))
        server = seen.pop("server")
        own_session = seen.pop("session") == server
        parent = int(Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()[1])
        seen |= {"is_server": is_sandbox_server(server), "own_session": own_session}
        seen |= {"is_child": parent == os.getpid()}
        seen |= {"forked": b"sandbox.server" not in Path(f"/proc/{server}/cmdline").read_bytes()}
        print(json.dumps(seen), flush=True)  # noqa: T201 - the program's output
        os.kill(server, signal.SIGKILL)


if __name__ == "__main__":
    # the server imports the function's module, which must not be `__main__`
    asyncio.run(import_module("tests.support.sandbox_program").main())
