"""Measures the merger against bare ffmpeg, and copying the picture against encoding it.

The merger matches, levels and crossfades every seam, measures the loudness twice and checks the
length to the sample. Its baseline is one ffmpeg command that decodes the same clips, cuts them at
the same places, concatenates and encodes. The muxer copies the picture; its baseline is the same
command with an encoded picture.

Units: seconds of media per second. I/O: ffmpeg, files in a temporary folder.
"""

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import Measurement, Report, Variant, compare, machine_facts, main
from services.generator.providers import CompositionRequest, mp3
from services.generator.providers.synth.provider import compose
from services.generator.scene.plan import Continuation, ScenePlan, plan_scene
from services.generator.settings import GeneratorSettings
from services.merger.merge import Merge
from services.merger.settings import MergerSettings
from services.muxer.ffmpeg_plan import TempoFilter, ffmpeg_args, plan
from shared.contract.events import Origin, SceneRequested, SegmentGenerated
from shared.contract.params import SyncMode
from shared.media.decode import decode
from shared.media.ffmpeg import INPUT_GUARD, Ffmpeg
from shared.media.samples import SAMPLE_RATE_HZ, seconds_at
from shared.settings import FfmpegSettings
from shared.storage import keys
from shared.storage.filesystem import FolderStore

JOB = "benchmark"
SCENES_S = (9.7, 10.3, 10.1, 9.9, 10.4, 9.6)  # a minute
MOODS = ("calm", "happy", "exciting", "dark", "sad", "calm")
FILM_S = 10
FILM_SOURCE = f"testsrc2=size=854x480:rate=25:duration={FILM_S}"
X264 = ("-c:v", "libx264", "-preset", "veryfast")


@dataclass(frozen=True, slots=True, kw_only=True)
class Take:
    """A segment and the file of its clip."""

    segment: SegmentGenerated
    path: Path


def takes(folder: Path, *, window_s: int) -> list[Take]:
    """Compose a run whose scenes continue each other."""
    state, run = Continuation(run=1), list[Take]()
    for index, (duration_s, mood) in enumerate(zip(SCENES_S, MOODS, strict=True)):
        scene = SceneRequested(
            job_id=JOB,
            scene_index=index,
            scene_count=len(SCENES_S),
            duration_s=duration_s,
        )
        planned = plan_scene(state, scene, window_s=window_s)
        source = run[-1].path.read_bytes() if run else None
        request = CompositionRequest(
            prompt=f"{mood} music", duration_s=planned.duration_s, window=planned.window, seed=7
        )
        path = folder / f"clip-{index}.mp3"
        path.write_bytes(compose(request, source))
        segment = _segment(scene, planned, path.read_bytes(), prompt=request.prompt)
        state = state.after(segment)
        run.append(Take(segment=segment, path=path))
    return run


def _segment(
    scene: SceneRequested, planned: ScenePlan, clip: bytes, *, prompt: str
) -> SegmentGenerated:
    return SegmentGenerated(
        job_id=scene.job_id,
        run=scene.run,
        scene_index=scene.scene_index,
        scene_count=scene.scene_count,
        origin=Origin.CONTINUED if planned.window else Origin.FRESH,
        object_key=keys.clip_key(scene.job_id, scene.run, scene.scene_index, 1),
        content_type=mp3.CONTENT_TYPE,
        sha256=hashlib.sha256(clip).hexdigest(),
        size_bytes=len(clip),
        duration_s=scene.duration_s,
        start_samples=planned.start_samples,
        samples=planned.samples,
        clip_samples=decode(clip).shape[1],
        window_samples=planned.window_samples,
        join_samples=planned.join_samples,
        prompt=prompt,
        provider="synth",
    )


async def store_run(store: FolderStore, run: Sequence[Take]) -> None:
    """Store the run as the generator does."""
    for take in run:
        segment = take.segment
        assert segment.object_key is not None, "every scene has its clip"
        await store.put_file(segment.object_key, take.path)
        key = keys.segment_key(segment.job_id, segment.run, segment.scene_index)
        await store.put(key, segment.model_dump_json().encode())


