"""uvicorn's server with bounds that it lacks: on connections, and on how long they may take.

- Headers have 10 seconds, a body has `Bounds.seconds`, and so has the client to take its answer,
  whatever else arrives meanwhile; uvicorn itself only closes connections that are silent between
  requests.
- The number of connections has a limit per client and one in total. At the limit a newcomer takes
  the place of a connection that is idle or slow; requests that have arrived are never given up.
- Behind a proxy that is trusted, requests are counted by `X-Forwarded-For` instead.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from clipcls.web import local_server
from clipcls.web.admission import Pace
from clipcls.web.local_server import Receive, Scope, Send

__all__ = ["BoundedServer", "Bounds", "Network"]

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_HEADER_SECONDS = 10.0
_TOTAL = 512
_LINGER = 1.0  # seconds that a refused client has to read why
_MOST_LINGERING = 64
_CROWDED = "too many connections; close some or try again later"


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the connections of a server may take.

    Attributes:
        per_client: connections from one IPv4 address or IPv6 /64 network, or requests at a time by
            one client of a proxy.
        seconds: for a body to arrive, and for an answer to be made and taken (twice that).
        proxies: addresses whose `X-Forwarded-For` is believed.
    """

    per_client: int = 128
    seconds: float = 60.0
    proxies: tuple[Network, ...] = ()


class BoundedServer(uvicorn.Server):
    """A uvicorn server within `Bounds`.

    Args:
        app: an ASGI application without websockets.
        bounds: of its connections.
        grace: how long requests may take to finish once it is told to stop, seconds.
    """

    def __init__(self, app: local_server.App, bounds: Bounds, grace: float = 5.0) -> None:
        if bounds.proxies:
            app = _ForwardedClients(app, bounds)
        config = uvicorn.Config(
            app,
            http=partial(_Connection, bounds, _Connections(bounds)),  # type: ignore[arg-type]
            access_log=False,
            log_config=None,
            log_level="critical",  # a line for each request that is no HTTP helps nobody
            server_header=False,
            proxy_headers=False,
            ws="none",
            timeout_graceful_shutdown=max(1, round(grace)),
        )
        super().__init__(config)

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: ends connections whose time is up."""
        now = asyncio.get_running_loop().time()
        for connection in list(self.server_state.connections):
            if isinstance(connection, _Connection):
                connection.expire(now)
        return await super().on_tick(counter)


class _Connections:
    """The open connections, by client."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self.most = min(max(_TOTAL, bounds.per_client), _most_files() // 2)
        self._all: set[_Connection] = set()
        self._by_client: defaultdict[str, set[_Connection]] = defaultdict(set)

    def add(self, connection: _Connection) -> bool:
        """Whether the connection has a place, which a slow one may have had to leave."""
        groups = [(self._all, self.most)]
        if not _is_proxy(connection.address, self._bounds.proxies):
            groups.insert(0, (self._by_client[connection.client_key], self._bounds.per_client))
        for group, most in groups:
            if len(group) >= most:
                slow = [known for known in group if known.is_slow]
                if not slow:
                    return False
                min(slow, key=lambda known: known.pace.slow_from).refuse(503, _CROWDED)
        for group, _ in groups:
            group.add(connection)
        return True

    def discard(self, connection: _Connection) -> None:
        """Frees a connection's place, if it has one."""
        self._all.discard(connection)
        own = self._by_client[connection.client_key]
        own.discard(connection)
        if not own:
            del self._by_client[connection.client_key]


