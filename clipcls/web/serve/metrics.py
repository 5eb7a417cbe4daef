"""What `/metrics` shows: requests, images, batches, and what waits."""

from __future__ import annotations

import asyncio

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from clipcls.web import local_server
from clipcls.web.local_server import Receive, Scope, Send
from clipcls.web.serve.service import Figures, Service

__all__ = ["CLIENT_GONE", "PAGES", "Counted", "Counts"]

PAGES = {"/": "serve.html", "/serve.js": "serve.js", "/serve.css": "serve.css"}
_PATHS = ("/classify", "/labels", "/healthz", "/metrics", "/openapi.json", *PAGES)
CLIENT_GONE = 499  # as nginx counts it; nobody is there to see it


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


class Counted:
    """Counts every answer, refusals included."""

    def __init__(self, app: local_server.App, counts: Counts) -> None:
        self._app = app
        self._counts = counts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes one request on, and counts its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        loop = asyncio.get_running_loop()
        started = loop.time()
        status = CLIENT_GONE

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
