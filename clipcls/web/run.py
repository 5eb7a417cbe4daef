"""An application served on an address of this machine, until a signal ends it."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from clipcls.errors import InputError, ServerError, install_command
from clipcls.web.local_server import App

if TYPE_CHECKING:
    from clipcls.web.connections import Bounds

__all__ = ["run"]


def run(
    app: App,
    *,
    ready: Callable[[str], None],
    host: str = "127.0.0.1",
    port: int = 0,
    grace: float = 5.0,
    bounds: Bounds | None = None,
) -> int:
    """Serves until SIGINT or SIGTERM; what was accepted by then is finished.

    A second signal ends it without waiting.

    Args:
        app: an ASGI application.
        ready: called with the URL once it answers.
        host: the address to listen on.
        port: the port; 0 takes a free one.
        grace: how long requests may take to finish after the signal, seconds.
        bounds: of its connections; None: the defaults.

    Returns:
        the exit status: 130 after SIGINT, else 0.

    Raises:
        ServerError: the address cannot be listened on.
        InputError: uvicorn is missing.
    """
    try:
        from clipcls.web.connections import BoundedServer, Bounds
    except ImportError as error:
        raise InputError(f"serving needs uvicorn: {install_command('serve')}") from error

    class Server(BoundedServer):
        interrupted = False

        def handle_exit(self, sig: int, frame: Any) -> None:
            # uvicorn's own raises the signal again at the end, which would show as a trace.
            import signal

            self.interrupted |= sig == signal.SIGINT
            self.force_exit = self.should_exit
            self.should_exit = True

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                ready(url)

    listening = _listen(host, port)
    name = f"[{host}]" if ":" in host else host
    url = f"http://{name}:{listening.getsockname()[1]}"
    server = Server(app, bounds or Bounds(), grace)
    with listening:
        server.run([listening])
    return 130 if server.interrupted else 0


def _listen(host: str, port: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listening = socket.socket(family, kind, protocol)
        try:
            if sys.platform != "win32":  # where it would let two programs share the port
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
        except OSError:
            listening.close()
            raise
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        cure = "choose another with --port, or 0 for any that is free" if port else "see --host"
        raise ServerError(f"{host}:{port}: cannot be listened on ({reason}); {cure}") from error
    return listening