class _Connection(H11Protocol):
    """A connection that has a deadline at any time."""

    def __init__(self, bounds: Bounds, connections: _Connections, **given: Any) -> None:
        super().__init__(**given)
        self._bounds = bounds
        self._table = connections
        self._phase: object = None
        self._deadline = self.loop.time() + _HEADER_SECONDS
        self._is_refused = False
        self.pace = Pace()
        self.address = self.client_key = ""

    @property
    def is_slow(self) -> bool:
        """Whether it waits for its client alone: for a request, or for an answer to be taken."""
        waits = self.conn.their_state in (h11.IDLE, h11.SEND_BODY) or self.transport.is_closing()
        return waits and self.pace.is_slow

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accepts the connection, or answers that there are too many."""
        super().connection_made(transport)
        self.address = self.client[0] if self.client else ""
        self.client_key = _client_key(self.address)
        if not self._table.add(self):
            self.refuse(503, _CROWDED)

    def connection_lost(self, exc: Exception | None) -> None:
        """Frees the connection's place."""
        self._table.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Takes bytes, unless it has given up listening."""
        if not self._is_refused:
            self.pace.add(len(data))
            super().data_received(data)

    def handle_events(self) -> None:
        """Takes what has arrived; where that ends a phase, the next one gets its deadline."""
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
            seconds += 1.0  # the application's own limit says more
        else:
            seconds *= 2
        self._deadline = self.loop.time() + seconds

    def expire(self, now: float) -> None:
        """Ends the connection once its deadline has passed."""
        if now <= self._deadline:
            return
        if self._is_refused:
            self.transport.abort()
        elif self.conn.their_state is h11.SEND_BODY:
            self.refuse(408, f"the body took over {self._bounds.seconds:g} s")
        elif self.conn.their_state is h11.IDLE:
            self.refuse(408, f"the headers took over {_HEADER_SECONDS:g} s")
        else:
            self.transport.abort()

    def refuse(self, status: int, detail: str) -> None:
        """Answers in the application's place where a request waits for it, and ends."""
        self._table.discard(self)
        self._unset_keepalive_if_required()
        cycle = self.cycle
        is_asked = cycle is not None and not cycle.response_complete
        is_silent = self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]
        if (
            (is_asked and cycle.response_started)
            or (is_silent and (cycle is not None or status == 408))
            or self.conn.our_state is h11.DONE
            or self.transport.get_write_buffer_size()
            or len(self.connections) > self._table.most + _MOST_LINGERING
        ):
            self.transport.abort()
            return
        if is_asked:
            cycle.disconnected = True
            cycle.message_event.set()
        problem = local_server.problem_body(status, detail)
        body = json.dumps(problem).encode()
        retry = "Retry-After: 1\r\n" if status == 503 else ""
        head = (
            f"HTTP/1.1 {status} {problem['title']}\r\nContent-Type: {local_server.PROBLEM}\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n{retry}\r\n"
        )
        self.transport.write(head.encode() + body)
        self._is_refused = True
        self.flow.resume_reading()  # closed at once, its unread bytes would cost it the answer
        self._deadline = self.loop.time() + _LINGER

    def send_400_response(self, msg: str) -> None:
        """Answers what is not HTTP."""
        self.refuse(400, "the request is not HTTP/1.1")

    def shutdown(self) -> None:
        """Lets a request finish, and closes the connection."""
        if self._is_refused:
            self.transport.close()
        else:
            super().shutdown()


class _ForwardedClients:
    """Bounds the requests that a proxy sends at a time for one client."""

    def __init__(self, app: local_server.App, bounds: Bounds) -> None:
        self._app = app
        self._bounds = bounds
        self._asking: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        peer = (scope.get("client") or ("",))[0]
        if scope["type"] != "http" or not _is_proxy(peer, self._bounds.proxies):
            await self._app(scope, receive, send)
            return
        named = ",".join(local_server.header(scope, "x-forwarded-for")).split(",")
        client = _client_key(_forwarded_client(named, self._bounds.proxies) or peer)
        if self._asking[client] >= self._bounds.per_client:
            await local_server.problem(send, 503, _CROWDED, {"retry-after": "1"})
            return
        self._asking[client] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._asking[client] -= 1
            if not self._asking[client]:
                del self._asking[client]


def _forwarded_client(named: Sequence[str], proxies: Sequence[Network]) -> str | None:
    """The last address that is no proxy: those before it are hearsay."""
    for name in reversed(named):
        address = name.strip()
        if address.startswith("["):  # [IPv6]:port
            address = address[1:].partition("]")[0]
        elif address.count(":") == 1:  # IPv4:port
            address = address.partition(":")[0]
        if not _is_proxy(address, proxies):
            return address
    return None


def _is_proxy(address: str, proxies: Sequence[Network]) -> bool:
    try:
        found = _address(address)
    except ValueError:
        return False
    return any(found in network for network in proxies)


def _client_key(address: str) -> str:
    """What counts as one client: an IPv6 host has its whole /64 network."""
    try:
        found = _address(address)
    except ValueError:
        return address[:64]
    if found.version == 4:
        return str(found)
    return str(ipaddress.ip_network((found, 64), strict=False))


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    found = ipaddress.ip_address(text.partition("%")[0])
    return getattr(found, "ipv4_mapped", None) or found


def _most_files() -> int:
    """How many files the process may open."""
    if sys.platform == "win32":
        return 4096
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if 0 < soft < 1 << 20 else 1 << 20
