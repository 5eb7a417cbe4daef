"""Downloads from a hub that stalls, refuses or moves slowly, at every stage; all on loopback."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import io
import json
import logging
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from filelock import FileLock

from clipcls.errors import ModelUnavailableError
from clipcls.files import folders
from clipcls.models import download, hub, registry

ROOT = Path(__file__).parents[2]
DATA = bytes(range(256)) * 40
ETAG = hashlib.sha256(DATA).hexdigest()
REPO = "timm/PE-Core-B-16"
STALL = 0.8


class Handler(http.server.BaseHTTPRequestHandler):
    """A hub; a test puts a function for a stage in `server.stages`."""

    server: Any
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.path = urlsplit(self.path).path  # a proxy is asked for whole URLs
        self.server.requests.append(f"{self.command} {self.path}")
        stages = self.server.stages
        if "/resolve/main/open_clip_model.safetensors" in self.path:
            stages.get("metadata", Handler.metadata)(self)
        elif self.path == "/file":
            stages.get("body", Handler.body)(self)
        elif self.path in stages:
            stages[self.path](self)
        else:
            self.answer(404, {"X-Error-Code": "EntryNotFound"})

    do_GET = do_HEAD  # noqa: N815

    def metadata(self, **headers: str) -> None:
        self.answer(
            302,
            {
                "X-Repo-Commit": "c" * 40,
                "X-Linked-ETag": f'"{ETAG}"',
                "X-Linked-Size": str(len(DATA)),
                "Location": f"{self.server.cdn}/file",
                **headers,
            },
        )

    def body(self) -> None:
        self.answer(200, {"Content-Length": str(len(DATA))}, DATA)

    def answer(self, status: int, headers: dict[str, str] | None = None, data: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {"Content-Length": "0", **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.cdn = f"http://localhost:{self.server_port}"  # another server to huggingface_hub
        self.stages: dict[str, Callable[[Handler], None]] = {}
        self.requests: list[str] = []
        self.over = threading.Event()  # ends what hangs
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def handle_error(self, *_: Any) -> None:
        pass  # a client that went away


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def use(monkeypatch, tmp_path) -> Iterator[Callable[[str], None]]:
    """Makes a URL the endpoint, with empty caches and without the surroundings' proxies."""
    from huggingface_hub import constants
    from huggingface_hub.utils._http import close_session

    for name in os.environ:
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "AGENT_HARNESSES_PATH", str(tmp_path / "agents"), raising=False)
    monkeypatch.setattr("huggingface_hub.utils._detect_agent._registry", None, raising=False)
    monkeypatch.setattr(folders, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(hub, "STALL_SECONDS", STALL)
    for name in ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"):
        monkeypatch.setattr(constants, name, 2)  # ends the threads of abandoned downloads

    def set_endpoint(url: str) -> None:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", url)
        close_session()

    yield set_endpoint
    for thread in threading.enumerate():
        if thread.name.startswith(download._THREAD):
            thread.join(6)  # else its failure would close the next test's connections
    close_session()


@pytest.fixture
def endpoint(server, use) -> Server:
    use(server.url)
    return server


def fetch(impatient: bool = True, **settings: Any) -> Path | None:
    name = "open_clip_model.safetensors"
    return hub.fetch(REPO, name, impatient=impatient, **settings)


def failure(impatient: bool = True, within: float = STALL + 3) -> str:
    start = time.monotonic()
    with pytest.raises(ModelUnavailableError) as caught:
        fetch(impatient)
    assert time.monotonic() - start < within
    message = str(caught.value)
    assert "\n" not in message
    return message


def hang(handler: Handler) -> None:
    handler.server.over.wait(30)
    handler.close_connection = True


def begin_and_hang(handler: Handler) -> None:
    handler.answer(200, {"Content-Length": str(len(DATA))}, DATA[:2000])
    handler.wfile.flush()
    hang(handler)


@contextlib.contextmanager
def silent() -> Iterator[str]:
    """Accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@contextlib.contextmanager
def full() -> Iterator[str]:
    """Takes no further connection: its queue is full."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        time.sleep(0.1)
        yield f"127.0.0.1:{listener.getsockname()[1]}"


# -- what stalls ----------------------------------------------------------------------------------


def test_a_name_that_is_looked_up_for_ever(use, monkeypatch) -> None:
    over = threading.Event()

    def look_up(*_: object, **__: object) -> None:
        over.wait(30)
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    use("http://hub.invalid")
    assert "http://hub.invalid made no progress for 0.8 s" in failure()
    over.set()


def test_a_connection_that_is_never_made(use) -> None:
    with full() as address:
        use(f"http://{address}")
        assert f"http://{address} made no progress for 0.8 s" in failure()


def test_a_handshake_that_is_never_answered(use) -> None:
    with silent() as address:
        use(f"https://{address}")
        assert f"https://{address} made no progress for 0.8 s" in failure()


@pytest.mark.parametrize("variable", ["http_proxy", "ALL_PROXY"])
def test_a_proxy_that_never_answers(use, monkeypatch, variable) -> None:
    with silent() as address:
        monkeypatch.setenv(variable, f"http://{address}")
        use("http://hub.invalid")
        assert "made no progress for 0.8 s" in failure()


@pytest.mark.parametrize("stage", ["metadata", "body"])
def test_an_answer_that_never_comes(endpoint, stage) -> None:
    endpoint.stages[stage] = hang
    server = endpoint.url if stage == "metadata" else endpoint.cdn
    assert f"{server} made no progress for 0.8 s" in failure()


def test_every_page_hangs(endpoint) -> None:
    endpoint.stages |= {"metadata": hang, "/api/agent-harnesses": hang, "/": hang}
    assert f"{endpoint.url} made no progress for 0.8 s" in failure()


def test_a_redirect_to_a_server_that_never_answers(endpoint) -> None:
    with silent() as address:
        endpoint.cdn = f"http://{address}"
        assert f"http://{address} made no progress for 0.8 s" in failure()


def test_xet_storage_that_never_answers(endpoint) -> None:
    pytest.importorskip("hf_xet")
    with silent() as address:
        token = {"casUrl": f"http://{address}", "accessToken": "t", "exp": int(time.time()) + 900}
        data = json.dumps(token).encode()
        endpoint.stages["/token"] = lambda handler: handler.answer(
            200,
            {
                "Content-Length": str(len(data)),
                "X-Xet-Cas-Url": token["casUrl"],
                "X-Xet-Access-Token": "t",
                "X-Xet-Token-Expiration": str(token["exp"]),
            },
            data,
        )
        xet = {"X-Xet-Hash": "a" * 64, "X-Xet-Refresh-Route": f"{endpoint.url}/token"}
        endpoint.stages["metadata"] = lambda handler: handler.metadata(**xet)
        message = failure()
    assert "made no progress for 0.8 s" in message
    assert "HF_HUB_DISABLE_XET=1" in message


def test_a_body_that_stops_leaves_nothing_and_can_be_had_later(endpoint, tmp_path) -> None:
    endpoint.stages["body"] = begin_and_hang
    assert "made no progress for 0.8 s" in failure()
    deadline = time.monotonic() + 5
    while list(tmp_path.rglob("*.incomplete")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    del endpoint.stages["body"]
    path = fetch(impatient=False)
    assert path is not None
    assert path.read_bytes() == DATA


# -- what refuses ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "cure"),
    [
        (401, "hf auth login"),
        (403, "firewall"),
        (404, "HF_ENDPOINT"),
        (407, "HTTPS_PROXY"),
        (429, "HF_TOKEN"),
        (500, "HF_ENDPOINT"),
        (503, "HF_ENDPOINT"),
        (599, "later"),
    ],
)
@pytest.mark.parametrize("stage", ["metadata", "body"])
@pytest.mark.parametrize("impatient", [True, False])
def test_a_status_is_named(endpoint, monkeypatch, impatient, stage, status, cure) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 1)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 1)
    endpoint.stages[stage] = lambda handler: handler.answer(status, {"Retry-After": "1"})
    message = failure(impatient)
    server = endpoint.url if stage == "metadata" else endpoint.cdn
    assert f"{server} answered HTTP {status}" in message
    assert cure in message


