"""Build videos and tracks for tests with ffmpeg, and measure results."""

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition

from shared.media.ffmpeg import Ffmpeg
from shared.media.samples import CHANNELS, SAMPLE_RATE_HZ, Audio
from shared.settings import FfmpegSettings

TONE_HZ = 440.0
_BURST_HZ = 3000.0
_BURST_SAMPLES = 480


def real_ffmpeg() -> Ffmpeg:
    """Return the ffmpeg that Segue uses by default."""
    return Ffmpeg(FfmpegSettings(binary=None), slots=1)


async def remux(source: Path, target: Path, *args: str, before: Sequence[str] = ()) -> Path:
    """Convert `source` with the ffmpeg arguments `args`; `before` goes before the input."""
    options = args or ("-c", "copy")
    await real_ffmpeg().run(["-v", "error", *before, "-i", source, *options, target])
    return target


async def a_track(path: Path, *, samples: int, bursts: Sequence[int] = ()) -> Path:
    """Write an MP3 of a quiet tone with a loud burst around each sample of `bursts`."""
    places = np.arange(samples)
    sound = 0.1 * np.sin(2 * np.pi * TONE_HZ * places / SAMPLE_RATE_HZ)
    shape = np.hanning(_BURST_SAMPLES) * 0.8
    shape *= np.sin(2 * np.pi * _BURST_HZ * np.arange(_BURST_SAMPLES) / SAMPLE_RATE_HZ)
    for middle in bursts:
        first = middle - _BURST_SAMPLES // 2
        sound[first : first + _BURST_SAMPLES] += shape
    stereo = np.repeat(sound[:, None], CHANNELS, axis=1).astype("<f4").tobytes()
    raw = ["-f", "f32le", "-ar", str(SAMPLE_RATE_HZ), "-ac", str(CHANNELS), "-i", "-"]
    await real_ffmpeg().run(
        ["-v", "error", *raw, "-c:a", "libmp3lame", "-b:a", "192k", path], stdin=stereo
    )
    return path


def burst_at(audio: Audio, *, near: int, reach: int = 4800) -> int:
    """Return the middle sample of the burst nearest to `near`."""
    first = max(0, near - reach)
    part = audio[0, first : near + reach].astype(np.float64)
    kernel = np.exp(-2j * np.pi * _BURST_HZ * np.arange(_BURST_SAMPLES) / SAMPLE_RATE_HZ)
    level = np.abs(np.convolve(part, kernel * np.hanning(_BURST_SAMPLES), mode="same"))
    return first + int(level.argmax())


def pitch_hz(audio: Audio) -> float:
    """Return the strongest frequency."""
    spectrum = np.abs(np.fft.rfft(audio[0] * np.hanning(audio.shape[1])))
    return float(spectrum.argmax() * SAMPLE_RATE_HZ / audio.shape[1])


def purity_db(audio: Audio) -> float:
    """Return the level of the strongest frequency relative to the rest."""
    power = np.abs(np.fft.rfft(audio[0] * np.hanning(audio.shape[1]))) ** 2
    peak = int(power.argmax())
    tone = power[max(0, peak - 20) : peak + 21].sum()
    return float(10 * np.log10(tone / (power.sum() - tone)))


def picture_packets(path: Path) -> list[bytes]:
    """Return the packets of the video stream, in file order."""
    with av.open(str(path)) as container:
        cover = Disposition.attached_pic
        moving = next(s for s in container.streams.video if not s.disposition & cover)
        return [bytes(packet) for packet in container.demux(moving) if packet.size]


def presented_sound(path: Path) -> tuple[int, Audio]:
    """Return the presented length in samples and the decoded audio of the only audio stream."""
    with av.open(str(path)) as container:
        (stream,) = container.streams.audio
        assert stream.rate == SAMPLE_RATE_HZ
        assert stream.time_base is not None
        blocks = [frame.to_ndarray() for frame in container.decode(stream)]
        presented = ((stream.start_time or 0) + (stream.duration or 0)) * stream.time_base
        return int(presented * SAMPLE_RATE_HZ), np.concatenate(blocks, axis=1)
