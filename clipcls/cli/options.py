"""The groups of options that several commands share, and what they name."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click
from click.core import ParameterSource

from clipcls.cli.completion import complete_files, complete_models
from clipcls.cli.console import Console, MaxErrors
from clipcls.cli.groups import Option, Settings, option
from clipcls.cli.param_types import COUNT, FOLDER

if TYPE_CHECKING:
    from clipcls.data.dataset import Dataset
    from clipcls.embeddings.vectors_info import VectorsInfo
    from clipcls.models.backend import Backend, BackendName, Precision

Command = TypeVar("Command", bound=Callable[..., Any])
_MEMORY = "Cache and memory"

data_argument = click.argument("data", metavar="DATA", shell_complete=complete_files)
results_argument = click.argument("results", metavar="RESULTS", shell_complete=complete_files)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
question_option = click.option(
    "--question",
    metavar="NAME",
    help="Of several questions per image, take this one: its column or answers.",
)
root_option = click.option(
    "--root", type=FOLDER, default=".", metavar="DIR", help="The folder that `classify` ran in."
)


@dataclass(frozen=True)
class LabelledSettings(Settings):
    """The columns of a table of labelled images."""

    multi_label = False  # an option of the subclass

    question: str | None = option(
        *("--question", "--label-column"),
        metavar="NAME",
        help="The column with the labels of a table; default: label. A csv may have one per "
        "question.",
    )
    image_column: str | None = option(
        metavar="NAME",
        help="The column with the images of a table; default: path, or the only one that is called "
        "image, url, filename or the like.",
    )

    def read(self, data: str, question: str) -> Dataset:
        """The images with their labels for a question, or without one those of `--question`."""
        from clipcls.classification.labelled import read_labelled

        return read_labelled(
            data,
            unlabelled=self.multi_label,
            question=question or self.question,
            image_column=self.image_column,
        )


@dataclass(frozen=True)
class MultiLabelledSettings(LabelledSettings):
    """The columns of a table of labelled images, with one label per image or several."""

    multi_label: bool = option(
        help="For `clipcls tag`: any number of labels per image, each scored on its own.",
    )


# The model


@dataclass(frozen=True)
class ModelChoice(Settings):
    """The model and where it runs."""

    section = "Model"

    model: str = option(
        *("-m", "--model"),
        default="auto",
        metavar="NAME",
        shell_complete=complete_models,
        help="A name from `clipcls models`, ARCHITECTURE/TAG, ORG/REPO of the hub or a folder; "
        "auto is base if its weights are available, else mini.",
    )
    checkpoint: Path | None = option(
        rare=True, help="Weights for --model, if that is an architecture."
    )
    device: str | None = option(
        metavar="DEVICE", help="cpu, cuda, cuda:1 or mps; default: the best."
    )
    batch_size: int | None = option(
        section=_MEMORY,
        type=COUNT,
        rare=True,
        help="Images encoded at a time; default: 32, on a GPU 256.",
    )

    def make_backend(self) -> Backend:
        """How to run the model."""
        from clipcls.models.backend import Backend

        return Backend(device=self.device, batch_size=self.batch_size)


@dataclass(frozen=True)
class ModelSettings(ModelChoice):
    """The model, how it runs, and the cache."""

    cache: Path | None = option(section=_MEMORY, rare=True, help="Store embeddings in this file.")
    no_cache: bool = option(section=_MEMORY, help="Neither store embeddings nor use stored ones.")
    precision: Precision | Literal["auto"] = option(
        type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
        default="auto",
        rare=True,
        help="auto is fp16 or bf16 if the hardware is fast at it and the model's vectors stay the "
        "same, else fp32.",
    )
    backend: BackendName = option(
        type=click.Choice(["auto", "openvino", "torch"]),
        default="auto",
        rare=True,
        help="Library that runs the model on a CPU; auto is openvino if it supports the model.",
    )
    workers: int | None = option(
        section=_MEMORY,
        type=COUNT,
        rare=True,
        help="Threads that decode images; default: by the number of CPUs.",
    )

    def make_backend(self) -> Backend:
        """How to run the model."""
        chosen = super().make_backend()
        return replace(chosen, name=self.backend, precision=self.precision, workers=self.workers)

    def make_arguments(
        self, inputs: Sequence[str] = (), info: VectorsInfo | None = None
    ) -> dict[str, Any]:
        """The arguments that classifiers share, with the cache opened.

        If all `inputs` hold vectors, or with an `info`, "auto" is their model and precision.
        """
        from clipcls.data.file_kinds import is_vectors
        from clipcls.embeddings.cache import open_cache

        model, backend = self.model, self.make_backend()
        if inputs and all(map(is_vectors, inputs)):
            info = _find_info(inputs)
        if info:
            if model == "auto":
                model = info.model
            if backend.precision == "auto":  # else the image tower is tried in others
                backend = replace(backend, precision="bf16" if info.precision == "bf16" else "fp32")
        return {
            "model": model,
            "checkpoint": self.checkpoint,
            "backend": backend,
            "cache": open_cache(self.cache or not self.no_cache) or False,
        }


def _find_info(vectors: Sequence[str]) -> VectorsInfo:
    """The info of the first file that can be read."""
    from clipcls.embeddings.vector_files import open_vectors
    from clipcls.errors import InputError

    first: InputError | None = None
    for name in vectors:
        try:
            return open_vectors(name).info
        except InputError as error:
            first = first or error
    assert first
    raise first


# Progress, errors, memory


def _set_on_console(context: click.Context, param: click.Parameter, value: Any) -> None:
    if isinstance(context.obj, Console):  # not while a shell completes the command
        setattr(context.obj, str(param.name), value)


def _run_option(
    *names: str,
    section: str = "Progress and errors",
    callback: Callable[..., None] = _set_on_console,
    **attributes: Any,
) -> Callable[[Command], Command]:
    return click.option(
        *names, cls=Option, section=section, expose_value=False, callback=callback, **attributes
    )


def _parse_max_errors(value: str) -> MaxErrors:
    found = re.fullmatch(r"([0-9]+)|([0-9]+(?:\.[0-9]+)?) ?%", value.strip())
    if found is None or float(found[2] or 0) > 100:
        raise click.BadParameter(f"{value}: write a number of images, or a share of them like 5%")
    return MaxErrors(float(found[1] or found[2]), is_percent=found[1] is None)


def _limit_pixels(_: click.Context, __: click.Parameter, megapixels: int | None) -> None:
    if megapixels is not None:
        from PIL import Image  # its own setting, in a process of our own

        Image.MAX_IMAGE_PIXELS = megapixels * 500_000  # refused above twice this


quiet_option = _run_option("-q", "--quiet", is_flag=True, help="No progress and no summary.")
_style_option = _run_option(
    *("--progress", "style"),
    type=click.Choice(["auto", "bar", "log", "none"]),
    default="auto",
    rare=True,
    help="auto is a bar on a terminal, elsewhere log: one line per minute.",
)
_max_errors_option = _run_option(
    "--max-errors",
    type=_parse_max_errors,
    metavar="N|P%",
    default="0",
    rare=True,
    help="Exit with 1 only if more than N images, or P % of them, cannot be read.",
)
_max_megapixels_option = _run_option(
    "--max-megapixels",
    section=_MEMORY,
    callback=_limit_pixels,
    type=COUNT,
    rare=True,
    help="Refuse images that decode to more megapixels; default: 179. Each takes up to 4 MB of "
    "memory per image being decoded. JPEGs are decoded no larger than the model needs.",
)


def progress_options(command: Command) -> Command:
    """`--quiet` and `--progress`."""
    return quiet_option(_style_option(command))


def run_options(command: Command) -> Command:
    """The options that all commands that read images share: megapixels, progress and errors."""
    return _max_megapixels_option(progress_options(_max_errors_option(command)))


def repeat_options(*names: str) -> list[str]:
    """These options of the running command as typed, for another command line."""
    context = click.get_current_context()
    words = []
    for each in context.command.params:
        source = context.get_parameter_source(str(each.name))
        if each.name in names and source == ParameterSource.COMMANDLINE:
            value = context.params[each.name]
            if isinstance(value, Mapping):
                value = [f"{name}={file}" if name else file for name, file in value.items()]
            for one in value if isinstance(value, list | tuple) else [value]:
                words += [each.opts[0], *([] if one is True else [str(one)])]
    return words
