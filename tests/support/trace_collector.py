"""OTLP: a collector of traces on loopback, as far as a test needs one."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from shared.http.server import HttpServer, bind_socket


class Collector:
    """What was exported to it."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []  #: as they came
        self.endpoint = ""
        self.silent = asyncio.Event()  #: set: it takes requests and answers none

    async def take(self, request: Request) -> Response:
        """One export."""
        self.bodies.append(await request.body())
        while self.silent.is_set():  # noqa: ASYNC110 - until whoever asked is gone
            await asyncio.sleep(0.1)
        return Response(media_type="application/x-protobuf")

    def spans(self) -> Iterator[tuple[str, Span]]:
        """Each span with the name of its service."""
        for body in self.bodies:
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                told = {one.key: one.value.string_value for one in resource.resource.attributes}
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        yield told["service.name"], span


@asynccontextmanager
async def collector() -> AsyncIterator[Collector]:
    """A collector that listens."""
    made = Collector()
    app = Starlette(routes=[Route("/v1/traces", made.take, methods=["POST"])])
    server = HttpServer(app, bind_socket("127.0.0.1", 0), stop_s=1)
    await server.start()
    made.endpoint = f"http://127.0.0.1:{server.port}"
    try:
        yield made
    finally:
        made.silent.clear()
        await server.stop()
