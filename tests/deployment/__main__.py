"""Test the images and the compose file: `python -m tests.deployment`, as root.

Builds the image of each service from the Dockerfile and starts the services and the one-shot with
Compose, against a real Kafka, PostgreSQL and MinIO on this machine's loopback; then runs a job over
HTTP and downloads its video. The output ends with what this does not test.

Exit codes: 0 passed, 1 failed, 3 cannot run on this machine.

I/O: processes, files, the network; the steps run in the order listed in `steps.py`.
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
from tests.deployment.engine import Engine, EngineUnavailableError
from tests.deployment.steps import NOT_TESTED, CheckFailedError, DeploymentSteps, gather, report

EXIT_UNAVAILABLE = 3
BUDGET_S = 1200  # twice the duration without a cache


def main() -> int:
    """Run all steps; return the exit code."""
    begin_s = time.monotonic()
    signal.signal(signal.SIGALRM, _raise_timeout)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    signal.alarm(BUDGET_S)
    try:
        with ExitStack() as stack:
            _run_steps(stack)
    except EngineUnavailableError as error:
        report(f"CANNOT RUN HERE: {error}")
        report("Neither the Dockerfile nor docker-compose.yml was tested.")
        return EXIT_UNAVAILABLE
    except (CheckFailedError, SegueError) as error:
        report(f"FAILED: {error}")
        return 1
    report(f"passed in {time.monotonic() - begin_s:.0f} s; not tested:")
    for item in NOT_TESTED:
        report(f"  - {item}")
    return 0


def _run_steps(stack: ExitStack) -> None:
    tools = ToolSettings.from_environment()
    with step("packages of the engine"):
        engine.install()
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="segue-proof-")))
    folder.chmod(0o711)  # PostgreSQL runs as another user and needs its folder in it
    with step("base image, Compose and servers"):
        parts = gather(tools, folder, stack)
    docker = Engine(folder / "engine")
    stack.callback(docker.stop)
    with step("engine"):
        docker.start()
    steps = DeploymentSteps(docker, parts, folder=folder)
    for name, run_step in steps.all():
        with step(name):
            run_step()


def _raise_timeout(*_: object) -> None:
    raise CheckFailedError(f"timeout after {BUDGET_S} s")


@contextmanager
def step(name: str) -> Iterator[None]:
    """Report the name of a step and its duration."""
    begin_s = time.monotonic()
    report(f"{name} …")
    try:
        yield
    finally:
        report(f"{name}: {time.monotonic() - begin_s:.1f} s")


if __name__ == "__main__":
    sys.exit(main())
