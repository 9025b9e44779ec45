"""The cost, files and status that commands print at their end."""

import pytest

from ops.cli.output import money, show_files, show_status
from services.api.http.schemas import StatusResponse

REPORT = {"warnings": [], "files": {"track.mp3": {"path": "out/track.mp3"}}, "report": "out/r.json"}


@pytest.mark.parametrize(
    ("cost", "saved", "estimate", "text"),
    [
        (0.013, 0.007, 0.05, "cost $0.013 (estimated $0.05), saved $0.007"),
        (0.5, None, None, "cost $0.50"),
        (0.0, 0.02, None, "cost $0.00, saved $0.02"),
        (None, None, 0.1, "cost unknown (estimated $0.10)"),
        (0.0, None, 0.0, ""),
        (None, None, None, ""),
    ],
)
def test_money_is_empty_if_nothing_costs_anything(
    cost: float | None, saved: float | None, estimate: float | None, text: str
) -> None:
    """Music from a local provider costs nothing."""
    assert money(cost, saved_usd=saved, estimate_usd=estimate) == text


def test_a_report_ends_with_its_cost_and_its_files(capsys: pytest.CaptureFixture[str]) -> None:
    """A report of an older api has no estimate."""
    show_files({**REPORT, "cost_usd": 0.02}, as_json=False)
    show_files(
        {**REPORT, "cost_usd": 0.0, "saved_usd": 0.02, "estimate": {"cost_usd": 0.03}},
        as_json=False,
    )

    assert capsys.readouterr().out.splitlines() == [
        "cost $0.02",
        "out/track.mp3",
        "out/r.json",
        "cost $0.00 (estimated $0.03), saved $0.02",
        "out/track.mp3",
        "out/r.json",
    ]


def test_a_status_has_the_cost_of_each_scene_and_the_total(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A cached scene shows what it saved, a failed one what it cost."""
    scene = {"duration_s": 2.0, "warnings": []}
    status = {
        "job_id": "j",
        "run": 1,
        "state": "failed",
        "audio_status": {
            "status": "failed",
            "generated_at": None,
            "size": None,
            "merged_with_video": False,
            "error": "no",
        },
        "progress": {
            "stage": "audio_generation",
            "percentage": 45,
            "scenes": [
                {**scene, "index": 0, "state": "done", "origin": "cached", "saved_usd": 0.01},
                {**scene, "index": 1, "state": "failed", "reason": "no", "cost_usd": 0.002},
            ],
        },
        "track": None,
        "video": None,
        "failure": None,
        "silent_scenes": [],
        "warnings": [],
        "cost_usd": 0.002,
        "saved_usd": 0.01,
        "estimate": {"cost_usd": 0.02, "music_s": 5, "seconds": 16, "provider": "replicate"},
        "links": {"self": "/", "events": "/"},
    }

    show_status(StatusResponse.model_validate(status))

    assert capsys.readouterr().out.splitlines()[1:] == [
        "scene   1  cached     cost unknown, saved $0.01",
        "scene   2  failed     cost $0.002; no",
        "cost $0.002 (estimated $0.02), saved $0.01",
        "error: no",
    ]
