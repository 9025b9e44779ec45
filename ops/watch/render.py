"""Screen: draws one moment of `segue watch`, for 80 columns and more.

Pure: the console it is drawn on belongs to the caller.
"""

from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ops.cli.output import wide
from ops.jobs.list import age_of, line_of, scenes_of, why_of
from ops.watch.snapshot import (
    LATE_S,
    DatabaseFigures,
    KafkaFigures,
    Service,
    Side,
    Snapshot,
    Trouble,
    troubles,
)
from services.api.operators import CostTotals, dollars

SERVICE_COLUMNS = ("service", "alive", "behind", "oldest", "on", "lanes", "slots", "in flight")
JOB_COLUMNS = ("under way", "run", "status", "scenes", "cost", "age", "why")
ENDS = ("completed", "failed", "cancelled")
ROWS = ("jobs", "today", "in all", "spent", "dead letters", "outbox")
ID_CHARS = 28  # of a job: what 80 columns have room for beside the rest
_UNKNOWN = "?"
_IN_STACK = "(stack)"  # the embedded broker is a part of the process that runs the services
_GOOD, _BAD, _QUIET = "green", "bold red", "dim"
_STAND_IN = (
    "(stack): the embedded broker knows no members; the services run in its own process, and are "
    "alive as long as it answers"
)
_NOT_ASKED = (
    "behind: records not let go, those under way among them; lanes and slots are known of services "
    "whose health port is named (--ask)"
)


def screen(shown: Snapshot) -> RenderableType:
    """Everything there is to see."""
    parts: list[RenderableType] = [_head(shown), ""]
    kafka, database = shown.kafka.figures, shown.database.figures
    if kafka is not None:
        parts += [_services(kafka.services), ""]
    parts.append(_figures(kafka, database))
    if database is not None and database.oldest:
        parts += ["", _oldest(shown, database)]
    if wrong := troubles(shown):
        parts += ["", *(_trouble(one) for one in wrong)]
    if kafka is not None:
        parts += ["", *(Text(note, style=_QUIET) for note in _notes(kafka.services))]
    return Group(*parts)


def _head(shown: Snapshot) -> Text:
    head = Text(f"segue watch  {shown.at:%Y-%m-%d %H:%M:%S} UTC", style="bold")
    for name, side in (("Kafka", shown.kafka), ("PostgreSQL", shown.database)):
        head.append("   ").append(*_answers(name, side))
    return head


def _answers(name: str, side: Side[KafkaFigures] | Side[DatabaseFigures]) -> tuple[str, str]:
    if side.problem is None:
        return f"{name} answers", _GOOD
    return f"{name} is away", _BAD


def _services(services: Sequence[Service]) -> Table:
    table = wide(
        *SERVICE_COLUMNS, right={"alive", "behind", "oldest", "lanes", "slots", "in flight"}
    )
    for one in services:
        alive = _IN_STACK if one.members is None else str(one.members)
        table.add_row(
            one.name,
            Text(alive, style=_BAD if one.members == 0 else ""),
            _UNKNOWN if one.records is None else str(one.records),
            Text(
                age_of(one.seconds) if one.records else "",
                style=_BAD if one.seconds >= LATE_S else "",
            ),
            one.behind_on or "",
            "" if one.lanes is None else str(one.lanes),
            "" if one.slots is None else f"{one.slots_taken}/{one.slots}",
            "" if one.in_flight is None else str(one.in_flight),
        )
    return table


def _figures(kafka: KafkaFigures | None, database: DatabaseFigures | None) -> Table:
    """A line per subject."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column()
    if database is not None:
        bill = database.bill
        said = [
            _counts(database.now.stages),
            _counts({name: bill.ended_today.get(name, 0) for name in ENDS}),
            _counts({name: bill.ended.get(name, 0) for name in ENDS}),
            _spent(bill),
        ]
        for name, told in zip(ROWS[:4], said, strict=True):
            grid.add_row(name, told)
    if kafka is not None:
        letters = kafka.dead_letters
        told = f"{sum(letters.values())} waiting" + (f": {_counts(letters)}" if letters else "")
        grid.add_row(ROWS[4], Text(told, style=_BAD if letters else ""))
    if database is not None:
        grid.add_row(ROWS[5], f"{database.now.outbox} records to be published")
    return grid


def _spent(bill: CostTotals) -> str:
    saved = f" (saved {dollars(bill.saved_today_usd)})" if bill.saved_today_usd else ""
    return f"today {dollars(bill.spent_today_usd)}{saved}   in all {dollars(bill.spent_usd)}"


def _counts(counts: Mapping[str, int]) -> str:
    return "   ".join(f"{name} {count}" for name, count in counts.items())


def _oldest(shown: Snapshot, database: DatabaseFigures) -> Table:
    table = wide(*JOB_COLUMNS, right={"run", "scenes", "cost", "age"}, rest="why")
    for job in database.oldest:
        one = line_of(job, now=shown.at)
        table.add_row(
            _short(one["job_id"]),
            str(one["run"]),
            one["status"],
            scenes_of(one),
            "" if one["cost_usd"] is None else dollars(one["cost_usd"]),
            age_of(one["age_s"]),
            why_of(one),
        )
    return table


def _short(job_id: str) -> str:
    """Enough of it to know it by; `segue jobs` has all of it."""
    return job_id if len(job_id) <= ID_CHARS else f"{job_id[: ID_CHARS - 1]}…"


def _trouble(one: Trouble) -> Text:
    return Text("! ", style=_BAD).append(one.what).append(f"  -> {one.do}", style=_QUIET)


def _notes(services: Sequence[Service]) -> list[str]:
    """What the reader must know to read the services right."""
    stand_in = any(one.members is None for one in services)
    not_asked = all(one.lanes is None for one in services)
    return [*([_STAND_IN] if stand_in else []), *([_NOT_ASKED] if not_asked else [])]
