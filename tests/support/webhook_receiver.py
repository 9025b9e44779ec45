"""Replicate inbox: takes webhooks of a `ReplicateLine` as the api does, and nudges its provider.

There is no Kafka between them here; `tests/integration/test_webhook_pipeline.py` has all of it.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from replicate_server.http.server import LoopbackServer
from shared.security.webhook_signatures import Deliveries, WebhookRefusedError, verify
from tests.support.replicate_provider import ReplicateLine


@dataclass
class Inbox:
    """Takes webhooks as the api does, and nudges the provider."""

    line: ReplicateLine
    heard: list[str] = field(default_factory=list)
    deliveries: Deliveries = field(default_factory=Deliveries)

    async def take(self, request: Request) -> Response:
        """One delivery."""
        body = await request.body()
        now_s = self.line.clock.now().timestamp()
        try:
            keys = [self.line.fake.webhook_secret]
            message_id = verify(request.headers, body, keys=keys, now_s=now_s)
        except WebhookRefusedError:
            self.heard.append("refused")
            return Response(status_code=400)
        if self.deliveries.is_new(message_id, now_s=now_s):
            self.heard.append("new")
            self.line.provider.nudge((await request.json())["id"])
        else:
            self.heard.append("again")
        return Response()


@asynccontextmanager
async def an_inbox(line: ReplicateLine) -> AsyncIterator[Inbox]:
    """The provider's predictions are posted with this inbox as their webhook."""
    inbox, serving = Inbox(line), LoopbackServer()
    address = serving.bind(0) + "/hook"
    line.provider._webhook = lambda job_id: f"{address}?job={job_id}"
    await serving.start(Starlette(routes=[Route("/hook", inbox.take, methods=["POST"])]))
    try:
        yield inbox
    finally:
        await serving.stop()
