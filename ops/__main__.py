"""Registers the commands of `segue`, in the groups of its help.

Only the module of the command that runs is imported: all of them take half a second.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typing_extensions import override

from ops.cli.exit_codes import HELP
from ops.cli.terminal import flush_streams, prepare_streams

#: the panels of `segue --help`: the commands, and the module of each
GROUPS: Mapping[str, Mapping[str, str]] = {
    "Score a film": {
        "demo": "ops.score.demo",
        "score": "ops.score.command",
        "scenes": "ops.scenes.command",
        "fetch": "ops.score.fetch",
    },
    "Follow jobs": {
        "status": "ops.score.follow",
        "jobs": "ops.jobs.list",
        "job": "ops.jobs.history",
    },
    "Operate": {
        "watch": "ops.watch.command",
        "lag": "ops.kafka_log.lag",
        "cancel": "ops.jobs.cancel",
        "redrive": "ops.jobs.redrive",
        "replay": "ops.kafka_log.replay",
        "rebuild": "ops.jobs.rebuild",
        "dlq": "ops.dead_letters.commands",
        "store": "ops.store.commands",
    },
    "Servers and stacks": {
        "up": "ops.score.local_stack",
        "doctor": "ops.doctor.machine",
        "prepare": "ops.cluster.commands",
        "topics": "ops.cluster.topics",
        "acls": "ops.cluster.commands",
    },
    "Develop": {"schemas": "ops.develop.schemas"},
}
_PANELS = {name: panel for panel, commands in GROUPS.items() for name in commands}


class LazyGroup(TyperGroup):
    """A group that imports a command when it is used or listed."""

    @override
    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands, and import them."""
        for name in _PANELS:
            self.get_command(ctx, name)
        return list(_PANELS)

    @override
    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command; None if there is none of this name."""
        if cmd_name in _PANELS and cmd_name not in self.commands:
            self.commands[cmd_name] = _load(cmd_name)
        return super().get_command(ctx, cmd_name)

    @override
    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command of `args`; of an unknown name, report the names that are close."""
        if args and args[0] not in _PANELS:
            self.list_commands(ctx)
        return super().resolve_command(ctx, args)


def _load(name: str) -> Any:
    """Import one command and return it as typer builds it."""
    panel = _PANELS[name]
    command = getattr(import_module(GROUPS[panel][name]), name)
    single = typer.Typer(rich_markup_mode="rich")
    if isinstance(command, typer.Typer):
        single.add_typer(command, name=name, epilog=HELP, rich_help_panel=panel)
    else:
        single.command(name, epilog=HELP, rich_help_panel=panel)(command)
    return typer.main.get_group(single).commands[name]


app = typer.Typer(
    cls=LazyGroup,
    help="Score a stitched video with music, scene by scene.",
    epilog=HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _print_version(is_asked: bool) -> None:  # noqa: FBT001 - typer's callback
    if is_asked:
        from shared.telemetry import service_version  # noqa: PLC0415 - only this option needs it

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
