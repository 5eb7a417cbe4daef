"""Who may ask a local web application, and what a browser may do with its answers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from clipcls.errors import ServerError
from clipcls.web import local_server
from clipcls.web.connections import run
from helpers.loops import run_async

HERE = "http://127.0.0.1:8000"


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    headers = [(b"content-type", b"text/plain"), (b"x-frame-options", b"SAMEORIGIN")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"here"})


def ask(
    guard: local_server.Guard, method: str = "GET", path: str = "/", **headers: str
) -> httpx.Response:
    """One request; a header's name is written with _ for -."""

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(guard)
        named = [(k.replace("_", "-").encode(), v.encode("latin-1")) for k, v in headers.items()]
        async with httpx.AsyncClient(transport=transport, base_url=HERE) as client:
            return await client.request(method, path, headers=named)

    return run_async(send())


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:8000", "localhost:1", "LOCALHOST", "[::1]:8000", "127.1.2.3"]
)
def test_own_hosts(host: str) -> None:
    assert ask(local_server.Guard(app), host=host).text == "here"


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "192.168.0.7",
        "0.0.0.0",
        "",
        "[",
        "localhost@evil.example",
        "evil@localhost",
        "user:pass@127.0.0.1",
        "evil.example@127.0.0.1:8000",
        "[::1]evil",
        "[::1]evil.example:80",
        "[::1]@evil.example",
        "[127.0.0.1]",
        "::1",
        "127.0.0.1:80:80",
        "127.0.0.1:port",
        "127.0.0.1:",
        "localhost/evil",
        "localhost, evil.example",
    ],
)
def test_a_name_made_to_lead_here_is_refused(host: str) -> None:
    answer = ask(local_server.Guard(app), host=host)
    assert answer.status_code == 421
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    detail = body.pop("detail")
    assert body == {"type": "about:blank", "title": "Misdirected Request", "status": 421}
    for value in (repr(host), "127.0.0.1", "localhost"):
        assert value in detail


def test_hosts_can_be_added() -> None:
    guard = local_server.Guard(app, hosts=["Photos.example"], any_address=True)
    assert ask(guard, host="photos.example:80").status_code == 200
    assert ask(guard, host="192.168.0.7:80").status_code == 200
    assert ask(guard, host="[fe80::1]").status_code == 200
    assert ask(guard, host="evil.example").status_code == 421


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_other_origins_are_refused(method: str) -> None:
    guard = local_server.Guard(app)
    allowed: list[dict[str, str]] = [
        {},  # no browser
        {"origin": HERE},
        {"origin": HERE, "sec_fetch_site": "same-origin"},
        {"sec_fetch_site": "none"},
    ]
    refused = [
        {"origin": "https://evil.example"},
        {"origin": "http://127.0.0.1:8001"},  # another program's page on this machine
        {"origin": "null"},
        {"origin": "https://evil.example", "sec_fetch_site": "same-origin"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "iframe"},
    ]
    for headers in allowed:
        assert ask(guard, method, **headers).status_code == 200, headers
    for headers in refused:
        assert ask(guard, method, **headers).status_code == 403, headers


def test_refusals_name_both_values_and_the_option_and_are_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    guard = local_server.Guard(app, hosts=["photos.example"], has_options=True)
    for _ in range(3):
        host = ask(guard, host="other.example").json()["detail"]
        origin = ask(guard, host="photos.example", origin="https://app.example").json()["detail"]
    for value in ("'other.example'", "photos.example", "--allow-host"):
        assert value in host
    for value in ("'https://app.example'", "'photos.example'", "--allow-origin", "proxy"):
        assert value in origin
    logged = [record.getMessage() for record in caplog.records]
    assert logged == [f"refused with 421: {host}", f"refused with 403: {origin}"]
    ask(guard, host="a\x1b[31m" + "x" * 5000)
    assert "\x1b" not in caplog.text
    assert len(caplog.records[-1].getMessage()) < 300
    for number in range(200):
        ask(guard, host=f"{number}.example")
    assert len(caplog.records) == 100


