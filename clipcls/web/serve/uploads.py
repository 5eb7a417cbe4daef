"""A request's body -> its parts, in memory alone and within limits while it comes in.

Starlette's own reader (`request.form()`) writes parts above a megabyte to the disk; this one has
nowhere to write to.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from clipcls.errors import ImageError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

__all__ = ["Part", "RefusedError", "decode_base64", "parse_json", "read_body", "read_form"]

_FILES = "images"

# A JSON string above this many characters is an image; labels and URLs are shorter.
_LONGEST_TEXT = 4096

_NOT_BASE64 = (
    "not base64 (standard alphabet, padded, as `base64 FILE` writes it), a data URL or an http URL"
)
# Escaped, after a full line of base64 (MIME has 76 characters, Ruby 60) or at the end of a string.
_LINE_BREAK = re.compile(
    rb"(?:(?<=[A-Za-z0-9+/]{60})|(?<=[A-Za-z0-9+/=]{4})(?=(?:\\r)?\\n\"))(?:\\r)?\\n"
)
_DATA_URL = re.compile(rb"data:[^,]{0,200},", re.IGNORECASE)


class RefusedError(Exception):
    """A request that is answered with an error: its status, detail and headers."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, dict(headers or {})


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
) -> bytearray:
    """A whole body.

    Args:
        chunks: the body as it comes in.
        max_bytes: the most it may hold.
        took: called with the bytes of each chunk before it is kept; may refuse by raising.

    Raises:
        RefusedError: it is larger.
    """
    found = bytearray()
    async for chunk in chunks:
        if len(found) + len(chunk) > max_bytes:
            raise RefusedError(413, f"the body is larger than {max_bytes:,} bytes")
        took(len(chunk))
        found += chunk
    return found


def parse_json(body: bytearray, max_text: int) -> tuple[Any, dict[str, memoryview]]:
    """Parses a JSON body with its long strings, which are images, taken out.

    Memory does not grow beyond the body: parsed whole, 64 MB of `[[],[],...` would be gigabytes.

    Args:
        body: UTF-8.
        max_text: the most bytes it may hold besides long strings.

    Returns:
        the parsed body, in which a placeholder stands for each long string; and placeholder ->
        long string, as bytes within `body`.

    Raises:
        RefusedError: it is not JSON, or holds too much text.
    """
    if b"\\n" in body:
        body = bytearray(_LINE_BREAK.sub(b"", body))
    if b"\\/" in body and b"\\\\/" not in body:
        body = body.replace(b"\\/", b"/")  # as PHP writes every slash of base64
    text, long = _take_out(body, max_text)
    try:
        return json.loads(text.decode("utf-8-sig")), long
    except (ValueError, RecursionError) as error:
        reason = f" ({error.msg})" if isinstance(error, json.JSONDecodeError) else ""
        if isinstance(error, UnicodeDecodeError):
            reason = " in UTF-8"
        raise RefusedError(400, f"the body is not JSON{reason}") from error


def _take_out(body: bytearray, max_text: int) -> tuple[bytearray, dict[str, memoryview]]:
    """JSON text with placeholders for its strings of more than `_LONGEST_TEXT` plain characters."""
    view, text = memoryview(body), bytearray()
    long: dict[str, memoryview] = {}
    mark = secrets.token_hex(8)  # no string of the body holds it, by chance or by design
    done = at = 0  # body[:done] is in `text` or `long`; body[:at] has been looked at
    start, is_plain = -1, True  # of the string that `at` is in
    quote = body.find(b'"')
    while quote >= 0:
        escape = body.find(b"\\", at, quote)
        if escape >= 0:
            at, is_plain = escape + 2, False
        else:
            at = quote + 1
            if start < 0:
                start, is_plain = quote, True
            else:
                if is_plain and quote - start > _LONGEST_TEXT:
                    name = f"{mark} {len(long)}"
                    long[name] = view[start + 1 : quote]
                    text += view[done:start]
                    text += f'"{name}"'.encode()
                    done = at
                start = -1
        text_end = start if start >= 0 and is_plain else at
        if len(text) + text_end - done > max_text:
            break
        if quote < at:
            quote = body.find(b'"', at)
    if len(text) + len(body) - done > max_text:
        raise RefusedError(413, f"the JSON holds more than {max_text:,} bytes besides its images")
    text += view[done:]
    return text, long


def decode_base64(name: str, written: memoryview) -> bytes:
    """The bytes of an image that is written as base64, alone or in a data URL.

    Raises:
        ImageError: it is not written so.
    """
    if match := _DATA_URL.match(written):
        if not match[0].lower().endswith(b";base64,"):
            raise ImageError(name, "a data URL of an image needs ;base64 before the comma")
        written = written[match.end() :]
    try:
        data = base64.b64decode(written, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError(name, _NOT_BASE64) from error
    if not data:
        raise ImageError(name, "is empty")
    return data


async def read_form(
    chunks: AsyncIterator[bytes],
    content_type: str,
    *,
    max_bytes: int,
    max_images: int,
    max_text: int,
    max_fields: int,
    took: Callable[[int], None],
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

    Raises:
        RefusedError: a limit is passed, or it is no such form.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    if not boundary:
        raise RefusedError(400, "the Content-Type names no boundary")
    form = _Form(max_images, max_text, max_fields)
    size = 0
    try:
        parser = MultipartParser(boundary, form.callbacks())
        async for chunk in chunks:
            size += len(chunk)
            if size > max_bytes:
                raise RefusedError(413, f"the body is larger than {max_bytes:,} bytes")
            took(len(chunk))
            parser.write(chunk)
        parser.finalize()
    except FormParserError as error:
        raise RefusedError(400, f"the body is no multipart form: {error}") from error
    if not form.is_whole:
        raise RefusedError(400, "the body ends before its last boundary")
    return form.parts


class _Form:
    """Gathers what the parser finds."""

    def __init__(self, max_images: int, max_text: int, max_fields: int) -> None:
        self.parts: list[Part] = []
        self.is_whole = False
        self._max_images, self._max_text, self._max_fields = max_images, max_text, max_fields
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
            raise RefusedError(400, "a part of the form has no name")
        reading.name = options[b"name"].decode("utf-8", "replace")
        reading.filename = options.get(b"filename", b"").decode("utf-8", "replace")
        if reading.name == _FILES:
            self._images += 1
            if self._images > self._max_images:
                raise RefusedError(413, f"more than {self._max_images} images in a request")
        else:
            self._fields += 1
            if self._fields > self._max_fields:
                raise RefusedError(413, f"more than {self._max_fields} fields in a request")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._reading.name != _FILES:
            self._text += end - start
            if self._text > self._max_text:
                raise RefusedError(
                    413, f"the form's fields hold more than {self._max_text:,} bytes"
                )
        self._reading.content += memoryview(data)[start:end]

    def _end(self) -> None:
        reading = self._reading
        self.parts.append(Part(reading.name, reading.filename, bytes(reading.content)))
        self._reading = _Reading()

    def _whole(self) -> None:
        self.is_whole = True
