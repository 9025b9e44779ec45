"""Steps: the named steps of each service, as data, and where in the product each one happens.

A step is a call of a door of the product (`module:Class.method`) that its `picks` recognises by
the arguments, for the job and scene that are targeted. `before` it nothing of it was done;
`after` it everything was, and the process does not know yet. Where one call does two things that
the world can tell apart, `sent` lies between them: the request is on its way, its answer is not
there.

The tables say for each service at which moments a process is killed so that every gap between
two steps is met once.
"""

import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from typing_extensions import override

from shared.contract.ids import scene_seed
from shared.storage.keys import run_prefix

Moment = Literal["before", "sent", "after"]
Arguments = Mapping[str, Any]  #: of one call, by the names in its signature
_STORES = ("shared.storage.filesystem:FolderStore", "shared.storage.s3.store:S3Store")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Whose step is meant."""

    job_id: str | None = None  #: None: any job's
    run: int = 1
    scene: int = 0

    def is_of(self, key: str) -> bool:
        """Whether an object belongs to the run."""
        return self.job_id is None or key.startswith(run_prefix(self.job_id, self.run))

    def is_about(self, job_id: str) -> bool:
        """Whether it is this job."""
        return self.job_id in {None, job_id}


Picks = Callable[[Arguments, Target], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of a service. `picks` tells its calls from others."""

    name: str
    doors: tuple[str, ...]
    picks: Picks
    #: counts only once this step was done; None: at once
    follows: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Where a process ends: `moment` of the `nth` time a step happens."""

    moment: Moment
    step: str
    nth: int = 1

    @classmethod
    def of(cls, text: str) -> "Point":
        """As a command line writes it: `after:poll` or `after:poll:2`."""
        moment, step, *nth = text.split(":")
        if moment not in {"before", "sent", "after"}:
            raise ValueError(f"{text!r}: a point begins with before:, sent: or after:")
        return cls(moment=moment, step=step, nth=int(nth[0]) if nth else 1)  # type: ignore[arg-type]

    @override
    def __str__(self) -> str:
        return f"{self.moment}:{self.step}" + (f":{self.nth}" if self.nth > 1 else "")


def _store(method: str) -> tuple[str, ...]:
    return tuple(f"{store}.{method}" for store in _STORES)


def _scene(pattern: str) -> Picks:
    """Objects of the scene with `pattern` in their names, and something in them."""

    def picks(arguments: Arguments, target: Target) -> bool:
        key = arguments["key"]
        is_it = f"/scenes/{target.scene:05d}/{pattern}" in key and bool(arguments["data"])
        return is_it and target.is_of(key)

    return picks


def _object(name: str) -> Picks:
    """Objects of the run that have this name."""
    return lambda arguments, target: (
        arguments["key"].endswith(f"/{name}") and target.is_of(arguments["key"])
    )


def _says(kind: str) -> Picks:
    """Events of this kind, of the job."""
    return lambda arguments, target: (
        arguments["event"].kind == kind and target.is_about(arguments["event"].job_id)
    )


def _any(_arguments: Arguments, _target: Target) -> bool:
    return True


def _some(name: str) -> Picks:
    """Calls that have something to do."""
    return lambda arguments, _target: bool(arguments[name])


def _pays(arguments: Arguments, target: Target) -> bool:
    """The request that costs, known by its seed."""
    request = arguments["request"]
    if request.method != "POST" or not request.url.path.endswith("/predictions"):
        return False
    seed = json.loads(request.content)["input"]["seed"]
    return target.job_id is None or seed == scene_seed(target.job_id, target.run, target.scene, 1)


def _says_scene(arguments: Arguments, target: Target) -> bool:
    is_it = _says("segment.generated")(arguments, target)
    return is_it and arguments["event"].scene_index == target.scene


def _keeps_scene(arguments: Arguments, target: Target) -> bool:
    is_it = arguments["state"].scene_done == target.scene
    return bool(is_it and target.is_about(arguments["job_id"]))


_PUBLISH = ("shared.kafka.producer:Publisher.publish",)
_API = "services.generator.providers.replicate.client:ReplicateApi"

GENERATOR: tuple[Step, ...] = (
    Step(name="claim", doors=_store("put_if_absent"), picks=_scene("claim-")),
    Step(
        name="post",
        doors=("httpx:AsyncHTTPTransport.handle_async_request",),
        picks=_pays,
        follows="claim",
    ),
    Step(name="id", doors=_store("put"), picks=_scene("prediction-")),
    Step(name="poll", doors=(f"{_API}.get",), picks=_any, follows="id"),
    Step(name="download", doors=(f"{_API}.download",), picks=_any, follows="id"),
    Step(name="clip", doors=_store("put"), picks=_scene("clip-")),
    Step(name="segment", doors=_store("put_if_absent"), picks=_scene("segment.json")),
    Step(name="published", doors=_PUBLISH, picks=_says_scene),
    Step(
        name="state",
        doors=("services.generator.faust_app.stream:FaustContinuationTable.put",),
        picks=_keeps_scene,
    ),
    Step(name="ack", doors=("faust.events:Event.ack",), picks=_any, follows="state"),
    Step(
        name="commit",
        doors=("faust.transport.drivers.aiokafka:AIOKafkaConsumerThread.commit",),
        picks=_some("offsets"),
        follows="ack",
    ),
)

_COMMIT = Step(
    name="commit",
    doors=("aiokafka:AIOKafkaConsumer.commit",),
    picks=_some("offsets"),
    follows="published",
)

MERGER: tuple[Step, ...] = (
    Step(name="track", doors=_store("put_file"), picks=_object("track.mp3")),
    Step(name="merged", doors=_store("put"), picks=_object("merged.json")),
    Step(name="published", doors=_PUBLISH, picks=_says("audio.merged")),
    _COMMIT,
)

MUXER: tuple[Step, ...] = (
    Step(name="video", doors=_store("put_file"), picks=_object("video.mp4")),
    Step(name="muxed", doors=_store("put"), picks=_object("muxed.json")),
    Step(name="published", doors=_PUBLISH, picks=_says("video.muxed")),
    _COMMIT,
)

_OUTBOX = "services.api.database.outbox"

API: tuple[Step, ...] = (
    # in the request's transaction, which is rolled back
    Step(name="accept", doors=(f"{_OUTBOX}:add_events",), picks=_some("events")),
    # the relay
    Step(name="send", doors=("shared.kafka.producer:Publisher.send",), picks=_any),
    Step(name="remove", doors=(f"{_OUTBOX}:remove",), picks=_some("ids")),
    # the projector: in its transaction, and when that is over
    Step(name="advance", doors=("services.api.database.offsets:advance",), picks=_any),
    Step(name="rows", doors=("services.api.database.runs:save",), picks=_any),
    Step(
        name="apply",
        doors=("services.api.projection.apply_batch:Applier.apply",),
        picks=_some("batch"),
    ),
    Step(name="hint", doors=("aiokafka:AIOKafkaConsumer.commit",), picks=_some("offsets")),
)

STEPS: Mapping[str, tuple[Step, ...]] = {
    "api": API,
    "generator": GENERATOR,
    "merger": MERGER,
    "muxer": MUXER,
}


def gaps(service: str) -> list[Point]:
    """Every gap between two steps of a service once: before the first, and after each."""
    first, *_ = STEPS[service]
    found = [Point(moment="before", step=first.name)]
    found += [Point(moment="after", step=step.name) for step in STEPS[service]]
    if service == "generator":
        found += [
            Point(moment="sent", step="post"),
            Point(moment="after", step="poll", nth=2),
        ]
    return found


def step_named(service: str, name: str) -> Step:
    """The step of a service.

    Raises:
        ValueError: it has none of this name.
    """
    for step in STEPS[service]:
        if step.name == name:
            return step
    raise ValueError(f"{service} has no step {name!r}, only {[s.name for s in STEPS[service]]}")


def place_of(door: str) -> tuple[Any, str]:
    """What holds a door of the product, and the door's name there."""
    module, path = door.split(":")
    holder: Any = importlib.import_module(module)
    *inner, name = path.split(".")
    for part in inner:
        holder = getattr(holder, part)
    return holder, name
