"""Lists the modules that are mutated and the unit tests that run against their mutants."""

#: rules without I/O, and the cores of the generator, the merger and the api
MODULES = (
    "shared/contract/ids.py",
    "shared/processing/active_runs.py",
    "shared/processing/lanes.py",
    "shared/processing/offset_tracker.py",
    "shared/processing/retry.py",
    "shared/security/signed_links.py",
    "shared/security/webhook_signatures.py",
    "services/api/domain/cost_estimate.py",
    "services/api/domain/redrive.py",
    "services/api/domain/run_spec.py",
    "services/api/domain/run_view.py",
    "services/api/http/byte_ranges.py",
    "services/generator/clip/quality.py",
    "services/generator/composition/attempts.py",
    "services/generator/composition/claims.py",
    "services/generator/providers/replicate/rate_limiter.py",
    "services/generator/providers/replicate/request.py",
    "services/generator/providers/replicate/submit.py",
    "services/generator/scene/plan.py",
    "services/merger/assembly.py",
    "services/merger/bridge.py",
    "services/merger/crossfade.py",
    "services/merger/placed_clip.py",
    "services/merger/timeline.py",
    "services/muxer/ffmpeg_plan.py",
)

#: a part of `make unit`: what runs no FFmpeg and composes no music
TESTS = (
    "tests/unit/shared/contract/test_ids.py",
    "tests/unit/shared/processing",
    "tests/unit/shared/security",
    "tests/unit/services/api/domain",
    "tests/unit/services/api/http/test_byte_ranges.py",
    "tests/unit/services/generator/clip",
    "tests/unit/services/generator/composition",
    "tests/unit/services/generator/providers/replicate",
    "tests/unit/services/generator/scene/test_plan.py",
    "tests/unit/services/merger/test_assembly.py",
    "tests/unit/services/merger/test_assembly_machine.py",
    "tests/unit/services/merger/test_bridge.py",
    "tests/unit/services/merger/test_crossfade.py",
    "tests/unit/services/merger/test_placed_clip.py",
    "tests/unit/services/merger/test_timeline.py",
    "tests/unit/services/muxer/test_ffmpeg_plan.py",
)
#: needs seconds per mutant and kills none that the others leave alive
TESTS_LEFT_OUT = (
    "tests/unit/services/merger/test_assembly.py::test_the_track_is_as_long_as_its_scenes",
)
