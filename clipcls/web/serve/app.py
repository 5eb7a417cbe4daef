"""`clipcls serve` over HTTP: a `Service` behind FastAPI.

Errors are problem details (RFC 9457). An image that cannot be read is no error of its request: its
record says why, in its place.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from clipcls import __version__
from clipcls.errors import ImageError, LabelsError, PromptsError
from clipcls.files.text import numbered
from clipcls.predictions import Prediction, error_record
from clipcls.web import local_server
from clipcls.web.admission import BusyError, Ticket
from clipcls.web.local_server import Receive, Scope, Send
from clipcls.web.serve.fetch import Fetcher
from clipcls.web.serve.schemas import (
    PROBLEMS,
    Answer,
    ClassifyRequest,
    Health,
    LabelsAnswer,
    Options,
    openapi_document,
    problem_responses,
    request_body,
)
from clipcls.web.serve.service import Figures, Image, Limits, Question, Service
from clipcls.web.serve.uploads import (
    BodyError,
    Part,
    decode_base64,
    parse_json,
    read_body,
    read_form,
)

__all__ = ["Counts", "make_app"]

logger = logging.getLogger(__name__)

PAGES = {"/": "serve.html", "/serve.js": "serve.js", "/serve.css": "serve.css"}
_PATHS = ("/classify", "/labels", "/healthz", "/metrics", "/openapi.json", *PAGES)

# Of a JSON body, and of a form's fields but for its images: they are parsed at one go.
_TEXT_BYTES = 1 << 20
_FEW_FIELDS = 16

_HTTP_URL = re.compile(rb"https?://", re.IGNORECASE)
_URL = re.compile(rb"https?://|data:", re.IGNORECASE)
_LONGEST_URL = 8192

_CLIENT_GONE = 499  # as nginx counts it; nobody is there to see it


class RefusedError(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, dict(headers or {})


# -- figures --------------------------------------------------------------------------------------


class Counts(Figures):
    """What `/metrics` shows, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "clipcls_requests",
            "Requests by path and status.",
            ["path", "status"],
            registry=registry,
        )
        self.seconds = Histogram(
            "clipcls_request_seconds",
            "From a request's headers to its answer.",
            ["path"],
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            registry=registry,
        )
        self.images = Counter(
            "clipcls_images", "Images answered, by outcome.", ["outcome"], registry=registry
        )
        self.batch_images = Histogram(
            "clipcls_batch_images",
            "Images in a forward pass.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=registry,
        )
        self.batch_seconds = Histogram(
            "clipcls_batch_seconds",
            "Time of a forward pass.",
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
            registry=registry,
        )
        self.label_texts = Counter(
            "clipcls_texts",
            "Texts of requests' labels, known or embedded.",
            ["source"],
            registry=registry,
        )

    def watch(self, service: Service) -> None:
        """Shows what waits in a service."""
        for name, text, value in (
            ("queue_images", "Images accepted and not answered.", lambda: service.queue.images),
            ("held_bytes", "Bytes of bodies held.", lambda: service.queue.held),
        ):
            Gauge(f"clipcls_{name}", text, registry=self.registry).set_function(value)

    def batch(self, size: int, seconds: float) -> None:
        """Counts a forward pass."""
        self.batch_images.observe(size)
        self.batch_seconds.observe(seconds)

    def texts(self, known: int, new: int) -> None:
        """Counts a request's texts."""
        self.label_texts.labels("known").inc(known)
        self.label_texts.labels("new").inc(new)

    def image(self, outcome: str) -> None:
        """Counts an image."""
        self.images.labels(outcome).inc()


class _Counted:
    """Counts every answer, refusals included."""

    def __init__(self, app: local_server.App, counts: Counts) -> None:
        self._app = app
        self._counts = counts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        loop = asyncio.get_running_loop()
        started = loop.time()
        status = _CLIENT_GONE

        async def watched(message: local_server.Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            path = scope["path"] if scope["path"] in _PATHS else "other"
            self._counts.requests.labels(path, str(status)).inc()
            self._counts.seconds.labels(path).observe(loop.time() - started)


# -- the application ------------------------------------------------------------------------------


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
    fetch = _fetching(fetcher, limits.queue) if fetcher else None

    async def refused(_: Request, error: Exception) -> Response:  # else each would take a thread
        if isinstance(error, RefusedError):
            return _problem(error.status, error.detail, error.headers)
        if isinstance(error, HTTPException):
            return _problem(error.status_code, str(error.detail), error.headers)
        what = f"{type(error).__name__}: {error}"
        logger.error("a request failed: %s (not foreseen: please report it)", what)
        return _problem(500, "not foreseen; the server's log says more")

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
                    _read(request, ticket, limits, fetch), ticket, limits.seconds
                )
                results, warnings = await _unless_late_or_alone(
                    service.classify(images, question), request, deadline - loop.time()
                )
        except BusyError as busy:
            raise RefusedError(503, str(busy), {"retry-after": str(busy.retry_after)}) from busy
        except BodyError as error:
            raise RefusedError(error.status, error.detail) from error
        except (LabelsError, PromptsError) as error:
            raise RefusedError(422, str(error)) from error
        except ClientDisconnect:
            return Response(status_code=_CLIENT_GONE)
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
                **own.made_by_.record(),
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
    return _Counted(guard, counts)


def _problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    body = local_server.problem_body(status, detail)
    return JSONResponse(body, status, headers=headers, media_type=local_server.PROBLEM)


def _record(item: Prediction | ImageError) -> dict[str, Any]:
    return error_record(item) if isinstance(item, ImageError) else item.record()


_Written = bytes | str | Callable[[], Awaitable[bytes]]
"""An image as a body holds it: a file, a URL, or what decodes its base64."""

