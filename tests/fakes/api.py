"""A scripted api on a real socket, for rare responses."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from typing_extensions import override


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One response."""

    status: int = 200
    body: bytes = b"{}"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(kw_only=True)
class FakeApi:
    """Returns the next of `answers` to every request; the last one repeats."""

    answers: list[Answer]
    requests: list[tuple[str, str, bytes]] = field(default_factory=list)  #: method, path, body
    url: str = ""

    def next_answer(self) -> Answer:
        """Return the response to the current request."""
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@contextmanager
def fake_api(*answers: Answer) -> Iterator[FakeApi]:
    """Serve the responses on a free port of loopback."""
    fake = FakeApi(answers=list(answers))

    class Handler(BaseHTTPRequestHandler):
        """Returns the scripted responses."""

        def _answer(self) -> None:
            size = int(self.headers.get("Content-Length", 0))
            fake.requests.append((self.command, self.path, self.rfile.read(size)))
            answer = fake.next_answer()
            self.send_response(answer.status)
            for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.body)

        do_GET = do_POST = _answer  # noqa: N815 - the names that http.server calls

        @override
        def log_message(self, format: str, *args: Any) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
