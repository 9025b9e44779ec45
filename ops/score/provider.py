"""Decides which provider composes for a command, and says so in its first line.

An option wins over `MUSIC_PROVIDER`; without both it is Replicate if there is a key, else the
synthesizer. A stack that runs already has its own. A key that is missing or rejected ends the
command before anything is uploaded or paid.

I/O: HTTP to Replicate; reads whether a stack runs.
"""

import asyncio

from rich.console import Console

from ops.cli.exit_codes import CommandError, Exit
from ops.cli.options import named_provider
from ops.cli.settings import CommandSettings
from shared.http.account_check import check_account
from shared.local_stack import RunningStack, find_stack
from shared.music_providers import PROVIDERS, ProviderChoice, StackProvider, choose_provider
from shared.pricing import ReplicateAccount

OPTION = "--provider"


def choose(
    settings: CommandSettings,
    option: str | None,
    *,
    stack: RunningStack | None,
    may_differ: bool = False,
) -> ProviderChoice:
    """Return the provider of the running `stack`, or of the one to start, and why.

    `may_differ`: only a plan is made, so the option may name another one than the stack's.

    Raises:
        CommandError: there is no such provider, or the stack has another one.
    """
    account = ReplicateAccount.from_environment()
    wanted = None if option is None else named_provider(option)
    if stack is not None and (wanted is None or not may_differ):
        return _of_stack(stack, wanted, has_key=account.has_key)
    if wanted is not None:
        return choose_provider(wanted, has_key=account.has_key, wanted_by=OPTION)
    named = None if settings.provider is None else _named_by_variable(settings.provider)
    return choose_provider(named, has_key=account.has_key)


def announce(settings: CommandSettings, option: str | None, *, console: Console) -> None:
    """Print which provider composes and why; check its key, unless its stack runs already.

    Raises:
        CommandError: another provider than that of the api or the stack is named.
        SettingsError: the provider needs a key, and it is missing or rejected.
    """
    if settings.api_url is not None:
        if option is not None:
            raise CommandError(
                Exit.USAGE,
                f"--provider: the api at {settings.api_url} has its own provider; leave it out",
            )
        console.print(f"Music: by the provider of the api at {settings.api_url}")
        return
    stack = find_stack(settings.home.folder)
    choice = choose(settings, option, stack=stack)
    if stack is None:
        announce_choice(choice, console=console)
    else:
        console.print(str(choice))


def announce_choice(choice: ProviderChoice, *, console: Console) -> None:
    """Print the provider of a stack to start, and why; check its key.

    Raises:
        SettingsError: the provider needs a key, and it is missing or rejected.
    """
    console.print(str(choice))
    note = asyncio.run(check_account(choice, ReplicateAccount.from_environment()))
    if note is not None:
        console.print(f"note: {note}")


def _of_stack(stack: RunningStack, wanted: str | None, *, has_key: bool) -> ProviderChoice:
    if wanted is not None and wanted != stack.provider:
        raise CommandError(
            Exit.USAGE,
            f"the stack at {stack.api_url} uses the provider {stack.provider}, not {wanted}; "
            "stop it, or leave out --provider",
        )
    reason = f"the stack at {stack.api_url} uses it"
    if has_key and not PROVIDERS[named_provider(stack.provider)].is_paid:
        reason += "; it started without REPLICATE_API_KEY: stop it to use replicate"
    return ProviderChoice(name=named_provider(stack.provider), reason=reason)


def _named_by_variable(name: str) -> StackProvider:
    try:
        return named_provider(name)
    except CommandError as error:
        message = str(error).replace(OPTION, "MUSIC_PROVIDER", 1)
        raise CommandError(Exit.USAGE, message) from error
