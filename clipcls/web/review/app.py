"""The local web application of `clipcls review`: a `Review`, a classifier learnt from it, the page.

Slow work (vectors, learning) runs in a background thread, so the page stays usable;
`/api/status` reports its progress. Images are named by their number, never by a path.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from clipcls.data.thumbnails import make_thumbnail
from clipcls.errors import ClipclsError, ImageError, InputError
from clipcls.predictions import UNKNOWN
from clipcls.web.local_server import json_response, page_routes, problem
from clipcls.web.review.active_learning import cluster_images
from clipcls.web.review.files import ReviewFiles
from clipcls.web.review.session import Review

if TYPE_CHECKING:
    from clipcls.classification.zero_shot import ZeroShotClassifier
    from clipcls.few_shot.classifier import FewShotClassifier
    from clipcls.web.review.learner import Relearner

logger = logging.getLogger(__name__)

_THUMBNAIL, _IMAGE = 240, 1600  # longer sides, pixels
_WITHOUT_VECTORS = "images are ordered by the scores of the results alone"
_MOST_CHANGES = 12  # pairs of labels


class ReviewApp:
    """The server's side of the page; `asgi` is the application, to be put behind a `Guard`.

    Args:
        review: the results and corrections.
        files: where to write the reviewed table and, on request, a learnt classifier.
        open_classifier: opens the zero-shot classifier that the corrections improve, and whose
            vectors order the images; called in a thread. None: there is none.
        next_commands: what to run after the review, as shell commands.
        title: the page's title.
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
        self._files = files
        self._open_classifier = open_classifier
        self._next_commands = next_commands
        self._title = title
        self._lock = threading.Lock()  # of the review
        self._decoding = threading.BoundedSemaphore(min(8, os.cpu_count() or 1))
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="clipcls-review")
        self._relearner: Relearner | None = None
        self._learnt: FewShotClassifier | None = None
        self._session = secrets.token_hex(8)
        self._stopping = False
        self._is_saved = False
        self._status: dict[str, Any] = {
            "busy": "",
            "at": 0,
            "of": len(review.images),
            "order": 0,
            "can_learn": False,
            "note": "",
            "learnt": None,
            "saved": "",
        }

    # -- in the background ----------------------------------------------------------------------

    def start(self) -> None:
        """Begin to get vectors, in the background."""
        if self._open_classifier is None:
            self._status["note"] = _WITHOUT_VECTORS
        else:
            self._begin("vectors", partial(self._prepare, self._open_classifier))

    def stop(self) -> None:
        """End the work in the background, and wait for it."""
        self._stopping = True
        self._worker.shutdown(wait=True, cancel_futures=True)

    def _begin(self, name: str, work: Callable[[], None]) -> None:
        self._status |= {"busy": name, "note": ""}
        self._worker.submit(self._run, work)

    def _run(self, work: Callable[[], None]) -> None:
        note = ""
        try:
            work()
        except ClipclsError as error:
            note = str(error)
        except Exception as error:
            logger.debug("review", exc_info=True)
            note = f"{type(error).__name__}: {error} (internal error, please report it)"
        if note:
            logger.warning("%s", note)
        # Together: a page that sees no work stops asking.
        self._status |= {"note": note, "busy": ""}

    def _prepare(self, open_classifier: Callable[[], ZeroShotClassifier]) -> None:
        from clipcls.web.review.learner import Relearner

        files = [image.file for image in self._review.images]
        try:
            relearner = Relearner(open_classifier(), files)
        except ClipclsError as error:
            raise InputError(f"{_WITHOUT_VECTORS}: {error}") from error

        def watch(at: int) -> bool:
            self._status["at"] = at
            return not self._stopping

        relearner.embed(watch)
        if self._stopping:
            return
        if not relearner.vectors.any():
            raise InputError(f"{_WITHOUT_VECTORS}: no image can be read")
        clusters = cluster_images(relearner.vectors)
        with self._lock:
            self._review.use_vectors(relearner.vectors, clusters)
        self._relearner = relearner
        self._status |= {"can_learn": True, "order": 1}

    def _learn(self, relearner: Relearner) -> None:
        review = self._review
        with self._lock:
            labels = {
                image: label
                for image, label in review.done().items()
                if label != UNKNOWN and relearner.vectors[image].any()
            }
        if len(set(labels.values())) < 2:
            raise InputError("learning needs images with two labels or more")
        classifier, results = relearner.learn(labels)
        with self._lock:
            review.use_relearnt(results)
            done = review.done()
        self._learnt, self._is_saved = classifier, False
        answers = [
            (image.answer.label, image.relearnt.label)
            for number, image in enumerate(review.images)
            if image.relearnt and number not in done
        ]
        changed = Counter((old, new) for old, new in answers if old != new)
        counts = [count for _, count, _ in classifier.learnt_.labels]
        order = self._status["order"] + 1
        learnt = {
            "number": order,
            "images": sum(counts),
            "labels": sum(count > 0 for count in counts),
            "cross_validation": classifier.learnt_.cross_validation,
            "others": len(answers),
            "changed": changed.total(),
            "pairs": [[*pair, count] for pair, count in changed.most_common(_MOST_CHANGES)],
        }
        self._status |= {"saved": "", "order": order, "learnt": learnt}

    # -- the application ------------------------------------------------------------------------

    def asgi(self) -> ASGIApp:
        """The ASGI application."""
        review = self._review
        change = review.change_record

        def locked(act: Callable[..., Any], *given: Any) -> Response:
            with self._lock:
                return json_response(act(*given))

        def get(path: str, act: Callable[[], Any]) -> Route:
            return Route(path, lambda _: locked(act))

        def post(path: str, act: Callable[[dict[str, Any]], Any]) -> Route:
            async def endpoint(request: Request) -> Response:
                try:
                    return await run_in_threadpool(locked, act, await request.json())
                except ClipclsError as error:  # else the disk is full, say
                    return problem(422 if isinstance(error, InputError) else 507, str(error))
                except (AttributeError, TypeError, ValueError, LookupError, RecursionError):
                    return problem(400, "the request is not understood")

            return Route(path, endpoint, methods=["POST"])

        pages = {"/": "review.html", "/review.js": "review.js", "/review.css": "review.css"}
        return Starlette(
            routes=[
                *page_routes(Path(__file__).parent, pages),
                Route("/thumb/{image:int}", partial(self._picture, side=_THUMBNAIL)),
                Route("/image/{image:int}", partial(self._picture, side=_IMAGE)),
                get("/api/review", self._record),
                get("/api/status", lambda: self._status),
                get("/api/order", review.order_record),
                post("/api/label", lambda body: change(review.label(dict(body["labels"])))),
                post("/api/undo", lambda _: change(review.undo())),
                post("/api/redo", lambda _: change(review.redo())),
                post("/api/learn", self._start_learning),
                post("/api/save", self._save),
                post("/api/finish", self._finish),
            ],
            exception_handlers={HTTPException: _answer_error},
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
        if number >= len(self._review.images):
            return problem(404, "no such image")
        file = self._review.images[number].file
        # Browsers ask again each time: the next review on this port has other images here.
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

    def _start_learning(self, _: dict[str, Any]) -> Any:
        if self._status["busy"]:
            raise HTTPException(409, "wait until the current work is done")
        if self._relearner is None:
            raise HTTPException(409, self._status["note"] or "there are no vectors to learn from")
        self._begin("learning", partial(self._learn, self._relearner))
        return self._status

    def _save(self, body: dict[str, Any]) -> Any:
        if self._learnt is None:
            raise HTTPException(409, "there is no learnt classifier yet")
        output = self._files.classifier
        if os.path.lexists(output) and not (self._is_saved or body["replace"] is True):
            raise HTTPException(409, f"{output} exists already")
        self._learnt.save(output)
        self._is_saved = True
        self._status["saved"] = str(output)
        return self._status

    def _finish(self, _: dict[str, Any]) -> Any:
        given, images = self._review.done(), self._review.images
        if given:
            self._review.write_table(self._files.table)
        signal.raise_signal(signal.SIGTERM)  # like `kill`: accepted requests are finished
        return {
            "table": str(self._files.table) if given else "",
            "done": len(given),
            "of": len(self._review.order),
            "corrected": sum(label != images[n].answer.label for n, label in given.items()),
            "commands": self._next_commands() if given else [],
        }


async def _answer_error(_: Request, error: Any) -> Response:
    return problem(error.status_code, error.detail)
