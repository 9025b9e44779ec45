"""Prove that the image and the compose file work: `python -m tests.deployment`, as root.

The image of each service is built from the Dockerfile, and Compose starts the four services and
the one-shot from them, against a real Kafka, PostgreSQL and MinIO on this machine's loopback; then
a job is asked for over HTTP and its video fetched. What this does not prove is said at the end.

Exit codes: 0 proved, 1 it does not work, 3 it cannot be proved on this machine.

I/O: everything; the steps are in the order in which they are taken.
"""

import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from embedded.toolchain.cache import ToolSettings
from shared.errors import SegueError
from tests.deployment import engine
from tests.deployment.engine import CannotProveError, Engine
from tests.deployment.proof import NOT_PROVED, DisprovedError, Proof, gather, say

CANNOT = 3
BUDGET_S = 1200  # twice what it takes with nothing cached


def main() -> int:
    """Prove it; the exit code."""
    began = time.monotonic()
    signal.signal(signal.SIGALRM, _too_late)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    signal.alarm(BUDGET_S)
    try:
        with ExitStack() as stack:
            _prove(stack)
    except CannotProveError as error:
        say(f"CANNOT BE PROVED HERE: {error}")
        say("Neither the Dockerfile nor docker-compose.yml was run: nothing is known about them.")
        return CANNOT
    except (DisprovedError, SegueError) as error:
        say(f"FAILED: {error}")
        return 1
    say(f"proved in {time.monotonic() - began:.0f} s; not proved:")
    for line in NOT_PROVED:
        say(f"  - {line}")
    return 0


def _prove(stack: ExitStack) -> None:
    tools = ToolSettings.from_environment()
    with step("engine's packages"):
        engine.install()
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="segue-proof-")))
    folder.chmod(0o711)  # PostgreSQL, another user, finds its folder in it
    with step("base image, Compose and servers"):
        parts = gather(tools, folder, stack)
    docker = Engine(folder / "engine")
    stack.callback(docker.stop)
    with step("engine"):
        docker.start()
    proof = Proof(docker, parts, folder=folder)
    for name, prove in proof.steps():
        with step(name):
            prove()


def _too_late(*_: object) -> None:
    raise DisprovedError(f"not done within {BUDGET_S} s")


@contextmanager
def step(name: str) -> Iterator[None]:
    """Say what is done and how long it took."""
    began = time.monotonic()
    say(f"{name} …")
    try:
        yield
    finally:
        say(f"{name}: {time.monotonic() - began:.1f} s")


if __name__ == "__main__":
    sys.exit(main())
