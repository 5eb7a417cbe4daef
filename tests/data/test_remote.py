"""Images behind URLs: what fsspec opens, from memory, by https and from a bucket."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest

from clipcls.data import remote
from clipcls.data.file_kinds import LeftOut
from clipcls.data.inputs import NamedImage
from clipcls.data.paths import find_images
from clipcls.data.sources import open_image
from clipcls.embeddings.cache import EmbeddingCache
from clipcls.embeddings.embed import embed_images
from clipcls.embeddings.embedded import Embedded
from clipcls.errors import ImageError, InputError, install_command
from helpers.encoders import ColourEncoder

Paint = Callable[..., str]


def found(*inputs: str, stdin: bytes | None = None) -> list[str]:
    stream = None if stdin is None else io.BytesIO(stdin)
    items = find_images(inputs, stdin=stream)
    return [item.name if isinstance(item, NamedImage) else str(item) for item in items]


@pytest.fixture
def memory() -> Iterator[Any]:
    files = fsspec.filesystem("memory")
    files.rm("/", recursive=True)
    yield files
    files.rm("/", recursive=True)


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[EmbeddingCache]:
    with EmbeddingCache(tmp_path / "cache.db") as cache:
        yield cache


def put(files: Any, paint: Paint, **colours: str) -> None:
    for name, colour in colours.items():
        files.pipe(f"/p/{name}.png", Path(paint(f"{colour}.png", colour)).read_bytes())


def test_a_folder_is_searched_like_a_local_one(memory: Any) -> None:
    for name in ("b.jpg", "a.png", "sub/c.jpg", "a/d.jpg", "n.txt", ".h.jpg", "#recycle/x.jpg"):
        memory.pipe(f"/p/{name}", b"x")
    left_out = LeftOut()
    items = find_images(["memory://p/"], left_out=left_out)
    names = [item.name for item in items if isinstance(item, NamedImage)]
    assert names == [f"memory://p/{name}" for name in ("a/d.jpg", "a.png", "b.jpg", "sub/c.jpg")]
    assert found("memory://p") == names  # without the slash it is looked up
    assert left_out.counts["other file"] == {".txt": 1}


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("memory://p/*.jpg", ["b.jpg", "c.jpg"]),
        ("memory://p/**/*.jpg", ["b.jpg", "c.jpg", "sub/deep/e.jpg"]),
        ("memory://p/[b]*", ["b.jpg"]),
        ("memory://p/*/deep", ["sub/deep/e.jpg"]),
        ("memory://p/?.jpg", ["b.jpg", "c.jpg"]),
    ],
)
def test_patterns(memory: Any, pattern: str, names: list[str]) -> None:
    for name in ("c.jpg", "b.jpg", "d.txt", "sub/deep/e.jpg"):
        memory.pipe(f"/p/{name}", b"x")
    assert found(pattern) == [f"memory://p/{name}" for name in names]
    assert found("memory://p/*.gif") == ["memory://p/*.gif: no file matches this pattern"]


def test_lists_name_urls_and_one_bad_one_stops_nothing(
    memory: Any, paint: Paint, encoder: ColourEncoder
) -> None:
    put(memory, paint, one="red", two="blue")
    local = paint("own.png", "green")
    stdin = f"memory://p/one.png\n{local}\nmemory://p/none.png\nnone://x/a.jpg\nmemory://p/two.png"
    images = find_images(["-"], stdin=io.BytesIO(stdin.encode()))
    results = list(embed_images(encoder, images))
    assert [r.path.rpartition("/")[2] for r in results] == [
        *("one.png", "own.png", "none.png", "a.jpg", "two.png")
    ]
    reasons = [r.reason for r in results if isinstance(r, ImageError)]
    assert reasons == ["no such file", "no file system is known for none://"]


def test_a_listed_image_is_known_without_a_request(
    memory: Any,
    paint: Paint,
    encoder: ColourEncoder,
    cache: EmbeddingCache,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put(memory, paint, one="red", two="blue")
    first = list(embed_images(encoder, find_images(["memory://p/"]), cache))

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a request")

    with monkeypatch.context() as patch:
        patch.setattr(type(memory), "info", refuse)
        patch.setattr(type(memory), "cat_file", refuse)
        again = list(embed_images(encoder, find_images(["memory://p/"]), cache))
    assert [r.path for r in again] == [r.path for r in first]
    assert all(isinstance(r, Embedded) and r.stored for r in again)
    put(memory, paint, one="green")  # another content under the same name
    changed, same = embed_images(encoder, find_images(["memory://p/"]), cache)
    assert isinstance(changed, Embedded)
    assert isinstance(same, Embedded)
    assert (changed.stored, same.stored) == (False, True)
    (named,) = embed_images(encoder, "memory://p/two.png", cache)  # by its name alone
    assert isinstance(named, Embedded)
    assert named.stored
    assert cache.prune() == 1  # red; what cannot be checked stays
    assert open_image("memory://p/one.png").getpixel((0, 0)) == (0, 255, 0)


class _Handler(BaseHTTPRequestHandler):
    files: dict[str, bytes]

    def do_GET(self) -> None:
        type(self).asked.append((self.command, self.path))
        path = self.path.partition("?")[0]
        if path.startswith("/drop"):
            self.close_connection = True
            return
        if path.startswith("/loop"):
            self.send_response(302)
            self.send_header("Location", path)
            self.end_headers()
            return
        status = {"/secret": 403, "/broken": 500, "/login": 401, "/often": 429}.get(path[:-4], 200)
        body = self.files.get(path)
        if status == 200 and body is None:
            status = 404
        self.send_response(status)
        body = body or b""
        if status == 200:
            self.send_header("ETag", f'"{hash(body)}"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815
    asked: list[tuple[str, str]]

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web(paint: Paint) -> Iterator[tuple[str, type[_Handler]]]:
    pytest.importorskip("aiohttp")
    red = Path(paint("red.png", "red")).read_bytes()

    class Handler(_Handler):
        files = {  # noqa: RUF012
            "/a.png": red,
            "/empty.png": b"",
            "/page.jpg": b"<!DOCTYPE html><html>login</html>",
            "/list/": b'<a href="b.png">b</a> <a href="notes.txt">n</a>',
            "/list/b.png": red,
        }
        asked = []  # noqa: RUF012

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", Handler
    server.shutdown()
    server.server_close()


def test_http(
    web: tuple[str, type[_Handler]], encoder: ColourEncoder, cache: EmbeddingCache
) -> None:
    root, handler = web
    names = ["a.png", "a.png?size=3", "none.png", "secret.jpg", "broken.jpg", "page.jpg"]
    urls = [f"{root}/{name}" for name in [*names, "empty.png"]]
    results = list(embed_images(encoder, find_images(urls), cache))
    assert [r.path for r in results] == urls
    assert [r.reason for r in results if isinstance(r, ImageError)] == [
        "no such file",
        "permission denied (HTTP 403); the server may want a login",
        "the server answered HTTP 500; run again",
        "not a supported image: a web page (download the raw file, perhaps after a login)",
        "is empty",
    ]
    handler.asked.clear()
    (again,) = embed_images(encoder, urls[0], cache)
    assert isinstance(again, Embedded)
    assert again.stored
    assert handler.asked == [("HEAD", "/a.png")]
    assert found(f"{root}/list/") == [f"{root}/list/b.png"]


def found_reason(url: str, encoder: ColourEncoder) -> str:
    (error,) = embed_images(encoder, find_images([url]))
    assert isinstance(error, ImageError)
    assert error.path == url
    assert "\n" not in error.reason
    return error.reason


@pytest.mark.parametrize("kind", ["jpg", "zip", "tar", "csv", "mp4"])
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("none", "no such file"),
        ("secret", "permission denied (HTTP 403); the server may want a login"),
        ("login", "permission denied (HTTP 401); the server may want a login"),
        ("often", "the server answered HTTP 429; run again later"),
        ("broken", "the server answered HTTP 500; run again"),
        ("loop", "the server redirects without end"),
        ("drop", "the connection was cut; run again"),
    ],
)
def test_what_a_server_refuses_is_said_of_every_kind_of_file(
    name: str, kind: str, reason: str, web: tuple[str, Any], encoder: ColourEncoder
) -> None:
    assert found_reason(f"{web[0]}/{name}.{kind}", encoder) == reason


@pytest.mark.parametrize("name", ["a.jpg", "a.zip", "a.csv", "a.mp4", "", "*.jpg"])
def test_servers_that_cannot_be_reached(name: str, encoder: ColourEncoder) -> None:
    pytest.importorskip("aiohttp")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    refused = found_reason(f"http://127.0.0.1:{port}/{name}", encoder)
    assert refused == f"cannot connect to 127.0.0.1:{port} (connection refused)"
    unknown = found_reason(f"http://nowhere.invalid/{name}", encoder)
    assert unknown == "cannot connect to nowhere.invalid (unknown host)"


@pytest.mark.parametrize("url", ["https:///a.jpg", "http://[::1/a.jpg", "http://127.0.0.1:99999/"])
def test_urls_that_are_none(url: str, encoder: ColourEncoder) -> None:
    pytest.importorskip("aiohttp")
    assert found_reason(url, encoder)


def test_no_answer(encoder: ColourEncoder) -> None:
    pytest.importorskip("aiohttp")
    (result,) = embed_images(encoder, "http://127.0.0.1:9/a.jpg")
    assert isinstance(result, ImageError)
    assert "127.0.0.1:9" in result.reason
    assert "\n" not in result.reason


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(url: str) -> None:
        raise ImportError("Install s3fs to access S3") from ImportError("no", name="s3fs")

    monkeypatch.setattr(fsspec, "url_to_fs", fail)
    (item,) = find_images(["s3://b/photos/"])
    assert isinstance(item, ImageError)
    assert item.reason == f"s3:// needs s3fs: {install_command('s3')}"


def test_too_large(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipcls.data.images.MAX_BYTES", 3)
    memory.pipe("/a.jpg", b"xxxx")
    (item,) = find_images(["memory://a.jpg"])
    assert isinstance(item, NamedImage)
    source = remote.RemoteFile("memory://a.jpg")
    source.stamp()
    with pytest.raises(ImageError, match="too large"):
        source.read()


def test_a_local_file_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s3:" / "b").mkdir(parents=True)
    (tmp_path / "s3:" / "b" / "a.jpg").write_bytes(b"x")
    assert found("s3://b/a.jpg") == ["s3://b/a.jpg"]
    assert list(find_images(["s3://b/a.jpg"])) == ["s3://b/a.jpg"]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    pytest.importorskip("s3fs")
    server_module = pytest.importorskip("moto.server")
    server = server_module.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    files = fsspec.filesystem("s3")
    files.mkdirs("bucket", exist_ok=True)
    yield files
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    server.stop()


def test_s3(bucket: Any, paint: Paint, encoder: ColourEncoder, cache: EmbeddingCache) -> None:
    for name, colour in {"b": "blue", "a": "red", "sub/c": "green"}.items():
        bucket.pipe(f"bucket/p/{name}.png", Path(paint(f"{colour}.png", colour)).read_bytes())
    names = [f"s3://bucket/p/{name}.png" for name in ("a", "b", "sub/c")]
    results = list(embed_images(encoder, find_images(["s3://bucket/p/"]), cache))
    assert [r.path for r in results if isinstance(r, Embedded)] == names
    again = list(embed_images(encoder, find_images(["s3://bucket/**/*.png"]), cache))
    assert [(r.path, r.stored) for r in again if isinstance(r, Embedded)] == [
        (name, True) for name in names
    ]
    (missing,) = find_images(["s3://nobucket/p/"])
    assert isinstance(missing, ImageError)
    (gone,) = embed_images(encoder, find_images(["s3://bucket/none.png"]))
    assert isinstance(gone, ImageError)
    assert gone.reason == "no such file"


def test_nothing_at_all(memory: Any) -> None:
    memory.pipe("/p/notes.txt", b"x")
    with pytest.raises(InputError, match="no images in memory://p/"):
        found("memory://p/")


def test_a_server_that_hangs_or_cuts_off_costs_one_line(
    encoder: ColourEncoder, paint: Paint, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("aiohttp")
    monkeypatch.setattr("clipcls.data.remote._SECONDS", 0.5)
    end = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/cut.png":
                self.send_response(200)
                self.send_header("Content-Length", "400")
                self.end_headers()
                self.wfile.write(b"begin")
            else:
                end.wait(20)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    names = [f"{address}/hang.png", f"{address}/cut.png", paint("red.png", "red")]
    try:
        hang, cut, red = embed_images(encoder, names)
    finally:
        end.set()
        server.shutdown()
        server.server_close()
    assert isinstance(hang, ImageError)
    assert isinstance(cut, ImageError)
    assert (hang.reason, cut.reason) == ("no answer in time", "the connection was cut; run again")
    assert isinstance(red, Embedded)


@pytest.mark.usefixtures("bucket")
def test_buckets_that_are_missing_or_closed(
    encoder: ColourEncoder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    names = ["a.jpg", "p/", "*.jpg", "a.zip", "a.mp4"]
    for name in names:
        assert found_reason(f"s3://nowhere/{name}", encoder) == "no such bucket"
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    for name in names:
        assert "no credentials; set AWS_PROFILE" in found_reason(f"s3://bucket/{name}", encoder)
