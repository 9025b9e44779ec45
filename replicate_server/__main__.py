"""The fake Replicate as a command: `python -m replicate_server --port 5050`.

Prints where it is and which token it takes, and runs until Ctrl-C or SIGTERM.

I/O: a listening socket on 127.0.0.1; standard output.
"""

import argparse
import asyncio
import signal
import sys
import warnings
from typing import Any

from replicate_server import EmulatorSettings, ReplicateEmulator
from shared.errors import ServerStartError
from shared.storage import StandInWarning

_FLAGS: dict[str, tuple[type, str]] = {
    "port": (int, "of 127.0.0.1 (default: any free one)"),
    "token": (str, "the API token it takes (default: a new one)"),
    "queue_s": (float, "seconds that every prediction waits"),
    "cold_start_s": (float, "seconds that the first one waits"),
    "work_s": (float, "seconds that each one takes"),
    "work_s_per_s": (float, "seconds that each second of music takes"),
    "creations_per_min": (float, "predictions that may be made in a minute"),
    "creation_burst": (int, "predictions that may be made at once"),
    "credit_usd": (float, "dollars in the account (default: no end of them)"),
    "delivery_ttl_s": (float, "seconds that an output can be fetched"),
}


def main() -> int:
    """Run until told to stop; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m replicate_server", description="A fake Replicate on this machine."
    )
    for name, (kind, what) in _FLAGS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help=what)
    given = {name: value for name, value in vars(parser.parse_args()).items() if value is not None}
    warnings.simplefilter("ignore", StandInWarning)  # it is said below, in our own words
    try:
        asyncio.run(_serve(given))
    except (ServerStartError, ValueError) as error:
        sys.stderr.write(f"fake Replicate: {error}\n")
        return 1
    return 0


async def _serve(given: dict[str, Any]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stop.set)
    async with ReplicateEmulator(EmulatorSettings(**given)) as fake:
        sys.stdout.write(
            "stand-in: a fake Replicate, its music comes from the built-in synthesizer\n"
            f"REPLICATE_BASE_URL={fake.base_url}\n"
            f"REPLICATE_API_KEY={fake.token}\n"
            f"# its ledger: {fake.ledger_url}\n"
        )
        sys.stdout.flush()
        await stop.wait()


if __name__ == "__main__":
    sys.exit(main())
