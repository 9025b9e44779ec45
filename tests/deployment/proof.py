"""Proof: the steps that show what an image and the compose file promise, each able to fail.

I/O: the engine, HTTP to loopback.
"""

import json
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from embedded.servers import Addresses, NativeServers
from embedded.servers.process import run_tool
from embedded.toolchain.cache import ToolSettings
from ops.score.api_client import ApiClient
from shared.http.server import free_ports
from shared.media.video import probe_video
from tests.deployment import engine
from tests.deployment.engine import Compose, Engine
from tests.support.film_clips import film_clips

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("api", "generator", "merger", "muxer")
UP = (*SERVICES, "generator-2")
IMAGES = (*SERVICES, "ops")
NOT_PROVED = (
    "the official Python base image: a stand-in made of Debian's packages was used",
    "the images of Kafka, PostgreSQL, MinIO, Prometheus and Grafana: none was pulled",
    "their part of the file beyond what Compose checks: the servers were native ones",
    "the network between containers and published ports: the services used this machine's network",
)
_NETWORK = ("--network=host",)  # the engine has no bridge
_BUILDS = 3
_BUILD_S = 600.0
_UP_S = 180
_JOB_S = 120.0
_STOP_S = 60.0
_POLL_S = 0.5
_NO_TOOLS = "gcc cc g++ make ld as git curl wget"


class DisprovedError(Exception):
    """Something that was promised does not hold."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What the proof works with."""

    base: Path  #: tar of the base image
    compose: Path
    servers: Addresses


def gather(tools: ToolSettings, folder: Path, stack: ExitStack) -> Parts:
    """Everything that is fetched, built or started, side by side."""
    servers = NativeServers(folder / "servers", tools)
    stack.callback(servers.stop)
    (folder / "servers").mkdir(mode=0o711)
    with ThreadPoolExecutor(max_workers=3) as pool:
        base = pool.submit(engine.base_image, tools)
        compose = pool.submit(engine.compose_binary, tools)
        addresses = pool.submit(servers.start)
    return Parts(base=base.result(), compose=compose.result(), servers=addresses.result())


