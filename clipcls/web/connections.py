"""uvicorn's server with limits that it lacks: on connections, and on how long they may take.

- Headers have 10 seconds. A body has `Bounds.seconds`, and so has the client to take its answer,
  whatever else arrives meanwhile; uvicorn itself only closes connections that are silent between
  requests.
- The number of connections has a limit per client and one in total. At the limit a new connection
  replaces one that is idle or slow; requests that have arrived are never given up.
- Behind a trusted proxy, requests are counted by the client in `X-Forwarded-For` instead.
"""

from __future__ import annotations

import asyncio
import http
import ipaddress
import os
import signal
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.h11_impl import H11Protocol

from clipcls.errors import ServerError
from clipcls.web.admission import Pace
from clipcls.web.local_server import problem

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_HEADER_SECONDS = 10.0
_TOTAL = 512
_LINGER = 1.0  # seconds that a refused client has to read the reason
_MOST_LINGERING = 64
_CROWDED = "too many connections; close some or try again later"


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of a server's connections.

    Attributes:
        per_client: connections per IPv4 address or IPv6 /64 network, or requests at a time per
            client of a proxy.
        seconds: for a body to arrive; twice that for an answer to be made and taken.
        proxies: addresses whose `X-Forwarded-For` is believed.
    """

    per_client: int = 128
    seconds: float = 60.0
    proxies: tuple[Network, ...] = ()


def run(
    app: ASGIApp,
    *,
    ready: Callable[[str], None],
    host: str = "127.0.0.1",
    port: int = 0,
    grace: float = 5.0,
    bounds: Bounds = Bounds(),
) -> int:
    """Serve until SIGINT or SIGTERM; what was accepted by then is finished.

    A second signal ends it without waiting.

    Args:
        app: an ASGI application without websockets.
        ready: called with the URL once it answers.
        host, port: the address to listen on; port 0 takes a free one.
        grace: how long requests may take to finish after the signal, seconds.
        bounds: of its connections.

    Returns:
        The exit status: 130 after SIGINT, else 0.

    Raises:
        ServerError: the server cannot listen on this address.
    """
    with _listen(host, port) as listening:
        name = f"[{host}]" if ":" in host else host
        url = f"http://{name}:{listening.getsockname()[1]}"
        server = BoundedServer(app, bounds, grace, lambda: ready(url))
        server.run([listening])
    return 130 if server.interrupted else 0


def _listen(host: str, port: int) -> socket.socket:
    is_v6 = ":" in host
    both = is_v6 and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if is_v6 else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, dualstack_ipv6=both)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while")[0].lower()
        cure = "choose another with --port, or 0 for any that is free" if port else "see --host"
        raise ServerError(f"cannot listen on {host}:{port} ({reason}); {cure}") from error


class BoundedServer(uvicorn.Server):
    """A uvicorn server within `Bounds`; the arguments are those of `run`.

    Attributes:
        interrupted: whether SIGINT ended it.
    """

    def __init__(
        self,
        app: ASGIApp,
        bounds: Bounds,
        grace: float = 5.0,
        ready: Callable[[], None] = lambda: None,
    ) -> None:
        if bounds.proxies:
            limited: Any = _ClientLimit(app, bounds.per_client)
            app = ProxyHeadersMiddleware(limited, [str(n) for n in bounds.proxies])  # type: ignore[assignment]
        config = uvicorn.Config(
            app,
            http=partial(_Connection, bounds),  # type: ignore[arg-type]
            access_log=False,
            log_config=None,
            log_level="critical",  # a line for each request that is not HTTP helps nobody
            server_header=False,
            proxy_headers=False,
            ws="none",
            timeout_graceful_shutdown=max(1, round(grace)),
        )
        super().__init__(config)
        self._ready = ready
        self.interrupted = False

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Stop; uvicorn's own handler raises the signal again at the end, which shows a trace."""
        self.interrupted |= sig == signal.SIGINT
        self.force_exit = self.should_exit
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and report it."""
        await super().startup(sockets)
        if self.started:
            self._ready()

    async def on_tick(self, counter: int) -> bool:
        """End connections whose time is up, ten times a second."""
        now = asyncio.get_running_loop().time()
        for connection in list(self.server_state.connections):
            if isinstance(connection, _Connection):
                connection.expire(now)
        return await super().on_tick(counter)


class _Connection(H11Protocol):
    """A connection that has a deadline at any time."""

    def __init__(self, bounds: Bounds, **given: Any) -> None:
        super().__init__(**given)
        self._bounds = bounds
        self._most = min(max(_TOTAL, bounds.per_client), _most_files() // 2)
        self._phase: object = None
        self._deadline = self.loop.time() + _HEADER_SECONDS
        self._is_refused = False
        self.pace = Pace()
        self.client_key = ""

    @property
    def is_slow(self) -> bool:
        """Whether it waits for its client alone: to send a request, or to take an answer."""
        waits = self.conn.their_state in (h11.IDLE, h11.SEND_BODY) or self.transport.is_closing()
        return waits and self.pace.is_slow

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        is_proxy = False
        if self.client:
            address = _parse_address(self.client[0])
            self.client = (str(address), self.client[1])
            self.client_key = _client_key(self.client[0])
            is_proxy = any(address in network for network in self._bounds.proxies)
        others: list[Any] = [known for known in self.connections if known is not self]
        own = [known for known in others if known.client_key == self.client_key]
        if not (is_proxy or _has_room(own, self._bounds.per_client)) or not _has_room(
            others, self._most
        ):
            self.refuse(503, _CROWDED)

    def data_received(self, data: bytes) -> None:
        if not self._is_refused:
            self.pace.add(len(data))
            super().data_received(data)

    def handle_events(self) -> None:
        """Take what has arrived; if that ends a phase, the next one gets its deadline."""
        super().handle_events()
        state = self.conn.their_state
        phase = None if state is h11.IDLE else (self.cycle, state is h11.SEND_BODY)
        if phase == self._phase or self._is_refused:
            return
        self._phase = phase
        self.pace = Pace()
        seconds = self._bounds.seconds
        if phase is None:
            if not self.transport.get_write_buffer_size():  # else an answer is still being taken
                seconds = _HEADER_SECONDS
        elif state is h11.SEND_BODY:
            seconds += 1.0  # the application's own limit has the better message
        else:
            seconds *= 2
        self._deadline = self.loop.time() + seconds

    def expire(self, now: float) -> None:
        if now <= self._deadline:
            return
        if not self._is_refused and self.conn.their_state is h11.SEND_BODY:
            self.refuse(408, f"the body took over {self._bounds.seconds:g} s")
        elif not self._is_refused and self.conn.their_state is h11.IDLE:
            self.refuse(408, f"the headers took over {_HEADER_SECONDS:g} s")
        else:
            self.transport.abort()

    def refuse(self, status: int, detail: str) -> None:
        """Answer in the application's place if a request waits for an answer, and end."""
        self._is_refused = True
        self._unset_keepalive_if_required()
        cycle = self.cycle
        is_asked = cycle is not None and not cycle.response_complete
        is_silent = self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]
        if (
            (is_asked and cycle.response_started)
            or (is_silent and (cycle is not None or status == 408))
            or self.conn.our_state is h11.DONE
            or self.transport.get_write_buffer_size()
            or len(self.connections) > self._most + _MOST_LINGERING
        ):
            self.transport.abort()
            return
        if is_asked:
            cycle.disconnected = True
            cycle.message_event.set()
        response = problem(status, detail, {"retry-after": "1"} if status == 503 else None)
        head = f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}\r\nConnection: close"
        fields = [b"%b: %b" % field for field in response.raw_headers]
        self.transport.write(b"\r\n".join([head.encode(), *fields, b"", bytes(response.body)]))
        self.flow.resume_reading()  # closing now, with bytes unread, would lose the answer
        self._deadline = self.loop.time() + _LINGER

    def send_400_response(self, msg: str) -> None:
        self.refuse(400, "the request is not HTTP/1.1")

    def shutdown(self) -> None:
        if self._is_refused:
            self.transport.close()
        else:
            super().shutdown()


