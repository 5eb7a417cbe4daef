"""Images by URL: nothing but what was allowed is reached, in any disguise."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from clipcls.errors import ImageError
from clipcls.web.serve.fetch import Fetcher, is_public
from helpers.loops import run_async


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.9.9.9", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254"),
        *("0.0.0.0", "0.1.2.3", "100.64.0.1", "224.0.0.1", "239.255.255.250", "240.0.0.1"),
        *("255.255.255.255", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1"),
        *("::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1", "ff02::1", "fec0::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "2001:db8::1"),
        *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2002:a00:1::1"),
        "2001:0:4136:e378:8000:63bf:80ff:fffe",  # Teredo around 127.0.0.1
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_addresses_that_are(address: str) -> None:
    assert is_public(address)


class Site(http.server.BaseHTTPRequestHandler):
    """Answers by path; remembers the Host headers that it was sent."""

    hosts: list[str | None]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.hosts.append(self.headers["Host"])
        kind = self.path.partition("?")[0]
        if kind == "/moved":
            self.answer(302, b"", Location="http://127.0.0.1:1/inside")
        elif kind == "/missing":
            self.answer(404, b"no")
        elif kind == "/large":
            self.answer(200, bytes(2000))
        elif kind == "/endless":
            self.send_response(200)
            self.end_headers()
            self.close_connection = True
            try:
                while True:
                    self.wfile.write(bytes(500))
            except OSError:
                pass
        elif kind == "/slow":
            self.send_response(200)
            self.end_headers()
            self.close_connection = True
            try:
                for _ in range(200):  # always something, never enough
                    self.wfile.write(b"x")
                    self.wfile.flush()
                    time.sleep(0.02)
            except OSError:
                pass
        elif kind == "/nothing":
            self.close_connection = True
        elif kind == "/nonsense":
            self.wfile.write(b"hello\r\n\r\n")
            self.close_connection = True
        elif kind == "/cut":
            self.answer(200, b"abc", **{"Content-Length": "10"})
            self.close_connection = True
        else:
            self.answer(200, self.path.encode())

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    Site.hosts = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def fetch(url: str, *hosts: str, anywhere: bool = True, seconds: float = 10) -> bytes:
    options: dict[str, Any] = {"is_public": lambda address: True} if anywhere else {}
    fetcher = Fetcher(hosts, max_bytes=1000, seconds=seconds, **options)
    return run_async(fetcher.fetch(url))


def reason(url: str, *hosts: str, **options: Any) -> str:
    with pytest.raises(ImageError) as caught:
        fetch(url, *hosts, **options)
    assert caught.value.path == url
    return caught.value.reason


def test_an_image_comes_whole(port: int) -> None:
    host = f"127.0.0.1:{port}"
    assert fetch(f"http://{host}/a%20b/\u00fc?q=1&r= x", host) == b"/a%20b/%C3%BC?q=1&r=%20x"
    assert Site.hosts == [host]


def test_private_hosts_are_refused_even_where_they_are_allowed(port: int) -> None:
    for name in ("127.0.0.1", "localhost"):
        why = reason(f"http://{name}:{port}/", f"{name}:{port}", anywhere=False)
        assert why == "its host is not on the public internet"
    # Other spellings of 127.0.0.1, which the system's look-up understands.
    for name in ("2130706433", "0x7f.1", "127.1", "[::ffff:127.0.0.1]", "[::1]"):
        why = reason(f"http://{name}:{port}/", f"{name}:{port}", anywhere=False)
        assert why in ("its host is not on the public internet", "its host is unknown"), name
    assert Site.hosts == []


def test_only_hosts_that_are_allowed(port: int) -> None:
    host = f"127.0.0.1:{port}"
    for allowed in ("127.0.0.1", "127.0.0.1:80", "example.org", f"*.0.0.1:{port + 1}"):
        assert "not allowed" in reason(f"http://{host}/", allowed), allowed
    for url in (f"http://example.org@{host}/", f"http://example.org:x@{host}/"):
        assert "user" in reason(url, "example.org", host)
    for url in (
        "ftp://a/",
        "file:///etc/passwd",
        "//a/b",
        "a",
        "",
        "http://",
        "http://[",
        "http:///x",
    ):
        assert reason(url, "a", "") == "not an http or https URL", url
    assert "not allowed" in reason("http://evil.example/", "*.example.org", "example.org")
    assert "not allowed" in reason("http://xexample.org/", "*.example.org")
    assert Site.hosts == []


def test_subdomains(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lookups = names_lead_here(monkeypatch)
    assert fetch(f"http://A.b.example.org.:{port}/x", f"*.Example.org:{port}") == b"/x"
    assert lookups == ["a.b.example.org"]
    assert Site.hosts == [f"a.b.example.org:{port}"]


def test_a_name_is_looked_up_once(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: a second look-up could give an address that nobody has looked at."""
    lookups = names_lead_here(monkeypatch)
    assert fetch(f"http://a.example:{port}/x", f"a.example:{port}") == b"/x"
    assert lookups == ["a.example"]


def test_one_private_address_is_enough_to_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    names_lead_here(monkeypatch, "8.8.8.8", "10.0.0.1")
    why = reason("http://a.example/", "a.example", anywhere=False)
    assert why == "its host is not on the public internet"


def names_lead_here(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> list[str]:
    lookups: list[str] = []
    real = socket.getaddrinfo

    def look_up(host: str, port: int, *given: Any, **named: Any) -> Any:
        if host.replace(".", "").isdecimal():  # an address, when it is connected to
            return real(host, port, *given, **named)
        lookups.append(host)
        found = addresses or ("127.0.0.1",)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, port)) for a in found]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return lookups


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("moved", "redirects (302); give the address of the image itself"),
        ("missing", "its host answers 404"),
        ("large", "larger than 1,000 bytes"),
        ("endless", "larger than 1,000 bytes"),
        ("nothing", "its host does not answer properly"),
        ("nonsense", "its host does not answer properly"),
        ("cut", "its host does not answer properly"),
    ],
)
def test_answers_that_are_not_taken(port: int, path: str, why: str) -> None:
    host = f"127.0.0.1:{port}"
    assert reason(f"http://{host}/{path}", host) == why
    assert len(Site.hosts) == 1


def test_time_has_a_limit_however_slowly_it_drips(port: int) -> None:
    host = f"127.0.0.1:{port}"
    assert reason(f"http://{host}/slow", host, seconds=0.3) == "took longer than 0.3 s to arrive"


def test_hosts_that_are_not_there(port: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        host = f"127.0.0.1:{closed.getsockname()[1]}"
    assert reason(f"http://{host}/", host) == "its host does not answer properly"
    host = f"127.0.0.1:{port}"
    assert "TLS" in reason(f"https://{host}/", host)
    assert reason("http://a.invalid/", "a.invalid") == "its host is unknown"
