"""A server with a fake encoder, asked without a network."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipcls import ZeroShotClassifier
from clipcls.classification.image_classifier import ImageClassifier
from clipcls.classification.multi_question import QuestionClassifier
from clipcls.web.connections import BoundedServer, Bounds
from clipcls.web.serve.app import make_app
from clipcls.web.serve.schemas import Limits
from clipcls.web.serve.service import Service
from helpers.encoders import ColourEncoder
from helpers.loops import run_async
from helpers.pictures import saved

LABELS = ["red", "green", "blue"]


HERE = "http://127.0.0.1"


class Server:
    """An application around a fake model, asked in this process."""

    def __init__(
        self,
        encoder: ColourEncoder,
        *,
        limits: Limits | None = None,
        max_batch: int = 4,
        max_wait: float = 0.0,
        classifier: ImageClassifier | None = None,
        questions: Mapping[str, QuestionClassifier] | None = None,
        **options: Any,
    ) -> None:
        self.encoder = encoder
        self.classifier = (
            classifier or ZeroShotClassifier(LABELS, encoder, prompts=["{}"], cache=False).fit()
        )
        self.service = Service(
            questions or {"": self.classifier},
            limits=limits,
            max_batch=max_batch,
            max_wait=max_wait,
        )
        self.app = make_app(self.service, **options)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.service.close()

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url=HERE) as client:
                return await client.request(method, path, **options)

        return run_async(send())

    def classify(
        self, *images: tuple[str, bytes], status: int = 200, **fields: Any
    ) -> dict[str, Any]:
        files = [("images", image) for image in images]
        answer = self.ask("POST", "/classify", files=files, data=fields)
        assert answer.status_code == status, answer.text
        return check(answer)

    @contextlib.contextmanager
    def listening(self) -> Iterator[tuple[str, int]]:
        """Over real connections, in a thread."""
        server = BoundedServer(self.app, Bounds(seconds=self.service.limits.seconds))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            thread = threading.Thread(target=server.run, args=([listener],))
            thread.start()
            try:
                yield listener.getsockname()
            finally:
                server.should_exit = True
                thread.join()


def check(answer: httpx.Response) -> dict[str, Any]:
    """The body; an error has the one form that is promised."""
    body: dict[str, Any] = answer.json()
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        assert set(body) == {"type", "title", "status", "detail"}
        assert body["status"] == answer.status_code
        assert "\n" not in body["detail"]
    return body


def plain(colour: str = "red", size: int = 8) -> bytes:
    return saved(Image.new("RGB", (size, size), colour), "PNG")


RED, GREEN, BLUE = (plain(c) for c in ("red", "lime", "blue"))


class SlowEncoder(ColourEncoder):
    """Encodes once it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.may_go = threading.Event()
        self.began = threading.Event()

    def encode_images(self, pixels: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        self.began.set()
        assert self.may_go.wait(30)
        return super().encode_images(pixels)
