"""A request of `/classify` -> its images, and what is asked of them.

Its body is a form or JSON; an image in it is a file, base64, or a URL that is fetched.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from clipcls.errors import ImageError
from clipcls.files.text import number_lines
from clipcls.web.admission import Ticket
from clipcls.web.serve.fetch import Fetcher
from clipcls.web.serve.questions import Limits, Question
from clipcls.web.serve.schemas import ClassifyRequest, Options
from clipcls.web.serve.service import Image
from clipcls.web.serve.uploads import (
    Part,
    RefusedError,
    decode_base64,
    parse_json,
    read_body,
    read_form,
)

__all__ = ["Fetch", "limit_fetches", "read_request"]

# Of a JSON body, and of a form's fields but for its images: they are parsed at one go.
_TEXT_BYTES = 1 << 20
_FEW_FIELDS = 16


_HTTP_URL = re.compile(rb"https?://", re.IGNORECASE)


_URL = re.compile(rb"https?://|data:", re.IGNORECASE)


_LONGEST_URL = 8192


_Written = bytes | str | Callable[[], Awaitable[bytes]]


Fetch = Callable[[str, Callable[[int], None]], Awaitable["bytes | ImageError"]]


def limit_fetches(fetcher: Fetcher, most: int) -> Fetch:
    """Fetches by URL, at most so many at a time; an image that cannot be had is an error."""
    room = asyncio.Semaphore(most)

    async def fetch(url: str, took: Callable[[int], None]) -> bytes | ImageError:
        async with room:
            try:
                return await fetcher.fetch(url, took)
            except ImageError as error:
                return error

    return fetch


async def read_request(
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
            given.setdefault(part.name, []).extend(line for _, line in number_lines(text))
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