def test_other_origins_can_be_allowed() -> None:
    site = "https://app.example"
    guard = local_server.Guard(app, origins=[site], access=local_server.BearerToken("s3cret"))
    cross = {"origin": site, "sec_fetch_site": "cross-site"}
    preflight = ask(
        guard,
        "OPTIONS",
        "/classify",
        **cross,
        access_control_request_method="POST",
        access_control_request_headers="authorization,content-type",
    )
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == site
    assert "authorization" in preflight.headers["access-control-allow-headers"].lower()
    assert "access-control-allow-credentials" not in preflight.headers
    asked = ask(guard, "POST", **cross, authorization="Bearer s3cret")
    assert (asked.text, asked.headers["access-control-allow-origin"]) == ("here", site)
    refused = ask(guard, "POST", **cross)  # and the page can read why
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, site)
    for origin in ("https://evil.example", f"{site}.evil.example", "http://app.example", "null"):
        answer = ask(guard, "OPTIONS", origin=origin, access_control_request_method="POST")
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers
    assert ask(guard, "POST", sec_fetch_site="cross-site").status_code == 403
    assert ask(guard, host="evil.example", origin=site).status_code == 421


def test_links_of_other_sites_can_be_followed() -> None:
    link = {"sec_fetch_site": "cross-site", "sec_fetch_dest": "document"}
    assert ask(local_server.Guard(app), "GET", **link).status_code == 200
    assert ask(local_server.Guard(app), "POST", **link).status_code == 403


def test_every_answer_has_the_security_headers() -> None:
    for host in ("localhost", "evil.example"):
        headers = ask(local_server.Guard(app), host=host).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["cache-control"] == "no-store"
    # The application's own header wins.
    assert ask(local_server.Guard(app)).headers.get_list("x-frame-options") == ["SAMEORIGIN"]


def test_bearer_token() -> None:
    guard = local_server.Guard(
        app, access=local_server.BearerToken("s3cret", open_paths=["/healthz"])
    )
    refused = ask(guard)
    assert (refused.status_code, refused.headers["www-authenticate"]) == (
        401,
        'Bearer realm="clipcls"',
    )
    assert "content-security-policy" in refused.headers
    for wrong in ("Bearer s3cre", "Bearer s3crets", "Bearer", "Basic s3cret", "s3cret", "B\xe9"):
        answer = ask(guard, authorization=wrong)
        assert answer.status_code == 401, wrong
        assert ("wrong" in answer.json()["detail"]) == (" " in wrong), wrong
    assert ask(guard, authorization="Bearer s3cret").text == "here"
    assert ask(guard, authorization="bearer s3cret").text == "here"
    assert ask(guard, path="/healthz").text == "here"
    assert ask(guard, path="/healthz/").status_code == 401


def test_one_time_link() -> None:
    access = local_server.OneTimeLink()
    guard = local_server.Guard(app, access=access)
    path = access.link(HERE).removeprefix(HERE)
    assert ask(guard).status_code == 403
    assert ask(guard, path="/?token=wrong").status_code == 403
    assert ask(guard, "POST", path).status_code == 403
    opened = ask(guard, path=path)
    assert (opened.status_code, opened.headers["location"]) == (303, "/")
    cookie = opened.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    session = f"other=1; {cookie.partition(';')[0]}"
    assert ask(guard, cookie=session).text == "here"
    assert ask(guard, "POST", "/save", cookie=session).text == "here"
    assert ask(guard, path=path, cookie=session).status_code == 303  # gone back to
    assert ask(guard, path=path).status_code == 403  # somebody else has seen the link
    assert ask(guard, cookie=session[:-1]).status_code == 403
    assert path.partition("=")[2] not in cookie


PROGRAM = """
import sys, asyncio
from clipcls.web import local_server
from clipcls.web.connections import run

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive(); await send({"type": "lifespan.startup.complete"})
        await receive(); print("stopped in order", flush=True)
        await send({"type": "lifespan.shutdown.complete"})
        return
    print("asked", flush=True)
    await asyncio.sleep(0.5)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"slow"})

sys.exit(run(local_server.Guard(app), ready=lambda url: print(url, flush=True)))
"""


@pytest.mark.skipif(os.name == "nt", reason="signals are those of POSIX")
@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_lets_requests_finish(sent: signal.Signals, status: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout
        url = server.stdout.readline().strip()
        host, port = url.removeprefix("http://").split(":")
        assert host == "127.0.0.1"
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(f"GET / HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
            connection.settimeout(20)
            assert server.stdout.readline() == "asked\n"
            server.send_signal(sent)
            answer = b""
            while data := connection.recv(4096):
                answer += data
        assert answer.endswith(b"slow\r\n0\r\n\r\n"), answer
        out, err = server.communicate(timeout=20)
    assert (server.returncode, out, err) == (status, "stopped in order\n", "")


def test_a_port_in_use_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServerError, match=f"127.0.0.1:{port} .* --port"):
            run(app, ready=lambda url: None, port=port)
