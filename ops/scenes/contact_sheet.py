"""Draws the contact sheet of a film: three frames of each scene, with its times and description.

I/O: reads the film, writes one PNG file.
"""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from textwrap import wrap

import av
from av.container import InputContainer
from av.video.stream import VideoStream
from PIL import Image, ImageDraw, ImageFont

from ops.cli.exit_codes import CommandError, Exit
from ops.cli.output import clock
from ops.cli.terminal import shown
from shared.media.video import VideoInfo, open_video, picture_of
from shared.scene_detection.analysis import DetectedScene

SHEET_SCENES_MAX = 200  #: more do not fit one picture
_FRAME_WIDTH, _GAP, _TEXT_WIDTH = 240, 12, 420
_POSITIONS = (0.1, 0.5, 0.9)  # of a scene's length
_BACK, _INK, _FAINT = (16, 18, 24), (226, 230, 238), (150, 156, 170)
_TITLE, _TEXT = 18, 16
_LINE_CHARS = 48


def write_sheet(path: Path, film: Path, info: VideoInfo, scenes: Sequence[DetectedScene]) -> None:
    """Write the contact sheet of the scenes to `path`.

    Raises:
        CommandError: too many scenes, or the file cannot be written.
    """
    if len(scenes) > SHEET_SCENES_MAX:
        raise CommandError(
            Exit.USAGE,
            f"--sheet: a sheet has at most {SHEET_SCENES_MAX} scenes, the film has {len(scenes)}; "
            "limit them with --scenes-max",
        )
    height = max(round(_FRAME_WIDTH * info.height / info.width), 1)
    width = len(_POSITIONS) * (_FRAME_WIDTH + _GAP) + _TEXT_WIDTH + _GAP
    sheet = Image.new("RGB", (width, len(scenes) * (height + _GAP) + _GAP), _BACK)
    draw = ImageDraw.Draw(sheet)
    times = [
        scene.start_s + scene.duration_s * position for scene in scenes for position in _POSITIONS
    ]
    for index, image in enumerate(_frames(film, info, times)):
        row, column = divmod(index, len(_POSITIONS))
        place = (_GAP + column * (_FRAME_WIDTH + _GAP), _GAP + row * (height + _GAP))
        sheet.paste(image.resize((_FRAME_WIDTH, height)), place)
    for row, scene in enumerate(scenes):
        _write_text(draw, row, scene, top=_GAP + row * (height + _GAP))
    try:
        sheet.save(path, format="PNG")
    except OSError as error:
        raise CommandError(
            Exit.USAGE, f"--sheet: {shown(path)} cannot be written ({error.strerror})"
        ) from error


def _frames(film: Path, info: VideoInfo, times: Sequence[float]) -> Iterator[Image.Image]:
    """Yield the frame shown at each of the times, which grow."""
    with open_video(film, info) as container:
        picture = picture_of(container)
        for time_s in times:
            yield _frame_at(container, picture, time_s)


def _frame_at(container: InputContainer, picture: VideoStream, time_s: float) -> Image.Image:
    assert picture.time_base is not None
    start = Fraction(container.start_time or 0, av.time_base)
    wanted = Fraction(time_s) + start
    container.seek(int(wanted / picture.time_base), stream=picture, backward=True)
    shown = None
    for frame in container.decode(picture):
        if frame.pts is not None and frame.pts * picture.time_base > wanted and shown is not None:
            break
        shown = frame
    if shown is None:
        return Image.new("RGB", (picture.width, picture.height), _BACK)
    return Image.fromarray(shown.to_ndarray(format="rgb24"))


def _write_text(draw: ImageDraw.ImageDraw, row: int, scene: DetectedScene, *, top: int) -> None:
    left = len(_POSITIONS) * (_FRAME_WIDTH + _GAP) + _GAP
    mood = scene.description.mood.name.lower()
    title = f"{row + 1}   {clock(scene.start_s)}  {scene.duration_s:.1f} s  {mood}"
    draw.text((left, top), title, fill=_INK, font=ImageFont.load_default(_TITLE))
    for line, text in enumerate(wrap(scene.description.text, _LINE_CHARS), start=1):
        place = (left, top + line * (_TITLE + 6))
        draw.text(place, text, fill=_FAINT, font=ImageFont.load_default(_TEXT))
