"""`clipcls serve`."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clipcls.cli import groups
from clipcls.cli.console import Console
from clipcls.cli.groups import option
from clipcls.cli.label_settings import (
    AnsweredLabelSettings,
    join_questions,
    open_questions,
    split_questions,
)
from clipcls.cli.options import ModelSettings, quiet_option
from clipcls.cli.param_types import NumberRange
from clipcls.errors import require_extra

if TYPE_CHECKING:
    from clipcls.web.connections import Network

_TOKEN_VARIABLE = "CLIPCLS_TOKEN"


def _check_host(name: str) -> str:
    if not re.fullmatch(r"[\w.-]+|[0-9a-fA-F:.]+", name, re.ASCII):
        raise click.BadParameter(
            f"{name!r} is not a name alone; leave out scheme, port and path (app.example)"
        )
    return name


def _is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server at this address."""
    import ipaddress

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _parse_network(name: str) -> Network:
    import ipaddress

    try:
        return ipaddress.ip_network(name)
    except ValueError as error:
        raise click.BadParameter(
            f"{name!r} is not an IP address or network, such as 127.0.0.1 or 10.0.0.0/8"
        ) from error


def _parse_origin(name: str) -> str:
    if name in ("*", "null"):
        raise click.BadParameter(
            f"{name!r} would allow every web site; name each (https://app.example)"
        )
    origin = re.sub(r"^(http://.*):80$|^(https://.*):443$", r"\1\2", name.lower().removesuffix("/"))
    if not re.fullmatch(
        r"[a-z][a-z0-9+.-]*://(?:[\w.-]+|\[[0-9a-f:.]+\])(?::\d{1,5})?", origin, re.ASCII
    ):
        raise click.BadParameter(
            f"{name!r} is not an origin; write scheme, host and perhaps a port: https://app.example"
        )
    return origin


@dataclass(frozen=True)
class _Access(groups.Settings):
    section = "Access"

    host: str = option(default="127.0.0.1", metavar="ADDRESS", help="Address to listen on.")
    port: int = option(
        type=click.IntRange(0, 65535),
        default=8000,
        metavar="N",
        help="The port; 0 takes a free one.",
    )
    token_file: Path | None = option(
        help=f"Require the bearer token in this file; default: that in {_TOKEN_VARIABLE}."
    )
    insecure: bool = option(help="Accept requests from other machines without a token.")
    allow_host: tuple[str, ...] = option(
        metavar="NAME",
        type=_check_host,
        help="A host name of this server that requests may use, besides localhost.",
    )
    allow_origin: tuple[str, ...] = option(
        metavar="ORIGIN",
        type=_parse_origin,
        rare=True,
        help="Allow requests from scripts of another web site (CORS), e.g. https://app.example.",
    )
    allow_url: tuple[str, ...] = option(
        metavar="HOST",
        help="Fetch images by URL from HOST, HOST:PORT or *.DOMAIN; never from private addresses.",
    )
    trust_proxy: tuple[Network, ...] = option(
        metavar="ADDRESS",
        type=_parse_network,
        rare=True,
        help="Tell clients apart by the X-Forwarded-For of a proxy at this address or network.",
    )

    def read_token(self) -> str | None:
        """The bearer token; it is not an option, which every user of the machine could read."""
        token, where = os.environ.get(_TOKEN_VARIABLE), _TOKEN_VARIABLE
        if self.token_file is not None:
            token, where = "", str(self.token_file)
            with contextlib.suppress(UnicodeDecodeError):
                token = self.token_file.read_text().strip()
        if token is None:
            if self.insecure or _is_loopback(self.host):
                return None
            raise click.UsageError(
                f"--host {self.host} is open to other machines: give a token (--token-file, or "
                f"{_TOKEN_VARIABLE}), or --insecure"
            )
        if len(token) < 16 or not token.isascii() or not token.isprintable() or " " in token:
            raise click.UsageError(
                f"{where}: a token has 16 characters or more of ASCII and no spaces; "
                'make one by python -c "import secrets; print(secrets.token_urlsafe(32))"'
            )
        return token


