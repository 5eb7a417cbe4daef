"""`clipcls bench`."""

from __future__ import annotations

import click

from clipcls.cli import groups
from clipcls.cli.completion import complete_files
from clipcls.cli.console import Console, show
from clipcls.cli.options import ModelChoice
from clipcls.cli.param_types import NumberRange


@groups.command("bench")
@click.argument("photos", nargs=-1, metavar="[PHOTO...]", shell_complete=complete_files)
@click.option(
    "--seconds",
    type=NumberRange(0.01),
    default=1.0,
    help="About how long to time each step.",
)
def command(_console: Console, photos: tuple[str, ...], seconds: float, model: ModelChoice) -> int:
    """Measure where the time goes on this machine.

    Times each step for one image, with the backends and precisions that the machine offers:
    decoding, resizing, encoding, matching, and all together. Without PHOTO a JPEG of 12 megapixels
    is made up. Stores no embeddings.
    """
    from clipcls.embeddings import benchmark
    from clipcls.models.registry import resolve

    source = resolve(model.model, model.checkpoint)
    show(f"{source.name} on {_describe_machine()}")
    click.echo(f"{'STEP':<48}{'ms':>9}{'images/s':>11}")
    backend = model.make_backend()
    for row in benchmark.measure(source, photos, backend=backend, seconds=seconds):
        click.echo(f"{row.step:<48}{1000 * row.seconds:>9.2f}{1 / row.seconds:>11,.0f}")
    return 0


def _describe_machine() -> str:
    """The processor, the number of cores, and the versions that matter."""
    import contextlib
    import importlib.metadata
    import os

    from clipcls.models.openvino import cpu_name

    versions = []
    for package in ("torch", "openvino", "open_clip_torch"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{package} {importlib.metadata.version(package)}")
    return f"{cpu_name()}, {os.cpu_count()} cores; {', '.join(versions)}"
