"""`clipcls serve` over HTTP: a `Service` behind FastAPI.

Errors are problem details (RFC 9457). An image that cannot be read is not an error of its request:
its record says why.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from fastapi import FastAPI, HTTPException, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp

from clipcls import __version__
from clipcls.errors import LabelsError, PromptsError
from clipcls.web.local_server import BearerToken, Guard, json_response, page_routes, problem
from clipcls.web.serve.fetch import Fetcher
from clipcls.web.serve.metrics import CLIENT_GONE, PAGES, CountRequests
from clipcls.web.serve.requests import Image, Model, read_request
from clipcls.web.serve.schemas import (
    PROBLEMS,
    Answer,
    ClassifyRequest,
    EmbedAnswer,
    EmbedRequest,
    Health,
    LabelsAnswer,
    openapi_document,
    problem_responses,
    request_body,
)
from clipcls.web.serve.service import Service

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


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
    app = FastAPI(
        title="clipcls",
        version=__version__,
        description="Zero-shot image classification with CLIP models.",
        docs_url=None,  # its pages load scripts from a CDN
        redoc_url=None,
        openapi_url=None,
    )
    for kind in (AnyHTTPException, ClientDisconnect, LabelsError, PromptsError, Exception):
        app.add_exception_handler(kind, _answer_error)

    async def answer(
        request: Request,
        kind: type[Model],
        work: Callable[[Sequence[Image], Model], Awaitable[Result]],
    ) -> Result:
        """Read a request within the limits and await `work`, unless the client goes."""
        length = int(request.headers.get("content-length", "0"))  # the server has checked it
        if length > limits.bytes:
            raise HTTPException(413, f"the body is larger than {limits.bytes:,} bytes")
        is_read = is_gone = False
        with service.queue.ticket(length) as ticket:
            try:
                async with asyncio.timeout(limits.seconds) as timer:
                    ticket.give_up = lambda: timer.reschedule(0)
                    images, options = await read_request(request, kind, ticket, limits, fetcher)
                    is_read = True

                    async def stop_when_gone() -> None:
                        nonlocal is_gone
                        while (await request.receive())["type"] != "http.disconnect":
                            pass
                        is_gone = True
                        timer.reschedule(0)

                    watching = asyncio.create_task(stop_when_gone())
                    try:
                        return await work(images, options)
                    finally:
                        watching.cancel()
            except TimeoutError as error:
                if is_gone:
                    raise ClientDisconnect from error
                if ticket.is_given_up:
                    raise service.queue.busy() from error
                if is_read:
                    raise HTTPException(504, "the answer took too long") from error
                raise HTTPException(408, f"the body took over {limits.seconds:g} s") from error

    @app.post(
        "/classify",
        response_model=Answer,
        responses=problem_responses(*PROBLEMS),
        openapi_extra={"requestBody": request_body(ClassifyRequest, limits)},
        summary="Classify images",
    )
    async def classify(request: Request) -> Response:
        results, warnings = await answer(request, ClassifyRequest, service.classify)
        return json_response(
            {"results": [item.to_dict() for item in results], "warnings": warnings}
        )

    @app.post(
        "/embed",
        response_model=EmbedAnswer,
        responses=problem_responses(*PROBLEMS),
        openapi_extra={"requestBody": request_body(EmbedRequest, limits)},
        summary="Embed images and texts",
    )
    async def embed(request: Request) -> Response:
        vectors = await answer(request, EmbedRequest, service.embed)
        return await asyncio.to_thread(json_response, vectors)  # megabytes

    @app.get(
        "/labels",
        response_model=LabelsAnswer,
        responses=problem_responses(401, 403, 421),
        summary="The server's labels and limits",
    )
    async def labels() -> Response:
        names = ("bytes", "pixels", "images", "labels", "texts", "seconds")
        return json_response(
            {
                **service.describe(),
                "urls": fetcher is not None,
                "limits": {name: getattr(limits, name) for name in names},
            }
        )

    @app.get(
        "/healthz",
        response_model=Health,
        responses=problem_responses(403, 421),
        summary="Does the server answer?",
    )
    async def healthz() -> Response:
        return json_response({"status": "ok"})

    @app.get(
        "/metrics",
        response_class=PlainTextResponse,
        responses=problem_responses(401, 403, 421),
        summary="Metrics for Prometheus",
    )
    async def metrics() -> Response:
        figures = generate_latest(service.metrics.registry)
        return Response(figures, media_type=CONTENT_TYPE_LATEST)

    schema = json.dumps(openapi_document(app, bool(token)))

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        return Response(schema, media_type="application/json")

    app.router.routes.extend(page_routes(Path(__file__).parent, PAGES))
    guard = Guard(
        app,
        hosts=hosts,
        any_address=any_address,
        origins=origins,
        has_options=True,
        access=BearerToken(token, ("/healthz", *PAGES)) if token else None,
    )
    return CountRequests(guard, service.metrics)


async def _answer_error(_: Request, error: Exception) -> Response:
    """An error's response; a coroutine, since others would each take a thread."""
    if isinstance(error, AnyHTTPException):
        return problem(error.status_code, str(error.detail), error.headers)
    if isinstance(error, (LabelsError, PromptsError)):
        return problem(422, str(error))
    if isinstance(error, ClientDisconnect):
        return Response(status_code=CLIENT_GONE)
    what = f"{type(error).__name__}: {error}"
    logger.error("a request failed: %s (internal error, please report it)", what)
    return problem(500, "internal error; see the server's log")
