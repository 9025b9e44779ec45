"""The progress lines that a job prints while it runs."""

import io
from collections.abc import Mapping

from rich.console import Console

from ops.cli.progress import JobProgress
from services.api.http.schemas import StatusResponse, Waiting

SETTLED = {"state": "done", "origin": "continued", "provider": "synth", "duration_s": 1.7}


def _status(state: str, *scenes: Mapping[str, object], percentage: int = 50) -> StatusResponse:
    return StatusResponse.model_validate(
        {
            "job_id": "j",
            "run": 1,
            "state": state,
            "audio_status": {
                "status": "processing",
                "generated_at": None,
                "size": None,
                "merged_with_video": False,
                "error": None,
            },
            "progress": {
                "stage": "audio_generation",
                "percentage": percentage,
                "scenes": [{"duration_s": 1.0, "index": i, **s} for i, s in enumerate(scenes)],
            },
            "track": None,
            "video": None,
            "failure": None,
            "silent_scenes": [],
            "warnings": [],
            "cost_usd": None,
            "links": {"self": "/", "events": "/"},
        }
    )


def _printed_lines(*statuses: StatusResponse) -> list[str]:
    console = Console(file=io.StringIO(), force_terminal=False, width=100, soft_wrap=True)
    with JobProgress(console) as progress:
        for status in statuses:
            progress.update(status)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_each_scene_is_printed_once_when_it_ends() -> None:
    """However often the status reports it."""
    waiting = {"state": "waiting"}

    lines = _printed_lines(
        _status("submitted", waiting, waiting),
        _status("generating", SETTLED, waiting),
        _status("generating", SETTLED, waiting),
        _status("merging", SETTLED, SETTLED),
    )

    assert lines[:2] == [
        "scene 1/2  continued    1.7 s  synth",
        "scene 2/2  continued    1.7 s  synth",
    ]
    assert lines[2:] == ["Merging the segments"]


def test_a_silent_scene_is_printed_with_its_reason() -> None:
    """Brackets in the reason are text, not markup."""
    silent = {"state": "done", "origin": "silence", "reason": "provider answered [busy]"}

    (line,) = _printed_lines(_status("generating", silent))

    assert line.endswith("provider answered [busy]")
    assert "silence" in line


def test_a_wait_is_printed_once_with_its_reason_and_once_when_it_ends() -> None:
    """However often the status reports it."""
    paused = {
        "code": "provider_paused",
        "reason": "Replicate wants credit [402]",
        "since": "2026-01-01T00:00:00Z",
    }
    scene = {"state": "generating", "waiting": paused}
    waits = _status("submitted", scene).model_copy(
        update={"waiting": Waiting.model_validate(paused)}
    )

    lines = _printed_lines(waits, waits, _status("submitted", {"state": "generating"}))

    assert lines == ["Waiting: Replicate wants credit [402]", "Resuming run 1."]
