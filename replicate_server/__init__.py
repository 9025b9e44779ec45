"""An emulator of Replicate's HTTP API on 127.0.0.1, without an account.

It identifies itself: a `StandInWarning` when it is built, and `x-fake-replicate: 1` on every
response. It has one model, the pinned MusicGen; Segue's synthesizer composes its clips, which obey
the model's rules and begin with the window that was sent.

In a test::

    async with ReplicateEmulator(EmulatorSettings(work_s=0.0)) as emulator:
        emulator.fault("lost_answer", place="create")
        ...  # a client with emulator.base_url and emulator.token
        assert emulator.ledger.charged_by(lambda entry: entry.prompt) == {"calm": 1}

On a laptop: `python -m replicate_server --port 5050`, with its control pages at `/_fake/...`.

`settings.py` lists the settings, `faults.py` the faults, `ledger.py` the charges; `http/control.py`
serves the same over HTTP.
"""

from replicate_server.emulator import ReplicateEmulator
from replicate_server.faults import Fault, FaultKind
from replicate_server.ledger import Entry, Ledger
from replicate_server.settings import HARDWARE_S_PER_S, EmulatorSettings

__all__ = [
    "HARDWARE_S_PER_S",
    "EmulatorSettings",
    "Entry",
    "Fault",
    "FaultKind",
    "Ledger",
    "ReplicateEmulator",
]
