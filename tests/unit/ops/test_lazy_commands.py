"""A command imports only what it needs: all of them together take half a second."""

import json
import subprocess
import sys

from ops.__main__ import GROUPS
from tests.support.fork_server import REPOSITORY

PROGRAM = """
import json, sys
from ops.__main__ import app
import typer
group = typer.main.get_command(app)
group.get_command(None, sys.argv[1])
print(json.dumps(sorted(sys.modules)))
"""


def modules_of(command: str) -> set[str]:
    """Return the modules that are loaded for one command."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, command],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return set(json.loads(done.stdout))


def test_the_history_of_a_job_loads_no_other_command_and_no_media_library() -> None:
    """`segue job` takes less than a second."""
    modules = modules_of("job")
    named = {module for commands in GROUPS.values() for module in commands.values()}

    assert modules & named <= {"ops.jobs.history"}
    assert modules.isdisjoint({"av", "numpy", "fastapi", "PIL", "services.generator.settings"})
