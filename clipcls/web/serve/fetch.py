"""Fetch images by URL without being led into the network of this machine (SSRF).

Only hosts that the server's owner named are asked. A host's addresses are looked up once; all of
them must be public, and the connection goes to one of these, so that a second look-up cannot give
another (DNS rebinding). Redirects are not followed. Size and time have limits.
"""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from collections.abc import Callable, Iterable
from urllib.parse import quote, urlsplit

import h11

from clipcls import __version__
from clipcls.errors import ImageError

_PORTS = {"http": 80, "https": 443}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_CHUNK = 64 << 10
_MOST_CONNECTIONS = 64
_SAFE = "/%:@!$&'()*+,;=~?"  # what need not be quoted in a path or a query


def is_public(address: str) -> bool:
    """Whether an IP address is public, also where an IPv6 address wraps an IPv4 one."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo and ip.teredo[1])
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner:
            return is_public(str(inner))
        if ip.is_site_local:
            return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


class Fetcher:
    """Gets images from named hosts.

    Args:
        hosts: `HOST`, `HOST:PORT` or `*.DOMAIN`, which stands for every name below it; without a
            port, those of http and https.
        max_bytes: the most that an image may hold.
        seconds: how long one image may take.
        is_public: which addresses may be connected to.
    """

    def __init__(
        self,
        hosts: Iterable[str],
        *,
        max_bytes: int,
        seconds: float,
        is_public: Callable[[str], bool] = is_public,
    ) -> None:
        self._hosts = frozenset(host.lower().rstrip(".") for host in hosts)
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._is_public = is_public
        self._room = asyncio.Semaphore(_MOST_CONNECTIONS)
        self._tls = ssl.create_default_context()

    async def fetch(self, url: str, took: Callable[[int], None] = lambda size: None) -> bytes:
        """The bytes behind an http or https URL, or `ImageError` with the reason.

        `took` is called with the size of each chunk before it is kept, and may refuse by raising.
        """
        try:
            async with self._room, asyncio.timeout(self._seconds):
                return await self._fetch(url, took)
        except TimeoutError as error:
            raise ImageError(url, f"took longer than {self._seconds:g} s to arrive") from error
        except ssl.SSLError as error:
            raise ImageError(url, "its host's TLS certificate cannot be verified") from error
        except (OSError, h11.RemoteProtocolError) as error:
            raise ImageError(url, "its host does not answer properly") from error

    async def _fetch(self, url: str, took: Callable[[int], None]) -> bytes:
        scheme, host, port, target = self._parse(url)
        address = await self._look_up(url, host, port)
        tls = self._tls if scheme == "https" else None
        name = host if tls else None
        reader, writer = await asyncio.open_connection(address, port, ssl=tls, server_hostname=name)
        try:
            connection = h11.Connection(h11.CLIENT)
            shown = f"[{host}]" if ":" in host else host
            headers = [
                ("Host", shown if port == _PORTS[scheme] else f"{shown}:{port}"),
                ("User-Agent", f"clipcls/{__version__}"),
                ("Accept", "image/*"),
                ("Accept-Encoding", "identity"),
                ("Connection", "close"),
            ]
            request = h11.Request(method="GET", target=target, headers=headers)
            writer.write(connection.send(request) or b"")
            writer.write(connection.send(h11.EndOfMessage()) or b"")
            return await self._read(url, connection, reader, took)
        finally:
            writer.close()

    async def _read(
        self,
        url: str,
        connection: h11.Connection,
        reader: asyncio.StreamReader,
        took: Callable[[int], None],
    ) -> bytes:
        """The body of the answer; h11 raises if the host closes the connection before its end."""
        content = bytearray()
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await reader.read(_CHUNK))
            elif isinstance(event, h11.Response):
                status = event.status_code
                if 300 <= status < 400:
                    why = f"redirects ({status}); give the address of the image itself"
                    raise ImageError(url, why)
                if status != 200:
                    raise ImageError(url, f"its host answers {status}")
            elif isinstance(event, h11.Data):
                if len(content) + len(event.data) > self._max_bytes:
                    raise ImageError(url, f"larger than {self._max_bytes:,} bytes")
                took(len(event.data))
                content += event.data
            elif isinstance(event, h11.EndOfMessage):
                return bytes(content)

    def _parse(self, url: str) -> tuple[str, str, int, str]:
        """Scheme, host, port and request target of a URL that may be fetched."""
        try:
            parts = urlsplit(url)
            host = (parts.hostname or "").rstrip(".")
            host = host if ":" in host else host.encode("idna").decode()
            port = parts.port or _PORTS[parts.scheme]
            if not host:
                raise ValueError("no host")
        except (ValueError, KeyError) as error:  # UnicodeError is a ValueError
            raise ImageError(url, "not an http or https URL") from error
        if parts.username is not None or parts.password is not None:
            raise ImageError(url, "contains a user name; URLs with passwords are not fetched")
        if not self._is_allowed(host, port, parts.scheme):
            raise ImageError(url, "its host is not allowed (--allow-url)")
        target = (parts.path or "/") + (parts.query and f"?{parts.query}")
        return parts.scheme, host, port, quote(target, _SAFE)

    def _is_allowed(self, host: str, port: int, scheme: str) -> bool:
        names = {host, *(f"*.{host[i + 1 :]}" for i, c in enumerate(host) if c == ".")}
        shown = {f"[{name}]" if ":" in name else name for name in names}
        with_port = {f"{name}:{port}" for name in shown}
        return bool(self._hosts & (with_port | shown if port == _PORTS[scheme] else with_port))

    async def _look_up(self, url: str, host: str, port: int) -> str:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, port, type=1)  # SOCK_STREAM
        except OSError as error:
            raise ImageError(url, "its host is unknown") from error
        addresses = [str(item[4][0]) for item in found]
        if not addresses or not all(map(self._is_public, addresses)):
            raise ImageError(url, "its host is not on the public internet")
        return addresses[0]
