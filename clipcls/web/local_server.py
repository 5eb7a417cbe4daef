"""What the local web applications share: who may ask them, what a browser may do, how they run.

`Guard` goes around a whole ASGI application:

- A request must name a host that is this server's (`Host`): a web site whose name is made to lead
  to 127.0.0.1 (DNS rebinding) names its own.
- Other web sites are refused by `Origin` and `Sec-Fetch-Site`, both of which pages cannot set. What
  is no browser sends neither and is not held up.
- Where there is a token it is asked for: `BearerToken` for programs, `OneTimeLink` for a page that
  a command opens.
- Each answer says that a browser loads nothing from elsewhere, runs no script that is written into
  the page, and shows the page in no frame.

Refusals are problem details (RFC 9457, `application/problem+json`). Importing this module loads no
web framework; `run` loads uvicorn.
"""

from __future__ import annotations

import hmac
import http
import ipaddress
import json
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import parse_qs

if TYPE_CHECKING:
    from starlette.routing import Route


__all__ = [
    "SECURITY_HEADERS",
    "BearerToken",
    "Guard",
    "OneTimeLink",
    "is_loopback",
    "page_routes",
    "problem",
    "problem_body",
]

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cache-control": "no-store",
}
"""Set on every answer, but where the application has set the same header itself."""

PROBLEM = "application/problem+json"

# RFC 9110, 7.2: a name, an IPv4 address or an IPv6 address in brackets; perhaps a port.
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([\w.-]+))(?::\d{1,5})?", re.ASCII | re.IGNORECASE)

_MOST_LOGGED = 100  # different refusals: who makes up names must not fill the log

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}


class Access(Protocol):
    """Whether a request may go on."""

    async def __call__(self, scope: Scope, send: Send) -> bool:
        """True, or False where it has answered the request itself."""


class Guard:
    """An ASGI application behind the checks of this module; `app` sees only what passes them.

    Args:
        app: an ASGI application without websockets.
        hosts: names besides localhost that a request may call this server by, without a port.
        any_address: whether it may call it by any IP address, and not by loopback ones alone. No
            web site can do that but this server's own: a rebound one has a name.
        origins: other web sites whose pages may ask (CORS), such as `https://app.example`.
        has_options: whether refusals name the options of `clipcls serve` that allow more.
        access: asked last; None lets everybody pass.
    """

    def __init__(
        self,
        app: App,
        *,
        hosts: Iterable[str] = (),
        any_address: bool = False,
        origins: Iterable[str] = (),
        has_options: bool = False,
        access: Access | None = None,
    ) -> None:
        self._app = app
        self._hosts = {"localhost", *(host.lower() for host in hosts)}
        self._any_address = any_address
        self._origins = frozenset(origin.lower() for origin in origins)
        self._has_options = has_options
        self._access = access
        self._logged: set[str] = set()
        self._inner: App = self._answer
        if self._origins:
            from starlette.middleware.cors import CORSMiddleware

            self._inner = CORSMiddleware(  # answers preflights, which carry no token
                self._answer,
                allow_origins=sorted(self._origins),
                allow_methods=("GET", "POST"),
                allow_headers=("Authorization", "Content-Type"),
                expose_headers=("Retry-After",),
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        secured = _secured(send)
        if refusal := self._refusal(scope):
            self._log(*refusal)
            await problem(secured, *refusal)
        else:
            await self._inner(scope, receive, secured)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._access is None or await self._access(scope, send):
            await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        hosts = header(scope, "host")
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            given = ", ".join(map(_quoted, hosts)) or "nothing"
            own = ", ".join(sorted(self._hosts | {"127.0.0.1"}))
            cure = "; --allow-host NAME allows another" if self._has_options else ""
            return 421, f"the Host header says {given}; this server answers to {own}{cure}"
        origins = header(scope, "origin")
        if origins and all(origin.lower() in self._origins for origin in origins):
            return None
        if not _is_own_page(scope, hosts[0]):
            site = ", ".join(map(_quoted, origins)) or "another web site"
            cure = ""
            if self._has_options:
                cure = "; --allow-origin ORIGIN allows it, and a proxy should pass Host unchanged"
            return 403, f"the request comes from {site}, not from the Host {hosts[0]!r}{cure}"
        return None

    def _log(self, status: int, detail: str) -> None:
        if detail not in self._logged and len(self._logged) < _MOST_LOGGED:
            self._logged.add(detail)
            logger.warning("refused with %d: %s", status, detail)

    def _is_ours(self, host: str) -> bool:
        match = _HOST.fullmatch(host.lower())
        if not match:
            return False
        in_brackets, name = match.groups()
        try:
            if in_brackets:
                address: Any = ipaddress.IPv6Address(in_brackets)
            else:
                address = ipaddress.IPv4Address(name)
        except ValueError:
            return name in self._hosts
        return self._any_address or address.is_loopback or str(address) in self._hosts


def _quoted(text: str) -> str:
    """A header's value for a message: no control characters, not too long."""
    return repr(text if len(text) <= 100 else f"{text[:100]}...")


def _is_own_page(scope: Scope, host: str) -> bool:
    """Whether no other web site is behind a request (a resource isolation policy)."""
    for origin in header(scope, "origin"):
        if origin.lower() not in (f"http://{host.lower()}", f"https://{host.lower()}"):
            return False
    for site in header(scope, "sec-fetch-site"):
        if site in ("same-origin", "none"):
            continue
        # A link on another site may be followed, as any link; nothing else.
        is_link = header(scope, "sec-fetch-dest") == ["document"]
        if not is_link or scope["method"] not in _SAFE_METHODS:
            return False
    return True


class BearerToken:
    """`Authorization: Bearer TOKEN` (RFC 6750), compared in constant time.

    Args:
        token: what is asked for, not empty.
        open_paths: paths that need none.
    """

    def __init__(self, token: str, open_paths: Iterable[str] = ()) -> None:
        if not token:
            raise ValueError("an empty token protects nothing")
        self._token = token.encode()
        self._open_paths = frozenset(open_paths)

    async def __call__(self, scope: Scope, send: Send) -> bool:
        """Whether the request may go on; if not, it is answered with 401."""
        if scope["path"] in self._open_paths:
            return True
        scheme, _, given = " ".join(header(scope, "authorization")).partition(" ")
        if scheme.lower() == "bearer" and _is_same(given.strip(), self._token):
            return True
        detail = "a token is needed: Authorization: Bearer TOKEN"
        challenge = 'Bearer realm="clipcls"'
        if given:
            detail, challenge = "the token is wrong", f'{challenge}, error="invalid_token"'
        await problem(send, 401, detail, {"www-authenticate": challenge})
        return False


class OneTimeLink:
    """A link that opens a page once; the browser that followed it has a cookie from then on.

    What else sees the link (a list of processes, the browser's history) can do nothing with it
    afterwards. The cookie goes with the server's end.
    """

    def __init__(self) -> None:
        self._token = secrets.token_urlsafe(32).encode()
        self._session = secrets.token_urlsafe(32).encode()
        self._is_used = False

    def link(self, url: str) -> str:
        """The link to follow, for an application at this URL."""
        return f"{url.rstrip('/')}/?token={self._token.decode()}"

    async def __call__(self, scope: Scope, send: Send) -> bool:
        """Whether the request may go on; the link itself is answered with a redirect to `/`."""
        # Cookies of one host go to all its ports: another application's must not be replaced.
        name = f"clipcls-{(scope.get('server') or ('', 0))[1]}"
        has_session = _is_same(_cookie(scope, name), self._session)
        given = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token", [])
        if has_session and not given:
            return True
        if given and scope["method"] == "GET" and scope["path"] == "/":
            if not self._is_used and _is_same(given[0], self._token):
                self._is_used = has_session = True
            if has_session:
                cookie = f"{name}={self._session.decode()}; HttpOnly; SameSite=Strict; Path=/"
                await _answer(send, 303, {"location": "/", "set-cookie": cookie}, b"")
                return False
        detail = "open the link that clipcls printed; it works once, in one browser"
        await problem(send, 403, detail)
        return False


def _is_same(given: str, expected: bytes) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected)


