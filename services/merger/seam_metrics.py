"""Measures the seams of a joined track and records their metrics.

Units: samples at 48 kHz. I/O: the raw file of the track; metrics.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from services.merger.assembly import JoinRules
from services.merger.crossfade import click_ratio
from shared.contract.events import Seam
from shared.media.samples import CHANNELS, SAMPLE_RATE_HZ, Audio
from shared.telemetry.metrics import (
    SEAM_CLICK_RATIO,
    SEAM_CORRELATION_RATIO,
    SEAM_STEP_DECIBELS,
    SEAMS_TOTAL,
)

FRAME_BYTES = CHANNELS * 4  # of the raw file: float32, interleaved
_CLICK_SAMPLES = SAMPLE_RATE_HZ // 20  # 50 ms on each side of a seam


def measure_clicks(seams: Sequence[Seam], raw: Path, rules: JoinRules) -> tuple[Seam, ...]:
    """Return the seams with their click ratio, measured on the joined track."""
    with raw.open("rb") as file:
        return tuple(
            seam.model_copy(update={"click": _measure_click(file, seam, rules)}) for seam in seams
        )


def _measure_click(file: BinaryIO, seam: Seam, rules: JoinRules) -> float | None:
    """Return the click ratio of a seam.

    Splice: over the blend and 50 ms on both sides. Fade: against the music that fades. Bridge:
    only where it begins and ends, because it is long and its gains change slowly between.
    """
    if seam.bridge_samples:
        ends = (seam.at_samples - seam.bridge_samples, seam.at_samples)
        ratios = [
            click_ratio(_read(file, place - _CLICK_SAMPLES, place + _CLICK_SAMPLES))
            for place in ends
        ]
        click = max((ratio for ratio in ratios if ratio is not None), default=None)
        return None if click is None else round(click, 2)
    splice = seam.kind == "splice"
    begin = seam.at_samples - (rules.crossfade_samples if splice else 0)
    near = _read(file, begin - _CLICK_SAMPLES, seam.at_samples + _CLICK_SAMPLES)
    reach = _CLICK_SAMPLES + min(rules.fade_samples, SAMPLE_RATE_HZ)
    around = None if splice else _read(file, begin - reach, begin + reach)
    click = click_ratio(near, around)
    return None if click is None else round(click, 2)


def _read(file: BinaryIO, start: int, end: int) -> Audio:
    file.seek(max(0, start) * FRAME_BYTES)
    data = file.read((end - max(0, start)) * FRAME_BYTES)
    return np.frombuffer(data, dtype="<f4").reshape(-1, CHANNELS).T


def record_metrics(seams: Sequence[Seam]) -> None:
    """Record the seams of a new track; a bridge has no window to correlate."""
    for seam in seams:
        SEAMS_TOTAL.labels(seam.kind).inc()
        if seam.level_step_db is not None:
            SEAM_STEP_DECIBELS.labels(seam.kind).observe(abs(seam.level_step_db))
        if seam.click is not None:
            SEAM_CLICK_RATIO.labels(seam.kind).observe(seam.click)
        if seam.correlation is not None and not seam.bridge_samples:
            SEAM_CORRELATION_RATIO.observe(seam.correlation)
