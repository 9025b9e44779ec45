"""The named steps of each service as data, with the product functions that perform them.

A step is a call of a product function (`module:Class.method`) whose arguments match the targeted
job and scene. `before` the call nothing was done; `after` it everything was, but the process has
not continued. `sent` is between them for an HTTP request: sent, without a response yet.

The tables define the points at which a process is killed, so that every gap between two steps is
tested once.
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
    """The run and scene whose step is targeted."""

    job_id: str | None = None  #: None: any job's
    run: int = 1
    scene: int = 0

    def is_of(self, key: str) -> bool:
        """Return whether an object belongs to the run."""
        return self.job_id is None or key.startswith(run_prefix(self.job_id, self.run))

    def is_about(self, job_id: str) -> bool:
        """Return whether the job is targeted."""
        return self.job_id in {None, job_id}


Matcher = Callable[[Arguments, Target], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A step of a service; `matches` selects its calls."""

    name: str
    functions: tuple[str, ...]
    matches: Matcher
    #: counted only after this step; None: always
    follows: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Where a process is killed: `moment` of the `nth` call of a step."""

    moment: Moment
    step: str
    nth: int = 1

    @classmethod
    def of(cls, text: str) -> "Point":
        """Parse `after:poll` or `after:poll:2`."""
        moment, step, *nth = text.split(":")
        if moment not in {"before", "sent", "after"}:
            raise ValueError(f"{text!r}: a point starts with before:, sent: or after:")
        return cls(moment=moment, step=step, nth=int(nth[0]) if nth else 1)  # type: ignore[arg-type]

    @override
    def __str__(self) -> str:
        return f"{self.moment}:{self.step}" + (f":{self.nth}" if self.nth > 1 else "")


def _store(method: str) -> tuple[str, ...]:
    return tuple(f"{store}.{method}" for store in _STORES)


def _scene(pattern: str) -> Matcher:
    """Match non-empty objects of the scene with `pattern` in the key."""

    def matches(arguments: Arguments, target: Target) -> bool:
        key = arguments["key"]
        is_match = f"/scenes/{target.scene:05d}/{pattern}" in key and bool(arguments["data"])
        return is_match and target.is_of(key)

    return matches


def _object(name: str) -> Matcher:
    """Match objects of the run with this name."""
    return lambda arguments, target: (
        arguments["key"].endswith(f"/{name}") and target.is_of(arguments["key"])
    )


def _publishes(kind: str) -> Matcher:
    """Match events of this kind of the job."""
    return lambda arguments, target: (
        arguments["event"].kind == kind and target.is_about(arguments["event"].job_id)
    )


def _any(_arguments: Arguments, _target: Target) -> bool:
    return True


def _some(name: str) -> Matcher:
    """Match calls with a non-empty argument."""
    return lambda arguments, _target: bool(arguments[name])


def _pays(arguments: Arguments, target: Target) -> bool:
    """Match the request that creates the prediction, by its seed."""
    request = arguments["request"]
    if request.method != "POST" or not request.url.path.endswith("/predictions"):
        return False
    seed = json.loads(request.content)["input"]["seed"]
    return target.job_id is None or seed == scene_seed(target.job_id, target.run, target.scene, 1)


def _publishes_scene(arguments: Arguments, target: Target) -> bool:
    is_match = _publishes("segment.generated")(arguments, target)
    return is_match and arguments["event"].scene_index == target.scene


def _stores_scene(arguments: Arguments, target: Target) -> bool:
    is_match = arguments["state"].scene_done == target.scene
    return bool(is_match and target.is_about(arguments["job_id"]))


_PUBLISH = ("shared.kafka.producer:Publisher.publish",)
_API = "services.generator.providers.replicate.client:ReplicateApi"

GENERATOR: tuple[Step, ...] = (
    Step(name="claim", functions=_store("put_if_absent"), matches=_scene("claim-")),
    Step(
        name="post",
        functions=("httpx:AsyncHTTPTransport.handle_async_request",),
        matches=_pays,
        follows="claim",
    ),
    Step(name="id", functions=_store("put"), matches=_scene("prediction-")),
    Step(name="poll", functions=(f"{_API}.get",), matches=_any, follows="id"),
    Step(name="download", functions=(f"{_API}.download",), matches=_any, follows="id"),
    Step(name="clip", functions=_store("put"), matches=_scene("clip-")),
    Step(name="segment", functions=_store("put_if_absent"), matches=_scene("segment.json")),
    Step(name="published", functions=_PUBLISH, matches=_publishes_scene),
    Step(
        name="state",
        functions=("services.generator.faust_app.stream:FaustContinuationTable.put",),
        matches=_stores_scene,
    ),
    Step(name="ack", functions=("faust.events:Event.ack",), matches=_any, follows="state"),
    Step(
        name="commit",
        functions=("faust.transport.drivers.aiokafka:AIOKafkaConsumerThread.commit",),
        matches=_some("offsets"),
        follows="ack",
    ),
)

_COMMIT = Step(
    name="commit",
    functions=("aiokafka:AIOKafkaConsumer.commit",),
    matches=_some("offsets"),
    follows="published",
)

MERGER: tuple[Step, ...] = (
    Step(name="track", functions=_store("put_file"), matches=_object("track.mp3")),
    Step(name="merged", functions=_store("put"), matches=_object("merged.json")),
    Step(name="published", functions=_PUBLISH, matches=_publishes("audio.merged")),
    _COMMIT,
)

MUXER: tuple[Step, ...] = (
    Step(name="video", functions=_store("put_file"), matches=_object("video.mp4")),
    Step(name="muxed", functions=_store("put"), matches=_object("muxed.json")),
    Step(name="published", functions=_PUBLISH, matches=_publishes("video.muxed")),
    _COMMIT,
)

_OUTBOX = "services.api.database.outbox"

API: tuple[Step, ...] = (
    # in the request's transaction
    Step(name="accept", functions=(f"{_OUTBOX}:add_events",), matches=_some("events")),
    # the relay
    Step(name="send", functions=("shared.kafka.producer:Publisher.send",), matches=_any),
    Step(name="remove", functions=(f"{_OUTBOX}:remove",), matches=_some("ids")),
    # the projection: in its transaction, and after the commit
    Step(name="advance", functions=("services.api.database.offsets:advance",), matches=_any),
    Step(name="rows", functions=("services.api.database.runs:save",), matches=_any),
    Step(
        name="apply",
        functions=("services.api.projection.apply_batch:Applier.apply",),
        matches=_some("batch"),
    ),
    Step(name="hint", functions=("aiokafka:AIOKafkaConsumer.commit",), matches=_some("offsets")),
)

STEPS: Mapping[str, tuple[Step, ...]] = {
    "api": API,
    "generator": GENERATOR,
    "merger": MERGER,
    "muxer": MUXER,
}


def gaps(service: str) -> list[Point]:
    """Return the points: before the first step and after each step."""
    first, *_ = STEPS[service]
    points = [Point(moment="before", step=first.name)]
    points += [Point(moment="after", step=step.name) for step in STEPS[service]]
    if service == "generator":
        points += [
            Point(moment="sent", step="post"),
            Point(moment="after", step="poll", nth=2),
        ]
    return points


def step_named(service: str, name: str) -> Step:
    """Return the step of a service.

    Raises:
        ValueError: the service has no such step.
    """
    for step in STEPS[service]:
        if step.name == name:
            return step
    raise ValueError(f"{service} has no step {name!r}, only {[s.name for s in STEPS[service]]}")


def resolve(function: str) -> tuple[Any, str]:
    """Return the object that has a product function as attribute, and the attribute's name."""
    module, path = function.split(":")
    holder: Any = importlib.import_module(module)
    *inner, name = path.split(".")
    for part in inner:
        holder = getattr(holder, part)
    return holder, name
