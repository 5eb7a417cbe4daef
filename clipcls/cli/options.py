"""The groups of options that several commands share, and what they name."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click
from click.core import ParameterSource

from clipcls.cli.completion import (
    complete_files,
    complete_models,
)
from clipcls.cli.console import Console, MaxErrors
from clipcls.cli.groups import Option, Settings, option
from clipcls.cli.param_types import FILE

if TYPE_CHECKING:
    from clipcls.cli.progress import Total
    from clipcls.data.file_kinds import LeftOut
    from clipcls.embeddings.cache import EmbeddingCache
    from clipcls.errors import ImageError
    from clipcls.models.backend import Backend, BackendName, Precision

__all__ = [
    "ModelChoice",
    "ModelSettings",
    "data_argument",
    "find_images",
    "inputs_argument",
    "json_option",
    "null_option",
    "progress_options",
    "quiet_option",
    "repeat_options",
    "results_argument",
    "root_option",
    "run_options",
]

Command = TypeVar("Command", bound=Callable[..., Any])
_PROGRESS, _MEMORY = "Progress and errors", "Cache and memory"

inputs_argument = click.argument(
    "inputs", nargs=-1, required=True, metavar="INPUT...", shell_complete=complete_files
)
data_argument = click.argument("data", metavar="DATA", shell_complete=complete_files)
results_argument = click.argument("results", metavar="RESULTS", shell_complete=complete_files)
null_option = click.option("-0", "--null", is_flag=True, help="Paths on stdin end with NUL.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
root_option = click.option(
    "--root",
    type=FILE,
    default=".",
    metavar="DIR",
    help="The folder that `classify` ran in; default: this one.",
)


def find_images(
    inputs: tuple[str, ...], null: bool, left_out: LeftOut | None
) -> tuple[Iterator[str | ImageError], Total]:
    """The images that the inputs name and, unless stdin lists them, how to count them.

    Counting goes through the folders once more: a list of a million paths takes more memory than
    all else together.

    Raises:
        InputError: there are none.
    """
    from clipcls.data import paths

    images = paths.find_images(inputs, stdin=sys.stdin.buffer, null=null, left_out=left_out)
    total = None if "-" in inputs else lambda: sum(1 for _ in paths.find_images(inputs))
    return itertools.chain([next(images)], images), total


# The model


@dataclass(frozen=True)
class ModelChoice(Settings):
    """The model and where it runs."""

    section = "Model"

    model: str = option(
        *("-m", "--model"),
        default="auto",
        show_default=True,
        metavar="NAME",
        shell_complete=complete_models,
        help="A name from `clipcls models`, ARCHITECTURE/TAG, hf-hub:ORG/REPO or local-dir:PATH; "
        "auto is base where its weights are available, else mini.",
    )
    checkpoint: Path | None = option(
        type=FILE, metavar="FILE", help="Weights for --model, where that is an architecture."
    )
    device: str | None = option(
        metavar="DEVICE", help="cpu, cuda, cuda:1 or mps; default: the best."
    )
    batch_size: int | None = option(
        section=_MEMORY,
        type=click.IntRange(1),
        metavar="N",
        help="Images encoded at a time; default: 32, on a GPU 256.",
    )

    def make_backend(self) -> Backend:
        """How the model is to run."""
        from clipcls.models.backend import Backend

        return Backend(device=self.device, batch_size=self.batch_size)


@dataclass(frozen=True)
class ModelSettings(ModelChoice):
    """The same, how the model runs, and the cache."""

    cache: Path | None = option(
        section=_MEMORY, type=FILE, metavar="FILE", help="Keep embeddings in this file."
    )
    no_cache: bool = option(
        section=_MEMORY, is_flag=True, help="Neither keep embeddings nor use kept ones."
    )
    precision: Precision | Literal["auto"] = option(
        type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
        default="auto",
        show_default=True,
        help="auto computes in fp16 or bf16 where the hardware is made for it and the model's "
        "vectors stay the same, else in fp32.",
    )
    backend: BackendName = option(
        type=click.Choice(["auto", "openvino", "torch"]),
        default="auto",
        show_default=True,
        help="What runs the model on a CPU; auto is openvino where it supports the model.",
    )
    workers: int | None = option(
        section=_MEMORY,
        type=click.IntRange(1),
        metavar="N",
        help="Threads that decode images; default: by CPU.",
    )

    def make_backend(self) -> Backend:
        """How the model is to run."""
        return replace(
            super().make_backend(),
            name=self.backend,
            precision=self.precision,
            workers=self.workers,
        )

    def open_cache(self) -> EmbeddingCache | None:
        """The cache that the options name; None with `--no-cache`."""
        from clipcls.embeddings.cache import open_cache

        return open_cache(self.cache or not self.no_cache)

    def arguments(self) -> dict[str, Any]:
        """What `ZeroShotClassifier` and its like take, the open cache included."""
        return {
            "model": self.model,
            "checkpoint": self.checkpoint,
            "backend": self.make_backend(),
            "cache": self.open_cache() or False,
        }


def _limit_pixels(_: click.Context, __: click.Parameter, megapixels: int | None) -> None:
    if megapixels is not None:
        from PIL import Image  # its own setting, in a process of our own

        Image.MAX_IMAGE_PIXELS = megapixels * 500_000  # refused above twice this


max_megapixels_option = click.option(
    "--max-megapixels",
    cls=Option,
    section=_MEMORY,
    type=click.IntRange(1),
    metavar="N",
    expose_value=False,
    callback=_limit_pixels,
    help="Refuse images that decode to more megapixels; default: 179. A megapixel takes up "
    "to 4 MB of memory, for each image that is being decoded. JPEGs are decoded no larger than the "
    "model needs.",
)


# Progress and errors


def _on_console(attribute: str, parse: Callable[[Any], Any] = lambda value: value) -> Any:
    """A callback that sets an attribute of the console."""

    def keep(context: click.Context, _: click.Parameter, value: Any) -> None:
        if isinstance(context.obj, Console):  # not while a shell completes the command
            setattr(context.obj, attribute, parse(value))

    return keep


def _parse_max_errors(value: str) -> MaxErrors:
    found = re.fullmatch(r"([0-9]+)|([0-9]+(?:\.[0-9]+)?) ?%", value.strip())
    if found is None or float(found[2] or 0) > 100:
        raise click.BadParameter(f"{value}: write a number of images, or a share of them like 5%")
    return MaxErrors(float(found[1] or found[2]), is_percent=found[1] is None)


quiet_option = click.option(
    *("-q", "--quiet"),
    cls=Option,
    section=_PROGRESS,
    is_flag=True,
    expose_value=False,
    callback=_on_console("quiet"),
    help="No progress and no summary.",
)
_progress_option = click.option(
    "--progress",
    cls=Option,
    section=_PROGRESS,
    type=click.Choice(["auto", "bar", "log", "none"]),
    default="auto",
    show_default=True,
    expose_value=False,
    callback=_on_console("style"),
    help="auto is a bar on a terminal, elsewhere log: one line per minute.",
)
max_errors_option = click.option(
    "--max-errors",
    cls=Option,
    section=_PROGRESS,
    metavar="N|P%",
    default="0",
    show_default=True,
    expose_value=False,
    callback=_on_console("max_errors", _parse_max_errors),
    help="Exit with 1 only if more than N images, or P % of them, cannot be read.",
)


def progress_options(command: Command) -> Command:
    """`--quiet` and `--progress`."""
    return quiet_option(_progress_option(command))


def run_options(command: Command) -> Command:
    """What commands share that read images: megapixels, progress and errors."""
    return max_megapixels_option(progress_options(max_errors_option(command)))


def repeat_options(*names: str) -> list[str]:
    """The options of the command in hand that came on the command line, to be given to another."""
    context = click.get_current_context()
    words = []
    for each in context.command.params:
        source = context.get_parameter_source(str(each.name))
        if each.name not in names or source != ParameterSource.COMMANDLINE:
            continue
        value = context.params[each.name]
        if isinstance(value, bool):
            words.append(each.opts[-1])
        else:
            for one in value if isinstance(value, list | tuple) else [value]:
                words += [each.opts[0], str(one)]
    return words
