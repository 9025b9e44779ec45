"""A local OTLP collector of traces for tests."""

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
    """Stores the exported spans."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []  #: of the requests, in order
        self.endpoint = ""
        self.silent = asyncio.Event()  #: set: requests get no response

    async def take(self, request: Request) -> Response:
        """Handle an export request."""
        self.bodies.append(await request.body())
        while self.silent.is_set():  # noqa: ASYNC110 - until the client disconnects
            await asyncio.sleep(0.1)
        return Response(media_type="application/x-protobuf")

    def spans(self) -> Iterator[tuple[str, Span]]:
        """Yield each span with the name of its service."""
        for body in self.bodies:
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                attributes = {
                    entry.key: entry.value.string_value for entry in resource.resource.attributes
                }
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        yield attributes["service.name"], span


@asynccontextmanager
async def collector() -> AsyncIterator[Collector]:
    """Serve a collector on a free port."""
    collecting = Collector()
    app = Starlette(routes=[Route("/v1/traces", collecting.take, methods=["POST"])])
    server = HttpServer(app, bind_socket("127.0.0.1", 0), stop_s=1)
    await server.start()
    collecting.endpoint = f"http://127.0.0.1:{server.port}"
    try:
        yield collecting
    finally:
        collecting.silent.clear()
        await server.stop()
