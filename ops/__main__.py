"""Registers the commands of `segue`, in the groups of its help."""

from collections.abc import Callable
from typing import Annotated, Any

import typer

from ops.cli.exit_codes import HELP
from ops.cli.terminal import flush_streams, prepare_streams
from ops.cluster.commands import acls, prepare
from ops.cluster.topics import topics
from ops.dead_letters.commands import dlq
from ops.develop.schemas import schemas
from ops.doctor.machine import doctor
from ops.jobs.cancel import cancel
from ops.jobs.history import job
from ops.jobs.list import jobs
from ops.jobs.rebuild import rebuild
from ops.jobs.redrive import redrive
from ops.kafka_log.lag import lag
from ops.kafka_log.replay import replay
from ops.scenes.command import scenes
from ops.score.command import score
from ops.score.demo import demo
from ops.score.fetch import fetch
from ops.score.follow import status
from ops.score.local_stack import up
from ops.store.commands import store
from ops.watch.command import watch
from shared.telemetry import service_version

Command = Callable[..., Any]
#: the panels of `segue --help`
GROUPS: dict[str, tuple[Command, ...]] = {
    "Score a film": (demo, score, scenes, fetch),
    "Follow jobs": (status, jobs, job),
    "Operate": (watch, lag, cancel, redrive, replay, rebuild),
    "Servers and stacks": (up, doctor, prepare, topics, acls),
    "Develop": (schemas,),
}

app = typer.Typer(
    help="Score a stitched video with music, scene by scene.",
    epilog=HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


for _group, _commands in GROUPS.items():
    for _command in _commands:
        app.command(epilog=HELP, rich_help_panel=_group)(_command)
for _name, _subcommands in {"dlq": dlq, "store": store}.items():  # typer lists them last
    app.add_typer(_subcommands, name=_name, epilog=HELP, rich_help_panel="Operate")


def _print_version(is_asked: bool) -> None:  # noqa: FBT001 - typer's callback
    if is_asked:
        print(f"segue {service_version()}")
        raise typer.Exit


@app.callback()
def segue(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Score a stitched video with music, scene by scene."""


def main() -> None:
    """Run the command line; the installed `segue` calls this."""
    prepare_streams()
    try:
        app(prog_name="segue")
    finally:
        flush_streams()


if __name__ == "__main__":
    main()
