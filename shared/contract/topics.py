"""Topics: every topic, what it carries, and how the cluster should keep it.

Pure. `shared/kafka/admin.py` makes the cluster match this table.
"""

from dataclasses import dataclass

from shared.contract.events import (
    AudioMerged,
    Event,
    JobCancelled,
    JobFailed,
    PredictionEnded,
    SceneDelayed,
    SceneRequested,
    SegmentGenerated,
    VideoMuxed,
    VideoStitched,
)

DLQ_SUFFIX = ".dlq"
CONTINUATIONS_TABLE = "continuations"
GENERATOR_GROUP = "segue-generator"
RETENTION_DAYS = 14  # as long as an operator may want to replay (design: production page)
_DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """One topic: what its records mean and who touches it."""

    name: str
    event: type[Event] | None  #: None: not ours to read (changelog)
    written_by: tuple[str, ...]
    read_by: tuple[str, ...]
    config: tuple[tuple[str, str], ...] = (("retention.ms", str(RETENTION_DAYS * _DAY_MS)),)

    @property
    def dead_letters(self) -> str:
        """The topic beside it that takes what cannot be worked off."""
        return self.name + DLQ_SUFFIX


def _topic(event: type[Event], written_by: str, read_by: str) -> Topic:
    return Topic(
        name=event.kind,
        event=event,
        written_by=tuple(written_by.split()),
        read_by=tuple(read_by.split()),
    )


EVENT_TOPICS: tuple[Topic, ...] = (
    _topic(VideoStitched, "upstream", "api"),
    _topic(SceneRequested, "api upstream", "generator api"),
    _topic(SceneDelayed, "generator", "api"),
    _topic(PredictionEnded, "api", "generator"),
    _topic(SegmentGenerated, "generator", "merger api"),
    _topic(AudioMerged, "merger", "muxer api"),
    _topic(VideoMuxed, "muxer", "api"),
    _topic(JobFailed, "generator merger muxer", "api"),
    _topic(JobCancelled, "api", "api generator merger muxer"),
)

CHANGELOG = Topic(
    name=f"{GENERATOR_GROUP}-{CONTINUATIONS_TABLE}-changelog",
    event=None,
    written_by=("generator",),
    read_by=("generator",),
    config=(("cleanup.policy", "compact"),),
)

_BY_NAME = {topic.name: topic for topic in EVENT_TOPICS}


def topic_of(event: type[Event]) -> Topic:
    """The topic that carries an event."""
    return _BY_NAME[event.kind]


def topic_named(name: str) -> Topic | None:
    """The event topic of this name, without prefix; None if there is none."""
    return _BY_NAME.get(name)
