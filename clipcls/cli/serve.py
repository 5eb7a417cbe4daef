"""`clipcls serve`."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clipcls.cli import groups
from clipcls.cli.console import Console
from clipcls.cli.groups import option
from clipcls.cli.label_settings import CalibratedLabelSettings
from clipcls.cli.options import ModelSettings, quiet_option
from clipcls.cli.param_types import FILE, NumberRange
from clipcls.errors import require_extra

if TYPE_CHECKING:
    from clipcls.web.connections import Network
    from clipcls.web.serve.schemas import Limits

_TOKEN_VARIABLE = "CLIPCLS_TOKEN"
_MEGABYTE = 1 << 20


def _check_host(name: str) -> str:
    if not re.fullmatch(r"[\w.-]+|[0-9a-fA-F:.]+", name, re.ASCII):
        raise click.BadParameter(
            f"{name!r} is not a name alone; leave out scheme, port and path (app.example)"
        )
    return name


def _is_loopback(host: str) -> bool:
    """Whether a server at this host is reached from this machine alone."""
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
            f"{name!r} would let every web site ask; name each (https://app.example)"
        )
    origin = re.sub(r"^(http://.*):80$|^(https://.*):443$", r"\1\2", name.lower().removesuffix("/"))
    if not re.fullmatch(
        r"[a-z][a-z0-9+.-]*://(?:[\w.-]+|\[[0-9a-f:.]+\])(?::\d{1,5})?", origin, re.ASCII
    ):
        raise click.BadParameter(
            f"{name!r} is not an origin; write scheme, host and perhaps a port: https://app.example"
        )
    return origin


def _each(parse: Callable[[str], Any]) -> Any:
    return lambda _context, _param, values: tuple(map(parse, values))


@dataclass(frozen=True)
class _Access(groups.Settings):
    section = "Who may ask"

    host: str = option(
        default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Where to listen."
    )
    port: int = option(
        type=click.IntRange(0, 65535),
        default=8000,
        show_default=True,
        metavar="N",
        help="The port; 0 takes a free one.",
    )
    token_file: Path | None = option(
        type=FILE,
        metavar="FILE",
        help=f"Ask for the bearer token in this file; or in the variable {_TOKEN_VARIABLE}.",
    )
    insecure: bool = option(
        is_flag=True, help="Listen beyond this machine without a token: anyone may use it."
    )
    allow_host: tuple[str, ...] = option(
        multiple=True,
        metavar="NAME",
        callback=_each(_check_host),
        help="A name that requests may call this server by, besides localhost.",
    )
    allow_origin: tuple[str, ...] = option(
        multiple=True,
        metavar="ORIGIN",
        callback=_each(_parse_origin),
        help="Let scripts of another web site ask (CORS), such as https://app.example.",
    )
    allow_url: tuple[str, ...] = option(
        multiple=True,
        metavar="HOST",
        help="Take images by URL from HOST, HOST:PORT or *.DOMAIN; never from private addresses.",
    )
    trust_proxy: tuple[Network, ...] = option(
        multiple=True,
        metavar="ADDRESS",
        callback=_each(_parse_network),
        help="Tell clients apart by the X-Forwarded-For of a proxy at this address or network.",
    )

    def read_token(self) -> str | None:
        """The bearer token: not an option, which every user of the machine could read.

        Raises:
            click.UsageError: it is none, or missing where other machines may ask.
        """
        token, where = os.environ.get(_TOKEN_VARIABLE), _TOKEN_VARIABLE
        if self.token_file is not None:
            token, where = "", str(self.token_file)
            with contextlib.suppress(UnicodeDecodeError):
                token = self.token_file.read_text().strip()
        if token is None:
            if self.insecure or _is_loopback(self.host):
                return None
            raise click.UsageError(
                f"--host {self.host} lets other machines ask: give a token (--token-file, or "
                f"{_TOKEN_VARIABLE}), or say --insecure"
            )
        if len(token) < 16 or not token.isascii() or not token.isprintable() or " " in token:
            raise click.UsageError(
                f"{where}: a token has 16 characters or more of ASCII and no spaces; "
                'make one by python -c "import secrets; print(secrets.token_urlsafe(32))"'
            )
        return token


def _limit(default: float, help: str, *, most: int | None = None) -> Any:
    kind = click.IntRange(1, most)
    return option(type=kind, default=default, show_default=True, metavar="N", help=help)


@dataclass(frozen=True)
class _Load(groups.Settings):
    section = "Limits"

    max_images: int = _limit(32, "Images per request.")
    max_megabytes: int = _limit(64, "Size of a request.", most=4096)
    max_megapixels: int = _limit(
        50, "Size of a decoded image; JPEGs decode no larger than the model needs.", most=178
    )
    max_labels: int = _limit(1000, "Labels per request.")
    max_queue: int = _limit(64, "Images accepted and not answered; more are refused with 503.")
    max_connections: int = _limit(
        128, "Connections per client; behind --trust-proxy, requests at a time."
    )
    timeout: float = option(
        type=NumberRange(0, 3600, min_open=True),
        default=30.0,
        show_default=True,
        metavar="S",
        help="How long a request may take, its upload included.",
    )
    max_batch: int = _limit(8, "Images per forward pass, from all requests together.")
    max_wait: float = option(
        type=NumberRange(0, 1000),
        default=2.0,
        show_default=True,
        metavar="MS",
        help="How long an image may wait for others while the model is idle.",
    )

    @property
    def max_bytes(self) -> int:
        return self.max_megabytes * _MEGABYTE

    def limits(self) -> Limits:
        """What one request may ask for, and all together."""
        from clipcls.web.serve.schemas import Limits

        return Limits(
            bytes=self.max_bytes,
            pixels=self.max_megapixels * 1_000_000,
            images=self.max_images,
            labels=self.max_labels,
            texts=10 * self.max_labels,
            seconds=self.timeout,
            queue=self.max_queue,
            held=4 * self.max_bytes,
        )


@groups.command(
    "serve", labels=CalibratedLabelSettings, access=_Access, load=_Load, model=ModelSettings
)
@quiet_option
def command(
    console: Console,
    labels: CalibratedLabelSettings,
    access: _Access,
    load: _Load,
    model: ModelSettings,
) -> int:
    """Classify images over HTTP, with a page to try it on.

    POST images to /classify as a multipart form, or base64 as JSON; the records are those of
    `classify`. Labels, prompts and other settings may come with each request. /openapi.json
    describes it all. Uploads are kept in memory and written nowhere. Needs the extra `serve`.

    \b
    Examples:
      clipcls serve --labels labels.txt
      curl -F images=@cat.jpg -F images=@dog.jpg localhost:8000/classify
      curl -F images=@cat.jpg -F labels=cat -F labels=dog -F top=2 localhost:8000/classify
      CLIPCLS_TOKEN=... clipcls serve --labels labels.txt --host 0.0.0.0
    """
    names = labels.read_unless_learnt()
    token = access.read_token()
    if load.max_images > load.max_queue:
        raise click.UsageError("--max-images is more than --max-queue has room for")
    with require_extra("serve", "serve"):
        from clipcls.web.connections import Bounds, run
        from clipcls.web.serve.app import make_app
        from clipcls.web.serve.fetch import Fetcher
        from clipcls.web.serve.service import Service

    fitted = labels.open_classifier(names, model.arguments(), labels.calibration)
    service = Service(
        fitted,
        limits=load.limits(),
        max_batch=load.max_batch,
        max_wait=load.max_wait / 1000,
    )
    fetcher = None
    if access.allow_url:
        # Half: a host that does not answer costs its image, not the request.
        fetcher = Fetcher(access.allow_url, max_bytes=load.max_bytes, seconds=load.timeout / 2)

    def ready(url: str) -> None:
        console.remark(f"{fitted.provenance_.model} answers at {url} (Ctrl-C stops it)")

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
