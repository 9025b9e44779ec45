"""Runs the Replicate emulator: `python -m replicate_server --port 5050`.

Prints its URL and API token, and runs until Ctrl-C or SIGTERM.

I/O: a listening socket on 127.0.0.1; standard output.
"""

import argparse
import asyncio
import signal
import sys
import warnings
from typing import Any

from replicate_server import HARDWARE_S_PER_S, EmulatorSettings, ReplicateEmulator
from shared.errors import ServerStartError
from shared.storage import StandInWarning

_FLAGS: dict[str, tuple[type, str]] = {
    "port": (int, "port of 127.0.0.1 (default: a free one)"),
    "token": (str, "API token (default: a new one)"),
    "queue_s": (float, "seconds that every prediction is queued"),
    "cold_start_s": (float, "additional seconds of a cold start"),
    "work_s": (float, "seconds that every prediction takes"),
    "work_s_per_s": (float, "additional seconds per second of music"),
    "hardware_s_per_s": (float, "charged seconds per second of music, at least (default: 1.5)"),
    "creations_per_min": (float, "predictions per minute"),
    "creation_burst": (int, "predictions at once"),
    "credit_usd": (float, "credit of the account in dollars (default: unlimited)"),
    "delivery_ttl_s": (float, "seconds until an output URL expires"),
}


def main() -> int:
    """Run until SIGINT or SIGTERM; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m replicate_server", description="An emulator of Replicate's API."
    )
    for name, (kind, text) in _FLAGS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help=text)
    options = {
        name: value for name, value in vars(parser.parse_args()).items() if value is not None
    }
    warnings.simplefilter("ignore", StandInWarning)  # printed below instead
    try:
        asyncio.run(_serve(options))
    except (ServerStartError, ValueError) as error:
        sys.stderr.write(f"Replicate emulator: {error}\n")
        return 1
    return 0


async def _serve(options: dict[str, Any]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stop.set)
    options = {"hardware_s_per_s": HARDWARE_S_PER_S, **options}
    async with ReplicateEmulator(EmulatorSettings(**options)) as emulator:
        sys.stdout.write(
            "stand-in: an emulator of Replicate; the built-in synthesizer composes its music\n"
            f"REPLICATE_BASE_URL={emulator.base_url}\n"
            f"REPLICATE_API_KEY={emulator.token}\n"
            f"# ledger: {emulator.ledger_url}\n"
        )
        sys.stdout.flush()
        await stop.wait()


if __name__ == "__main__":
    sys.exit(main())
