"""A download by huggingface_hub that is abandoned when it makes no progress."""

from __future__ import annotations

import atexit
import contextlib
import http
import importlib.util
import logging
import os
import socket
import sys
import threading
import time
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

from clipcls.errors import ModelUnavailableError

# A partial file counts as growing this long after another process wrote to it, since
# huggingface_hub writes 10 MB at a time.
_GROWING_SECONDS = 60.0

_POLL_SECONDS = 0.05
_THREAD = "clipcls-download"

_CURES = {
    401: "the token was refused: run `hf auth login`, or unset HF_TOKEN",
    403: "a firewall, a proxy or the token's permissions forbid it: ask for access, or name a "
    "mirror in HF_ENDPOINT",
    404: "check that HF_ENDPOINT names a hub",
    407: "put the proxy's user and password into HTTPS_PROXY, as http://USER:PASSWORD@HOST:PORT",
    429: "wait a few minutes, or raise the limit with a token (`hf auth login`, or HF_TOKEN)",
}
_NO_HUB = "check HF_ENDPOINT, and whether a proxy or a login page answers in its place"


def hub_constants() -> Any:
    """huggingface_hub's settings; without a home directory its cache goes next to ours.

    Raises:
        ModelUnavailableError: one of its variables has an invalid value.
    """
    if "huggingface_hub" not in sys.modules:
        for name in [name for name, value in os.environ.items() if name[:3] == "HF_" and not value]:
            del os.environ[name]  # HF_HOME= would be the current folder, HF_ENDPOINT= no URL
        if os.path.expanduser("~") == "~" and not {"HF_HOME", "XDG_CACHE_HOME"} & os.environ.keys():
            from clipcls.files.folders import cache_folder

            os.environ["HF_HOME"] = str(cache_folder() / "huggingface")
    try:
        from huggingface_hub import constants
    except ValueError as error:
        raise ModelUnavailableError(
            f"an HF_ environment variable has an invalid value: {error}"
        ) from error
    return constants


class _StalledError(Exception):
    """A download made no progress, or cannot make any."""


class _AbandonedError(Exception):
    """Ends the thread of an abandoned download."""


