"""The forked server of a sandbox: a call sees what it sees in a server that was started."""

import json
from typing import Any

from tests.support.fork_server import start_forked

ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "LANG": "C.UTF-8",  # without it, a Python that starts adds a variable of its own
    "DATABASE_URL": "postgresql://secret@127.0.0.1/none",
}


async def _calls(*, forks_sandbox: bool) -> list[dict[str, Any]]:
    """Return what two calls saw; the server is killed after each."""
    process = await start_forked(
        "tests.support.sandbox_program", environment=ENVIRONMENT, forks_sandbox=forks_sandbox
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return [json.loads(line) for line in output.splitlines()]


async def test_a_forked_server_has_nothing_of_its_program_and_is_replaced_when_it_ends() -> None:
    """The next server is a started one; both are children of the program, in their own session."""
    forked, replaced = await _calls(forks_sandbox=True)
    started, _ = await _calls(forks_sandbox=False)

    assert forked.pop("forked")
    assert not replaced.pop("forked")
    assert not started.pop("forked")
    assert forked == replaced == started
    assert forked["is_server"]
    assert forked["is_child"]
    assert forked["own_session"]
    assert "DATABASE_URL" not in forked["environment"]
