"""What a log line holds, and what it never does."""

import io
import json
import logging
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
import structlog
from minio import Minio

from shared.clock import SystemClock
from shared.security.signed_links import LinkSettings, SegmentLinks
from shared.settings import KafkaSettings, StoreSettings, TelemetrySettings, secrets_in
from shared.telemetry import redaction, trace
from shared.telemetry.log import configure, log_context, logger_of
from shared.telemetry.redaction import CHARS_MAX, hide, redacted
from shared.telemetry.stdlib_logging import StdlibLogHandler

TOKEN = SegmentLinks(LinkSettings(keys="a secret that tests alone know"), clock=SystemClock()).seal(
    "jobs/x/run-1/clip"
)
PRESIGNED = Minio(
    "127.0.0.1:1", "the-access-key", "the-secret-key", secure=False, region="x"
).get_presigned_url("PUT", "segue", "jobs/x/clip", timedelta(minutes=5))
SIGNATURE = PRESIGNED.rpartition("=")[2]


@pytest.fixture
def said() -> Iterator[io.StringIO]:
    """Lines of a log at debug level."""
    stream = io.StringIO()
    before, level = structlog.get_config(), logging.getLogger().level
    configure(TelemetrySettings(log_level="debug"), stream=stream)
    yield stream
    structlog.configure(**before)
    logging.getLogger().setLevel(level)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    """What was said, parsed."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_says_who_what_when_about_which_scene(said: io.StringIO) -> None:
    """The scene is bound once; the trace it came with stands beside it."""
    caller = trace.extract("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    with (
        log_context(job_id="film", run=2, scene_index=0),
        trace.continue_trace(caller, "process", kind="consumer"),
    ):
        logger_of("merger").debug("clips are joined", action="clips.joined", samples=7)

    (line,) = lines(said)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "service": "merger",
        "event": "clips are joined",
        "action": "clips.joined",
        "level": "debug",
        "job_id": "film",
        "run": 2,
        "scene_index": 0,
        "samples": 7,
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
    }


def test_what_libraries_say_is_a_line_of_ours(said: io.StringIO) -> None:
    """With its traceback, and without the secrets in it."""
    handler, logger = StdlibLogHandler(logger_of), logging.getLogger("a.library")
    logger.addHandler(handler)
    try:
        httpx.Response(403, request=httpx.Request("PUT", PRESIGNED)).raise_for_status()
    except httpx.HTTPStatusError:
        logger.exception("it went wrong")
    finally:
        logger.removeHandler(handler)

    (line,) = lines(said)
    assert line["action"] == "library.logged"
    assert line["library"] == "a.library"
    assert "Traceback" in line["exception"]
    assert SIGNATURE not in said.getvalue()


@pytest.mark.parametrize(
    ("text", "secret", "kept"),
    [
        (f"PUT {PRESIGNED} failed", SIGNATURE, "PUT http://127.0.0.1:1/segue/jobs/x/clip"),
        (f"Max retries with url: /segue/x?a=1&X-Amz-Signature={SIGNATURE}", SIGNATURE, "/segue/x"),
        (f"GET /api/v3/audio/segments/{TOKEN} is 404", TOKEN, "is 404"),
        ("at postgresql://me:pa%40ss@db/x", "pa%40ss", "postgresql://***@db/x"),
        ("at redis://:p@ss@db/x", "p@ss", "redis://***@db/x"),
        ("input data:audio/mpeg;base64,SUQzBAA= was", "SUQzBAA", "input data:… was"),
        ("Authorization: Bearer r8_0123456789abcdef", "0123456789abcdef", "Authorization"),
        ("key r8_0123456789abcdef no", "0123456789abcdef", "key r8_*** no"),
        ("signed with whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "MfKQ9r8GKY", "signed with whsec_"),
        ("{'sasl_plain_password': 'hunter22'}", "hunter22", "sasl_plain_password"),
    ],
    ids=(
        "presigned",
        "signature",
        "sealed link",
        "database",
        "odd password",
        "data URL",
        "bearer",
        "key",
        "webhooks",
        "SASL",
    ),  # the texts are not the same in every process
)
def test_secrets_are_cut_out_of_texts(text: str, secret: str, kept: str) -> None:
    """And what helps to find the fault stays."""
    assert secret in text

    told = redacted({"reason": [text]})["reason"][0]

    assert secret not in told
    assert kept in told


@pytest.mark.parametrize(
    "text",
    ["segment 3 of 12 is not there", "what now? Nothing = nothing", "http://127.0.0.1:4000/readyz"],
)
def test_what_is_no_secret_stays_as_it_is(text: str) -> None:
    """Sentences, plain addresses, question marks."""
    assert redacted(text) == text


def test_the_secrets_of_the_settings_are_cut_out_whatever_they_look_like(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each of a list; of an address, its password."""
    monkeypatch.setattr(redaction, "_hidden", set())
    settings = StoreSettings(access_key="minio-user", secret_key="first secret,second secret")
    hide([*secrets_in(settings), *secrets_in(KafkaSettings(sasl_password="kafka word"))])
    hide(["postgresql://segue:db%20word@db/segue"])

    told = redacted("minio-user, second secret, kafka word, db word and db%20word at db/segue")

    assert told == "***, ***, ***, *** and *** at db/segue"


def test_a_payload_does_not_fit_into_a_line() -> None:
    """A text is cut, and says so."""
    told = redacted("x" * 100_000)

    assert len(told) < CHARS_MAX + 100
    assert told.endswith("(100000 characters)")


def test_a_name_that_sounds_like_a_secret_hides_its_value(said: io.StringIO) -> None:
    """Whatever it is."""
    logger_of("api").info("it", action="service.ready", api_key="x", sasl_password="y")

    (line,) = lines(said)
    assert (line["api_key"], line["sasl_password"]) == ("***", "***")