def test_a_proxy_that_wants_a_password_for_https(server, use, monkeypatch) -> None:
    def refuse(handler: Handler) -> None:
        handler.answer(407)

    monkeypatch.setattr(Handler, "do_CONNECT", refuse, raising=False)
    monkeypatch.setenv("https_proxy", server.url)
    use("https://hub.invalid")
    message = failure()
    assert "the proxy answered HTTP 407" in message
    assert "USER:PASSWORD" in message


def test_a_refused_connection_is_not_waited_for(use, monkeypatch) -> None:
    monkeypatch.setattr(hub, "STALL_SECONDS", 30)
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and not listening
        use(f"http://127.0.0.1:{bound.getsockname()[1]}")
        message = failure(within=15)
    assert "could not be reached" in message
    assert "refused" in message


def test_a_page_that_is_no_hub(endpoint) -> None:
    endpoint.stages["metadata"] = lambda handler: handler.answer(200, {"ETag": '"login"'})
    assert "did not answer as a hub does" in failure()


def wrong_page(handler: Handler) -> None:
    handler.answer(200, {"Content-Length": "5"}, b"login")


def in_circles(handler: Handler) -> None:
    handler.answer(302, {"Location": handler.server.url + handler.path})


@pytest.mark.parametrize(
    ("page", "said"),
    [(wrong_page, "sent a file of the wrong size"), (in_circles, "did not answer as a hub does")],
)
def test_a_file_that_is_none(endpoint, page, said) -> None:
    endpoint.stages["body"] = page
    message = failure()
    assert said in message
    assert "check HF_ENDPOINT" in message


