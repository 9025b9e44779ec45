"""What log lines contain: fields, levels and formats, and no secrets."""

import io
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import httpx
import pytest
import structlog
from minio import Minio
from typing_extensions import override

from shared.clock import SystemClock
from shared.security.signed_links import LinkSettings, SegmentLinks
from shared.settings import KafkaSettings, StoreSettings, TelemetrySettings, secrets_in
from shared.telemetry import log, redaction, trace
from shared.telemetry.log import configure, is_text_format, log_context, logger_of
from shared.telemetry.redaction import CHARS_MAX, redact, register_secrets
from shared.telemetry.stdlib_logging import StdlibLogHandler, is_expected_at_start
from shared.telemetry.text_format import TextRenderer

TOKEN = SegmentLinks(LinkSettings(keys="a secret that tests alone know"), clock=SystemClock()).seal(
    "jobs/x/run-1/clip"
)
PRESIGNED = Minio(
    "127.0.0.1:1", "the-access-key", "the-secret-key", secure=False, region="x"
).get_presigned_url("PUT", "segue", "jobs/x/clip", timedelta(minutes=5))
SIGNATURE = PRESIGNED.rpartition("=")[2]


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    @override
    def isatty(self) -> bool:
        """Return True."""
        return True


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """The output of a log at debug level."""
    stream = io.StringIO()
    with configured(stream):
        yield stream


@contextmanager
def configured(stream: io.StringIO, **settings: str) -> Iterator[None]:
    """Run a block with the log configured for `stream`, at debug level."""
    before, root = structlog.get_config(), logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    root.handlers.clear()
    try:
        configure(TelemetrySettings(log_level="debug", **settings), stream=stream)  # type: ignore[arg-type]
        yield
    finally:
        structlog.configure(**before)
        root.setLevel(level)
        root.handlers[:] = handlers


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    """Return the logged lines, parsed."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_has_its_service_action_job_and_trace(stream: io.StringIO) -> None:
    """The subject is bound once; the trace id is added."""
    caller = trace.extract("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    with (
        log_context(job_id="film", run=2, scene_index=0),
        trace.continue_trace(caller, "process", kind="consumer"),
    ):
        logger_of("merger").debug("clips are joined", action="clips.joined", samples=7)

    (line,) = lines(stream)
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


@pytest.mark.parametrize(
    ("log_format", "is_terminal", "is_text"),
    [
        ("auto", True, True),
        ("auto", False, False),
        ("text", False, True),
        ("json", True, False),
    ],
)
def test_auto_chooses_text_on_a_terminal_and_json_in_a_pipe(
    log_format: str, *, is_terminal: bool, is_text: bool
) -> None:
    """`text` and `json` force one."""
    stream = Terminal() if is_terminal else io.StringIO()

    assert is_text_format(log_format, stream) is is_text


@pytest.mark.parametrize(("plain", "log_format"), [("true", "text"), ("false", "json")])
def test_the_earlier_variable_of_the_log_format_is_accepted(
    monkeypatch: pytest.MonkeyPatch, plain: str, log_format: str
) -> None:
    """The present variable wins if both are set."""
    monkeypatch.setenv("SEGUE_LOG_PLAIN", plain)
    assert TelemetrySettings.from_environment().log_format == log_format

    monkeypatch.setenv("SEGUE_LOG_FORMAT", "auto")
    assert TelemetrySettings.from_environment().log_format == "auto"


@pytest.mark.parametrize(
    ("stream", "no_color", "is_colored"),
    [(Terminal(), "", True), (Terminal(), "1", False), (io.StringIO(), "", False)],
    ids=["terminal", "NO_COLOR", "pipe"],
)
def test_colors_are_used_only_on_a_terminal_without_no_color(
    stream: io.StringIO, no_color: str, *, is_colored: bool
) -> None:
    """A pipe gets no escape sequences."""
    with configured(stream, log_format="text", no_color=no_color):
        logger_of("api").warning("outbox not published", action="outbox.publish_failed")

    assert ("\x1b[" in stream.getvalue()) is is_colored


def test_a_text_line_has_local_time_service_message_fields_and_reason() -> None:
    """Scenes are numbered from 1; action and trace id are left out."""
    stream = io.StringIO()
    with configured(stream, log_format="text"):
        logger_of("generator").info("starting", action="service.starting", provider="synth")
        with log_context(job_id="film", run=2, scene_index=0, absent=None):
            logger_of("api").warning(
                "delay notice not published", action="event.not_published", reason="Kafka is away"
            )

    first, second = stream.getvalue().splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d generator  starting \(provider synth\)", first)
    assert second[9:] == (
        "api        WARNING delay notice not published (job film, run 2, scene 1): Kafka is away"
    )


def test_a_traceback_follows_its_text_line() -> None:
    """The line itself stays one line."""
    line = {"level": "error", "event": "failed", "exception": "Traceback: …"}

    assert TextRenderer(colors=False)(None, "error", line).splitlines() == [
        f"{'':<12}ERROR failed",
        "Traceback: …",
    ]


@pytest.mark.parametrize("colors", [False, True])
@pytest.mark.parametrize("width", [80, 40])
def test_a_text_line_wraps_at_word_boundaries_on_a_terminal(*, width: int, colors: bool) -> None:
    """It continues below its message; colours take no columns."""
    reason = "the object store at http://minio:9000 is full: free some space, then run it again"
    line = {
        "timestamp": "12:00:00",
        "service": "generator",
        "level": "warning",
        "event": "retrying record",
        "job_id": "film",
        "reason": reason,
    }

    whole = TextRenderer(colors=False)(None, "warning", dict(line))
    text = TextRenderer(colors=colors, width_of=lambda: width)(None, "warning", dict(line))

    lines = re.sub(r"\x1b\[\d*m", "", text).splitlines()
    assert max(map(len, lines)) <= width
    assert " ".join(lines).split() == whole.split()
    assert len(whole.splitlines()) == 1
    assert all(line.startswith(" " * (20 if width == 80 else 2)) for line in lines[1:])
    assert ("\x1b[33mWARNING\x1b[0m" in text) is colors


def test_the_width_is_that_of_columns_and_only_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A file keeps whole lines."""
    monkeypatch.setenv("COLUMNS", "40")

    assert log.width_of(Terminal()) == 40
    assert log.width_of(io.StringIO()) is None


