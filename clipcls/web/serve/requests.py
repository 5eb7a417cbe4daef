"""Read a request, a form or JSON: its images, and what to do with them.

Bodies are read into memory, within limits that apply while they arrive.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import codecs
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterable
from typing import Any, TypeVar

import python_multipart  # noqa: F401  # Starlette's parser needs it
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from clipcls.errors import ImageError
from clipcls.files.text import number_lines
from clipcls.web.admission import Ticket
from clipcls.web.serve.fetch import Fetcher
from clipcls.web.serve.schemas import EmbedRequest, ImagesRequest, Limits

Image = tuple[str, bytes | str | ImageError]
"""A name, and the file's bytes, its base64, or why it is missing."""

_TEXT_SIZE = 1 << 20  # characters of a form's fields but for its images
_FEW_FIELDS = 16

# Of JSON: each value of `[[],[],...` takes ten times its bytes. Base64 has no commas or brackets.
_MOST_VALUES = 100_000

_HTTP_URL = re.compile("https?://", re.IGNORECASE)
_DATA_URL = re.compile("data:[^,]{0,200},", re.IGNORECASE)
_LONGEST_URL = 8192

Result = TypeVar("Result")
Model = TypeVar("Model", bound=ImagesRequest)


async def read_request(
    request: Request,
    form: type[Model],
    ticket: Ticket,
    limits: Limits,
    fetcher: Fetcher | None,
) -> tuple[list[Image], Model]:
    """Receive a request's images, and take their places in the queue once all have arrived.

    Raises:
        HTTPException: it is refused, or there is no room for it.
    """
    content_type = request.headers.get("content-type", "")
    kind = content_type.partition(";")[0].strip().lower()
    chunks = _count(request.stream(), ticket, limits.bytes)
    images: list[Image]
    if kind == "multipart/form-data":
        images, options = await _read_form(request, form, chunks, limits)
    elif kind == "application/json":
        body = bytearray()
        async for chunk in chunks:
            body += chunk
        options = await asyncio.to_thread(_parse_json, form, body)
        del body
        images = [(f"images[{number}]", text) for number, text in enumerate(options.images)]
        options.images = []  # each may go once it is decoded
    else:
        raise HTTPException(
            415,
            "send images as multipart/form-data (curl -F images=@FILE) or as JSON with the header "
            "Content-Type: application/json",
        )
    if len(images) > limits.images:
        raise HTTPException(413, f"more than {limits.images} images in a request")
    if isinstance(options, EmbedRequest):
        if len(options.texts) > limits.labels:
            raise HTTPException(413, f"more than {limits.labels:,} texts in a request")
        if not images and not options.texts:
            raise HTTPException(422, "images, texts: both are missing; give one of them")
    images = await gather(_fetch(image, fetcher, ticket) for image in images)
    ticket.admit(max(1, len(images)))
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
) -> AsyncGenerator[bytes, None]:
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


def _parse_json(form: type[Model], body: bytearray) -> Model:
    if sum(map(body.count, (b",", b"[", b"{"))) > _MOST_VALUES:
        raise HTTPException(413, f"the JSON holds more than {_MOST_VALUES:,} values")
    if body.startswith(codecs.BOM_UTF8):
        del body[: len(codecs.BOM_UTF8)]
    return _validate(form.model_validate_json, body)


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


class _FormParser(MultiPartParser):
    """Starlette's parser, but it writes nothing to the disk, and reads UTF-8 alone.

    Starlette reads other bytes as Latin-1, and any encoding that a request names.
    """

    spool_max_size = 0  # without limit
    is_whole = False

    def on_headers_finished(self) -> None:
        part = self._current_part
        is_text = _is_utf8(part.content_disposition or b"")
        self._charset = "utf-8" if is_text else "latin-1"
        super().on_headers_finished()
        self._charset = "utf-8"
        if not is_text and part.file:  # its name is bytes, as a path can be
            name = (part.file.filename or "").encode("latin-1")
            part.file.filename = name.decode("utf-8", "surrogateescape")

    def on_part_end(self) -> None:
        part = self._current_part
        if part.file is None and not _is_utf8(part.data):
            raise MultiPartException(
                f"{part.field_name[:50]!r} is not UTF-8; send fields of a form in UTF-8"
            )
        super().on_part_end()

    def on_end(self) -> None:
        self.is_whole = True


def _is_utf8(text: bytes | bytearray) -> bool:
    try:
        return text.isascii() or bool(text.decode())  # base64 is not copied
    except UnicodeDecodeError:
        return False


async def _read_form(
    request: Request, kind: type[Model], chunks: AsyncGenerator[bytes, None], limits: Limits
) -> tuple[list[Image], Model]:
    """The images of a form, by file name or position, and the other fields.

    An image without a file name is text, as in JSON: base64 or a URL. Labels, templates and
    texts are lines, and may come in several fields.
    """
    most = {"max_files": limits.images, "max_fields": limits.labels + _FEW_FIELDS}
    parser = _FormParser(request.headers, chunks, max_part_size=limits.bytes, **most)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        is_much = error.message.startswith("Too many")
        raise HTTPException(413 if is_much else 400, f"the form: {error.message}") from error
    if not parser.is_whole:
        raise HTTPException(400, "the form: the body ends before its last boundary")
    images: list[Image] = []
    given: dict[str, Any] = {}
    size = 0
    for name, value in form.multi_items():
        position = f"images[{len(images)}]"
        if isinstance(value, UploadFile):
            if name != "images":
                raise HTTPException(422, f"{name[:50]}: is a file; files are named images")
            images.append((value.filename or position, await value.read()))
            await value.close()
            continue
        if name == "images":
            images.append((position, value))
            continue
        size += len(value)
        if size > _TEXT_SIZE:
            raise HTTPException(413, f"the fields hold more than {_TEXT_SIZE:,} characters")
        if name in ("labels", "prompts"):
            numbered = number_lines(value.replace("\r\n", "\n"))
            given.setdefault(name, []).extend(line for _, line in numbered)
        elif name == "texts":  # in which # is no comment
            lines = value.replace("\r\n", "\n").split("\n")
            given.setdefault(name, []).extend(line for line in lines if line.strip())
        elif name in given:
            raise HTTPException(422, f"{name[:50]!r} is given twice")
        else:
            given[name] = value
    if not images and kind.model_fields["images"].is_required():
        raise HTTPException(422, "images: missing; send each image as a part with this name")
    names = given.get("prompts", [])
    if len(names) == 1 and "{}" not in names[0]:
        given["prompts"] = names[0]
    return images, _validate(kind.model_validate, {**given, "images": [""] * len(images)})


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
