"""Connections of a server: how many, and how long each may take."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from clipcls.web import local_server
from clipcls.web.connections import BoundedServer, Bounds

ASK = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
BODY = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n"


class App:
    """Reads the body, then answers with as many bytes as it is told to; `/wait` waits before."""

    def __init__(self) -> None:
        self.size = 4
        self.may_go = threading.Event()
        self.asked = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        while (message := await receive())["type"] == "http.request" and message["more_body"]:
            pass
        self.asked += 1
        while scope["path"] == "/wait" and not self.may_go.is_set():
            await asyncio.sleep(0.001)
        length = [(b"content-length", b"%d" % self.size)]
        await send({"type": "http.response.start", "status": 200, "headers": length})
        await send({"type": "http.response.body", "body": b"x" * self.size})


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipcls.web.connections._LINGER", 0.1)


@pytest.fixture
def app() -> App:
    return App()


@contextlib.contextmanager
def serving(app: ASGIApp, bounds: Bounds) -> Iterator[Callable[..., socket.socket]]:
    """A server in a thread; what connects to it from an address of this machine."""
    server = BoundedServer(app, bounds, grace=1)
    listener = socket.create_server(("127.0.0.1", 0))
    with listener, contextlib.ExitStack() as stack:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        address = listener.getsockname()

        def connect(source: str = "127.0.0.1", sent: bytes = b"") -> socket.socket:
            connection = socket.create_connection(address, 20, (source, 0))
            stack.enter_context(connection)
            connection.sendall(sent)
            return connection

        try:
            yield connect
        finally:
            server.should_exit = True
            stack.close()
            thread.join()
    assert not server.server_state.connections


def read_answer(connection: socket.socket) -> bytes:
    """One answer, of a connection that stays."""
    found = b""
    while not found.endswith((b"xxxx", b"}")):
        data = connection.recv(1 << 16)
        assert data, found
        found += data
    return found


def is_answered(connection: socket.socket) -> bool:
    return read_answer(connection).endswith(b"xxxx")


def everything(connection: socket.socket) -> bytes:
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while data := connection.recv(1 << 16):
            found += data
    return found


def check_refused(answer: bytes, status: int, says: str) -> None:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), answer
    assert b"application/problem+json" in head
    assert (b"retry-after: 1" in head) == (status == 503)
    problem = json.loads(body)
    assert problem["status"] == status
    assert says in problem["detail"]


def until(happens: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def drip(connection: socket.socket, text: bytes) -> None:
    """Sends byte by byte, so that the connection is never silent."""
    with contextlib.suppress(OSError):
        for byte in text:
            connection.sendall(bytes([byte]))
            time.sleep(0.02)


def test_headers_have_a_time_limit(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipcls.web.connections._HEADER_SECONDS", 0.3)
    with serving(app, Bounds()) as connect:
        for before in (b"", ASK):  # also those of a second request
            slow = connect(sent=before)
            if before:
                assert is_answered(slow)
            threading.Thread(target=drip, args=(slow, ASK * 3), daemon=True).start()
            check_refused(everything(slow), 408, "the headers took over 0.3 s")
        assert everything(connect()) == b""  # nothing asked, nothing answered
    assert app.asked == 1


def test_bodies_have_a_time_limit(app: App) -> None:
    with serving(app, Bounds(seconds=0.1)) as connect:
        slow = connect(sent=BODY)
        threading.Thread(target=drip, args=(slow, b"x" * 9), daemon=True).start()
        check_refused(everything(slow), 408, "the body took over 0.1 s")


def test_a_body_that_nobody_wants_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refusing(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await local_server.problem(413, "too large")(scope, receive, send)

    with serving(refusing, Bounds(seconds=0.1)) as connect:
        slow = connect(sent=b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999\r\n\r\n")
        for _ in range(20):
            slow.sendall(bytes(99_999))  # is read, so that the answer arrives
        threading.Thread(target=drip, args=(slow, b"x" * 500), daemon=True).start()
        check_refused(everything(slow), 413, "too large")


def test_an_answer_has_to_be_taken(app: App) -> None:
    app.size = 64 << 20
    with serving(app, Bounds(seconds=0.2)) as connect:
        slow = connect(sent=ASK)
        assert slow.recv(10)
        time.sleep(1.5)
        assert len(everything(slow)) < app.size
        app.size = 4
        assert is_answered(connect(sent=ASK))


def test_connections_of_a_client_have_a_limit(app: App) -> None:
    with serving(app, Bounds(per_client=3)) as connect:
        busy = [connect(sent=ASK.replace(b"/ ", b"/wait ")) for _ in range(3)]
        until(lambda: app.asked == 3)
        for _ in range(5):
            check_refused(everything(connect(sent=ASK)), 503, "too many connections")
        assert is_answered(connect("127.0.0.2", ASK))
        app.may_go.set()
        for connection in busy:
            assert is_answered(connection)


@pytest.mark.parametrize("sent", [b"", b"GET", BODY, BODY + bytes(5), ASK])
def test_slow_connections_make_way(app: App, monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr("clipcls.web.admission._GRACE", 0.1)
    with serving(app, Bounds(per_client=3)) as connect:
        slow = [connect(sent=sent) for _ in range(3)]
        time.sleep(0.3)
        answered = [connect(sent=ASK) for _ in range(3)]
        for connection in answered:
            assert is_answered(connection)
        for connection in slow:
            answer = everything(connection)
            if sent == ASK:
                assert answer.endswith(b"xxxx")
            else:
                check_refused(answer, 503, "too many connections")


def test_all_connections_have_a_limit(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipcls.web.connections._TOTAL", 4)
    with serving(app, Bounds(per_client=2)) as connect:
        for host in range(4):
            connect(f"127.0.0.{host + 1}", ASK.replace(b"/ ", b"/wait "))
        until(lambda: app.asked == 4)
        check_refused(everything(connect("127.0.0.9", ASK)), 503, "too many connections")
        app.may_go.set()


@pytest.mark.parametrize(
    ("forwarded", "refused"),
    [
        (b"", b""),  # a proxy that names nobody is one client itself
        (b"X-Forwarded-For: 192.0.2.1", b"X-Forwarded-For: 192.0.2.1"),
        (b"X-Forwarded-For: 192.0.2.1:80", b"X-Forwarded-For: 192.0.2.1:81"),
        (b"X-Forwarded-For: 9.9.9.9, 192.0.2.1", b"X-Forwarded-For: 8.8.8.8, 192.0.2.1"),
        (b"X-Forwarded-For: 9.9.9.9\r\nX-Forwarded-For: 192.0.2.1", b"X-Forwarded-For: 192.0.2.1"),
        (b"X-Forwarded-For: 192.0.2.1", b"X-Forwarded-For: 192.0.2.1, 127.0.0.1"),
        (b"X-Forwarded-For: 2001:db8::1", b"X-Forwarded-For: [2001:db8::2]:80"),
    ],
)
def test_clients_of_a_trusted_proxy(app: App, forwarded: bytes, refused: bytes) -> None:
    import ipaddress

    def ask(path: bytes, header: bytes) -> bytes:
        lines = [b"GET %s HTTP/1.1" % path, b"Host: localhost", *filter(None, [header]), b"", b""]
        return b"\r\n".join(lines)

    proxies = (ipaddress.ip_network("127.0.0.0/8"),)
    with serving(app, Bounds(per_client=2, proxies=proxies)) as connect:
        for _ in range(2):
            connect(sent=ask(b"/wait", forwarded))
        until(lambda: app.asked == 2)
        answer = read_answer(connect(sent=ask(b"/", refused)))
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1" in answer
        other = b"X-Forwarded-For: 192.0.2.1, 203.0.113.5"
        assert is_answered(connect(sent=ask(b"/", other)))
        app.may_go.set()


def test_x_forwarded_for_of_others_is_not_believed(app: App) -> None:
    with serving(app, Bounds(per_client=2)) as connect:
        for number in range(2):
            header = b"X-Forwarded-For: 192.0.2.%d\r\n\r\n" % number
            connect(sent=b"GET /wait HTTP/1.1\r\nHost: a\r\n" + header)
        until(lambda: app.asked == 2)
        header = b"X-Forwarded-For: 192.0.2.9\r\n\r\n"
        sent = b"GET / HTTP/1.1\r\nHost: a\r\n" + header
        check_refused(everything(connect(sent=sent)), 503, "too many connections")
        app.may_go.set()


@pytest.mark.parametrize(
    "sent",
    [b"\x16\x03\x01\x02\x00\x01\xfc", b"GET / HTTP/1.1\r\n" + b"x" * 100_000, b"\0" * 10],
)
def test_what_is_not_http_is_refused_in_one_form(app: App, sent: bytes) -> None:
    with serving(app, Bounds()) as connect:
        check_refused(everything(connect(sent=sent + b"\r\n\r\n")), 400, "not HTTP/1.1")
        broken = connect(sent=BODY.replace(b"Content-Length: 10", b"Transfer-Encoding: chunked"))
        broken.sendall(b"nonsense\r\n")
        check_refused(everything(broken), 400, "not HTTP/1.1")
        assert is_answered(connect(sent=ASK))


def test_it_stops_beside_slow_clients(app: App) -> None:
    started = time.monotonic()
    with serving(app, Bounds()) as connect:
        for sent in (b"", b"GET", BODY, ASK):
            connect(sent=sent)
        time.sleep(0.05)
    assert time.monotonic() - started < 10