def test_a_library_message_keeps_its_level_name_and_text(stream: io.StringIO) -> None:
    """With its traceback, and without the secrets in it."""
    handler, logger = StdlibLogHandler(logger_of), logging.getLogger("a.library")
    logger.addHandler(handler)
    try:
        httpx.Response(403, request=httpx.Request("PUT", PRESIGNED)).raise_for_status()
    except httpx.HTTPStatusError:
        logger.exception("upload %d failed", 7)
    finally:
        logger.removeHandler(handler)

    line = lines(stream)[0]
    assert line["action"] == "library.logged"
    assert line["library"] == "a.library"
    assert line["event"] == "upload 7 failed"
    assert line["level"] == "error"
    assert "Traceback" in line["exception"]
    assert SIGNATURE not in stream.getvalue()


def test_expected_retries_of_a_start_are_logged_at_debug(
    stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the service has settled, the same message has its own level again."""
    monkeypatch.setattr(log, "SETTLE_S", 0.0)
    client = logging.getLogger("aiokafka.consumer.group_coordinator")
    text = "Group Coordinator Request failed: [Error 15] GroupCoordinatorNotAvailableError"

    client.error(text)
    client.error("Heartbeat session expired")
    logger_of(trace.current_service().name).info("ready", action="service.ready")
    client.error(text)

    assert [line["level"] for line in lines(stream)] == ["debug", "error", "info", "error"]


@pytest.mark.parametrize(
    ("library", "message", "is_expected"),
    [
        ("aiokafka", 'Unable connect to "127.0.0.1:9092": [Errno 111] Connect call failed', True),
        ("aiokafka.cluster", "Topic scene.requested not found in cluster metadata", True),
        ("mode.supervisors", "KafkaConnectionError: unable to connect", True),
        ("aiokafka.cluster", "Topic x is not authorized for this client", False),
        ("uvicorn.error", "Connection refused", False),
    ],
)
def test_only_retries_of_kafka_clients_are_expected(
    library: str, message: str, *, is_expected: bool
) -> None:
    """A missing right or another library is not a start-up retry."""
    assert is_expected_at_start(library, message) is is_expected


@pytest.mark.parametrize(
    ("text", "secret", "rest"),
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
def test_redaction_removes_secrets_from_texts(text: str, secret: str, rest: str) -> None:
    """The rest of the text stays."""
    assert secret in text

    result = redact({"reason": [text]})["reason"][0]

    assert secret not in result
    assert rest in result


@pytest.mark.parametrize(
    "text",
    ["segment 3 of 12 is not there", "what now? Nothing = nothing", "http://127.0.0.1:4000/readyz"],
)
def test_redaction_keeps_texts_without_secrets(text: str) -> None:
    """Sentences, plain addresses, question marks."""
    assert redact(text) == text


def test_redaction_removes_registered_secrets_of_any_shape(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each entry of a list; of a URL, its password."""
    monkeypatch.setattr(redaction, "_secrets", set())
    settings = StoreSettings(access_key="minio-user", secret_key="first secret,second secret")
    register_secrets(
        [*secrets_in(settings), *secrets_in(KafkaSettings(sasl_password="kafka word"))]
    )
    register_secrets(["postgresql://segue:db%20word@db/segue"])

    result = redact("minio-user, second secret, kafka word, db word and db%20word at db/segue")

    assert result == "***, ***, ***, *** and *** at db/segue"


def test_redaction_cuts_a_long_text() -> None:
    """The line names the full length."""
    result = redact("x" * 100_000)

    assert len(result) < CHARS_MAX + 100
    assert result.endswith("(100000 characters)")


def test_a_field_named_like_a_secret_is_masked(stream: io.StringIO) -> None:
    """Its value is not inspected."""
    logger_of("api").info("ready", action="service.ready", api_key="x", sasl_password="y")

    (line,) = lines(stream)
    assert (line["api_key"], line["sasl_password"]) == ("***", "***")


@pytest.mark.parametrize("failure", [BrokenPipeError(), OSError(28, "No space left on device")])
def test_a_line_that_cannot_be_written_does_not_stop_the_work(failure: OSError) -> None:
    """The reader of the log has ended, or its disk is full."""

    class Failing(io.StringIO):
        """A stream that cannot be written."""

        @override
        def write(self, text: str) -> int:
            raise failure

    with configured(Failing()):
        logger_of("api").info("job accepted", action="job.accepted")


def test_a_line_is_escaped_if_the_encoding_has_not_its_characters() -> None:
    """A terminal in the C locale."""
    raw = io.BytesIO()
    terminal = io.TextIOWrapper(raw, encoding="ascii", write_through=True)
    with configured(terminal, log_format="json"):  # type: ignore[arg-type]
        logger_of("api").info("job accepted", action="job.accepted", job_id="über 🎬")

    assert b"\\xfcber \\U0001f3ac" in raw.getvalue()
