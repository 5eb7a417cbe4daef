"""A request's body -> its parts, in memory alone and within limits while it comes in.

Starlette's own reader (`request.form()`) writes parts above a megabyte to the disk; this one has
nowhere to write to.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

__all__ = ["BodyError", "Part", "read_body", "read_form"]

_FILES = "images"


class BodyError(Exception):
    """A body that is not taken; `status` is the answer's."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


@dataclass(slots=True)
class Part:
    """One part of a form: a field's text, or an image's file."""

    name: str
    filename: str
    data: bytes


@dataclass(slots=True)
class _Reading:
    """The part that is being read."""

    headers: dict[bytes, bytes] = field(default_factory=dict)
    name: str = ""
    filename: str = ""
    key: bytes = b""
    value: bytes = b""
    # One buffer: a list of what came in small pieces would take many times their size.
    content: bytearray = field(default_factory=bytearray)


async def read_body(
    chunks: AsyncIterator[bytes], *, max_bytes: int, took: Callable[[int], None]
) -> bytes:
    """A whole body.

    Args:
        chunks: the body as it comes in.
        max_bytes: the most it may hold.
        took: called with the bytes of each chunk before it is kept; may refuse by raising.

    Raises:
        BodyError: it is larger.
    """
    found = bytearray()
    async for chunk in chunks:
        if len(found) + len(chunk) > max_bytes:
            raise BodyError(413, f"the body is larger than {max_bytes:,} bytes")
        took(len(chunk))
        found += chunk
    return bytes(found)


async def read_form(
    chunks: AsyncIterator[bytes],
    content_type: str,
    *,
    max_bytes: int,
    max_images: int,
    max_text: int,
    max_fields: int,
    took: Callable[[int], None],
    image_began: Callable[[], None],
) -> list[Part]:
    """The parts of a multipart form (RFC 7578), in order.

    Args:
        chunks: the body as it comes in.
        content_type: the request's, with the boundary.
        max_bytes: the most that the body may hold.
        max_images: the most parts with the name `images`.
        max_text: the most bytes of all other parts together.
        max_fields: the most other parts.
        took: called with the bytes of each chunk before it is kept; may refuse by raising.
        image_began: called for each image, before its first byte is kept; may refuse likewise.

    Raises:
        BodyError: a limit is passed, or it is no such form.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    if not boundary:
        raise BodyError(400, "the Content-Type names no boundary")
    form = _Form(max_images, max_text, max_fields, image_began)
    size = 0
    try:
        parser = MultipartParser(boundary, form.callbacks())
        async for chunk in chunks:
            size += len(chunk)
            if size > max_bytes:
                raise BodyError(413, f"the body is larger than {max_bytes:,} bytes")
            took(len(chunk))
            parser.write(chunk)
        parser.finalize()
    except FormParserError as error:
        raise BodyError(400, f"the body is no multipart form: {error}") from error
    if not form.is_whole:
        raise BodyError(400, "the body ends before its last boundary")
    return form.parts


class _Form:
    """Gathers what the parser finds."""

    def __init__(
        self, max_images: int, max_text: int, max_fields: int, image_began: Callable[[], None]
    ) -> None:
        self.parts: list[Part] = []
        self.is_whole = False
        self._max_images, self._max_text, self._max_fields = max_images, max_text, max_fields
        self._image_began = image_began
        self._reading = _Reading()
        self._images = self._fields = self._text = 0

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._whole,
        }

    def _begin(self) -> None:
        self._reading = _Reading()

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._reading.key += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._reading.value += data[start:end]

    def _header_end(self) -> None:
        reading = self._reading
        reading.headers[reading.key.lower()] = reading.value
        reading.key = reading.value = b""

    def _headers_finished(self) -> None:
        reading = self._reading
        kind, options = parse_options_header(reading.headers.get(b"content-disposition", b""))
        if kind != b"form-data" or b"name" not in options:
            raise BodyError(400, "a part of the form has no name")
        reading.name = options[b"name"].decode("utf-8", "replace")
        reading.filename = options.get(b"filename", b"").decode("utf-8", "replace")
        if reading.name == _FILES:
            self._images += 1
            if self._images > self._max_images:
                raise BodyError(413, f"more than {self._max_images} images in a request")
            self._image_began()
        else:
            self._fields += 1
            if self._fields > self._max_fields:
                raise BodyError(413, f"more than {self._max_fields} fields in a request")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._reading.name != _FILES:
            self._text += end - start
            if self._text > self._max_text:
                raise BodyError(413, f"the form's fields hold more than {self._max_text:,} bytes")
        self._reading.content += memoryview(data)[start:end]

    def _end(self) -> None:
        reading = self._reading
        self.parts.append(Part(reading.name, reading.filename, bytes(reading.content)))
        self._reading = _Reading()

    def _whole(self) -> None:
        self.is_whole = True
