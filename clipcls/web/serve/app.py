"""`clipcls serve` over HTTP: a `Service` behind FastAPI.

Errors are problem details (RFC 9457). An image that cannot be read is no error of its request: its
record says why, in its place.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Coroutine, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from clipcls import __version__
from clipcls.errors import ImageError, LabelsError, PromptsError
from clipcls.predictions import Prediction
from clipcls.web import local_server
from clipcls.web.admission import BusyError, Ticket
from clipcls.web.serve.fetch import Fetcher
from clipcls.web.serve.metrics import CLIENT_GONE, PAGES, Counted, Counts
from clipcls.web.serve.requests import limit_fetches, read_request
from clipcls.web.serve.schemas import (
    PROBLEMS,
    Answer,
    Health,
    LabelsAnswer,
    openapi_document,
    problem_responses,
    request_body,
)
from clipcls.web.serve.service import Service
from clipcls.web.serve.uploads import RefusedError

__all__ = ["make_app"]

logger = logging.getLogger(__name__)


def make_app(
    service: Service,
    counts: Counts,
    *,
    fetcher: Fetcher | None = None,
    token: str | None = None,
    hosts: Iterable[str] = (),
    any_address: bool = False,
    origins: Iterable[str] = (),
) -> local_server.App:
    """The whole application, guarded.

    Args:
        service: what answers; its owner closes it.
        counts: what `/metrics` shows; the service's `figures`.
        fetcher: what gets images by URL; None: they are refused.
        token: the bearer token that is asked for; None: none is.
        hosts, any_address, origins: as for `local_server.Guard`.
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
    counts.watch(service)
    fetch = limit_fetches(fetcher, limits.queue) if fetcher else None

    async def refused(_: Request, error: Exception) -> Response:  # else each would take a thread
        if isinstance(error, RefusedError):
            return _problem(error.status, error.detail, error.headers)
        if isinstance(error, HTTPException):
            return _problem(error.status_code, str(error.detail), error.headers)
        what = f"{type(error).__name__}: {error}"
        logger.error("a request failed: %s (internal error: please report it)", what)
        return _problem(500, "internal error; the server's log says more")

    for kind in (RefusedError, HTTPException, Exception):
        app.add_exception_handler(kind, refused)

    @app.post(
        "/classify",
        response_model=Answer,
        responses=problem_responses(*PROBLEMS),
        openapi_extra={"requestBody": request_body(limits)},
        summary="Classify images",
    )
    async def classify(request: Request) -> Response:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + limits.seconds
        length = int(request.headers.get("content-length", "0"))  # the server has checked it
        if length > limits.bytes:
            raise RefusedError(413, f"the body is larger than {limits.bytes:,} bytes")
        try:
            with service.queue.ticket(length) as ticket:
                images, question = await _unless_slow(
                    read_request(request, ticket, limits, fetch), ticket, limits.seconds
                )
                results, warnings = await _unless_late_or_alone(
                    service.classify(images, question), request, deadline - loop.time()
                )
        except BusyError as busy:
            raise RefusedError(503, str(busy), {"retry-after": str(busy.retry_after)}) from busy
        except (LabelsError, PromptsError) as error:
            raise RefusedError(422, str(error)) from error
        except ClientDisconnect:
            return Response(status_code=CLIENT_GONE)
        return JSONResponse({"results": [_record(item) for item in results], "warnings": warnings})

    @app.get(
        "/labels",
        response_model=LabelsAnswer,
        responses=problem_responses(401, 403, 421),
        summary="The server's labels and limits",
    )
    async def labels() -> Response:
        own = service.own
        names = ("bytes", "pixels", "images", "labels", "length", "levels", "texts", "seconds")
        return JSONResponse(
            {
                "labels": own.classes_.tolist(),
                **own.provenance_.to_dict(),
                "urls": fetcher is not None,
                "limits": {name: getattr(limits, name) for name in names},
            }
        )

    @app.get(
        "/healthz",
        response_model=Health,
        responses=problem_responses(403, 421),
        summary="Is it there?",
    )
    async def healthz() -> Response:
        return JSONResponse({"status": "ok"})

    @app.get(
        "/metrics",
        response_class=Response,
        responses={
            200: {
                "description": "For Prometheus.",
                "content": {"text/plain": {"schema": {"type": "string"}}},
            },
            **problem_responses(401, 403, 421),
        },
        summary="Figures for Prometheus",
    )
    async def metrics() -> Response:
        return Response(generate_latest(counts.registry), media_type=CONTENT_TYPE_LATEST)

    schema = json.dumps(openapi_document(app, bool(token)))

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        return Response(schema, media_type="application/json")

    app.router.routes.extend(local_server.page_routes(Path(__file__).parent, PAGES))
    open_paths = ("/healthz", *PAGES)
    access = local_server.BearerToken(token, open_paths) if token else None
    guard = local_server.Guard(
        app,
        hosts=hosts,
        any_address=any_address,
        origins=origins,
        has_options=True,
        access=access,
    )
    return Counted(guard, counts)


def _problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    body = local_server.problem_body(status, detail)
    return JSONResponse(body, status, headers=headers, media_type=local_server.PROBLEM)


def _record(item: Prediction | ImageError) -> dict[str, Any]:
    return item.to_dict()


"""An image as a body holds it: a file, a URL, or what decodes its base64."""


Result = TypeVar("Result")


async def _unless_slow(
    reading: Coroutine[Any, Any, Result], ticket: Ticket, seconds: float
) -> Result:
    """Awaits a body; gives it up when it is late, or slow while others need its room."""
    task = asyncio.ensure_future(reading)
    ticket.give_up = task.cancel
    try:
        await asyncio.wait((task,), timeout=seconds)
        if not task.done():
            raise RefusedError(408, f"the body took over {seconds:g} s")
        if task.cancelled():
            raise ticket.queue.busy()
        return task.result()
    finally:
        task.cancel()
        # An error refers to the frames it went through: a body must not wait for the next gc.
        ticket.give_up = None
        del task


async def _unless_late_or_alone(
    work: Coroutine[Any, Any, Result], request: Request, seconds: float
) -> Result:
    """What `work` gives, if it comes in time and who asked is still there; else it is given up."""
    task = asyncio.create_task(work)
    gone = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait(
            (task, gone), timeout=max(0.0, seconds), return_when=asyncio.FIRST_COMPLETED
        )
        if task.done():
            return task.result()
        if gone.done():
            raise ClientDisconnect
        raise RefusedError(504, "the answer took too long")
    finally:
        task.cancel()
        gone.cancel()
        del task, gone  # an error refers to this frame


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
