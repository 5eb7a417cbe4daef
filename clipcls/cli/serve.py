"""`clipcls serve`."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clipcls.cli.console import Console
from clipcls.cli.options import (
    FILE,
    NumberRange,
    cache_of,
    cache_options,
    calibration_option,
    classifier_of,
    classifier_option,
    label_options,
    labels_of,
    model_options,
)

if TYPE_CHECKING:
    from clipcls.web.connections import Network

_TOKEN_VARIABLE = "CLIPCLS_TOKEN"
_MEGABYTE = 1 << 20
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([\w.-]+|\[[0-9a-f:.]+\])(:\d{1,5})?", re.ASCII)


@click.command("serve")
@label_options
@classifier_option
@calibration_option
@click.option(
    "--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Where to listen."
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="The port; 0 takes a free one.",
)
@click.option(
    "--token-file",
    type=FILE,
    help=f"Ask for the bearer token in this file; or in the variable {_TOKEN_VARIABLE}.",
)
@click.option(
    "--insecure",
    is_flag=True,
    help="Listen beyond this machine without a token: whoever reaches the port may use it.",
)
@click.option(
    "--allow-host",
    "hosts",
    multiple=True,
    metavar="NAME",
    callback=lambda _, __, names: [_checked_host(name) for name in names],
    help="A name that requests may call this server by, besides localhost.",
)
@click.option(
    "--allow-origin",
    "origins",
    multiple=True,
    metavar="ORIGIN",
    callback=lambda _, __, names: [_checked_origin(name) for name in names],
    help="Let scripts of another web site ask (CORS), such as https://app.example.",
)
@click.option(
    "--allow-url",
    "url_hosts",
    multiple=True,
    metavar="HOST",
    help="Take images by URL from HOST, HOST:PORT or *.DOMAIN; never from private addresses.",
)
@click.option(
    "--trust-proxy",
    "proxies",
    multiple=True,
    metavar="ADDRESS",
    callback=lambda _, __, names: tuple(_checked_network(name) for name in names),
    help="Tell clients apart by the X-Forwarded-For of a proxy at this address or network.",
)
@click.option(
    "--max-connections",
    type=click.IntRange(1),
    default=128,
    show_default=True,
    help="Connections per client; behind --trust-proxy, requests at a time.",
)
@click.option(
    "--max-batch",
    type=click.IntRange(1),
    default=8,
    show_default=True,
    help="Images a forward pass, from all requests together.",
)
@click.option(
    "--max-wait",
    type=NumberRange(0, 1000),
    default=2.0,
    show_default=True,
    metavar="MS",
    help="How long an image may wait for others while the model is idle.",
)
@click.option(
    "--max-queue",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    help="Images accepted and not answered; what comes beyond is answered with 503.",
)
@click.option(
    "--max-images",
    type=click.IntRange(1),
    default=32,
    show_default=True,
    help="Images in a request.",
)
@click.option(
    "--max-megabytes",
    type=click.IntRange(1, 4096),
    default=64,
    show_default=True,
    help="Size of a request.",
)
@click.option(
    "--max-megapixels",
    type=click.IntRange(1, 178),
    default=50,
    show_default=True,
    help="Size of a decoded image; JPEGs are decoded no larger than the model needs.",
)
@click.option(
    "--max-labels",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    help="Labels in a request.",
)
@click.option(
    "--timeout",
    type=NumberRange(0, 3600, min_open=True),
    default=30.0,
    show_default=True,
    metavar="S",
    help="How long a request may take, its upload included.",
)
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but warnings.")
@model_options
@cache_options
@click.pass_obj
def command(
    console: Console,
    /,
    label_source: str | None,
    label_list: tuple[str, ...],
    prompts: str | list[str],
    reject: bool,
    level: str | None,
    classifier: Path | None,
    calibration: Path | None,
    host: str,
    port: int,
    token_file: Path | None,
    insecure: bool,
    hosts: list[str],
    origins: list[str],
    url_hosts: tuple[str, ...],
    proxies: tuple[Network, ...],
    max_connections: int,
    max_batch: int,
    max_wait: float,
    max_queue: int,
    max_images: int,
    max_megabytes: int,
    max_megapixels: int,
    max_labels: int,
    timeout: float,
    quiet: bool,
    cache_file: Path | None,
    no_cache: bool,
    **model_settings: Any,
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
    labels = labels_of(label_source, label_list, classifier)
    token = _token(token_file)
    from clipcls.errors import InputError, install_command
    from clipcls.web.local_server import is_loopback
    from clipcls.web.run import run

    if not (token or insecure or is_loopback(host)):
        raise click.UsageError(
            f"--host {host} lets other machines ask: give a token (--token-file, or "
            f"{_TOKEN_VARIABLE}), or say --insecure"
        )
    if max_images > max_queue:
        raise click.UsageError("--max-images is more than --max-queue has room for")
    try:
        from clipcls.web.connections import Bounds
        from clipcls.web.serve.app import make_app
        from clipcls.web.serve.metrics import Counts
    except ImportError as error:
        raise InputError(
            f"serve needs {error.name or 'more packages'}: {install_command('serve')}"
        ) from error
    from clipcls.web.serve.fetch import Fetcher
    from clipcls.web.serve.questions import Limits
    from clipcls.web.serve.service import Service

    console.quiet = quiet
    max_bytes = max_megabytes * _MEGABYTE
    limits = Limits(
        bytes=max_bytes,
        pixels=max_megapixels * 1_000_000,
        images=max_images,
        labels=max_labels,
        texts=10 * max_labels,
        seconds=timeout,
        queue=max_queue,
        held=4 * max_bytes,
    )
    fitted = classifier_of(
        classifier,
        labels=labels,
        prompts=prompts,
        cache=cache_of(cache_file, no_cache) or False,
        reject=reject,
        level=level,
        calibration=calibration,
        **model_settings,
    )
    counts = Counts()
    service = Service(
        fitted,
        limits=limits,
        max_batch=max_batch,
        max_wait=max_wait / 1000,
        figures=counts,
    )

    def ready(url: str) -> None:
        if not quiet:
            console.say(f"{fitted.made_by_.model} answers at {url} (Ctrl-C stops it)")

    try:
        service.warm()
        # Half: a host that does not answer costs its image, not the request.
        fetcher = (
            Fetcher(url_hosts, max_bytes=max_bytes, seconds=timeout / 2) if url_hosts else None
        )
        app = make_app(
            service,
            counts,
            fetcher=fetcher,
            token=token,
            hosts=(*hosts, host),
            any_address=not is_loopback(host),
            origins=origins,
        )
        bounds = Bounds(per_client=max_connections, seconds=timeout, proxies=proxies)
        return run(app, ready=ready, host=host, port=port, grace=timeout + 1, bounds=bounds)
    finally:
        service.close()


def _checked_host(name: str) -> str:
    if not re.fullmatch(r"[\w.-]+|[0-9a-fA-F:.]+", name, re.ASCII):
        raise click.BadParameter(
            f"{name!r} is not a name alone; leave out scheme, port and path (app.example)"
        )
    return name


def _checked_network(name: str) -> Network:
    import ipaddress

    try:
        return ipaddress.ip_network(name)
    except ValueError as error:
        raise click.BadParameter(
            f"{name!r} is not an IP address or network, such as 127.0.0.1 or 10.0.0.0/8"
        ) from error


def _checked_origin(name: str) -> str:
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


def _token(file: Path | None) -> str | None:
    """The bearer token: not an option, which every user of the machine could read."""
    if file is None:
        token, where = os.environ.get(_TOKEN_VARIABLE), _TOKEN_VARIABLE
        if token is None:
            return None
    else:
        try:
            token, where = file.read_text().strip(), str(file)
        except UnicodeDecodeError:
            token, where = "", str(file)
    if len(token) < 16 or not token.isascii() or not token.isprintable() or " " in token:
        raise click.UsageError(
            f"{where}: a token has 16 characters or more of ASCII and no spaces; "
            'make one by python -c "import secrets; print(secrets.token_urlsafe(32))"'
        )
    return token
