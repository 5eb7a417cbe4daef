"""The figures that `/metrics` shows: requests, images, batches, texts, and what waits."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CLIENT_GONE = 499  # as nginx counts it; no client sees it


class Metrics:
    """Prometheus metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        counter = partial(Counter, registry=registry)
        gauge = partial(Gauge, registry=registry)
        histogram = partial(Histogram, registry=registry)
        self.requests = counter(
            "clipcls_requests", "Requests by path and status.", ["path", "status"]
        )
        self.request_seconds = histogram(
            "clipcls_request_seconds",
            "From a request's headers to its answer.",
            ["path"],
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
        )
        self.images = counter("clipcls_images", "Images answered, by outcome.", ["outcome"])
        self.batch_images = histogram(
            "clipcls_batch_images",
            "Images in a forward pass.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
        )
        self.batch_seconds = histogram(
            "clipcls_batch_seconds",
            "Time of a forward pass.",
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
        )
        self.queue_images = gauge("clipcls_queue_images", "Images accepted and not answered.")
        self.held_bytes = gauge("clipcls_held_bytes", "Bytes of bodies held.")


class CountRequests:
    """An ASGI application that counts every answer of another, refusals included.

    Paths that are not in `paths` are counted as `other`: clients may ask for endlessly many.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: Collection[str]) -> None:
        self._app = app
        self._metrics = metrics
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, and count its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        loop = asyncio.get_running_loop()
        started = loop.time()
        status = CLIENT_GONE

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._metrics.requests.labels(path, str(status)).inc()
            self._metrics.request_seconds.labels(path).observe(loop.time() - started)
