"""Dlq: the commands that look at dead letters: what they died of, and one of them in full.

They read; they write nothing.

I/O: Kafka and PostgreSQL.
"""

from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from ops.exits import CommandError, Exit, answering, print_json
from ops.operating import Operator, run
from ops.options import DataDir, Json
from ops.progress import telling
from ops.reading import LogReader, Span, reading
from shared.kafka.codec import Record
from shared.topics import DLQ_SUFFIX, EVENT_TOPICS, topic_named

REASON_CHARS = 120  # of a line; `show` has all of it
dlq = typer.Typer(help="Dead letters: list, show.", no_args_is_help=True)


@dlq.command(name="list")
def list_letters(
    topic: Annotated[
        str | None, typer.Argument(metavar="[TOPIC]", help="Whose dead letters; else all.")
    ] = None,
    *,
    job: Annotated[str | None, typer.Option(help="Only of this job.")] = None,
    reason: Annotated[str | None, typer.Option(help="Only those whose reason has this.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="The newest so many.")] = 20,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Say how many dead letters there are of which reason, and list the newest."""
    with answering(as_json=as_json):
        names = _topics(topic)

        async def body(operator: Operator) -> dict[str, Any]:
            found = [
                letter_of(record)
                async for record in _letters(operator, names)
                if job in {None, _key(record)}
                and (reason is None or reason in (record.header("dlq-reason") or ""))
            ]
            newest = sorted(found, key=lambda one: one["at"], reverse=True)[:limit]
            reasons = Counter(one["exception"] for one in found)
            return {"count": len(found), "reasons": dict(reasons.most_common()), "letters": newest}

        told = run(body, as_json=as_json, data_dir=data_dir)
        if as_json:
            print_json(told)
            return
        for line in lines(told):
            print(line)


@dlq.command()
def show(
    place: Annotated[str, typer.Argument(metavar="TOPIC/PARTITION/OFFSET", help="As in list.")],
    *,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show one dead letter whole: key, value, and every header, the original ones too."""
    with answering(as_json=as_json):
        topic, number, offset = _parsed(place)

        async def body(operator: Operator) -> dict[str, Any]:
            async with reading(operator.kafka) as reader:
                for span in await reader.spans(topic):
                    if span.partition == number and span.start <= offset < span.end:
                        return await _one(reader, span, offset)
            raise CommandError(Exit.REFUSED, f"there is no dead letter {place}")

        told = run(body, as_json=as_json, data_dir=data_dir)
        if as_json:
            print_json(told)
            return
        for name, value in told["headers"]:
            print(f"{name}: {value}")
        print(f"\nkey: {told['key']}\n{told['value']}")


def letter_of(record: Record) -> dict[str, Any]:
    """A dead letter in short."""
    where = (record.header(f"dlq-origin-{what}") for what in ("topic", "partition", "offset"))
    return {
        "place": f"{record.topic}/{record.partition}/{record.offset}",
        "at": datetime.fromtimestamp((record.timestamp_ms or 0) / 1000, UTC).isoformat(),
        "job_id": _key(record),
        "origin": "/".join(part or "?" for part in where),
        "exception": record.header("dlq-exception") or "?",
        "reason": record.header("dlq-reason") or "",
        "attempts": record.header("dlq-attempts"),
        "service": record.header("dlq-service"),
    }


def lines(told: dict[str, Any]) -> list[str]:
    """The list in words."""
    found = [f"{told['count']} dead letters"]
    found += [f"{count:>8} {name}" for name, count in told["reasons"].items()]
    for one in told["letters"]:
        reason = one["reason"].splitlines()[0][:REASON_CHARS] if one["reason"] else ""
        found.append(f"{one['at'][:19]}  {one['place']}  job {one['job_id']}: {reason}")
    return found


async def _letters(operator: Operator, topics: list[str]) -> AsyncIterator[Record]:
    """Every record of these topics."""
    tell = telling(operator.say, "dead letters looked at")
    async with reading(operator.kafka) as reader:
        spans = [span for topic in topics for span in await reader.spans(topic)]
        total, done = sum(span.length for span in spans), 0
        for span in spans:
            async for records in reader.read(span):
                for record in records:
                    yield record
                done += len(records)
                tell(done, total)


async def _one(reader: LogReader, span: Span, offset: int) -> dict[str, Any]:
    only = Span(topic=span.topic, partition=span.partition, start=offset, end=offset + 1)
    async for records in reader.read(only):
        record = records[0]
        headers = [[name, value.decode(errors="replace")] for name, value in record.headers]
        value = None if record.value is None else record.value.decode(errors="replace")
        return {**letter_of(record), "key": _key(record), "value": value, "headers": headers}
    raise CommandError(Exit.REFUSED, f"the record {span.topic}/{span.partition}/{offset} is gone")


def _topics(topic: str | None) -> list[str]:
    """The dead-letter topics that are meant."""
    if topic is None:
        return [one.dead_letters for one in EVENT_TOPICS]
    named = topic_named(topic.removesuffix(DLQ_SUFFIX))
    if named is None:
        names = ", ".join(one.name for one in EVENT_TOPICS)
        raise CommandError(Exit.USAGE, f"there is no topic {topic}; there are {names}")
    return [named.dead_letters]


def _parsed(place: str) -> tuple[str, int, int]:
    try:
        topic, number, offset = place.rsplit("/", 2)
        return _topics(topic)[0], int(number), int(offset)
    except ValueError as error:
        told = f"{place} is no place: name it as TOPIC/PARTITION/OFFSET (segue dlq list shows it)"
        raise CommandError(Exit.USAGE, told) from error


def _key(record: Record) -> str | None:
    return None if record.key is None else record.key.decode(errors="replace")
