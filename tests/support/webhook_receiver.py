"""A receiver of the Replicate emulator's webhooks; verifies them as the api does.

It wakes the provider directly, without Kafka between them;
`tests/integration/test_webhook_pipeline.py` tests the whole path.
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
    """Verifies deliveries and wakes the provider of `replicate`, which is set before the first."""

    base_url: str
    replicate: ReplicateFixture | None = None
    outcomes: list[str] = field(default_factory=list)  #: `new`, `again` or `refused`, in order
    deliveries: Deliveries = field(default_factory=Deliveries)

    def url(self, job_id: str) -> str:
        """Return the webhook URL of a job's predictions."""
        return f"{self.base_url}?job={job_id}"

    async def take(self, request: Request) -> Response:
        """Handle one delivery."""
        assert self.replicate is not None, "set before the first delivery"
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
async def webhook_receiver() -> AsyncIterator[WebhookReceiver]:
    """Serve a receiver on a free port; the provider is built with `webhook=receiver.url`."""
    serving = LoopbackServer()
    receiver = WebhookReceiver(serving.bind(0) + "/hook")
    await serving.start(Starlette(routes=[Route("/hook", receiver.take, methods=["POST"])]))
    try:
        yield receiver
    finally:
        await serving.stop()
