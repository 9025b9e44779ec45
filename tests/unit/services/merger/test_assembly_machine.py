"""Assembly as a state machine: the track has its length, also after a restart."""

from dataclasses import replace

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from typing_extensions import override

from services.merger.assembly import Assembly, JoinRules
from shared.contract.params import Transition
from shared.media.samples import Audio
from tests.support.audio_builders import Kind, Take, a_run_of_takes

LENGTHS = (0.01, 0.3, 0.5, 1, 1.7)
KINDS: tuple[Kind, ...] = ("continued", "fresh", "silence")
BLEND = 4800


class AssemblyLife(RuleBasedStateMachine):
    """Adds a run scene by scene; clips may be short, scenes silent, and the merger may restart.

    The model: the scenes that were added, and the audio that was yielded.
    """

    @initialize(
        scenes=st.lists(
            st.tuples(st.sampled_from(LENGTHS), st.sampled_from(KINDS)), min_size=1, max_size=6
        ),
        transition=st.sampled_from(Transition),
        fade=st.sampled_from([0, 4800, 96_000]),
    )
    def begin(self, scenes: list[tuple[float, Kind]], transition: Transition, fade: int) -> None:
        """Start a run with these scenes."""
        self.takes: list[Take] = a_run_of_takes(
            [length for length, _ in scenes], kinds=[kind for _, kind in scenes]
        )
        self.joins = JoinRules(transition=transition, fade_samples=fade, crossfade_samples=BLEND)
        self.samples = sum(take.segment.samples for take in self.takes)
        self._start()

    def _start(self) -> None:
        self.assembly = Assembly([take.segment for take in self.takes], self.joins)
        self.next = 0
        self.blocks: list[Audio] = []

    def _add_next(self) -> None:
        take = self.takes[self.next]
        self.blocks += [block.copy() for block in self.assembly.add(self.next, take.clip)]
        self.next += 1

    @precondition(lambda self: self.next < len(self.takes))
    @rule()
    def add(self) -> None:
        """Add the next scene."""
        self._add_next()

    @precondition(lambda self: self.next < len(self.takes))
    @rule(share=st.floats(0.01, 1))
    def add_short(self, share: float) -> None:
        """Add the next scene with a clip shorter than declared."""
        take = self.takes[self.next]
        if take.clip is not None:
            length = max(1, int(take.clip.shape[1] * share))
            self.takes[self.next] = replace(take, clip=take.clip[:, :length])
        self._add_next()

    @precondition(lambda self: self.next > 0)
    @rule()
    def restart(self) -> None:
        """Restart the merger: the same audio is yielded again."""
        expected, added = self._yielded(), self.next
        self._start()
        for _ in range(added):
            self._add_next()
        np.testing.assert_array_equal(self._yielded(), expected)

    @invariant()
    def yielded_audio_is_valid(self) -> None:
        """Finite, two channels, never longer than the scenes; seams in order."""
        if not hasattr(self, "takes"):
            return
        track = self._yielded()
        assert track.shape[0] == 2
        assert track.shape[1] <= self.samples
        assert np.isfinite(track).all()
        places = [seam.at_samples for seam in self.assembly.seams]
        assert places == sorted(places)

    def _yielded(self) -> Audio:
        return np.concatenate([np.zeros((2, 0), np.float32), *self.blocks], axis=1)

    @override
    def teardown(self) -> None:
        """The finished track is as long as its scenes, to the sample."""
        if not hasattr(self, "takes"):
            return
        while self.next < len(self.takes):
            self._add_next()
        self.blocks += list(self.assembly.finish())
        assert self._yielded().shape == (2, self.samples)


TestAssemblyLife = AssemblyLife.TestCase
TestAssemblyLife.settings = settings(max_examples=12, stateful_step_count=8, deadline=None)
