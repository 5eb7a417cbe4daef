"""Read a request of `/classify`, a form or JSON: its images and how to classify them.

Bodies are read into memory, within limits that apply while they arrive. Starlette's own form parser
writes files above a megabyte to the disk; the one here has nowhere to write to.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import codecs
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import HTTPException, Request
from pydantic import ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from clipcls.errors import ImageError
from clipcls.files.text import number_lines
from clipcls.web.admission import Ticket
from clipcls.web.serve.fetch import Fetcher
from clipcls.web.serve.schemas import ClassifyRequest, Limits, Options

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

Image = tuple[str, bytes | str | ImageError]
"""A name, and the file's bytes, its base64, or why it is missing."""

_TEXT_BYTES = 1 << 20  # of a form's fields but for its images
_FEW_FIELDS = 16

# Of JSON: each value of `[[],[],...` takes ten times its bytes. Base64 has no commas or brackets.
_MOST_VALUES = 100_000

_HTTP_URL = re.compile("https?://", re.IGNORECASE)
_URL = re.compile(b"https?://|data:", re.IGNORECASE)
_DATA_URL = re.compile("data:[^,]{0,200},", re.IGNORECASE)
_LONGEST_URL = 8192

Result = TypeVar("Result")


async def read_request(
    request: Request, ticket: Ticket, limits: Limits, fetcher: Fetcher | None
) -> tuple[list[Image], Options]:
    """Receive a request's images, and take their places in the queue once all have arrived.

    Raises:
        HTTPException: it is refused, or there is no room for it.
    """
    content_type = request.headers.get("content-type", "")
    kind = content_type.partition(";")[0].strip().lower()
    chunks = _count(request.stream(), ticket, limits.bytes)
    images: list[Image]
    options: Options
    if kind == "multipart/form-data":
        form = _Form(limits)
        await form.read(chunks, content_type)
        images, options = form.images(), form.options()
        if not images:
            raise HTTPException(422, "images: missing; send each image as a part with this name")
    elif kind == "application/json":
        body = bytearray()
        async for chunk in chunks:
            body += chunk
        options = given = await asyncio.to_thread(_parse_json, body)
        del body
        images = [(f"images[{number}]", text) for number, text in enumerate(given.images)]
        given.images = []  # each may go once it is decoded
    else:
        raise HTTPException(
            415,
            "send images as multipart/form-data (curl -F images=@FILE) or as JSON with the header "
            "Content-Type: application/json",
        )
    if len(images) > limits.images:
        raise HTTPException(413, f"more than {limits.images} images in a request")
    images = await gather(_fetch(image, fetcher, ticket) for image in images)
    ticket.admit(len(images))
    return images, options


