"""Protection for web applications on the user's own machine: who may ask, what a browser may do.

`Guard` wraps a whole ASGI application:

- The `Host` header must name this server. A web site whose name is made to point to 127.0.0.1 (DNS
  rebinding) names its own host.
- Requests from other web sites are recognised by `Origin` and `Sec-Fetch-Site`, which pages cannot
  set, and refused. Programs send neither header.
- An access check may ask for a secret: `BearerToken` for programs, `OneTimeLink` for a page that a
  command opens.
- Security headers keep the browser from loading anything from elsewhere, running inline scripts, or
  showing the page in a frame.

Errors are problem details (RFC 9457, `application/problem+json`).
"""

from __future__ import annotations

import hmac
import http
import ipaddress
import json
import logging
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger(__name__)

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
"""Set on every response, except where the application has set the same header."""

PROBLEM = "application/problem+json"

Access = Callable[[Request], Response | None]
"""The response that turns a request away; None lets it pass."""

# RFC 9110, 7.2: a name, an IPv4 address or an IPv6 address in brackets; perhaps a port.
_HOST = re.compile(r"(?:\[([0-9a-f.]*:[0-9a-f:.]*)\]|([\w.-]+))(?::\d{1,5})?", re.ASCII)

_MOST_LOGGED = 100  # distinct refusals, so that invented names cannot fill the log

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}


