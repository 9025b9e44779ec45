"""A fake Replicate: the real HTTP API on a port of this machine, without the account.

A stand-in, and says so: a `StandInWarning` when it is built, `x-fake-replicate: 1` on every
answer. The one model it has is the pinned MusicGen; its clips come from Segue's synthesizer and
obey the model's rules, so they really begin with the window that was sent.

In a test::

    async with ReplicateEmulator(EmulatorSettings(work_s=0.0)) as fake:
        fake.fault("lost_answer", place="create")
        ...  # a client with fake.base_url and fake.token
        assert fake.ledger.charged_by(lambda entry: entry.prompt) == {"calm": 1}

On a laptop: `python -m replicate_server --port 5050`, with `/_fake/...` as its control pages.

`settings.py` says what can be set, `faults.py` what can go wrong, `ledger.py` what is charged,
`control.py` the same over HTTP.
"""

from replicate_server.emulator import ReplicateEmulator
from replicate_server.faults import Fault, FaultKind
from replicate_server.ledger import Entry, Ledger
from replicate_server.settings import EmulatorSettings

__all__ = ["EmulatorSettings", "Entry", "Fault", "FaultKind", "Ledger", "ReplicateEmulator"]
