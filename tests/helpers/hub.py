"""A stand-in for the Hugging Face hub on loopback, and asking it from this process."""

from __future__ import annotations

import contextlib
import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


class FakeHub:
    """Serves a folder of repositories the way huggingface_hub asks for them."""

    def __init__(self, repos: Path) -> None:
        self.repos = repos
        self.requests: list[str] = []
        self.cut = 0  # so many downloads break off in the middle
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                hub.requests.append(f"{self.command} {self.path}")
                repo, _, file = self.path.strip("/").partition("/resolve/main/")
                path = repos / repo / file
                if not file:
                    self.answer(200)
                elif repo.startswith("gated/"):
                    self.answer(403, {"X-Error-Code": "GatedRepo"})
                elif not (repos / repo).is_dir():
                    self.answer(401, {"X-Error-Code": "RepoNotFound"})
                elif not path.is_file():
                    self.answer(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": "c" * 40})
                else:
                    self.send(path.read_bytes(), f"{path.name}-{path.stat().st_size}")

            do_GET = do_HEAD  # noqa: N815

            def send(self, data: bytes, etag: str) -> None:
                headers = {"X-Repo-Commit": "c" * 40, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
                start = 0
                if wanted := self.headers.get("Range"):
                    start = int(wanted.removeprefix("bytes=").split("-")[0])
                    headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
                data = data[start:]
                self.answer(206 if wanted else 200, {**headers, "Content-Length": str(len(data))})
                if self.command == "GET":
                    if hub.cut and len(data) > 10_000:
                        hub.cut -= 1
                        data = data[: len(data) // 2]
                        self.close_connection = True
                    with contextlib.suppress(OSError):
                        self.wfile.write(data)

            def answer(self, code: int, headers: dict[str, str] | None = None) -> None:
                self.send_response(code)
                for name, value in {"Content-Length": "0", **(headers or {})}.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()


@contextlib.contextmanager
def asking(HF_ENDPOINT: str = "", HF_HOME: str = "", HF_HUB_OFFLINE: str = "") -> Iterator[None]:
    """This process as one with these variables, which huggingface_hub reads at import."""
    from huggingface_hub import constants
    from huggingface_hub.utils._http import close_session

    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, HF_ENDPOINT)
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
            patch.delenv(name)
        patch.setattr(constants, "ENDPOINT", HF_ENDPOINT)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        patch.setattr(constants, "HF_HUB_CACHE", os.path.join(HF_HOME, "hub"))
        patch.setattr(constants, "HF_HUB_OFFLINE", bool(HF_HUB_OFFLINE))
        patch.setattr(constants, "HF_TOKEN_PATH", os.path.join(HF_HOME, "token"))
        close_session()
        yield
        close_session()