def test_certificates_that_cannot_be_read(endpoint, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    message = failure()
    assert f"SSL_CERT_FILE or SSL_CERT_DIR ({tmp_path / 'none.pem'}) cannot be read" in message
    assert "HF_HOME" not in message


def test_a_token_that_is_none(endpoint, monkeypatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_\xe4")
    assert "HF_TOKEN contains characters" in failure()


def test_an_endpoint_without_a_scheme(use) -> None:
    use("hub.example")
    assert "HF_ENDPOINT is not a URL: hub.example" in failure()


def test_the_proxy_is_named_where_one_is_set(use, monkeypatch) -> None:
    use("http://hub.invalid")
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and not listening
        port = bound.getsockname()[1]
        monkeypatch.setenv("HTTP_PROXY", f"http://me:secret@127.0.0.1:{port}")
        message = failure()
    assert "check the proxy in HTTP_PROXY" in message
    assert "secret" not in message
    assert "name the model (as in --model base) to wait longer" in message


def test_empty_and_odd_variables(tmp_path) -> None:
    program = (
        "from clipcls import errors; from clipcls.models import download\n"
        "try: print(download.hub_constants().HF_HUB_CACHE)\n"
        "except errors.ModelError as error: print(error)"
    )
    clean = {k: v for k, v in os.environ.items() if k[:3] != "HF_"}
    for odd, said in [
        ({"HF_HOME": "", "HF_ENDPOINT": "", "HF_HUB_ETAG_TIMEOUT": ""}, str(tmp_path)),
        ({"HF_HUB_ETAG_TIMEOUT": "soon"}, "an HF_ environment variable has an invalid value: "),
    ]:
        env = {**clean, **odd, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path)}
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
        assert done.stdout.startswith(said), done.stderr


def test_a_cache_that_cannot_be_written_is_not_the_hubs_fault(endpoint, tmp_path) -> None:
    (tmp_path / "hub").write_text("a file in the folder's place")
    message = failure()
    assert "cannot be stored" in message
    assert "HF_HOME" in message
    assert not [*(tmp_path / "cache").rglob("*.json")]


# -- what moves -----------------------------------------------------------------------------------


def test_a_download_that_moves_is_not_stalled(endpoint) -> None:
    pause = 0.4 * STALL

    def slow_metadata(handler: Handler) -> None:
        time.sleep(pause)
        handler.metadata()

    def slow_body(handler: Handler) -> None:
        time.sleep(pause)
        handler.answer(200, {"Content-Length": str(len(DATA))})
        for start in range(0, len(DATA), 2048):
            handler.wfile.write(DATA[start : start + 2048])
            handler.wfile.flush()
            time.sleep(pause)

    endpoint.stages |= {"metadata": slow_metadata, "body": slow_body}
    start = time.monotonic()
    path = fetch()
    assert time.monotonic() - start > 2 * STALL
    assert path is not None
    assert path.read_bytes() == DATA


def test_another_process_that_downloads_is_waited_for(endpoint, tmp_path) -> None:
    folder = tmp_path / "hub" / "models--acme--tiny"
    (folder / "blobs").mkdir(parents=True)
    (folder / "blobs" / f"{ETAG}.01234567.incomplete").write_bytes(b"")
    lock = tmp_path / "hub" / ".locks" / folder.name / f"{ETAG}.lock"
    lock.parent.mkdir(parents=True)
    held = FileLock(lock, thread_local=False)
    held.acquire()
    threading.Timer(2 * STALL, held.release).start()
    path = hub.fetch("acme/tiny", "open_clip_model.safetensors", impatient=True)
    assert path is not None
    assert path.read_bytes() == DATA


def test_a_part_from_the_future_is_not_another_process(endpoint, tmp_path) -> None:
    """A killed download and a clock that stepped backwards since leave one."""
    folder = tmp_path / "hub" / "models--acme--tiny"
    (folder / "blobs").mkdir(parents=True)
    part = folder / "blobs" / f"{ETAG}.01234567.incomplete"
    part.write_bytes(b"")
    os.utime(part, (time.time() + 3600, time.time() + 3600))
    lock = tmp_path / "hub" / ".locks" / folder.name / f"{ETAG}.lock"
    lock.parent.mkdir(parents=True)
    held = FileLock(lock, thread_local=False)
    held.acquire()
    threading.Timer(6 * STALL, held.release).start()
    with pytest.raises(ModelUnavailableError):
        hub.fetch("acme/tiny", "open_clip_model.safetensors", impatient=True)
    assert held.is_locked


def test_a_proxy_for_everything_is_used(server, use, monkeypatch) -> None:
    server.cdn = "http://cdn.invalid"
    monkeypatch.setenv("ALL_PROXY", server.url)
    use("http://hub.invalid")
    path = fetch()
    assert path is not None
    assert path.read_bytes() == DATA


def test_a_file_that_the_repository_lacks(endpoint) -> None:
    assert hub.fetch(REPO, "none.bin", impatient=True) is None
    path = hub.fetch(REPO, "none.bin", "open_clip_model.safetensors")
    assert path is not None
    assert path.read_bytes() == DATA


@pytest.mark.parametrize("progress", [True, False])
def test_a_bar_is_for_terminals(endpoint, monkeypatch, progress) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stderr, shown in ((Terminal(), progress), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", stderr)
        path = fetch(progress=progress)
        assert path is not None
        path.resolve().unlink()
        path.unlink()
        assert ("B/s" in stderr.getvalue()) == shown


# -- a model that is named ------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["metadata", "body"])
def test_a_named_model_waits_as_the_hubs_variables_say(endpoint, monkeypatch, stage) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 1)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 1)
    endpoint.stages[stage] = hang
    message = failure(impatient=False)
    assert "made no progress for 1 s" in message
    assert "HF_HUB_ETAG_TIMEOUT" in message


