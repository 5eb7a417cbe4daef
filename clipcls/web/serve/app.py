"""`clipcls serve` over HTTP: a `Service` behind Starlette.

Errors are problem details (RFC 9457). An image that cannot be read is not an error of its request:
its record says why.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from clipcls.errors import LabelsError, PromptsError
from clipcls.web.local_server import BearerToken, Guard, json_response, page_routes, problem
from clipcls.web.serve.fetch import Fetcher
from clipcls.web.serve.metrics import CLIENT_GONE, CountRequests
from clipcls.web.serve.requests import Image, Model, read_request
from clipcls.web.serve.schemas import ClassifyRequest, EmbedRequest, make_openapi
from clipcls.web.serve.service import Service

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_LIMITS = ("bytes", "pixels", "images", "labels", "texts", "seconds")  # shown to clients
_PAGES = {"/": "serve.html", "/serve.js": "serve.js", "/serve.css": "serve.css"}


def make_app(
    service: Service,
    *,
    fetcher: Fetcher | None = None,
    token: str | None = None,
    hosts: Iterable[str] = (),
    any_address: bool = False,
    origins: Iterable[str] = (),
) -> ASGIApp:
    """The whole application, guarded.

    Args:
        service: what answers; its owner closes it.
        fetcher: gets images by URL; None: they are refused.
        token: the bearer token that requests need; None: they need none.
        hosts, any_address, origins: as for `Guard`.
    """
    limits = service.limits

    async def answer(
        request: Request,
        kind: type[Model],
        work: Callable[[Sequence[Image], Model], Awaitable[Result]],
    ) -> Result:
        """Read a request within the limits and await `work`, unless the client goes."""
        length = int(request.headers.get("content-length", "0"))  # the server has checked it
        if length > limits.bytes:
            raise HTTPException(413, f"the body is larger than {limits.bytes:,} bytes")
        reason: Callable[[], Exception]  # why it ends early
        reason = partial(HTTPException, 408, f"the body took over {limits.seconds:g} s")

        def stop(why: Callable[[], Exception]) -> None:
            nonlocal reason
            reason = why
            timer.reschedule(0)

        async def stop_when_gone() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            stop(ClientDisconnect)

        with service.queue.ticket(length) as ticket:
            ticket.give_up = lambda: stop(service.queue.busy)
            try:
                async with asyncio.timeout(limits.seconds) as timer:
                    images, options = await read_request(request, kind, ticket, limits, fetcher)
                    reason = partial(HTTPException, 504, "the answer took too long")
                    watching = asyncio.create_task(stop_when_gone())
                    try:
                        return await work(images, options)
                    finally:
                        watching.cancel()
            except TimeoutError as error:
                raise reason() from error

    async def classify(request: Request) -> Response:
        results, warnings = await answer(request, ClassifyRequest, service.classify)
        return json_response(
            {"results": [item.to_dict() for item in results], "warnings": warnings}
        )

    async def embed(request: Request) -> Response:
        vectors = await answer(request, EmbedRequest, service.embed)
        return await asyncio.to_thread(json_response, vectors)  # megabytes

    async def describe(_: Request) -> Response:
        shown = {name: getattr(limits, name) for name in _LIMITS}
        return json_response({**service.describe(), "urls": fetcher is not None, "limits": shown})

    async def report(_: Request) -> Response:
        figures = generate_latest(service.metrics.registry)
        return Response(figures, media_type=CONTENT_TYPE_LATEST)

    openapi = json_response(make_openapi(limits, bool(token)))
    routes = [
        Route("/classify", classify, methods=["POST"]),
        Route("/embed", embed, methods=["POST"]),
        Route("/labels", describe),
        Route("/healthz", json_response({"status": "ok"}), methods=["GET"]),
        Route("/metrics", report),
        Route("/openapi.json", openapi, methods=["GET"]),
        *page_routes(Path(__file__).parent, _PAGES),
    ]
    kinds = (HTTPException, ClientDisconnect, LabelsError, PromptsError, Exception)
    guard = Guard(
        Starlette(routes=routes, exception_handlers=dict.fromkeys(kinds, _answer_error)),
        hosts=hosts,
        any_address=any_address,
        origins=origins,
        has_options=True,
        access=BearerToken(token, ("/healthz", *_PAGES)) if token else None,
    )
    return CountRequests(guard, service.metrics, {route.path for route in routes})


async def _answer_error(_: Request, error: Exception) -> Response:
    """An error's response; a coroutine, since others would each take a thread."""
    if isinstance(error, HTTPException):
        return problem(error.status_code, str(error.detail), error.headers)
    if isinstance(error, (LabelsError, PromptsError)):
        return problem(422, str(error))
    if isinstance(error, ClientDisconnect):
        return Response(status_code=CLIENT_GONE)
    what = f"{type(error).__name__}: {error}"
    logger.error("a request failed: %s (internal error, please report it)", what)
    return problem(500, "internal error; see the server's log")
