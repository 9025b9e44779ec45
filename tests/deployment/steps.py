"""The steps that test the images and the compose file; each can fail.

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

from embedded.servers import NativeServers, ServerAddresses
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
NOT_TESTED = (
    "the official Python base image (a stand-in made of Debian's packages was used)",
    "the images of Kafka, PostgreSQL, MinIO, Prometheus and Grafana (none was pulled)",
    "their part of the compose file beyond its validation (the servers were native)",
    "container networks and published ports (the services used this machine's network)",
)
_NETWORK = ("--network=host",)  # the engine has no bridge
_BUILDS = 3
_BUILD_S = 600.0
_UP_S = 180
_JOB_S = 120.0
_STOP_S = 60.0
_POLL_S = 0.5
_BASE = "segue-base:local"  # instead of the official image, which cannot be pulled
_NO_TOOLS = "gcc cc g++ make ld as git curl wget"


class CheckFailedError(Exception):
    """A check failed."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Base image, docker-compose and servers."""

    base: Path  #: tar of the base image
    compose: Path
    servers: ServerAddresses


def gather(tools: ToolSettings, folder: Path, stack: ExitStack) -> Parts:
    """Build, fetch and start everything concurrently."""
    servers = NativeServers(folder / "servers", tools)
    stack.callback(servers.stop)
    (folder / "servers").mkdir(mode=0o711)
    with ThreadPoolExecutor(max_workers=3) as pool:
        base = pool.submit(engine.base_image, tools)
        compose = pool.submit(engine.compose_binary, tools)
        addresses = pool.submit(servers.start)
    return Parts(base=base.result(), compose=compose.result(), servers=addresses.result())


