"""Images behind URLs: files, folders and patterns of everything that fsspec opens.

Credentials and retries follow each file system's own rules, timeouts of http `_SECONDS`. No listing
is kept: folders are listed one at a time, as a run reaches them.
"""

from __future__ import annotations

import errno
import fnmatch
import importlib.util
import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any
from urllib.parse import urlsplit

from clipcls.data.budget import Reserve, never_wait
from clipcls.data.file_kinds import LeftOut, has_image_name, is_system_folder
from clipcls.data.images import check_bytes, read_stream
from clipcls.errors import ImageError, install_command, os_reason

_EXTRAS = {"http": "https", "https": "https", "s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}
_EXTRAS |= dict.fromkeys(("az", "abfs", "abfss", "adl"), "az")
_CHECKSUMS = ("etag", "md5hash", "content-md5", "digest", "content_md5", "blob_id")
_TIMES = ("lastmodified", "last-modified", "last_modified", "updated", "mtime", "modified")
_SECONDS = 30  # without a byte; fsspec itself would wait five minutes for a server that hangs
_BLOCK = 1 << 22  # bytes per request, when a part of a file is read

Info = Mapping[str, Any]
"""A file system's record of a file: its size, and its etag or time."""


def is_http(url: str) -> bool:
    """Whether a URL is a web page's, in which `?` begins a query."""
    return url.lower().startswith(("http://", "https://"))


@contextmanager
def remote_errors(name: str) -> Iterator[None]:
    """Turn whatever a file system raises into an `ImageError` with a short reason."""
    try:
        yield
    except ImageError:
        raise
    except Exception as error:  # every file system has errors of its own
        raise ImageError(name, explain(name, error)) from error


def open_file_system(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the URL's path in it.

    Raises:
        ImageError: fsspec knows no such protocol, or a package is missing.
    """
    import fsspec

    options: dict[str, Any] = {}
    if is_http(url) and importlib.util.find_spec("aiohttp"):  # else fsspec says that it is missing
        from aiohttp import ClientTimeout

        timeout = ClientTimeout(total=None, sock_connect=_SECONDS, sock_read=_SECONDS)
        options["client_kwargs"] = {"timeout": timeout}
    with remote_errors(url):
        found: tuple[Any, str] = fsspec.url_to_fs(url, **options)
        return found


def open_remote(url: str) -> IO[bytes]:
    """A file object that reads blocks as they are needed, and keeps a few of them."""
    with remote_errors(url):
        files, path = open_file_system(url)
        options = {"maxblocks": 8}
        file: IO[bytes] = files.open(
            path, "rb", block_size=_BLOCK, cache_type="blockcache", cache_options=options
        )
        return file


def find_info(url: str) -> Info:
    """Ask the file system about a file; one request.

    Raises:
        ImageError: it does not exist, or the file system refuses.
    """
    with remote_errors(url):
        files, path = open_file_system(url)
        found: Info = files.info(path)
        return found


def stamp_info(info: Info) -> bytes:
    """A file's size with its etag or time, which change with its content; b"" without either."""
    known = {key.lower(): value for key, value in info.items() if value}
    for key in (*_CHECKSUMS, *_TIMES, "created"):
        if key in known:
            return f"{known.get('size')} {known[key]}".encode(errors="replace")
    return b""


@dataclass(slots=True)
class RemoteFile:
    """A file behind a URL; `info` is what a listing said, if there was one."""

    url: str
    info: Info | None = None

    @property
    def needs_request(self) -> bool:
        """Whether even its stamp takes a request to the server."""
        return self.info is None

    def stamp(self) -> bytes:
        """Its size and etag or time; a request, unless a listing told."""
        try:
            self.info = self.info or find_info(self.url)
        except ImageError:
            return b""  # reading it will say why
        return stamp_info(self.info)

    def read(self, reserve: Reserve = never_wait) -> bytes:
        """The file's bytes.

        Raises:
            ImageError: the file system refuses it, or it is empty or larger than `MAX_BYTES`.
        """
        size = (self.info or {}).get("size") or 0
        check_bytes(self.url, size)
        reserve(size)
        files, path = open_file_system(self.url)
        with remote_errors(self.url):
            if is_http(self.url):  # as a stream: its size need not be known, or be true
                with files.open(path, "rb", block_size=0, size=1) as file:
                    data = read_stream(file, self.url)
            else:
                data = bytes(files.cat_file(path))
        if not data:
            raise ImageError(self.url, "is empty")
        return data


def list_url(url: str, is_pattern: bool, left_out: LeftOut) -> Iterator[RemoteFile | ImageError]:
    """The files that a URL names.

    A URL that ends in `/`, or whose last part has no known suffix and names a folder, is searched
    as a local folder is, by suffixes alone. A pattern (`*`, `?`, `[...]`, `**`; in http URLs only
    `*`) stands for the sorted files that it matches, and the images of the folders that it matches.

    Args:
        url: the file, folder or pattern.
        is_pattern: whether it may be a pattern.
        left_out: counts what else the folders contain.
    """
    magic = "[*]" if is_http(url) else r"[*?[]"
    try:
        files, path = open_file_system(url)
        with remote_errors(url):
            if is_pattern and re.search(magic, path) and (is_http(url) or not files.exists(path)):
                yield from _match_url(files, url, path, magic, left_out)
            elif url.endswith("/") or (
                not is_http(url) and not has_image_name(url, LeftOut()) and files.isdir(path)
            ):
                yield from _walk(files, url, path, left_out)
            else:
                yield RemoteFile(url)
    except ImageError as error:
        yield error.without_frames()


def _match_url(
    files: Any, url: str, path: str, magic: str, left_out: LeftOut
) -> Iterator[RemoteFile | ImageError]:
    start = re.search(magic, url)
    assert start
    root = url[: url.rindex("/", 0, start.start()) + 1]
    parts = url[len(root) :].rstrip("/").split("/")
    base = path[: path.rindex("/", 0, re.search(magic, path).start()) + 1]  # type: ignore[union-attr]
    parts += ["*"] if parts[-1] == "**" else []
    seen: set[str] = set()
    has_found = False
    for found, inner, info in _match(files, root, base, parts):
        is_folder = info["type"] == "directory"
        if found in seen or (is_folder and "**" in parts):
            continue
        if parts.count("**") > 1:  # two `**` can reach one file in several ways
            seen.add(found)
        has_found = True
        if is_folder:
            yield from _walk(files, f"{found}/", inner, left_out)
        else:
            yield RemoteFile(found, info)
    if not has_found:
        yield ImageError(url, "no file matches this pattern")


def _match(
    files: Any, url: str, path: str, parts: list[str]
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The URL, path and info of what matches the parts of a pattern in a folder."""
    part, rest = parts[0], parts[1:]
    if part == "**":
        yield from _match(files, url, path, rest)
    for name, inner, info in _list_folder(files, path):
        is_folder = info["type"] == "directory"
        if name.startswith(".") and not part.startswith("."):
            continue
        if part == "**":
            if is_folder:
                yield from _match(files, f"{url}{name}/", inner, parts)
        elif fnmatch.fnmatchcase(name, part):
            if not rest:
                yield url + name, inner, info
            elif is_folder:
                yield from _match(files, f"{url}{name}/", inner, rest)


def _walk(files: Any, root: str, path: str, left_out: LeftOut) -> Iterator[RemoteFile | ImageError]:
    """The images below a folder; folders that cannot be listed are errors."""
    pending = [(root if root.endswith("/") else f"{root}/", _list_folder(files, path))]
    while pending:
        url, entries = pending[-1]
        try:
            with remote_errors(url):
                entry = next(entries, None)
        except ImageError as error:
            yield error.without_frames()
            entry = None
        if entry is None:
            pending.pop()
            continue
        name, inner, info = entry
        if name.startswith("."):
            continue
        if info["type"] != "directory":
            if has_image_name(name, left_out):
                yield RemoteFile(url + name, info)
        elif is_system_folder(name):
            left_out.add("system folder", name)
        else:
            pending.append((f"{url}{name}/", _list_folder(files, inner)))


def _list_folder(files: Any, path: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Name, path and info of what a folder contains, by name."""
    entries = [info for info in files.ls(path, detail=True) if info["name"].strip("/")]
    root = path.rstrip("/")
    named = []
    for info in entries:
        inner = info["name"].rstrip("/")
        # Some list the folder itself, as the empty object that stands for it.
        if (inner != root and inner.rpartition("/")[0] == root) or not root.strip("/"):
            named.append((inner.rpartition("/")[2], inner, info))
    return iter(sorted(named, key=lambda entry: entry[0]))


def is_refusal(error: Exception) -> bool:
    """Whether an error while reading comes from the network or the server, not from the content."""
    kinds = FileNotFoundError, PermissionError, TimeoutError, ConnectionError
    package = type(error).__module__.partition(".")[0]
    return isinstance(error, kinds) or package in ("aiohttp", "azure", "botocore", "gcsfs", "httpx")


def explain(url: str, error: BaseException) -> str:
    """Why a file system refused, in a few words."""
    scheme = url.partition("://")[0].lower()
    status: int | None = getattr(error, "status", None)
    text = " ".join(str(error).split())[:200]
    kind = type(error).__name__
    if isinstance(error, ImportError):
        if extra := _EXTRAS.get(scheme):
            package = getattr(error.__cause__, "name", None) or "another package"
            return f"{scheme}:// needs {package}: {install_command(extra)}"
        return f"{scheme}:// needs another package ({text})"
    if isinstance(error, ValueError) and "Protocol not known" in text:
        return f"no file system is known for {scheme}://"
    if isinstance(error, FileNotFoundError) and is_http(url) and error.__cause__:
        return explain(url, error.__cause__)  # whatever went wrong
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        return "no such bucket" if "bucket does not exist" in text else "no such file"
    if status in (401, 403) and is_http(url):
        return f"permission denied (HTTP {status}); the server may want a login"
    if isinstance(error, PermissionError) or status in (401, 403):
        return f"permission denied; check the credentials for {scheme}://"
    if kind == "NoCredentialsError":  # botocore's
        return "no credentials; set AWS_PROFILE, or FSSPEC_S3_ANON=true for a public bucket"
    if kind == "TooManyRedirects":
        return "the server redirects without end"
    if status:
        return f"the server answered HTTP {status}; run again" + " later" * (status == 429)
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if kind in ("ClientPayloadError", "ServerDisconnectedError", "ConnectionResetError") or (
        kind == "ClientOSError" and getattr(error, "errno", None) == errno.ECONNRESET
    ):
        return "the connection was cut; run again"
    if kind.startswith("ClientConnector"):  # aiohttp's, whose texts are long
        return f"cannot connect to {urlsplit(url).netloc} ({_explain_connection(error)})"
    if kind == "InvalidURL" or text == url:
        return "is not a valid URL"
    if isinstance(error, OSError):
        return f"cannot be read ({os_reason(error) if error.errno and not text else text})"
    return f"cannot be read ({text or kind})"


def _explain_connection(error: Any) -> str:
    if certificate := getattr(error, "certificate_error", None):
        why = getattr(certificate, "verify_message", "") or "see its issuer and date"
        return f"its certificate is not trusted: {why}"
    inner = getattr(error, "os_error", error)
    if isinstance(inner, socket.gaierror):
        return "unknown host"
    code = getattr(inner, "errno", None) or 0
    if code > 1 and code in errno.errorcode:  # 1 is OpenSSL's
        return os.strerror(code).lower()
    return str(getattr(inner, "strerror", None) or inner)[:100]