class Download:
    """hf_hub_download in a thread, since a name look-up cannot be interrupted.

    Progress is a byte, or a step (a connection, an answer) for the first time: a retry is not. The
    thread is a daemon, so it never keeps the process alive; once abandoned it ends at its next
    step, which removes its partial file.

    Args:
        repo: `organisation/name` of a model repository.
        name: the file.
        shown: whether to show a bar if stderr is a terminal.
        stall: seconds without progress after which to give up; None: as huggingface_hub's
            variables say.
    """

    def __init__(self, repo: str, name: str, shown: bool, stall: float | None) -> None:
        self._repo, self._name, self._shown, self._stall = repo, name, shown, stall
        self._thread = threading.Thread(target=self._run, name=f"{_THREAD} {repo}", daemon=True)
        self._outcome: Future[str] = Future()
        self._client: Any = None
        self._abandoned = False
        self._unreachable = False
        self._steps: set[tuple[str, ...]] = set()  # each connection and answer so far
        self._request = ("HEAD", "")
        self._stream: Any = None
        self._bodies: list[Any] = []
        self._bars: list[Any] = []  # to be closed if the download is abandoned
        self._shown_bytes = 0.0  # by the bars: Xet's do not go through the HTTP client
        self._by_xet = False
        self._located = False  # the metadata has arrived
        self._downloads = False  # and the file itself has been requested
        self._status: int | None = None
        self._trouble = ""

    def result(self) -> Path:
        """Path of the downloaded file.

        Raises:
            _StalledError: no progress was made in time.
            Exception: as hf_hub_download raises it.
        """
        import huggingface_hub.file_download  # noqa: F401  # creates the last of the loggers
        from huggingface_hub.utils import get_session  # type: ignore[attr-defined]

        for name in [n for n in logging.root.manager.loggerDict if n.startswith("huggingface_hub")]:
            logging.getLogger(name).addFilter(_is_unrelated)  # each retry is a warning
        self._watch(get_session())
        self._thread.start()
        progress, since = self._progress(), time.monotonic()
        try:
            while not wait([self._outcome], _POLL_SECONDS).done:
                self._watch(get_session())  # huggingface_hub takes a new one after some failures
                if self._is_elsewhere() or progress != self._progress():
                    progress, since = self._progress(), time.monotonic()
                hopeless = self._unreachable and self._stall is not None
                if hopeless or time.monotonic() - since > self._patience():
                    raise _StalledError
        except BaseException:
            self._abandon()
            raise
        return Path(self._outcome.result())

    def explain(self, error: Exception) -> tuple[str | None, str]:
        """Names the server that failed (None: this machine) and the cure."""
        from huggingface_hub import errors

        cause: BaseException = error
        if isinstance(error, errors.LocalEntryNotFoundError):
            cause = error.__cause__ or error
        kind, server = type(cause).__name__, self._server()
        # With any other cause, the status is that of an earlier request.
        is_answer = isinstance(cause, _StalledError | errors.HfHubHTTPError)
        status, text = self._status if is_answer else None, str(cause).strip().split("\n")[0]
        if kind == "ProxyError" and text[:3].isdigit():
            server, status = "the proxy", int(text[:3])
        if status:
            phrase = http.HTTPStatus(status).phrase if status in set(http.HTTPStatus) else "unknown"
            cure = _CURES.get(status, "try again later, or name a mirror in HF_ENDPOINT")
            return f"{server} answered HTTP {status} ({phrase})", cure
        if isinstance(cause, errors.FileMetadataError) or kind == "TooManyRedirects":
            return f"{server} did not answer as a hub does", _NO_HUB
        if text.startswith("Consistency check failed"):
            return f"{server} sent a file of the wrong size", _NO_HUB
        if isinstance(cause, UnicodeError):
            return None, "cannot be downloaded: HF_TOKEN contains characters that no token has"
        if isinstance(cause, ImportError):
            return None, f"cannot be downloaded: {text}"
        certificates = os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR")
        if isinstance(cause, OSError) and cause.errno is not None:
            if cause.filename is None and certificates:
                return None, (
                    "cannot be downloaded: the certificates named in SSL_CERT_FILE or SSL_CERT_DIR "
                    f"({certificates}) cannot be read ({cause.strerror})"
                )
            return None, (
                f"cannot be stored ({cause.strerror}: {cause.filename}); set HF_HOME to a writable "
                "folder on a disk with enough space"
            )
        if isinstance(cause, _StalledError) and not self._unreachable:
            trouble = f" ({self._trouble})" if self._trouble else ""
            if self._by_xet and self._downloads:
                trouble = " (HF_HUB_DISABLE_XET=1 downloads without Xet)"
            return f"{server} made no progress for {self._patience():g} s{trouble}", self._advise()
        reason = self._trouble or text or kind
        if self._received():
            return f"{server} broke off ({reason})", "run the command again"
        if "CERTIFICATE_VERIFY_FAILED" in reason:
            return f"{server} could not be trusted ({reason})", (
                "name the file with your network's certificates in SSL_CERT_FILE"
            )
        return f"{server} could not be reached ({reason})", self._advise()

    def _advise(self) -> str:
        """The cure if no answer came."""
        names = ("http_proxy", "https_proxy", "all_proxy")
        proxies = sorted(k for k, value in os.environ.items() if k.lower() in names and value)
        proxy = "set HTTPS_PROXY if the network needs a proxy"
        if proxies:
            proxy = f"check the proxy in {', '.join(proxies)}"
        longer = "name the model (as in --model base)"
        if self._stall is None:
            longer = "set HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT (in seconds)"
        return (
            f"{proxy}, name a mirror in HF_ENDPOINT, or {longer} to wait longer; without a "
            "network, copy the hub's cache here and set HF_HUB_OFFLINE=1"
        )

    def _run(self) -> None:
        from huggingface_hub import hf_hub_download

        try:
            bar = _make_bar_class(self, self._shown)
            path = hf_hub_download(self._repo, self._name, tqdm_class=bar)
            self._outcome.set_result(path)
        except BaseException as error:
            self._outcome.set_exception(error)
        finally:
            for hooks, hook in (("request", self._on_request), ("response", self._on_response)):
                with contextlib.suppress(ValueError):
                    self._client.event_hooks[hooks].remove(hook)

    def _server(self) -> str:
        """The server of the last request."""
        return "/".join(self._request[1].split("/")[:3]) or str(hub_constants().ENDPOINT)

    def _patience(self) -> float:
        """Seconds that may pass without progress now."""
        constants = hub_constants()
        if self._stall is not None:
            return self._stall
        if not self._downloads:
            return float(constants.HF_HUB_ETAG_TIMEOUT)
        # To keep what was received, wait for huggingface_hub's own six attempts.
        attempts = 6 if self._received() else 1
        return float(attempts * constants.HF_HUB_DOWNLOAD_TIMEOUT)

    def _progress(self) -> tuple[int, float]:
        """The number of steps and bytes so far; a retry is no step."""
        return len(self._steps), self._received()

    def _received(self) -> float:
        """A number that grows with the bytes that arrive."""
        return self._shown_bytes + sum(int(body.num_bytes_downloaded) for body in self._bodies)

    def _is_elsewhere(self) -> bool:
        """Whether another process is downloading from this repository and holds the lock."""
        if not self._located or self._downloads:
            return False
        folder = Path(hub_constants().HF_HUB_CACHE) / f"models--{self._repo.replace('/', '--')}"
        with contextlib.suppress(OSError):
            ages = (time.time() - p.stat().st_mtime for p in folder.glob("blobs/*.incomplete"))
            return any(abs(age) < _GROWING_SECONDS for age in ages)
        return False

    def _watch(self, client: Any) -> None:
        if client is not self._client:
            self._client = client
            client.event_hooks["request"].append(self._on_request)
            client.event_hooks["response"].append(self._on_response)

    def _abandon(self) -> None:
        self._abandoned = True
        for bar in self._bars:
            bar.close()
        with contextlib.suppress(Exception):  # wakes the thread, which removes its partial file
            self._stream.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        if self._by_xet and self._downloads:
            with contextlib.suppress(Exception):
                sys.modules["huggingface_hub.utils._xet"].abort_xet_session()
        if self._downloads:
            atexit.register(self._thread.join, 2)

    # Called in the download's thread (or in one of Xet's).

    def step(self, *step: str) -> None:
        """Notes a step; ends the thread if the download was abandoned."""
        if self._abandoned:
            raise _AbandonedError
        self._steps.add(step)

    def show(self, count: float) -> None:
        """Notes bytes that a bar shows."""
        self.step("bytes")
        self._shown_bytes += count

    def add_bar(self, bar: Any) -> None:
        """Takes a bar: the download itself has begun."""
        self._downloads = True
        self._bars.append(bar)
        self.step("bar", str(len(self._bars)))

    def _on_request(self, request: Any) -> None:
        if threading.current_thread() is not self._thread:
            return
        self.step(request.method, str(request.url))
        if self._request != (request.method, str(request.url)):  # not a retry
            self._request = (request.method, str(request.url))
            self._status, self._trouble = None, ""
        self._downloads |= self._located and request.method == "GET"
        request.extensions.setdefault("trace", self._on_trace)

    def _on_trace(self, name: str, info: dict[str, Any]) -> None:
        if name.endswith(".failed"):
            if isinstance(error := info["exception"], Exception):
                self._status, self._trouble = None, str(error) or type(error).__name__
            self._unreachable |= _connects(name)
        if name.endswith(".complete") and "close" not in name:
            self._unreachable &= not _connects(name)
            self.step(self._server(), name)
            if hasattr(info.get("return_value"), "get_extra_info"):
                self._stream = info["return_value"]

    def _on_response(self, response: Any) -> None:
        if threading.current_thread() is not self._thread:
            return
        if response.status_code >= 400:
            self._status = response.status_code
            return
        self._status, self._trouble = None, ""
        self._stream = response.extensions.get("network_stream", self._stream)
        self.step(*self._request, "answer")
        if response.request.method == "HEAD":
            self._located = True
            has_xet = not hub_constants().HF_HUB_DISABLE_XET and importlib.util.find_spec("hf_xet")
            self._by_xet = bool(has_xet) and "x-xet-hash" in response.headers
        elif self._downloads and not self._by_xet:
            self._bodies.append(response)


def _is_unrelated(record: logging.LogRecord) -> bool:
    """Whether a record comes from elsewhere than a download's thread."""
    return not str(record.threadName).startswith(_THREAD)


def _connects(name: str) -> bool:
    """Whether an event of httpcore's `trace` belongs to making a connection."""
    return any(part in name for part in ("connect_tcp", "start_tls", "socks5"))


def _make_bar_class(download: Download, shown: bool) -> type:
    """A subclass of huggingface_hub's bars (shown on terminals only) that reports progress."""
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

    class Bar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            if not shown:
                kwargs["disable"] = True
            super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
            download.add_bar(self)

        def update(self, n: float | None = 1) -> bool | None:
            download.show(n or 0)
            return super().update(n)

    return Bar
