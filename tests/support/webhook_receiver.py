"""Replicate receiver: takes webhooks of a `ReplicateLine` as the api does, and nudges its provider.

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
from tests.support.replicate_provider import ReplicateFixture


@dataclass
class WebhookReceiver:
    """Takes webhooks as the api does, and nudges the provider."""

    replicate: ReplicateFixture
    outcomes: list[str] = field(default_factory=list)
    deliveries: Deliveries = field(default_factory=Deliveries)

    async def take(self, request: Request) -> Response:
        """One delivery."""
        body = await request.body()
        now_s = self.replicate.clock.now().timestamp()
        try:
            keys = [self.replicate.fake.webhook_secret]
            message_id = verify(request.headers, body, keys=keys, now_s=now_s)
        except WebhookRefusedError:
            self.outcomes.append("refused")
            return Response(status_code=400)
        if self.deliveries.is_new(message_id, now_s=now_s):
            self.outcomes.append("new")
            self.replicate.provider.nudge((await request.json())["id"])
        else:
            self.outcomes.append("again")
        return Response()


@asynccontextmanager
async def webhook_receiver(replicate: ReplicateFixture) -> AsyncIterator[WebhookReceiver]:
    """The provider's predictions are posted with this receiver as their webhook."""
    receiver, serving = WebhookReceiver(replicate), LoopbackServer()
    address = serving.bind(0) + "/hook"
    replicate.provider._webhook = lambda job_id: f"{address}?job={job_id}"
    await serving.start(Starlette(routes=[Route("/hook", receiver.take, methods=["POST"])]))
    try:
        yield receiver
    finally:
        await serving.stop()