def bare_join(run: Sequence[Take], target: Path) -> list[str | Path]:
    """Return the ffmpeg arguments that cut and concatenate the clips."""
    ends = [take.segment.join_samples for take in run[1:]]
    ends.append(run[-1].segment.start_samples + run[-1].segment.samples)
    inputs: list[str | Path] = []
    cuts, names = [], ""
    for index, (take, end) in enumerate(zip(run, ends, strict=True)):
        first, join = take.segment.window_samples, take.segment.join_samples
        inputs += [*INPUT_GUARD, "-i", take.path]
        trim = f"atrim=start_sample={first}:end_sample={first + end - join}"
        cuts.append(f"[{index}:a]aresample={SAMPLE_RATE_HZ},{trim}[a{index}]")
        names += f"[a{index}]"
    chain = ";".join([*cuts, f"{names}concat=n={len(run)}:v=0:a=1[track]"])
    coded = ("-c:a", "libmp3lame", "-b:a", "192k")
    return ["-v", "error", *inputs, "-filter_complex", chain, "-map", "[track]", *coded, target]


async def joining(ffmpeg: Ffmpeg, folder: Path) -> list[Measurement]:
    """Measure the merger against bare ffmpeg on the same clips."""
    generator = GeneratorSettings.from_environment()
    run = takes(folder, window_s=generator.window_s)
    store = FolderStore(folder / "store")
    await store.prepare()
    await store_run(store, run)
    merge = Merge(store=store, ffmpeg=ffmpeg, settings=MergerSettings.from_environment())
    last, track = run[-1].segment, folder / "bare.mp3"
    wanted = last.start_samples + last.samples

    async def delete_result() -> None:
        await store.delete(keys.merged_key(JOB, last.run))  # otherwise the stored event is returned

    async def merged() -> None:
        event = await merge.run(last)
        kinds = {seam.kind for seam in event.seams}
        assert (event.samples, kinds) == (wanted, {"splice"}), "a complete track of spliced clips"

    async def joined() -> None:
        await ffmpeg.run(bare_join(run, track))

    media_s = seconds_at(wanted)
    variants = [
        Variant(name="bare ffmpeg, clips to track", work=media_s, run=joined),
        Variant(name="merger", work=media_s, run=merged, prepare=delete_result),
    ]
    measurements = await compare(variants, unit="x real time")
    assert decode(track.read_bytes()).shape[1] == wanted, "both tracks have the same length"
    return measurements


async def film(ffmpeg: Ffmpeg, folder: Path) -> tuple[Path, Path]:
    """Make a video and a track of the same length."""
    video, track = folder / "film.mp4", folder / "track.mp3"
    await ffmpeg.run(
        ["-v", "error", "-f", "lavfi", "-i", FILM_SOURCE, *X264, "-pix_fmt", "yuv420p", video]
    )
    tone = f"sine=frequency=440:sample_rate={SAMPLE_RATE_HZ}:duration={FILM_S}"
    await ffmpeg.run(["-v", "error", "-f", "lavfi", "-i", tone, "-b:a", "192k", track])
    return video, track


async def muxing(ffmpeg: Ffmpeg, folder: Path) -> list[Measurement]:
    """Measure the muxer's command against the same command with an encoded picture."""
    video, track = await film(ffmpeg, folder)
    samples = FILM_S * SAMPLE_RATE_HZ
    planned = plan(
        picture_samples=samples,
        track_samples=samples,
        mode=SyncMode.TRIM,
        tempo_filter=TempoFilter.ATEMPO,
    )
    copying = ffmpeg_args(
        planned,
        demuxer="mov",
        guard=INPUT_GUARD,
        video=video,
        track=track,
        target=folder / "scored.mp4",
    )
    place = copying.index("-c:v")
    coding = [*copying[:place], *X264, *copying[place + 2 :]]

    async def copied() -> None:
        await ffmpeg.run(copying)

    async def coded() -> None:
        await ffmpeg.run(coding)

    variants = [
        Variant(name="picture encoded (x264 veryfast)", work=FILM_S, run=coded),
        Variant(name="picture copied, as the muxer does", work=FILM_S, run=copied),
    ]
    return await compare(variants, unit="x real time")


async def measure() -> Report:
    """Measure merging and muxing."""
    ffmpeg = Ffmpeg(FfmpegSettings.from_environment())
    facts = machine_facts(ffmpeg=await ffmpeg.version())
    with tempfile.TemporaryDirectory(prefix="segue-bench-") as name:
        folder = Path(name)
        measurements = [*await joining(ffmpeg, folder), *await muxing(ffmpeg, folder)]
    return Report(name="merge", measurements=measurements, facts=facts)


if __name__ == "__main__":
    main(measure)