def _cookie(scope: Scope, name: str) -> str:
    pairs = (pair.partition("=") for line in header(scope, "cookie") for pair in line.split(";"))
    return next((value.strip() for key, _, value in pairs if key.strip() == name), "")


def header(scope: Scope, name: str) -> list[str]:
    """The values of a request's header, as often as it was sent."""
    wanted = name.encode()
    return [value.decode("latin-1").strip() for key, value in scope["headers"] if key == wanted]


def problem_body(status: int, detail: str) -> dict[str, Any]:
    """An error as problem details (RFC 9457)."""
    title = http.HTTPStatus(status).phrase
    return {"type": "about:blank", "title": title, "status": status, "detail": detail}


async def problem(
    send: Send, status: int, detail: str, headers: Mapping[str, str] | None = None
) -> None:
    """Answers a request with an error."""
    body = json.dumps(problem_body(status, detail)).encode()
    await _answer(send, status, {"content-type": PROBLEM, **(headers or {})}, body)


async def _answer(send: Send, status: int, headers: Mapping[str, str], body: bytes) -> None:
    fields = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    fields.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


def _secured(send: Send) -> Send:
    async def secured(message: Message) -> None:
        if message["type"] == "http.response.start":
            there = {name.lower() for name, _ in message["headers"]}
            more = ((name.encode(), text.encode()) for name, text in SECURITY_HEADERS.items())
            fields = [*message["headers"], *(pair for pair in more if pair[0] not in there)]
            message = {**message, "headers": fields}
        await send(message)

    return secured


def page_routes(folder: Path, pages: Mapping[str, str]) -> list[Route]:
    """Starlette routes of a folder's files, which are read now.

    Args:
        folder: where the files lie.
        pages: path -> file, such as `{"/": "serve.html", "/serve.js": "serve.js"}`.
    """
    from starlette.responses import Response
    from starlette.routing import Route

    def route(path: str, name: str) -> Route:
        file = folder / name
        content, kind = file.read_bytes(), _TYPES[file.suffix]
        # Asked for again each time: an updated clipcls must not run yesterday's script.
        headers = {"cache-control": "no-cache"}

        async def answer(_: object) -> Response:
            return Response(content, media_type=kind, headers=headers)

        return Route(path, answer, methods=["GET"])

    return [route(path, name) for path, name in pages.items()]


def is_loopback(host: str) -> bool:
    """Whether a server at this host is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