class DeploymentSteps:
    """The steps on a running engine."""

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

    def all(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """Yield the steps with their names, in order."""
        yield "compose file checked", self._check_file
        yield "images built", self._build
        yield "images inspected", self._inspect_images
        yield "docker-compose up --wait", self._up
        yield "containers inspected", self._inspect_containers
        yield "a job from POST to video", self._score
        yield "killed services restart", self._kill
        yield "a job after the restart", self._score
        yield "docker-compose stop", self._stop
        yield "docker-compose down", self._down

    def _environment(self) -> Path:
        """Write the env file: new secrets as by `make up`, and the native servers."""
        file = self._folder / "env"
        run_tool("make-env.sh", ["sh", ROOT / "deploy/compose/make-env.sh", file], timeout_s=10)
        servers = self._parts.servers
        assert servers.database is not None, "native servers have one"
        socket = Path(parse_qs(urlsplit(servers.database).query)["host"][0])
        for path in (socket, socket.parent):  # the container runs as another user
            path.chmod(0o711)
        variables = {
            "PROOF_KAFKA": servers.kafka.bootstrap_servers,
            "PROOF_MINIO": servers.store.endpoint,
            "PROOF_POSTGRES": str(socket),
            "MINIO_ACCESS_KEY": servers.store.access_key.get_secret_value(),
            "MINIO_SECRET_KEY": servers.store.secret_key.get_secret_value(),
            "SEGUE_TOPIC_PREFIX": f"proof-{secrets.token_hex(3)}-",
        }
        for service, port in self._ports.items():
            variables[f"PROOF_PORT_{service.upper().replace('-', '_')}"] = str(port)
        with file.open("a", encoding="utf-8") as lines:
            lines.writelines(f"{name}={value}\n" for name, value in variables.items())
        return file

    def _check_file(self) -> None:
        """Validate the compose file with every profile; check that it holds no secret."""
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
                raise CheckFailedError(f"docker-compose.yml contains the value of {name}")

    def _build(self) -> None:
        """Build the image of each service with the arguments of the compose file."""
        config = json.loads(self._compose.call("--profile", "*", "config", "--format", "json"))
        services = config["services"].values()
        builds = {service["image"]: service["build"] for service in services if "build" in service}
        if len(builds) != len(IMAGES):
            raise CheckFailedError(f"the compose file builds {sorted(builds)}")
        self._docker.call("import", self._parts.base, _BASE)
        head = ["build", "-q", *_NETWORK, "--build-arg", f"PYTHON_IMAGE={_BASE}"]
        self._docker.call(*head, "--target", "common", ROOT, timeout_s=_BUILD_S)
        with ThreadPoolExecutor(max_workers=_BUILDS) as pool:  # each has its own remaining layers
            list(pool.map(lambda item: self._build_one(*item), builds.items()))

    def _build_one(self, image: str, build: dict[str, Any]) -> None:
        arguments = {**build["args"], "PYTHON_IMAGE": _BASE}
        flags = [
            part for name, value in arguments.items() for part in ("--build-arg", f"{name}={value}")
        ]
        head = ["build", "-q", *_NETWORK, "-t", image, *flags]
        self._docker.call(*head, build["context"], timeout_s=_BUILD_S)

    def _inspect_images(self) -> None:
        """Check: no root, no build tools, no code of other services, a health check."""
        for service in IMAGES:
            image = f"segue-{service}:local"
            details = json.loads(self._docker.call("image", "inspect", image))[0]
            config = details["Config"]
            _check(config["User"] not in {"", "0", "root"}, f"{image} runs as root")
            _check("Healthcheck" in config, f"{image} has no health check")
            tools = self._run_in(image, f"for t in {_NO_TOOLS}; do command -v $t; done")
            _check(not tools.strip(), f"{image} has {tools}")
            pip = self._run_in(image, "python -m pip -V")
            _check("No module named pip" in pip, f"{image} has pip: {pip}")
            lines = set(self._run_in(image, "ls /app/services").split("\n"))
            others = set(SERVICES) - {service} if service != "ops" else set()
            _check(not others & lines, f"{image} has code of {others & lines}")
            size = details["Size"] // 1_000_000
            base = json.loads(self._docker.call("image", "inspect", _BASE))[0]["Size"]
            report(f"  {image} {size} MB, {size - base // 1_000_000} MB more than its base")

    def _run_in(self, image: str, script: str) -> str:
        run = ["run", "--rm", "--network=none", "--read-only", "--entrypoint", "sh", image]
        return self._docker.call(*run, "-c", f"({script}) 2>&1; true")

    def _up(self) -> None:
        """Start all services; check that the one-shot succeeded before them."""
        wait = ["--wait", "--wait-timeout", str(_UP_S)]
        try:
            self._compose.call("up", "--no-build", *wait, *UP, timeout_s=_UP_S + 60)
        except Exception:
            report(self._compose.call("logs", "--no-color", "--tail", "30"))
            raise
        prepare = self._docker.inspect("segue-proof-prepare-1")["State"]
        _check(prepare["ExitCode"] == 0, f"prepare exited with {prepare['ExitCode']}")
        output = self._compose.call("logs", "--no-color", "prepare")
        _check("ready: " in output, f"prepare printed: {output}")
        for name in UP:
            started_at = self._docker.inspect(_container(name))["State"]["StartedAt"]
            _check(started_at > prepare["FinishedAt"], f"{name} started before prepare ended")

    def _inspect_containers(self) -> None:
        """Check the containers' privileges, limits and secrets."""
        for name in UP:
            details = self._docker.inspect(_container(name))
            host = details["HostConfig"]
            _check(details["State"]["Health"]["Status"] == "healthy", f"{name} is not healthy")
            _check(host["ReadonlyRootfs"], f"{name} can write to its root")
            _check("no-new-privileges:true" in host["SecurityOpt"], f"{name} can gain privileges")
            _check(host["CapDrop"] == ["ALL"], f"{name} has capabilities")
            _check(host["RestartPolicy"]["Name"] == "unless-stopped", f"{name} is not restarted")
            for limit in ("Memory", "NanoCpus", "PidsLimit"):
                _check(bool(host[limit]), f"{name} has no limit of {limit}")
            write = "touch /app/x 2>/dev/null && echo WROTE; touch /tmp/x && echo tmp"
            output = self._docker.call("exec", _container(name), "sh", "-c", write)
            _check(output.strip() == "tmp", f"{name}: {output}")
            environment = dict(line.split("=", 1) for line in details["Config"]["Env"])
            secret = {
                "DATABASE_URL": {"api"},
                "POSTGRES_PASSWORD": set(),
                "POSTGRES_ADMIN_PASSWORD": set(),
                "MINIO_ROOT_PASSWORD": set(),
                "GRAFANA_PASSWORD": set(),
            }
            secret["SEGUE_SEGMENT_KEYS"] = {"api", "generator", "generator-2"}
            for variable, owners in secret.items():
                is_set = bool(environment.get(variable))
                _check(is_set == (name in owners), f"{name} has {variable}: {is_set}")

    def _score(self) -> None:
        """Upload a film, run a job and download its video."""
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
            while (status := api.status(job)).audio_status.status == "processing":
                _check(time.monotonic() < end, f"{job} has not ended: {status.model_dump_json()}")
                time.sleep(_POLL_S)
            _check(status.audio_status.status == "completed", f"{job}: {status.model_dump_json()}")
            link = status.links.video
            _check(link is not None, f"{job} has no video: {status.model_dump_json()}")
            path = self._folder / f"{job}.mp4"
            api.download(str(link), path)
        video = probe_video(path)
        _check(abs(float(video.duration_s) - 10.0) < 0.2, f"the video lasts {video.duration_s} s")

    def _kill(self) -> None:
        """Kill each service; check that the engine restarts it and it becomes healthy."""
        for name in UP:
            self._docker.kill_process(_container(name))
        end = time.monotonic() + _UP_S
        for name in UP:
            while not self._has_restarted(self._docker.inspect(_container(name))):
                _check(time.monotonic() < end, f"{name} did not restart")
                time.sleep(_POLL_S)

    @staticmethod
    def _has_restarted(details: dict[str, Any]) -> bool:
        return bool(details["RestartCount"]) and details["State"]["Health"]["Status"] == "healthy"

    def _stop(self) -> None:
        """Stop the services; check that each exits with 0 within its grace period."""
        self._compose.call("stop", timeout_s=_STOP_S)
        for name in UP:
            code = self._docker.inspect(_container(name))["State"]["ExitCode"]
            _check(code == 0, f"{name} exited with {code}")

    def _down(self) -> None:
        self._compose.call("--profile", "*", "down", "--volumes", timeout_s=_STOP_S)
        left = self._docker.call("ps", "-aq") + self._docker.call("volume", "ls", "-q")
        _check(not left.strip(), f"not removed: {left}")


def report(line: str) -> None:
    """Print a line and flush it."""
    sys.stdout.write(f"deployment: {line}\n")
    sys.stdout.flush()


def _container(service: str) -> str:
    return f"segue-proof-{service}-1"


def _check(condition: bool, message: str) -> None:  # noqa: FBT001 - like assert
    """Raise `CheckFailedError` with the message if the condition is false."""
    if not condition:
        raise CheckFailedError(message)
