"""Lists the music providers: name, description, and what the cost estimates need; selects one.

With a key of Replicate the provider is `replicate`, without one `synth`; an explicit choice wins.
The rule is the same for the stack, its commands and the services. A new provider is a name in
`ProviderName` and a row in `PROVIDERS`; CONTRIBUTING lists the other places.
Pure.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from typing_extensions import override

#: the providers of the generator: the values of `MUSIC_PROVIDER`
ProviderName = Literal["synth", "silence", "replicate"]
#: the providers of a stack: also an emulator of Replicate, which needs no account
StackProvider = Literal[ProviderName, "fake-replicate"]
KEY_VARIABLE, PROVIDER_VARIABLE = "REPLICATE_API_KEY", "MUSIC_PROVIDER"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderFacts:
    """The facts about a provider."""

    description: str  #: a few words for users
    is_paid: bool  #: charges for the seconds of its hardware
    #: seconds on this machine per second of music, at the upper end; 0.0: negligible or remote
    local_s_per_music_s: float = 0.0


PROVIDERS: dict[StackProvider, ProviderFacts] = {
    # 0.1 when idle, 0.2 when all cores are busy
    "synth": ProviderFacts(description="offline, audible", is_paid=False, local_s_per_music_s=0.2),
    "silence": ProviderFacts(description="no music", is_paid=False),
    "replicate": ProviderFacts(description="MusicGen", is_paid=True),
    "fake-replicate": ProviderFacts(description="an emulator of Replicate", is_paid=True),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderChoice:
    """The provider in effect, and why."""

    name: StackProvider
    reason: str

    @override
    def __str__(self) -> str:
        """Return both as the first line of a command."""
        return f"Music: {self.name} ({PROVIDERS[self.name].description}), because {self.reason}"


def choose_provider(
    wanted: StackProvider | None, *, has_key: bool, wanted_by: str = PROVIDER_VARIABLE
) -> ProviderChoice:
    """Return `wanted`, which `wanted_by` names; without it `replicate` with a key, else `synth`."""
    if wanted is not None:
        return ProviderChoice(name=wanted, reason=f"{wanted_by} is {wanted}")
    if has_key:
        return ProviderChoice(name="replicate", reason=f"{KEY_VARIABLE} is set")
    return ProviderChoice(name="synth", reason=f"{KEY_VARIABLE} is not set")


def provider_named(name: str) -> StackProvider:
    """Return `name` as a provider.

    Raises:
        ValueError: there is no such provider.
    """
    for provider in PROVIDERS:
        if name == provider:
            return provider
    raise ValueError(f"{name} is not a music provider; use one of {', '.join(PROVIDERS)}")


def facts_of(provider: str) -> ProviderFacts:
    """Return the facts about a provider.

    Raises:
        ValueError: it is not in `PROVIDERS`; its cost is unknown.
    """
    return PROVIDERS[provider_named(provider)]


def list_of(providers: Iterable[StackProvider]) -> str:
    """Return the names with their descriptions, for help texts and documents."""
    return ", ".join(f"{name} ({PROVIDERS[name].description})" for name in providers)
