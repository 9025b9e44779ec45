"""Lists the music providers: name, description, and what the cost estimates need.

A new one is a name in `ProviderName` and a row in `PROVIDERS`; CONTRIBUTING lists the other places.
Pure.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

#: the providers of the generator: the values of `MUSIC_PROVIDER`
ProviderName = Literal["synth", "silence", "replicate"]
#: the providers of a stack: also an emulator of Replicate, which needs no account
StackProvider = Literal[ProviderName, "fake-replicate"]
STACK_PROVIDER: StackProvider = "synth"  #: the default of a stack: audible, unlike the generator's


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


def facts_of(provider: str) -> ProviderFacts:
    """Return the facts about a provider.

    Raises:
        ValueError: it is not in `PROVIDERS`; its cost is unknown.
    """
    for name, facts in PROVIDERS.items():
        if name == provider:
            return facts
    raise ValueError(f"{provider} is not a music provider; use one of {', '.join(PROVIDERS)}")


def list_of(providers: Iterable[StackProvider]) -> str:
    """Return the names with their descriptions, for help texts and documents."""
    return ", ".join(f"{name} ({PROVIDERS[name].description})" for name in providers)
