"""The local web application of `clipcls review`: a `Review`, what is learnt from it, and the page.

What takes long (vectors, learning) is done in one thread beside it, so the page stays usable; what
it has come to is asked for at `/api/status`. Images are named by their number, never by a path.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from clipcls.data.thumbnails import make_thumbnail
from clipcls.errors import ClipclsError, ImageError, InputError
from clipcls.predictions import UNKNOWN
from clipcls.web.local_server import json_response, page_routes, problem
from clipcls.web.review.answers import NO_LABEL, Answer
from clipcls.web.review.files import ReviewFiles
from clipcls.web.review.session import Review

if TYPE_CHECKING:
    from clipcls.classification.zero_shot import ZeroShotClassifier
    from clipcls.web.review.learner import Relearner, Relearnt

__all__ = ["ReviewApp"]

logger = logging.getLogger(__name__)

_THUMBNAIL, _IMAGE = 240, 1600  # longer sides, pixels
_BODY = 16 << 20  # bytes of a request
_MOST_CHANGES = 12  # pairs of labels that are told of


class ReviewApp:
    """What the page asks for; `asgi` is the application, to be put behind a `web.Guard`.

    Args:
        review: what is reviewed.
        files: where the reviewed table, and a learnt classifier if the page is told to save it,
            are written.
        open_classifier: makes the classifier by words whose vectors order the images and which the
            corrections are learnt on top of; called in a thread. None: there is none.
        next_commands: what to run after the review, as shell commands.
        title: what the page is of.
    """

    def __init__(
        self,
        review: Review,
        files: ReviewFiles,
        *,
        open_classifier: Callable[[], ZeroShotClassifier] | None,
        next_commands: Callable[[], list[str]],
        title: str,
    ) -> None:
        self._review = review
        self._open_classifier = open_classifier
        self._files = files
        self._next_commands = next_commands
        self._title = title
        self._decoding = threading.BoundedSemaphore(min(8, os.cpu_count() or 1))
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="clipcls-review")
        self._relearner: Relearner | None = None
        self._relearnt: Relearnt | None = None
        self._session = secrets.token_hex(8)
        self._stopping = False
        self._is_saved = False
        self._status: dict[str, Any] = {
            "busy": "",
            "at": 0,
            "of": len(review.paths),
            "order": 0,
            "can_learn": False,
            "note": "",
            "learnt": None,
            "saved": "",
        }

    # -- beside the page ------------------------------------------------------------------------

    def start(self) -> None:
        """Begins to get vectors, beside the page."""
        if self._open_classifier is None:
            self._status["note"] = "without a model: the order is by the scores of the results"
            return
        self._status["busy"] = "vectors"
        self._worker.submit(self._guarded, self._prepare)

    def stop(self) -> None:
        """Ends what is done beside the page, and waits for it."""
        self._stopping = True
        self._worker.shutdown(wait=True, cancel_futures=True)

    def _guarded(self, work: Callable[[], None]) -> None:
        note = ""
        try:
            work()
        except ClipclsError as error:
            note = str(error)
        except Exception as error:
            logger.debug("review", exc_info=True)
            note = f"{type(error).__name__}: {error} (internal error: please report it)"
        if note:
            logger.warning("%s", note)
        # Together: a page that sees nothing to wait for asks no more.
        self._status |= {"note": note, "busy": ""}

    def _prepare(self) -> None:
        from clipcls.web.review.learner import Relearner

        assert self._open_classifier is not None
        try:
            relearner = Relearner(self._open_classifier(), self._review.files)
        except ClipclsError as error:
            raise InputError(f"ordered by the scores of the results alone: {error}") from error

        def watch(at: int) -> bool:
            self._status["at"] = at
            return not self._stopping

        relearner.embed(watch)
        if self._stopping:
            return
        if not relearner.seen.any():
            raise InputError("ordered by the scores of the results alone: no image can be read")
        self._relearner = relearner
        self._review.use_vectors(relearner.vectors)
        self._status["can_learn"] = True
        self._status["order"] += 1

    def _learn(self) -> None:
        assert self._relearner is not None
        review = self._review
        labels = {
            image: review.name(label)
            for image, label in review.done().items()
            if label != NO_LABEL and self._relearner.seen[image]
        }
        if len(set(labels.values())) < 2:
            raise InputError("to learn from, give images of two labels or more")
        found = self._relearner.learn(labels)
        before = [review.now(image).label for image in range(len(review.paths))]
        numbers = {name: review.add_label(name) for top in found.answers for name, _ in top}
        answers = [
            Answer(
                numbers[top[0][0]],
                top[0][1],
                top[0][1] - top[1][1] if len(top) > 1 else 1.0,
                tuple((numbers[name], score) for name, score in top),
            )
            if top
            else None
            for top in found.answers
        ]
        review.use_relearnt(answers)
        self._relearnt, self._is_saved = found, False
        self._status["saved"] = ""
        self._status["order"] += 1
        self._status["learnt"] = {
            "number": self._status["order"],
            **found.record(),
            **self._changes(answers, before),
        }

    def _changes(self, answers: list[Answer | None], before: list[int]) -> dict[str, Any]:
        """How many answers differ from the results', and from what was said just before."""
        done = self._review.done()
        pairs: dict[tuple[int, int], int] = {}
        since = 0
        for image, answer in enumerate(answers):
            if answer is None or image in done:
                continue
            since += answer.label != before[image]
            old = self._review.answers[image].label
            if answer.label != old:
                pairs[old, answer.label] = pairs.get((old, answer.label), 0) + 1
        most = sorted(pairs.items(), key=lambda item: -item[1])
        return {
            "others": sum(a is not None and n not in done for n, a in enumerate(answers)),
            "changed": sum(pairs.values()),
            "changed_since": since,
            "pairs": [[old, new, count] for (old, new), count in most[:_MOST_CHANGES]],
        }

    # -- the application ------------------------------------------------------------------------

    def asgi(self) -> ASGIApp:
        """The ASGI application."""

        def post(path: str, act: Callable[[dict[str, Any]], Any]) -> Route:
            async def endpoint(request: Request) -> Response:
                try:
                    body = await _body(request)
                    return json_response(await run_in_threadpool(act, body))
                except (TypeError, ValueError, LookupError, RecursionError) as error:
                    # ClassifierError is a ValueError; its message is for people.
                    detail = str(error) if isinstance(error, ClipclsError) else "not understood"
                    return problem(400, detail)
                except _ConflictError as error:
                    return problem(409, str(error))
                except InputError as error:
                    return problem(422, str(error))
                except ClipclsError as error:  # the disk is full, say
                    return problem(507, str(error))

            return Route(path, endpoint, methods=["POST"])

        def get(path: str, answer: Callable[[Request], Response]) -> Route:
            return Route(path, answer, methods=["GET"])

        pages = {"/": "review.html", "/review.js": "review.js", "/review.css": "review.css"}
        return Starlette(
            routes=[
                *page_routes(Path(__file__).parent, pages),
                get("/api/review", lambda _: json_response(self._record())),
                get("/api/status", lambda _: json_response(self._status)),
                get("/api/order", lambda _: json_response(self._review.order_record())),
                get("/thumb/{image:int}", lambda request: self._picture(request, _THUMBNAIL)),
                get("/image/{image:int}", lambda request: self._picture(request, _IMAGE)),
                post("/api/label", self._label),
                post("/api/labels", self._add_label),
                post("/api/undo", lambda _: self._changed(self._review.undo())),
                post("/api/redo", lambda _: self._changed(self._review.redo())),
                post("/api/learn", self._start_learning),
                post("/api/save", self._save),
                post("/api/finish", self._finish),
            ]
        )

    def _record(self) -> dict[str, Any]:
        return {
            "title": self._title,
            "corrections": str(self._files.corrections),
            "classifier": self._files.classifier.name,
            "unknown": UNKNOWN,
            "status": self._status,
            **self._review.record(),
        }

    def _picture(self, request: Request, side: int) -> Response:
        number = request.path_params["image"]
        if number >= len(self._review.files):
            return problem(404, "there is no such image")
        file = self._review.files[number]
        # Asked for again each time: the next review on this port has other images at this address.
        headers = {"cache-control": "private, no-cache"}
        with contextlib.suppress(OSError, ValueError):
            headers["etag"] = f'"{self._session}-{number}-{os.stat(file).st_mtime_ns}"'
            if request.headers.get("if-none-match") == headers["etag"]:
                return Response(status_code=304, headers=headers)
        try:
            with self._decoding:
                jpeg = make_thumbnail(file, side)
        except ImageError as error:
            return problem(404, error.reason)
        return Response(jpeg, media_type="image/jpeg", headers=headers)

    def _label(self, body: dict[str, Any]) -> Any:
        labels = dict(body["labels"])
        # JSON's true is an int of Python's too.
        if not all(type(image) is int for image in labels):
            raise TypeError
        if not all(label is None or type(label) is int for label in labels.values()):
            raise TypeError
        return self._changed(self._review.label(labels))

    def _changed(self, images: list[int]) -> Any:
        return self._review.change_record(images)

    def _add_label(self, body: dict[str, Any]) -> Any:
        name = body["name"]
        if not isinstance(name, str):
            raise TypeError
        number = self._review.add_label(name)
        return {"label": number, "labels": self._review.labels}

    def _start_learning(self, _: dict[str, Any]) -> Any:
        if self._status["busy"]:
            raise _ConflictError("wait for what is being done")
        if self._relearner is None:
            raise _ConflictError(self._status["note"] or "there are no vectors to learn from")
        self._status |= {"busy": "learning", "note": ""}
        self._worker.submit(self._guarded, self._learn)
        return self._status

    def _save(self, body: dict[str, Any]) -> Any:
        if self._relearnt is None:
            raise _ConflictError("nothing was learnt yet")
        output = self._files.classifier
        if os.path.lexists(output) and not (self._is_saved or body.get("replace") is True):
            raise _ConflictError(f"{output} exists already")
        self._relearnt.classifier.save(output)
        self._is_saved = True
        self._status["saved"] = str(output)
        return self._status

    def _finish(self, _: dict[str, Any]) -> Any:
        given, answers = self._review.done(), self._review.answers
        if given:
            self._review.write_table(self._files.table)
        signal.raise_signal(signal.SIGTERM)  # as `kill` would: what was accepted is finished
        return {
            "table": str(self._files.table) if given else "",
            "done": len(given),
            "of": len(self._review.order),
            "corrected": sum(label != answers[n].label for n, label in given.items()),
            "commands": self._next_commands() if given else [],
        }


class _ConflictError(Exception):
    """What was asked for cannot be done now."""


async def _body(request: Request) -> dict[str, Any]:
    """A request's JSON object.

    Raises:
        ValueError: it is none, or too large.
    """
    data = b""
    async for part in request.stream():
        data += part
        if len(data) > _BODY:
            raise ValueError("too large")
    found = json.loads(data)
    if not isinstance(found, dict):
        raise TypeError
    return found