class Proof:
    """The steps, on a running engine."""

    def __init__(self, docker: Engine, parts: Parts, *, folder: Path) -> None:
        self._docker = docker
        self._parts = parts
        self._folder = folder
        self._ports = dict(zip(UP, free_ports(len(UP)), strict=True))
        self._compose = Compose(
            parts.compose,
            docker,
            files=[ROOT / "docker-compose.yml", ROOT / "tests/deployment/host.yml"],
            env=self._environment(),
        )
        self._jobs = 0

    def steps(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """Each with its name, in order."""
        yield "compose file checked", self._check_file
        yield "images built", self._build
        yield "images looked into", self._look_into_images
        yield "docker-compose up --wait", self._up
        yield "containers looked into", self._look_into_containers
        yield "a job from POST to video", self._score
        yield "killed services come back", self._kill
        yield "a job after that", self._score
        yield "docker-compose stop", self._stop
        yield "docker-compose down", self._down

    def _environment(self) -> Path:
        """The file of variables: fresh secrets as `make up` writes them, and our servers."""
        file = self._folder / "env"
        run_tool("make-env.sh", ["sh", ROOT / "deploy/compose/make-env.sh", file], timeout_s=10)
        servers = self._parts.servers
        assert servers.database is not None, "native servers have one"
        socket = Path(parse_qs(urlsplit(servers.database).query)["host"][0])
        for place in (socket, socket.parent):  # whose user the container's is not
            place.chmod(0o711)
        told = {
            "PROOF_KAFKA": servers.kafka.bootstrap_servers,
            "PROOF_MINIO": servers.store.endpoint,
            "PROOF_POSTGRES": str(socket),
            "MINIO_ACCESS_KEY": servers.store.access_key.get_secret_value(),
            "MINIO_SECRET_KEY": servers.store.secret_key.get_secret_value(),
            "SEGUE_TOPIC_PREFIX": f"proof-{secrets.token_hex(3)}-",
        }
        for service, port in self._ports.items():
            told[f"PROOF_PORT_{service.upper().replace('-', '_')}"] = str(port)
        with file.open("a", encoding="utf-8") as lines:
            lines.writelines(f"{name}={value}\n" for name, value in told.items())
        return file

    def _check_file(self) -> None:
        """The file as users have it, with every profile; and no secret in it."""
        plain = Compose(
            self._parts.compose,
            self._docker,
            files=[ROOT / "docker-compose.yml"],
            env=self._folder / "env",
        )
        plain.call("--profile", "*", "config", "-q")
        text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
        for line in (self._folder / "env").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition("=")
            if name.endswith(("PASSWORD", "KEY", "KEYS")) and value in text:
                raise DisprovedError(f"docker-compose.yml has the value of {name} in it")

    def _build(self) -> None:
        """The image of each service, with the arguments that the compose file gives."""
        told = json.loads(self._compose.call("--profile", "*", "config", "--format", "json"))
        wanted = {one["image"]: one["build"] for one in told["services"].values() if "build" in one}
        if len(wanted) != len(IMAGES):
            raise DisprovedError(f"the compose file builds {sorted(wanted)}")
        self._docker.call("import", self._parts.base, self._base_name())
        self._docker.call("build", "-q", *_NETWORK, "--target", "common", ROOT, timeout_s=_BUILD_S)
        with ThreadPoolExecutor(max_workers=_BUILDS) as pool:  # the rest of each is its own
            list(pool.map(lambda one: self._build_one(*one), wanted.items()))

    def _build_one(self, image: str, build: dict[str, Any]) -> None:
        arguments = [f"{name}={value}" for name, value in build["args"].items()]
        flags = [part for one in arguments for part in ("--build-arg", one)]
        head = ["build", "-q", *_NETWORK, "-t", image, *flags]
        self._docker.call(*head, build["context"], timeout_s=_BUILD_S)

    def _base_name(self) -> str:
        lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
        return next(line.split("=")[1] for line in lines if line.startswith("ARG PYTHON_IMAGE="))

    def _look_into_images(self) -> None:
        """Nobody's user, nothing to build with, nothing of other services, a health check."""
        for service in IMAGES:
            image = f"segue-{service}:local"
            told = json.loads(self._docker.call("image", "inspect", image))[0]
            config = told["Config"]
            _hold(config["User"] not in {"", "0", "root"}, f"{image} runs as root")
            _hold("Healthcheck" in config, f"{image} has no health check")
            tools = self._inside(image, f"for t in {_NO_TOOLS}; do command -v $t; done")
            _hold(not tools.strip(), f"{image} has {tools}")
            pip = self._inside(image, "python -m pip -V")
            _hold("No module named pip" in pip, f"{image} has pip in its environment: {pip}")
            lines = set(self._inside(image, "ls /app/services").split("\n"))
            others = set(SERVICES) - {service} if service != "ops" else set()
            _hold(not others & lines, f"{image} carries {others & lines}")
            size = told["Size"] // 1_000_000
            base = json.loads(self._docker.call("image", "inspect", self._base_name()))[0]["Size"]
            say(f"  {image} {size} MB, {size - base // 1_000_000} MB over its base")

    def _inside(self, image: str, script: str) -> str:
        run = ["run", "--rm", "--network=none", "--read-only", "--entrypoint", "sh", image]
        return self._docker.call(*run, "-c", f"({script}) 2>&1; true")

    def _up(self) -> None:
        """`up --wait` returns once all are healthy, the one-shot having ended well before."""
        wait = ["--wait", "--wait-timeout", str(_UP_S)]
        try:
            self._compose.call("up", "--no-build", *wait, *UP, timeout_s=_UP_S + 60)
        except Exception:
            say(self._compose.call("logs", "--no-color", "--tail", "30"))
            raise
        prepare = self._docker.inspect("segue-proof-prepare-1")["State"]
        _hold(prepare["ExitCode"] == 0, f"prepare ended with {prepare['ExitCode']}")
        said = self._compose.call("logs", "--no-color", "prepare")
        _hold("ready: " in said, f"prepare said: {said}")
        for name in UP:
            began = self._docker.inspect(_container(name))["State"]["StartedAt"]
            _hold(began > prepare["FinishedAt"], f"{name} started before prepare had ended")

    def _look_into_containers(self) -> None:
        """What the file promises of our services, as the engine has it."""
        for name in UP:
            told = self._docker.inspect(_container(name))
            host = told["HostConfig"]
            _hold(told["State"]["Health"]["Status"] == "healthy", f"{name} is not healthy")
            _hold(host["ReadonlyRootfs"], f"{name} may write to its root")
            _hold("no-new-privileges:true" in host["SecurityOpt"], f"{name} may gain privileges")
            _hold(host["CapDrop"] == ["ALL"], f"{name} has capabilities")
            _hold(host["RestartPolicy"]["Name"] == "unless-stopped", f"{name} is not restarted")
            for limit in ("Memory", "NanoCpus", "PidsLimit"):
                _hold(bool(host[limit]), f"{name} has no limit of {limit}")
            write = "touch /app/x 2>/dev/null && echo WROTE; touch /tmp/x && echo tmp"
            wrote = self._docker.call("exec", _container(name), "sh", "-c", write)
            _hold(wrote.strip() == "tmp", f"{name}: {wrote}")
            given = dict(line.split("=", 1) for line in told["Config"]["Env"])
            secret = {
                "DATABASE_URL": {"api"},
                "POSTGRES_PASSWORD": set(),
                "GRAFANA_PASSWORD": set(),
            }
            secret["SEGUE_SEGMENT_KEYS"] = {"api", "generator", "generator-2"}
            for variable, owners in secret.items():
                had = bool(given.get(variable))
                _hold(had == (name in owners), f"{name} has {variable}: {had}")

    def _score(self) -> None:
        """A film is handed in and comes back with its music."""
        self._jobs += 1
        job = f"proof-{self._jobs}"
        with ApiClient(f"http://127.0.0.1:{self._ports['api']}") as api:
            film = api.upload(film_clips().bikes)
            scenes = [{"description": text, "duration_s": 5.0} for text in ("calm", "wild")]
            api.start(
                {
                    "job_id": job,
                    "video": film.video.model_dump(exclude_none=True),
                    "scenes": scenes,
                    "audio_params": {"merge_with_video": True},
                }
            )
            end = time.monotonic() + _JOB_S
            while (found := api.status(job)).audio_status.status == "processing":
                _hold(time.monotonic() < end, f"{job} is not done: {found.model_dump_json()}")
                time.sleep(_POLL_S)
            _hold(found.audio_status.status == "completed", f"{job}: {found.model_dump_json()}")
            link = found.links.video
            _hold(link is not None, f"{job} has no video: {found.model_dump_json()}")
            place = self._folder / f"{job}.mp4"
            api.download(str(link), place)
        video = probe_video(place)
        _hold(abs(float(video.duration_s) - 10.0) < 0.2, f"the video has {video.duration_s} s")

    def _kill(self) -> None:
        """SIGKILL to each service: the engine starts it again, and it becomes healthy."""
        for name in UP:
            self._docker.kill_process(_container(name))
        end = time.monotonic() + _UP_S
        for name in UP:
            while not self._back(self._docker.inspect(_container(name))):
                _hold(time.monotonic() < end, f"{name} did not come back")
                time.sleep(_POLL_S)

    @staticmethod
    def _back(told: dict[str, Any]) -> bool:
        return bool(told["RestartCount"]) and told["State"]["Health"]["Status"] == "healthy"

    def _stop(self) -> None:
        """Every service ends by itself within its time, with exit code 0."""
        self._compose.call("stop", timeout_s=_STOP_S)
        for name in UP:
            code = self._docker.inspect(_container(name))["State"]["ExitCode"]
            _hold(code == 0, f"{name} ended with exit code {code}")

    def _down(self) -> None:
        self._compose.call("--profile", "*", "down", "--volumes", timeout_s=_STOP_S)
        left = self._docker.call("ps", "-aq") + self._docker.call("volume", "ls", "-q")
        _hold(not left.strip(), f"something is left: {left}")


def say(line: str) -> None:
    """A line for people, at once."""
    sys.stdout.write(f"deployment: {line}\n")
    sys.stdout.flush()


def _container(service: str) -> str:
    return f"segue-proof-{service}-1"


def _hold(holds: bool, otherwise: str) -> None:  # noqa: FBT001 - reads as a sentence
    """Raise unless it holds."""
    if not holds:
        raise DisprovedError(otherwise)