def test_a_named_model_outlasts_a_slow_answer(endpoint) -> None:
    def late(handler: Handler) -> None:
        time.sleep(1.5 * STALL)
        handler.metadata()

    endpoint.stages["metadata"] = late
    assert fetch(impatient=False) is not None


def test_a_named_model_gets_over_a_pause(endpoint, monkeypatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 1)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # what is kept of a broken transfer

    def pause(handler: Handler) -> None:
        if start := handler.headers.get("Range"):
            first = int(start.removeprefix("bytes=").removesuffix("-"))
            part = f"bytes {first}-{len(DATA) - 1}/{len(DATA)}"
            length = str(len(DATA) - first)
            handler.answer(206, {"Content-Range": part, "Content-Length": length}, DATA[first:])
        else:
            begin_and_hang(handler)

    endpoint.stages["body"] = pause
    path = fetch(impatient=False)
    assert path is not None
    assert path.read_bytes() == DATA


# -- what is remembered ---------------------------------------------------------------------------


def test_a_failure_is_remembered_for_some_minutes(endpoint, monkeypatch, tmp_path) -> None:
    endpoint.stages["metadata"] = lambda handler: handler.answer(403)
    failure()
    endpoint.requests.clear()
    message = failure()
    assert endpoint.requests == []
    assert re.search(r"\d s ago .* answered HTTP 403 \(Forbidden\); the next try is", message)

    failure(impatient=False)
    assert endpoint.requests

    monkeypatch.setenv("HF_TOKEN", "another")  # a changed setting is tried at once
    endpoint.requests.clear()
    failure()
    assert endpoint.requests
    monkeypatch.delenv("HF_TOKEN")

    now = time.time()
    for later in (hub.REMEMBERED_SECONDS + 1, -60):  # over, and a clock that was set back
        endpoint.requests.clear()
        monkeypatch.setattr(time, "time", lambda later=later: now + later)
        failure()
        assert endpoint.requests


