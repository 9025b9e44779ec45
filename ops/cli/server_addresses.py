"""Chooses the servers that a command connects to: those of the environment or of the local stack.

A variable of the environment wins for its server, and the running stack supplies the others; so one
exported variable does not hide the stack. If the environment names all servers, the stack is not
used. `--data-dir` selects the stack there, whatever the environment has.

I/O: files of the data folder.
"""

from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass
from pathlib import Path

from ops.cli.exit_codes import CommandError, Exit
from shared.local_stack import RunningStack, find_stack, is_data_dir_locked, read_stack_environment

KAFKA_VARIABLE, DATABASE_VARIABLE = "KAFKA_BOOTSTRAP_SERVERS", "DATABASE_URL"
#: of each server: the variables with its address, and the prefixes of all its variables
_SERVERS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "Kafka": ((KAFKA_VARIABLE,), ("KAFKA_", "SEGUE_KAFKA_", "SEGUE_TOPIC_PREFIX")),
    "PostgreSQL": ((DATABASE_VARIABLE,), (DATABASE_VARIABLE,)),
    "store": (("SEGUE_STORE_DIR", "MINIO_ENDPOINT"), ("SEGUE_STORE_DIR", "MINIO_")),
}
ADDRESS_VARIABLES = tuple(one for addresses, _ in _SERVERS.values() for one in addresses)
_REQUIRED = (DATABASE_VARIABLE, KAFKA_VARIABLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerChoice:
    """Where the addresses of a command's servers come from."""

    folder: Path  #: data folder of the local stack
    stack: RunningStack | None  #: the stack whose addresses are used
    #: variables of the environment that name other servers than the stack's
    others: tuple[str, ...] = ()
    #: variables that nothing sets, although the commands need them
    unset: tuple[str, ...] = ()
    is_any_named: bool = True  #: False: neither a stack nor the environment names a server

    @property
    def note(self) -> str:
        """Return what a user must know about the choice; empty if it is all of one kind."""
        if self.stack is None or not self.others:
            return ""
        return (
            f"{' and '.join(self.others)} of this shell and not of the stack on {self.folder}; the "
            "other servers are the stack's. To use the stack alone, unset it"
        )


def choose_servers(
    folder: Path, environment: MutableMapping[str, str], *, only_stack: bool = False
) -> ServerChoice:
    """Put the addresses of the stack on `folder` into the environment, where it names none.

    `only_stack`: the stack's win, and one must run there.

    Raises:
        CommandError: no stack runs there.
    """
    stack = find_stack(folder)
    if stack is None:
        if only_stack:
            raise CommandError(Exit.UNREACHABLE, no_stack(folder, way_out="", is_named=True))
        return ServerChoice(
            folder=folder,
            stack=None,
            unset=_unset(environment, _REQUIRED),
            is_any_named=any(environment.get(name) for name in ADDRESS_VARIABLES),
        )
    of_stack = read_stack_environment(folder)
    named = {
        name: [variable for variable in addresses if environment.get(variable)]
        for name, (addresses, _) in _SERVERS.items()
    }
    if only_stack:
        named = {name: [] for name in named}
    elif all(named.values()):
        return ServerChoice(folder=folder, stack=None)
    others: list[str] = []
    for name, (_, prefixes) in _SERVERS.items():
        if differing := [one for one in named[name] if environment[one] != of_stack.get(one)]:
            others += differing
            continue
        for variable in [one for one in environment if one.startswith(prefixes)]:
            del environment[variable]  # of another server, such as its user and its certificates
        values = {key: value for key, value in of_stack.items() if key.startswith(prefixes)}
        environment.update(values)
    return ServerChoice(
        folder=folder, stack=stack, others=tuple(others), unset=_unset(environment, _REQUIRED)
    )


def no_stack(folder: Path, *, way_out: str, is_named: bool = False) -> str:
    """Return the message of every command that needs a stack and finds none.

    `way_out`: what else the user can do; `is_named`: the user has named the folder.
    """
    if is_data_dir_locked(folder):
        return (
            f"The stack on {folder} is starting or stopping. Run the same command again in a few "
            "seconds."
        )
    place, option = (f"on {folder}", f" --data-dir {folder}") if is_named else ("here", "")
    sentence = f'No stack is running {place}. Start one with "segue up{option}"'
    return f"{sentence}, or {way_out}." if way_out else f"{sentence}."


def _unset(environment: MutableMapping[str, str], variables: Iterable[str]) -> tuple[str, ...]:
    return tuple(name for name in variables if not environment.get(name))
