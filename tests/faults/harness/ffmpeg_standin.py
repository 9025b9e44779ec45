"""A stand-in for ffmpeg that runs the real one, or an injected fault for one call.

The program is a shell script; services use it by `FFMPEG`. A fault applies to one call: the first
one whose arguments contain the fault's word. Every other call executes the real ffmpeg.

I/O: files in the stand-in's folder.
"""

import shlex
from collections.abc import Mapping
from pathlib import Path

from tests.support.films import real_ffmpeg
from tests.support.processes import eventually

_TAKEN_S = 60.0
#: shell code of each fault; `$last` is the output file, `$real` the real ffmpeg
FAULTS: Mapping[str, str] = {
    "slow": 'exec "$real" -re "$@"',
    "hangs": "sleep 3600 & wait",
    "writes nothing": "exit 0",
    "writes an empty file": ': > "$last"',
    "writes garbage": 'head -c 50000 /dev/urandom > "$last"',
    "writes half": (
        '"$real" "$@" || exit; size=$(stat -c %s "$last"); truncate -s $((size / 2)) "$last"'
    ),
    "prints nonsense": "echo lavfi.r128.I=loud; echo 'the disk is a lake' >&2",
    "prints without end": "exec yes",
    "has little memory": 'ulimit -v 200000; exec "$real" "$@"',
    "has no memory": 'ulimit -v 120000; exec "$real" "$@"',
}
_SCRIPT = """\
#!/bin/sh
cd {folder} || exit 1
real={real}
if read -r word fault 2>/dev/null < ready; then
  case "$*" in
    *"$word"*) mv ready taken 2>/dev/null && took=$fault ;;
  esac
fi
[ -n "$took" ] || exec "$real" "$@"
for last; do :; done
last=${{last#file:}}
echo $$ > pid.part && mv pid.part pid
case $took in
{cases}
esac
"""


class FfmpegStandIn:
    """The stand-in; `path` is the program."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.path = folder / "ffmpeg"
        cases = "\n".join(f"  {shlex.quote(name)}) {does} ;;" for name, does in FAULTS.items())
        self.path.write_text(
            _SCRIPT.format(
                folder=shlex.quote(str(folder)),
                real=shlex.quote(real_ffmpeg().binary),
                cases=cases,
            )
        )
        self.path.chmod(0o755)

    def inject(self, fault: str, *, word: str) -> None:
        """Inject a fault into the next call with `word` in its arguments."""
        assert fault in FAULTS
        (self.folder / "pid").unlink(missing_ok=True)
        half = self.folder / "ready.part"
        half.write_text(f"{word} {fault}\n")
        half.rename(self.folder / "ready")

    async def taken(self) -> int:
        """Wait until a call has taken the fault; return its process id."""

        async def poll() -> int | None:
            path = self.folder / "pid"
            return int(path.read_text()) if path.exists() else None

        return await eventually(poll, within_s=_TAKEN_S, what=f"a call at {self.path}")
