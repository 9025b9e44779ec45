"""What is said of money at the end of a command."""

import pytest

from ops.cli.output import money, show_files, show_status
from services.api.http.schemas import StatusAnswer

REPORT = {"warnings": [], "files": {"track.mp3": {"path": "out/track.mp3"}}, "report": "out/r.json"}


@pytest.mark.parametrize(
    ("cost", "saved", "estimate", "told"),
    [
        (0.013, 0.007, 0.05, "cost $0.013 (estimated $0.05), saved $0.007"),
        (0.5, None, None, "cost $0.50"),
        (0.0, 0.02, None, "cost $0.00, saved $0.02"),
        (None, None, 0.1, "cost not known (estimated $0.10)"),
        (0.0, None, 0.0, ""),
        (None, None, None, ""),
    ],
)
def test_money_is_told_where_there_is_some(
    cost: float | None, saved: float | None, estimate: float | None, told: str
) -> None:
    """Music that is made here needs no bill."""
    assert money(cost, saved_usd=saved, estimate_usd=estimate) == told


def test_a_report_ends_with_its_bill_and_its_files(capsys: pytest.CaptureFixture[str]) -> None:
    """One that an older api wrote has no estimate."""
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


def test_a_status_tells_the_price_of_each_scene_and_of_all(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A cached scene says what it spared, a failed one what it cost."""
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

    show_status(StatusAnswer.model_validate(status))

    assert capsys.readouterr().out.splitlines()[1:] == [
        "scene   1  cached     cost not known, saved $0.01",
        "scene   2  failed     cost $0.002; no",
        "cost $0.002 (estimated $0.02), saved $0.01",
        "error: no",
    ]
