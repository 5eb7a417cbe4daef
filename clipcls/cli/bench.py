"""`clipcls bench`."""

from __future__ import annotations

from pathlib import Path

import click

from clipcls.cli import groups
from clipcls.cli.completion import complete_files
from clipcls.cli.console import Console, show
from clipcls.cli.estimate import format_time
from clipcls.cli.options import ModelChoice
from clipcls.cli.param_types import NumberRange


@groups.command("bench")
@click.argument("inputs", nargs=-1, metavar="[INPUT...]", shell_complete=complete_files)
@click.option(
    "--seconds", type=NumberRange(0.01), default=1.0, help="About how long to time each step."
)
def command(console: Console, inputs: tuple[str, ...], seconds: float, model: ModelChoice) -> int:
    """Measure where the time goes on this machine.

    For a folder: about how long each model with a short name takes for its images. Models that are
    not on this machine are estimated from those that are.

    For photos: the time per image of each step, with the backends and precisions that the machine
    offers: decoding, resizing, encoding, matching, and all together. Without INPUT a JPEG of 12
    megapixels is made up. Stores no embeddings.
    """
    if any(Path(name).is_dir() for name in inputs):
        return _forecast(console, inputs, seconds, model)
    from clipcls.embeddings import benchmark
    from clipcls.models.registry import resolve

    source = resolve(model.model, model.checkpoint)
    show(f"{source.name} on {_describe_machine()}")
    click.echo(f"{'STEP':<48}{'ms':>9}{'images/s':>11}")
    backend = model.make_backend()
    for row in benchmark.measure(source, inputs, backend=backend, seconds=seconds):
        click.echo(f"{row.step:<48}{1000 * row.seconds:>9.2f}{1 / row.seconds:>11,.0f}")
    return 0


def _forecast(console: Console, inputs: tuple[str, ...], seconds: float, model: ModelChoice) -> int:
    """Print how long each model with a short name takes for the images, without a download."""
    from clipcls.data.paths import find_images
    from clipcls.embeddings.forecast import forecast
    from clipcls.errors import ImageError
    from clipcls.models.registry import resolve

    found = list(find_images(inputs))
    for error in (item for item in found if isinstance(item, ImageError)):
        console.say(f"skipped {error}")
    images = [
        str(getattr(each, "name", each)) for each in found if not isinstance(each, ImageError)
    ]
    named = model.model != "auto" or model.checkpoint
    source = resolve(model.model, model.checkpoint) if named else None
    rows = list(forecast(images, source, backend=model.make_backend(), seconds=seconds))
    show(f"{len(images):,} images on {_describe_machine()}")
    width = max(16, *(len(row.model) + 2 for row in rows))
    click.echo(f"{'MODEL':<{width}}{'TIME':>12}{'images/s':>11}")
    for row in rows:
        time = format_time(len(images) * row.seconds)
        note = "" if row.is_measured else "  (estimated)"
        click.echo(f"{row.model:<{width}}{time:>12}{1 / row.seconds:>11,.1f}{note}")
    return 0


def _describe_machine() -> str:
    """The processor, the number of cores, and the versions that matter."""
    import os

    from clipcls.models.architectures import installed_versions
    from clipcls.models.openvino import cpu_name

    packages = installed_versions("torch", "openvino", "open_clip_torch")
    versions = map(" ".join, packages.items())
    return f"{cpu_name()}, {os.cpu_count()} cores; {', '.join(versions)}"
