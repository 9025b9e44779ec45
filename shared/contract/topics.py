"""Lists every topic with its event, writers, readers and configuration.

Pure. `shared/kafka/admin.py` creates the topics from this table.
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
RETENTION_DAYS = 14  # how far back an operator can replay
DEAD_LETTER_DAYS = 90  # dead letters wait for an operator
DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """One topic, with the services that write and read it."""

    name: str
    event: type[Event] | None  #: None for Faust's changelog
    written_by: tuple[str, ...]
    read_by: tuple[str, ...]
    config: tuple[tuple[str, str], ...] = (("retention.ms", str(RETENTION_DAYS * DAY_MS)),)

    @property
    def dead_letters(self) -> str:
        """The dead-letter topic of this topic."""
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
    """Return the topic that carries an event."""
    return _BY_NAME[event.kind]


def topic_named(name: str) -> Topic | None:
    """Return the event topic of this name, without prefix; None if there is none."""
    return _BY_NAME.get(name)