def _has_room(connections: Sequence[_Connection], most: int) -> bool:
    """Whether there is room for one more; a slow connection has to make way."""
    counted = [known for known in connections if not known._is_refused]
    slow = [known for known in counted if known.is_slow]
    if len(counted) >= most and slow:
        min(slow, key=lambda known: known.pace.slow_from).refuse(503, _CROWDED)
    return len(counted) < most or bool(slow)


class _ClientLimit:
    """An ASGI application that answers so many requests at a time of each client."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._most = most
        self._asking: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = _client_key((scope.get("client") or ("",))[0])
        if self._asking[client] >= self._most:
            await problem(503, _CROWDED, {"retry-after": "1"})(scope, receive, send)
            return
        self._asking[client] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._asking[client] -= 1
            if not self._asking[client]:
                del self._asking[client]


def _client_key(address: str) -> str:
    """One client: an IPv4 address, or the whole /64 network of an IPv6 host."""
    try:
        found = _parse_address(address)
    except ValueError:
        return address[:64]
    return str(ipaddress.ip_network((found, 32 if found.version == 4 else 64), strict=False))


def _parse_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An address; one that maps an IPv4 address into IPv6 is that IPv4 address."""
    found = ipaddress.ip_address(text.partition("%")[0])
    return getattr(found, "ipv4_mapped", None) or found


def _most_files() -> int:
    """How many files the process may open."""
    most = os.sysconf("SC_OPEN_MAX") if hasattr(os, "sysconf") else 4096
    return most if most > 0 else 1 << 20