Fetch = Callable[[str, Callable[[int], None]], Awaitable["bytes | ImageError"]]


def _fetching(fetcher: Fetcher, most: int) -> Fetch:
    """Fetches by URL, at most so many at a time; an image that cannot be had is an error."""
    room = asyncio.Semaphore(most)

    async def fetch(url: str, took: Callable[[int], None]) -> bytes | ImageError:
        async with room:
            try:
                return await fetcher.fetch(url, took)
            except ImageError as error:
                return error

    return fetch


async def _read(
    request: Request, ticket: Ticket, limits: Limits, fetch: Fetch | None
) -> tuple[list[Image], Question]:
    """Receives a request's images, and takes their places in the queue once all are here."""
    named, question = await _receive(request, ticket, limits)
    urls = [data for _, data in named if isinstance(data, str)]
    if urls and fetch is None:
        name = next(name for name, data in named if isinstance(data, str))
        raise RefusedError(
            403, f"{name}: images by URL are off; start the server with --allow-url HOST"
        )
    fetched = await _fetch_all(urls, fetch, ticket) if fetch else {}
    ticket.admit(len(named))
    return [
        (data, fetched[data]) if isinstance(data, str) else (name, data) for name, data in named
    ], question


async def _fetch_all(
    urls: Iterable[str], fetch: Fetch, ticket: Ticket
) -> dict[str, bytes | ImageError]:
    tasks = {
        url: asyncio.ensure_future(fetch(url, ticket.add_bytes)) for url in dict.fromkeys(urls)
    }
    try:
        return dict(zip(tasks, await asyncio.gather(*tasks.values()), strict=True))
    finally:
        while tasks:
            tasks.popitem()[1].cancel()


async def _receive(
    request: Request, ticket: Ticket, limits: Limits
) -> tuple[list[tuple[str, _Written]], Question]:
    """A request's images, by name, and what is asked of them."""
    content_type = request.headers.get("content-type", "")
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        parts = await read_form(
            request.stream(),
            content_type,
            max_bytes=limits.bytes,
            max_images=limits.images,
            max_text=_TEXT_BYTES,
            max_fields=limits.labels + _FEW_FIELDS,
            took=ticket.add_bytes,
        )
        files = [part for part in parts if part.name == "images"]
        if not files:
            raise RefusedError(422, "images: there are none; send each as a part with this name")
        images: list[tuple[str, _Written]] = []
        for number, part in enumerate(files):
            data: _Written = part.data
            if not part.filename and _URL.match(part.data):  # curl -F images=https://...
                data = _written_image(f"images[{number}]", memoryview(part.data), ticket)
            images.append((part.filename or f"images[{number}]", data))
        return images, _form_options(parts).question()
    if kind != "application/json":
        raise RefusedError(
            415,
            "send images as multipart/form-data (curl -F images=@FILE) or as JSON with the header "
            "Content-Type: application/json",
        )
    body = await read_body(request.stream(), max_bytes=limits.bytes, took=ticket.add_bytes)
    given, long = await asyncio.to_thread(parse_json, body, _TEXT_BYTES)
    options = _validated(ClassifyRequest, given)
    if len(options.images) > limits.images:
        raise RefusedError(413, f"more than {limits.images} images in a request")
    if not long.keys() <= set(options.images):
        raise RefusedError(422, "a string outside of images is longer than a label may be")
    images = []
    for number, text in enumerate(options.images):
        name = f"images[{number}]"
        written = long[text] if text in long else memoryview(text.encode())
        images.append((name, _written_image(name, written, ticket)))
    return images, options.question()


def _written_image(name: str, written: memoryview, ticket: Ticket) -> _Written:
    """An image's URL, or what decodes its base64 when its turn comes."""
    if _HTTP_URL.match(written):
        return str(written[:_LONGEST_URL], "utf-8", "replace").strip()
    ticket.add_bytes(3 * len(written) // 4)
    return partial(asyncio.to_thread, decode_base64, name, written)


def _form_options(parts: Sequence[Part]) -> Options:
    """The fields of a form; labels and templates are lines, and may come in several fields."""
    given: dict[str, Any] = {}
    for part in parts:
        if part.name == "images":
            continue
        try:
            text = part.data.decode()
        except UnicodeDecodeError as error:
            raise RefusedError(422, f"{part.name[:50]!r} is not UTF-8 text") from error
        if part.name in ("labels", "prompts"):
            text = text.replace("\r\n", "\n")
            given.setdefault(part.name, []).extend(line for _, line in numbered(text))
        elif part.name in given:
            raise RefusedError(422, f"{part.name[:50]!r} is there twice")
        else:
            given[part.name] = text
    names = given.get("prompts", [])
    if len(names) == 1 and "{}" not in names[0]:
        given["prompts"] = names[0]
    return _validated(Options, given)


Model = TypeVar("Model", bound=BaseModel)


def _validated(model: type[Model], given: object) -> Model:
    if not isinstance(given, dict):
        raise RefusedError(422, 'the body is no JSON object, as in {"images": ["..."]}')
    try:
        json.dumps(given, ensure_ascii=False).encode()
        return model.model_validate(given)
    except UnicodeEncodeError as error:
        raise RefusedError(422, "a text holds half a surrogate pair") from error
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        here = [one for one in found if one["loc"][:2] == found[0]["loc"][:2]]
        first = max(here, key=lambda one: len(one["loc"]))  # an object's own, not "no string"
        kinds = ("str", "list[str]", "LabelEntry")
        place = ".".join(str(part)[:50] for part in first["loc"] if part not in kinds)
        raise RefusedError(422, f"{place}: {first['msg']}") from error


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
