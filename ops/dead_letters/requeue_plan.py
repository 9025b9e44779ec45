"""Gathering: which dead letters go back together, and which are left out, and why.

Of a lane all that waits goes together: one record out of its middle would break its order.

Pure.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ops.dead_letters.letter import Lane, Letter, LetterSelection, LetterState
from services.api.operators import LetterPlace, ResolvedLetter

#: why a letter stays where it is; besides the states of letters
FOREIGN, CUT, UNDER_WAY = "not_ours", "cut", "under_way"
_LEFT_OUT = {
    LetterState.REQUEUED: "were requeued already (segue dlq list --all)",
    LetterState.DISCARDED: "were discarded (segue dlq list --all)",
    LetterState.INTERRUPTED: "belong to a command that was interrupted",
    LetterState.QUARANTINED: "are quarantined, failed again too often: with --quarantined they go",
    UNDER_WAY: "wait for records of an earlier requeue to be worked off: does the service run?",
    FOREIGN: "have no origin: no service of ours wrote them",
    CUT: "were cut to fit: the record is not whole",
}


@dataclass(kw_only=True)
class Gathered:
    """What a requeue takes."""

    lanes: list[list[Letter]] = field(default_factory=list)  #: each in order
    left_out: Counter[str] = field(default_factory=Counter)
    taken_along: int = 0  #: of their lanes, though the selection does not name them
    actions: set[int] = field(default_factory=set)  #: interrupted commands that own some

    @property
    def letters(self) -> int:
        """How many."""
        return sum(map(len, self.lanes))

    def without(self, lanes: Iterable[Lane], *, why: str) -> None:
        """Leave these lanes out."""
        gone = set(lanes)
        for group in self.lanes:
            if group[0].lane in gone:
                self.left_out[why] += len(group)
        self.lanes = [group for group in self.lanes if group[0].lane not in gone]

    def reasons(self) -> list[str]:
        """Why letters are left out, in words."""
        return [f"{count} {_LEFT_OUT[why]}" for why, count in self.left_out.items()]


def gather(
    letters: Iterable[Letter],
    fates: Mapping[LetterPlace, ResolvedLetter],
    selection: LetterSelection,
    *,
    requeues_max: int,
    quarantined: bool,
) -> Gathered:
    """The lanes that `selection` means; `quarantined`: those, too."""
    told = Gathered()
    groups: dict[Lane | LetterPlace, list[Letter]] = {}
    for letter in letters:
        if why := _stays(letter, fates.get(letter.place)):
            if selection.takes(letter):
                told.left_out[why] += 1
                if why == LetterState.INTERRUPTED:
                    told.actions.add(fates[letter.place].action)
            continue
        groups.setdefault(letter.lane or letter.place, []).append(letter)
    for group in groups.values():
        wanted = sum(map(selection.takes, group))
        states = {letter.state(None, requeues_max=requeues_max) for letter in group}
        if not wanted:
            continue
        if LetterState.QUARANTINED in states and not quarantined:
            told.left_out[LetterState.QUARANTINED] += len(group)
            continue
        told.taken_along += len(group) - wanted
        told.lanes.append(sorted(group, key=lambda one: one.order))
    return told


def gather_again(
    letters: Iterable[Letter], fates: Mapping[LetterPlace, ResolvedLetter], *, action: int
) -> Gathered:
    """The lanes that an interrupted command took."""
    told = Gathered()
    groups: dict[Lane | LetterPlace, list[Letter]] = {}
    for letter in letters:
        fated = fates.get(letter.place)
        if fated is not None and fated.action == action:
            groups.setdefault(letter.lane or letter.place, []).append(letter)
    told.lanes = [sorted(group, key=lambda one: one.order) for group in groups.values()]
    return told


def _stays(letter: Letter, fated: ResolvedLetter | None) -> str | None:
    """Why it cannot go back; None: it can."""
    if fated is not None:
        return letter.state(fated, requeues_max=1).value
    if letter.origin is None:
        return FOREIGN
    return CUT if letter.is_cut else None