class Guard:
    """An ASGI application that passes only legitimate requests on to another.

    Args:
        app: an ASGI application without websockets.
        hosts: this server's names besides localhost, without a port.
        any_address: whether any IP address may be the host, not just loopback addresses. Only a
            page of this server can use one: a rebound host is a name.
        origins: other web sites whose pages may ask (CORS), such as `https://app.example`.
        has_options: whether refusals name the options of `clipcls serve` that allow more.
        access: the last check.
    """

    def __init__(
        self,
        app: ASGIApp,
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
        self._inner: ASGIApp = self._check_access
        if self._origins:
            self._inner = CORSMiddleware(  # answers preflights, which carry no token
                self._check_access,
                allow_origins=sorted(self._origins),
                allow_methods=("GET", "POST"),
                allow_headers=("Authorization", "Content-Type"),
                expose_headers=("Retry-After",),
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, text in SECURITY_HEADERS.items():
                    headers.setdefault(name, text)
            await send(message)

        await (self._refuse(Request(scope)) or self._inner)(scope, receive, send_secured)

    async def _check_access(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._access(Request(scope)) if self._access else None
        await (refusal or self._app)(scope, receive, send)

    def _refuse(self, request: Request) -> Response | None:
        hosts = request.headers.getlist("host")
        if len(hosts) != 1 or not self._is_own_host(hosts[0]):
            given = ", ".join(map(_quote, hosts)) or "nothing"
            own = ", ".join(sorted(self._hosts | {"127.0.0.1"}))
            cure = "; --allow-host NAME allows another" if self._has_options else ""
            return self._log(421, f"the Host header says {given}; this server is {own}{cure}")
        origins = request.headers.getlist("origin")
        if origins and all(origin.lower() in self._origins for origin in origins):
            return None
        if not _is_own_page(request, hosts[0]):
            site = ", ".join(map(_quote, origins)) or "another web site"
            cure = ""
            if self._has_options:
                cure = "; --allow-origin ORIGIN allows it, and a proxy should pass Host unchanged"
            return self._log(403, f"the request comes from {site}, not from {hosts[0]!r}{cure}")
        return None

    def _log(self, status: int, detail: str) -> Response:
        if detail not in self._logged and len(self._logged) < _MOST_LOGGED:
            self._logged.add(detail)
            logger.warning("refused with %d: %s", status, detail)
        return problem(status, detail)

    def _is_own_host(self, host: str) -> bool:
        match = _HOST.fullmatch(host.lower())
        if not match:
            return False
        name = match[1] or match[2]
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return name in self._hosts
        return self._any_address or address.is_loopback or str(address) in self._hosts


def _quote(text: str) -> str:
    """A header's value for a message: short, and without control characters."""
    return repr(text if len(text) <= 100 else f"{text[:100]}...")


def _is_own_page(request: Request, host: str) -> bool:
    """Whether no other web site is behind a request (a resource isolation policy)."""
    headers = request.headers
    own = (f"http://{host.lower()}", f"https://{host.lower()}")
    if any(origin.lower() not in own for origin in headers.getlist("origin")):
        return False
    # A user may follow a link on another site, as to any page; nothing else.
    is_link = headers.getlist("sec-fetch-dest") == ["document"] and request.method in _SAFE_METHODS
    sites = headers.getlist("sec-fetch-site")
    return is_link or all(site in ("same-origin", "none") for site in sites)


class BearerToken:
    """Access by `Authorization: Bearer TOKEN` (RFC 6750), compared in constant time."""

    def __init__(self, token: str, open_paths: Iterable[str] = ()) -> None:
        self._token = token
        self._open_paths = frozenset(open_paths)

    def __call__(self, request: Request) -> Response | None:
        """Refuse a request without the token with 401."""
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if request.scope["path"] in self._open_paths or (
            scheme.lower() == "bearer" and _is_same(given.strip(), self._token)
        ):
            return None
        detail = "a token is needed: Authorization: Bearer TOKEN"
        challenge = 'Bearer realm="clipcls"'
        if given:
            detail, challenge = "the token is wrong", f'{challenge}, error="invalid_token"'
        return problem(401, detail, {"www-authenticate": challenge})


class OneTimeLink:
    """Access by a link that works once; the browser that followed it then has a cookie.

    So the link is useless to whoever sees it later, in a list of processes or the browser's
    history. The cookie is valid until the server ends.
    """

    def __init__(self) -> None:
        self._token = secrets.token_urlsafe(32)
        self._session = secrets.token_urlsafe(32)
        self._is_used = False

    def link(self, url: str) -> str:
        """The link to follow, for an application at this URL."""
        return f"{url.rstrip('/')}/?token={self._token}"

    def __call__(self, request: Request) -> Response | None:
        """Redirect the link to `/` with a cookie; refuse other requests without the cookie."""
        # All ports of a host share cookies: the name keeps those of other applications.
        name = f"clipcls-{(request.scope.get('server') or ('', 0))[1]}"
        has_session = _is_same(request.cookies.get(name, ""), self._session)
        given = request.query_params.get("token")
        if has_session and given is None:
            return None
        if given is not None and request.method == "GET" and request.scope["path"] == "/":
            if not self._is_used and _is_same(given, self._token):
                self._is_used = has_session = True
            if has_session:
                response = RedirectResponse("/", 303)
                response.set_cookie(name, self._session, httponly=True, samesite="strict")
                return response
        return problem(403, "open the link that clipcls printed; it works once, in one browser")


def _is_same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected.encode())


def json_response(
    content: Any,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    media_type: str = "application/json",
) -> Response:
    """JSON in ASCII: stray bytes of a path are half surrogate pairs, which UTF-8 cannot carry."""
    return Response(json.dumps(content, separators=(",", ":")), status, headers, media_type)


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error as problem details (RFC 9457)."""
    title = http.HTTPStatus(status).phrase
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return json_response(body, status, headers, PROBLEM)


def page_routes(folder: Path, pages: Mapping[str, str]) -> list[Route]:
    """Routes for the files of a page, such as `{"/": "serve.html"}`; the files are read now."""
    # Browsers ask again each time: an updated clipcls must not run yesterday's script.
    headers = {"cache-control": "no-cache"}
    return [
        Route(
            path,
            Response((folder / name).read_bytes(), 200, headers, _TYPES[Path(name).suffix]),
            methods=["GET"],
        )
        for path, name in pages.items()
    ]
