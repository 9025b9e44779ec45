"""The `segue scenes` command: detects the scenes of a film and describes them. No stack is needed.

The scenes file that it writes is what `segue score --scenes` reads, so that descriptions, moods
and lengths can be edited before the music is made.

I/O: reads the film; writes the scenes file and the contact sheet.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ops.cli.exit_codes import CommandError, Exit, print_json, report_errors
from ops.cli.film import check_film
from ops.cli.layout import Listing, count_of
from ops.cli.options import Json
from ops.cli.output import clock
from ops.cli.progress import progress_console
from ops.cli.terminal import print_result, shown
from ops.scenes.contact_sheet import write_sheet
from ops.scenes.detect import detect_scenes, scene_entries
from shared.media.video import VideoInfo
from shared.scene_detection.analysis import Analysis, DetectedScene
from shared.scene_detection.scenes import SCENE_S_MAX, SCENE_S_MIN, SceneLimits

Film = Annotated[Path, typer.Argument(metavar="FILM", help="The film.")]
ScenesMax = Annotated[int | None, typer.Option(min=1, help="Scenes at most.")]
SceneMin = Annotated[float, typer.Option(help="Seconds of the shortest scene.")]
SceneMax = Annotated[
    float, typer.Option(help="Seconds of the longest scene; a model composes about 30 at once.")
]
Sheet = Annotated[
    Path | None, typer.Option(metavar="PNG", help="Write a contact sheet: frames of each scene.")
]
ScenesOut = Annotated[
    Path | None,
    typer.Option("--out", metavar="FILE", help="Write the scenes for `segue score --scenes`."),
]


def scenes(
    *,
    film: Film,
    out: ScenesOut = None,
    sheet: Sheet = None,
    scenes_max: ScenesMax = None,
    scene_min: SceneMin = SCENE_S_MIN,
    scene_max: SceneMax = SCENE_S_MAX,
    as_json: Json = False,
) -> None:
    """Detect the scenes of FILM: times, mood and description of each."""
    with report_errors(as_json=as_json):
        try:
            limits = SceneLimits(
                scene_s_min=scene_min, scene_s_max=scene_max, scenes_max=scenes_max
            )
        except ValueError as error:
            raise CommandError(Exit.USAGE, f"--scene-min, --scene-max: {error}") from error
        for path, option in ((out, "--out"), (sheet, "--sheet")):
            _check_output(path, option, film)
        info = check_film(film)
        analysis = detect_scenes(film, info, limits, progress_console(quiet=as_json))
        if sheet is not None:
            write_sheet(sheet, film, info, analysis.scenes)
        if out is not None:
            _write_scenes(out, analysis.scenes)
        if as_json:
            print_json(_document(analysis, info))
        else:
            print_result(lines(analysis))
            for path in (out, sheet):
                if path is not None:
                    print(shown(path))


def _check_output(path: Path | None, option: str, film: Path) -> None:
    if path is None:
        return
    if path.exists() and film.exists() and path.samefile(film):
        raise CommandError(Exit.USAGE, f"{option}: {shown(path)} is the film; name another file")
    if not path.parent.is_dir():
        raise CommandError(Exit.USAGE, f"{option}: the folder {shown(path.parent)} does not exist")


def _write_scenes(path: Path, scenes_found: Sequence[DetectedScene]) -> None:
    text = json.dumps({"scenes": scene_entries(scenes_found)}, indent=2, ensure_ascii=False)
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise CommandError(
            Exit.USAGE, f"--out: {shown(path)} cannot be written ({error.strerror})"
        ) from error


def _document(analysis: Analysis, info: VideoInfo) -> dict[str, Any]:
    entries = scene_entries(analysis.scenes)
    for entry, scene in zip(entries, analysis.scenes, strict=True):
        entry |= {
            "shots": scene.shots,
            "speech_s": scene.speech_s,
            "energy": scene.description.energy,
            "moods": scene.description.moods,
            "measurements": {
                name: round(value, 4) for name, value in asdict(scene.measurements).items()
            },
        }
    return {
        "film": {
            "duration_s": analysis.duration_s,
            "width": info.width,
            "height": info.height,
            "fps": analysis.fps,
        },
        "cuts": [{"at_s": round(cut.time_s, 6), "kind": cut.kind} for cut in analysis.cuts],
        "speech": [
            {"start_s": round(start_s, 3), "end_s": round(end_s, 3)}
            for start_s, end_s in analysis.speech
        ],
        "scenes": entries,
    }


def lines(analysis: Analysis) -> Iterator[Listing | str]:
    """Yield the scenes as a table, and their number."""
    table = Listing(
        "scene", "start", "length", "shots", "mood", "description",
        right=("scene", "start", "length", "shots"), wraps=("description",),
    )  # fmt: skip
    for number, scene in enumerate(analysis.scenes, start=1):
        table.add_row(
            str(number),
            clock(scene.start_s),
            f"{scene.duration_s:.1f} s",
            str(scene.shots),
            scene.description.mood.name.lower(),
            scene.description.text,
        )
    yield table
    yield (
        f"{count_of(len(analysis.scenes), 'scene')}, {count_of(len(analysis.cuts), 'cut')}, "
        f"{clock(analysis.duration_s)}"
    )