def _limit(default: float, help: str, *, most: int | None = None) -> Any:
    kind = click.IntRange(1, most)
    return option(type=kind, default=default, metavar="N", rare=True, help=help)


@dataclass(frozen=True)
class _Load(groups.Settings):
    section = "Limits"

    max_images: int = _limit(32, "Images per request.")
    max_megabytes: int = _limit(64, "Megabytes per request.", most=4096)
    max_megapixels: int = _limit(
        50, "Megapixels per image; JPEGs are decoded no larger than the model needs.", most=178
    )
    max_labels: int = _limit(1000, "Labels per request, or texts to embed.")
    max_queue: int = _limit(64, "Images that may wait for an answer; more are refused with 503.")
    max_connections: int = _limit(
        128, "Connections per client; behind --trust-proxy, simultaneous requests."
    )
    timeout: float = option(
        type=NumberRange(0, 3600, min_open=True),
        default=30.0,
        metavar="S",
        rare=True,
        help="Seconds per request, upload included.",
    )
    max_batch: int = _limit(8, "Images per forward pass, from all requests together.")
    max_wait: float = option(
        type=NumberRange(0, 1000),
        default=2.0,
        metavar="MS",
        rare=True,
        help="Milliseconds that an image may wait for a batch while the model is idle.",
    )


@groups.command("serve")
@quiet_option
def command(
    console: Console,
    labels: AnsweredLabelSettings,
    access: _Access,
    load: _Load,
    model: ModelSettings,
) -> int:
    """Classify images over HTTP, with a page to try it on.

    POST images to /classify as a multipart form, or base64 as JSON; the records are those of
    `classify`, for one question or several. A request may bring labels, prompts and other settings.
    POST images and texts to /embed for their vectors. /openapi.json describes the API. Uploads stay
    in memory and are never written to disk. Needs the extra `serve`.

    \b
    Examples:
      clipcls serve --labels labels.txt
      clipcls serve --labels kind=kinds.txt --labels colour=colours.txt
      curl -F images=@cat.jpg -F images=@dog.jpg localhost:8000/classify
      curl -F images=@cat.jpg -F labels=cat -F labels=dog -F top=2 localhost:8000/classify
      CLIPCLS_TOKEN=... clipcls serve --labels labels.txt --host 0.0.0.0
    """
    questions = split_questions(labels)
    tagged = labels.find_tagged(questions)
    token = access.read_token()
    if load.max_images > load.max_queue:
        raise click.UsageError("--max-images is more than --max-queue has room for")
    with require_extra("serve", "serve"):
        from clipcls.web.connections import Bounds, run
        from clipcls.web.serve.app import make_app
        from clipcls.web.serve.fetch import Fetcher
        from clipcls.web.serve.schemas import Limits
        from clipcls.web.serve.service import Service

    max_bytes = load.max_megabytes << 20
    limits = Limits(
        bytes=max_bytes,
        pixels=load.max_megapixels * 1_000_000,
        images=load.max_images,
        labels=load.max_labels,
        texts=10 * load.max_labels,
        seconds=load.timeout,
        queue=load.max_queue,
        held=4 * max_bytes,
    )
    opened = open_questions(questions, model.make_arguments(), tagged)
    join_questions(opened)  # refuses several models
    service = Service(
        opened, limits=limits, max_batch=load.max_batch, max_wait=load.max_wait / 1000
    )
    fetcher = None
    if access.allow_url:
        # Half the time: a host that does not answer fails its image, not the request.
        fetcher = Fetcher(access.allow_url, max_bytes=max_bytes, seconds=load.timeout / 2)

    def ready(url: str) -> None:
        console.remark(f"{service.first.provenance_.model} answers at {url} (Ctrl-C stops it)")

    try:
        service.warm()
        app = make_app(
            service,
            fetcher=fetcher,
            token=token,
            hosts=(*access.allow_host, access.host),
            any_address=not _is_loopback(access.host),
            origins=access.allow_origin,
        )
        return run(
            app,
            ready=ready,
            host=access.host,
            port=access.port,
            grace=load.timeout + 1,
            bounds=Bounds(
                per_client=load.max_connections, seconds=load.timeout, proxies=access.trust_proxy
            ),
        )
    finally:
        service.close()
