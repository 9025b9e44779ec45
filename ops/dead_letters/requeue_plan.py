"""Groups dead letters into lanes that are requeued together, and leaves others out with a reason.

All waiting letters of a lane are requeued together: a record taken from the middle would break
the lane's order. No I/O.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ops.dead_letters.letter import DeadLetter, DeadLetterSelection, DeadLetterState, Lane
from services.api.operators import LetterPlace, ResolvedLetter

#: reasons to leave a letter out, besides the states of letters
NO_ORIGIN, TRUNCATED, UNDER_WAY = "no_origin", "truncated", "under_way"
UNDECODABLE = "undecodable"
_REASONS = {
    DeadLetterState.REQUEUED: "already requeued (segue dlq list --all)",
    DeadLetterState.DISCARDED: "already discarded (segue dlq list --all)",
    DeadLetterState.INTERRUPTED: "claimed by an interrupted command",
    DeadLetterState.QUARANTINED: "quarantined after too many failures: add --quarantined",
    UNDER_WAY: "behind an earlier requeue that is not processed yet: is the service running?",
    NO_ORIGIN: "without an origin: not written by a Segue service",
    TRUNCATED: "truncated: the stored record is incomplete",
    UNDECODABLE: "bytes that could not be decoded: fix the cause, then replay their offsets",
}


@dataclass(kw_only=True)
class RequeuePlan:
    """The lanes to requeue, and what is left out."""

    lanes: list[list[DeadLetter]] = field(default_factory=list)  #: each in order
    left_out: Counter[str] = field(default_factory=Counter)
    added: int = 0  #: letters of these lanes that the selection does not match
    actions: set[int] = field(default_factory=set)  #: interrupted commands that claimed some

    @property
    def letters(self) -> int:
        """Return the number of letters to requeue."""
        return sum(map(len, self.lanes))

    def leave_out(self, lanes: Iterable[Lane], *, reason: str) -> None:
        """Leave these lanes out."""
        excluded = set(lanes)
        for group in self.lanes:
            if group[0].lane in excluded:
                self.left_out[reason] += len(group)
        self.lanes = [group for group in self.lanes if group[0].lane not in excluded]

    def reasons(self) -> list[str]:
        """Return how many letters are left out for which reason, as text."""
        return [f"{count} {_REASONS[reason]}" for reason, count in self.left_out.items()]


def plan_requeue(
    letters: Iterable[DeadLetter],
    resolved: Mapping[LetterPlace, ResolvedLetter],
    selection: DeadLetterSelection,
    *,
    requeues_max: int,
    quarantined: bool,
) -> RequeuePlan:
    """Return the lanes that `selection` matches; `quarantined` includes quarantined ones."""
    plan = RequeuePlan()
    groups: dict[Lane | LetterPlace, list[DeadLetter]] = {}
    for letter in letters:
        if reason := _exclusion(letter, resolved.get(letter.place)):
            if selection.matches(letter):
                plan.left_out[reason] += 1
                if reason == DeadLetterState.INTERRUPTED:
                    plan.actions.add(resolved[letter.place].action)
            continue
        groups.setdefault(letter.lane or letter.place, []).append(letter)
    for group in groups.values():
        selected = sum(map(selection.matches, group))
        states = {letter.state(None, requeues_max=requeues_max) for letter in group}
        if not selected:
            continue
        if DeadLetterState.QUARANTINED in states and not quarantined:
            plan.left_out[DeadLetterState.QUARANTINED] += len(group)
            continue
        plan.added += len(group) - selected
        plan.lanes.append(sorted(group, key=lambda letter: letter.order))
    return plan


def plan_resumed_requeue(
    letters: Iterable[DeadLetter],
    resolved: Mapping[LetterPlace, ResolvedLetter],
    *,
    action: int,
) -> RequeuePlan:
    """Return the lanes that the interrupted command `action` claimed."""
    groups: dict[Lane | LetterPlace, list[DeadLetter]] = {}
    for letter in letters:
        claim = resolved.get(letter.place)
        if claim is not None and claim.action == action:
            groups.setdefault(letter.lane or letter.place, []).append(letter)
    lanes = [sorted(group, key=lambda letter: letter.order) for group in groups.values()]
    return RequeuePlan(lanes=lanes)


def _exclusion(letter: DeadLetter, resolved: ResolvedLetter | None) -> str | None:
    """Return why the letter cannot be requeued; None if it can."""
    if resolved is not None:
        return letter.state(resolved, requeues_max=1).value
    if letter.origin is None:
        return NO_ORIGIN
    if letter.is_undecodable:
        return UNDECODABLE
    return TRUNCATED if letter.is_cut else None