async def gather(calls: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
    """The results of all calls; those that remain are cancelled when one fails."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    finally:
        while tasks:  # an error refers to this frame, which must not keep their results
            tasks.pop().cancel()


async def _count(
    chunks: AsyncIterator[bytes], ticket: Ticket, max_bytes: int
) -> AsyncIterator[bytes]:
    """The chunks of a body, counted before they are kept."""
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > max_bytes:
            raise HTTPException(413, f"the body is larger than {max_bytes:,} bytes")
        ticket.add_bytes(len(chunk))
        yield chunk


async def _fetch(image: Image, fetcher: Fetcher | None, ticket: Ticket) -> Image:
    """An image as it is or, where it is given by URL, what is behind the URL."""
    name, data = image
    if not isinstance(data, str):
        return image
    if not _HTTP_URL.match(data):
        ticket.add_bytes(3 * len(data) // 4)  # once decoded
        return image
    if fetcher is None:
        raise HTTPException(
            403, f"{name}: images by URL are off; start the server with --allow-url HOST"
        )
    url = data[:_LONGEST_URL].strip()
    try:
        return url, await fetcher.fetch(url, ticket.add_bytes)
    except ImageError as error:
        return url, error.without_frames()


def _parse_json(body: bytearray) -> ClassifyRequest:
    if sum(map(body.count, (b",", b"[", b"{"))) > _MOST_VALUES:
        raise HTTPException(413, f"the JSON holds more than {_MOST_VALUES:,} values")
    if body.startswith(codecs.BOM_UTF8):
        del body[: len(codecs.BOM_UTF8)]
    return _validate(ClassifyRequest.model_validate_json, body)


def decode_base64(name: str, text: str) -> bytes:
    """The bytes of an image from base64, alone or in a data URL, or `ImageError`."""
    if match := _DATA_URL.match(text):
        if not match[0].lower().endswith(";base64,"):
            raise ImageError(name, "a data URL of an image needs ;base64 before the comma")
        text = text[match.end() :]
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError(
            name,
            "not base64 (standard alphabet, padded, as `base64 FILE` writes it), a data URL or an "
            "http URL",
        ) from error
    if not data:
        raise ImageError(name, "is empty")
    return data


@dataclass(slots=True)
class _Part:
    """One part of a form: a field's text, or an image's file."""

    name: str
    filename: str
    # One buffer: a list of what comes in small pieces would take many times their size.
    content: bytearray = field(default_factory=bytearray)


class _Form:
    """The parts of a multipart form (RFC 7578) within limits, as python_multipart finds them."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._parts: list[_Part] = []
        self._key = self._value = self._disposition = b""
        self._text = 0
        self._is_whole = False

    async def read(self, chunks: AsyncIterator[bytes], content_type: str) -> None:
        """Read a whole body; `content_type` has the boundary."""
        boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
        if not boundary:
            raise HTTPException(400, "the Content-Type names no boundary")
        callbacks: MultipartCallbacks = {
            "on_header_field": self._add_key,
            "on_header_value": self._add_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._add_data,
            "on_end": self._end,
        }
        try:
            parser = MultipartParser(boundary, callbacks)
            async for chunk in chunks:
                parser.write(chunk)
            parser.finalize()
        except FormParserError as error:
            raise HTTPException(400, f"the body is not a multipart form: {error}") from error
        if not self._is_whole:
            raise HTTPException(400, "the body ends before its last boundary")

    def images(self) -> list[Image]:
        """The images, by file name or position; a part without a file name may hold a URL."""
        found: list[Image] = []
        for part in self._parts:
            if part.name == "images":
                data: bytes | str = bytes(part.content)
                if not part.filename and _URL.match(part.content):  # curl -F images=https://...
                    data = part.content.decode(errors="replace")
                part.content = bytearray()
                found.append((part.filename or f"images[{len(found)}]", data))
        return found

    def options(self) -> Options:
        """The other fields; labels and templates are lines, and may come in several fields."""
        given: dict[str, Any] = {}
        for part in self._parts:
            if part.name == "images":
                continue
            try:
                text = part.content.decode()
            except UnicodeDecodeError as error:
                raise HTTPException(422, f"{part.name[:50]!r} is not UTF-8 text") from error
            if part.name in ("labels", "prompts"):
                text = text.replace("\r\n", "\n")
                given.setdefault(part.name, []).extend(line for _, line in number_lines(text))
            elif part.name in given:
                raise HTTPException(422, f"{part.name[:50]!r} is given twice")
            else:
                given[part.name] = text
        names = given.get("prompts", [])
        if len(names) == 1 and "{}" not in names[0]:
            given["prompts"] = names[0]
        return _validate(Options.model_validate, given)

    def _add_key(self, data: bytes, start: int, end: int) -> None:
        self._key += data[start:end]

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._key.lower() == b"content-disposition":
            self._disposition = self._value
        self._key = self._value = b""

    def _end_headers(self) -> None:
        kind, options = parse_options_header(self._disposition)
        self._disposition = b""
        if kind != b"form-data" or b"name" not in options:
            raise HTTPException(400, "a part of the form has no name")
        name, filename = (
            options.get(key, b"").decode("utf-8", "replace") for key in (b"name", b"filename")
        )
        self._parts.append(_Part(name, filename))
        if len(self._parts) > self._limits.images + self._limits.labels + _FEW_FIELDS:
            raise HTTPException(413, "too many fields in a request")

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        part = self._parts[-1]
        part.content += memoryview(data)[start:end]
        if part.name != "images":
            self._text += end - start
            if self._text > _TEXT_BYTES:
                raise HTTPException(413, f"the form's fields hold more than {_TEXT_BYTES:,} bytes")

    def _end(self) -> None:
        self._is_whole = True


Model = TypeVar("Model", bound=Options)


def _validate(parse: Callable[[Any], Model], given: object) -> Model:
    try:
        return parse(given)
    except ValidationError as error:
        # The most specific one: not "no string" where an object was meant.
        first = max(error.errors(include_url=False), key=lambda one: len(one["loc"]))
        if first["type"] == "json_invalid":
            raise HTTPException(400, f"the body is not JSON: {first['msg']}") from error
        if first["type"] == "model_type":
            raise HTTPException(
                422, 'the body is not a JSON object, as in {"images": ["..."]}'
            ) from error
        # Besides fields and positions, a place names the alternatives of a union.
        kinds = re.compile(r"constrained-str|list\[.*\]|LabelEntry")
        place = ".".join(p[:50] for p in map(str, first["loc"]) if not kinds.fullmatch(p))
        raise HTTPException(422, f"{place}: {first['msg']}") from error