def test_a_success_forgets_the_failure(endpoint, tmp_path) -> None:
    endpoint.stages["metadata"] = lambda handler: handler.answer(403)
    failure()
    endpoint.stages.clear()
    assert fetch(impatient=False) is not None
    assert not [*(tmp_path / "cache").rglob("*.json")]


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"[]", b"1", b'{"a": 1}', b'["a", "b", "c"]', b'["a", 1e999, null]']
)
def test_a_damaged_memory_is_ignored(endpoint, tmp_path, content) -> None:
    endpoint.stages["metadata"] = lambda handler: handler.answer(403)
    failure()
    (file,) = (tmp_path / "cache").rglob("*.json")
    file.write_bytes(content)
    endpoint.requests.clear()
    failure()
    assert endpoint.requests
    endpoint.requests.clear()
    failure()
    assert endpoint.requests == []


def test_a_memory_that_cannot_be_written_is_no_error(endpoint, tmp_path) -> None:
    (tmp_path / "cache").write_text("a file in the folder's place")
    endpoint.stages["metadata"] = lambda handler: handler.answer(403)
    assert "403" in failure()


# -- what a user sees -----------------------------------------------------------------------------


def test_auto_falls_back_with_one_warning(endpoint, caplog) -> None:
    endpoint.stages["metadata"] = lambda handler: handler.answer(500)
    with caplog.at_level(logging.INFO):
        assert registry.resolve("auto").name == "mini"
    (record,) = [record for record in caplog.records if not record.name.startswith("http")]
    assert record.levelno == logging.WARNING
    assert "mini instead of base" in record.getMessage()
    assert "answered HTTP 500" in record.getMessage()


def test_the_process_ends_while_a_download_hangs(server, tmp_path) -> None:
    server.stages["body"] = begin_and_hang
    program = (
        "import sys, time; from clipcls.models import hub; from clipcls.errors import ModelError\n"
        "hub.STALL_SECONDS = 0.8\n"
        "try: hub.fetch('a/b', 'open_clip_model.safetensors', impatient=True)\n"
        "except ModelError: print(time.time())"
    )
    clean = {k: v for k, v in os.environ.items() if k[:3] != "HF_" and "proxy" not in k.lower()}
    env = {**clean, "PYTHONPATH": str(ROOT), "HF_ENDPOINT": server.url}
    env |= {"HF_HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=60
    )
    assert time.time() - float(done.stdout) < 4
    assert (done.returncode, done.stderr) == (0, "")
    assert not list(tmp_path.rglob("*.incomplete"))
