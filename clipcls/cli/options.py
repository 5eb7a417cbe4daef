"""Options that several commands share."""

from __future__ import annotations

import glob
import itertools
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from clipcls.classifier import ZeroShotClassifier
    from clipcls.cli.console import Console
    from clipcls.encoder import Encoder
    from clipcls.errors import ImageError
    from clipcls.labelled import SetAside
    from clipcls.store import Store

__all__ = [
    "NEW_FOLDER",
    "NumberRange",
    "bench_options",
    "calibration_option",
    "classifier_of",
    "classifier_option",
    "filing_options",
    "form_of",
    "images_of",
    "input_options",
    "label_options",
    "labels_of",
    "model_options",
    "multi_option",
    "output_options",
    "refuse_inside",
    "refuse_over",
    "refuse_with_multi",
    "refuse_with_refine",
    "result_output_options",
    "say_what_was_set_aside",
    "store_of",
    "store_options",
    "watching",
]

_NOT_BESIDE_A_CLASSIFIER = {
    "label_source": "--labels",
    "label_list": "-l",
    "prompts": "--prompts",
    "none": "--none",
    "multi": "--multi",
}

Command = TypeVar("Command", bound=Callable[..., Any])
FILE = click.Path(path_type=Path)


class _NewFile(click.Path):
    """A file to be written when the work is done: whether its folder is there shows before."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if not path.absolute().parent.is_dir():
            self.fail(f"{path}: there is no folder {path.parent}; make it first", param, ctx)
        if path.is_dir():
            self.fail(f"{path}: is a folder; name a file", param, ctx)
        return path


class _NewFolder(click.Path):
    """A folder to write into, which is made where it is missing."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if path.exists() and not path.is_dir():
            self.fail(f"{path}: is not a folder", param, ctx)
        return path


NEW_FILE = _NewFile(path_type=Path)
NEW_FOLDER = _NewFolder(path_type=Path)


class NumberRange(click.FloatRange):
    """`click.FloatRange` without nan, which is below and above nothing."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """A number in the range."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail("nan is not a number", param, ctx)
        return number


def _together(*options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_MODEL = (
    click.option(
        "-m",
        "--model",
        default="auto",
        show_default=True,
        metavar="NAME",
        help="A name from `clipcls models`, ARCHITECTURE/TAG, hf-hub:ORG/REPO or local-dir:PATH; "
        "auto is base where it can be had, else mini.",
    ),
    click.option(
        "--checkpoint", type=FILE, help="Weights for --model, where that is an architecture."
    ),
    click.option("--device", metavar="DEVICE", help="cpu, cuda, cuda:1, mps; default: the best."),
    click.option(
        "--batch-size",
        type=click.IntRange(1),
        help="Images encoded at a time; default: 32, on a GPU 256.",
    ),
)

bench_options = _together(*_MODEL)

model_options = _together(
    *_MODEL,
    click.option(
        "--precision",
        type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
        default="auto",
        show_default=True,
        help="What the model computes in; auto is fp16 or bf16 on CUDA, bf16 on a CPU made for it, "
        "where the model's vectors stay the same, else fp32.",
    ),
    click.option(
        "--engine",
        type=click.Choice(["auto", "openvino", "torch"]),
        default="auto",
        show_default=True,
        help="What runs the model on a CPU; auto is openvino where it can be. Texts of models with "
        "a tokenizer of their own always run on torch.",
    ),
    click.option(
        "--workers", type=click.IntRange(1), help="Threads that decode images; default: by CPU."
    ),
)

label_options = _together(
    click.option(
        "--labels", "label_source", metavar="FILE|NAME", help="A label file or ready set."
    ),
    click.option("-l", "--label", "label_list", multiple=True, metavar="LABEL", help="One label."),
    click.option(
        "--prompts",
        default="photo",
        show_default=True,
        metavar="NAME|FILE",
        help="Template set, as in `clipcls prompts`.",
    ),
    click.option(
        "--none",
        is_flag=True,
        help="One more answer, `none of these`, for images nearer to generic texts.",
    ),
    click.option(
        "--rank",
        metavar="LEVEL",
        help="Of labels like `animal > dog > pug`, answer with level 1 (the root), 2, ..., or the "
        "level of that name.",
    ),
)

calibration_option = click.option(
    "--calibration", type=FILE, help="Scores as calibrated by `clipcls calibrate`."
)

classifier_option = click.option(
    "--classifier",
    type=FILE,
    help="Answer by a classifier that `clipcls fit` learnt, in place of labels and prompts.",
)

multi_option = click.option(
    "--multi", is_flag=True, help="Several labels an image or none, each scored on its own."
)

store_options = _together(
    click.option("--store", "store_file", type=FILE, help="Keep embeddings in this file."),
    click.option("--no-store", is_flag=True, help="Keep no embeddings and use none."),
)

input_options = _together(
    click.option("-0", "--null", is_flag=True, help="Paths on stdin end with NUL, not newline."),
)


def _output_options(*forms: str) -> Callable[[Command], Command]:
    return _together(
        click.option(
            "-f",
            "--format",
            "form",
            type=click.Choice(["table", "csv", "jsonl", *forms]),
            help="Default: by the suffix of -o; else a table on a terminal and csv in a pipe.",
        ),
        click.option("-o", "--output", type=FILE, help="Write the results to this file."),
        click.option("-q", "--quiet", is_flag=True, help="No progress and no summary."),
    )


output_options = _output_options()
result_output_options = _output_options("html", "parquet")

filing_options = _together(
    click.option(
        "--sort-into",
        type=click.Path(path_type=Path, file_okay=False),
        metavar="DIR",
        help="After that, copy the images into a folder for each label in DIR, as `clipcls sort` "
        "does.",
    ),
    click.option("--move", is_flag=True, help="Move them, in place of copying."),
    click.option("--link", is_flag=True, help="Make symbolic links, in place of copying."),
    click.option(
        "--xmp",
        is_flag=True,
        help="Write the labels as keywords into XMP sidecars (photo.xmp) beside the images.",
    ),
)

_SUFFIXES = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".txt": "table"}
_RESULT_SUFFIXES = {**_SUFFIXES, ".html": "html", ".htm": "html", ".parquet": "parquet"}


def form_of(output: Path | None, form: str | None, *, results: bool = False) -> str:
    """The output format: as asked for, else by the file's suffix, else by where stdout goes.

    Args:
        output: the file, or None for stdout.
        form: as asked for.
        results: whether it may be one that only holds results of `classify`.
    """
    if form in ("html", "parquet") and output is None and sys.stdout.isatty():
        raise click.UsageError(f"{form} is not for a terminal: name a file with -o")
    if form:
        return form
    if output is None:
        return "table" if sys.stdout.isatty() else "csv"
    suffixes = _RESULT_SUFFIXES if results else _SUFFIXES
    if output.suffix.lower() not in suffixes:
        known = ", ".join(suffixes)
        raise click.UsageError(f"{output}: its suffix says no format: use {known} or --format")
    return suffixes[output.suffix.lower()]


def labels_of(
    label_source: str | None, label_list: tuple[str, ...], classifier: Path | None = None
) -> str | list[str] | None:
    """The labels that `--labels` or `-l` name; None where a learnt classifier has its own."""
    if classifier is not None:
        context = click.get_current_context()
        for name, option in _NOT_BESIDE_A_CLASSIFIER.items():
            if context.get_parameter_source(name) not in (None, ParameterSource.DEFAULT):
                why = "a classifier has its own labels"
                if name == "multi":
                    why = (
                        "a classifier was learnt to choose one label an image; what several "
                        "labels mean is learnt by `clipcls calibrate --multi`"
                    )
                raise click.UsageError(f"{option} and --classifier exclude each other: {why}")
        return None
    if bool(label_source) == bool(label_list):
        raise click.UsageError("give labels by --labels FILE, or by -l for each: one of the two")
    return label_source or list(label_list)


def classifier_of(
    classifier: Path | None,
    *,
    labels: str | list[str] | None,
    none: bool,
    rank: str | None,
    prompts: str,
    model: str | Encoder,
    **settings: Any,
) -> ZeroShotClassifier:
    """The classifier that the options describe, fitted.

    Args:
        classifier: the file of a learnt one.
        labels: as `labels_of` gives them.
        none, rank, prompts, model, settings: as for `ZeroShotClassifier`; a learnt one has
            neither `none` nor `prompts` but its own.
    """
    if classifier is None:
        from clipcls.classifier import ZeroShotClassifier

        assert labels is not None
        return ZeroShotClassifier(
            labels, model, prompts=prompts, none=none, rank=rank, **settings
        ).fit()
    from clipcls.fewshot import FewShotClassifier

    return FewShotClassifier.load(
        classifier, None if model == "auto" else model, rank=rank, **settings
    )


def images_of(inputs: tuple[str, ...], null: bool) -> tuple[Iterator[str | ImageError], int | None]:
    """The images that the inputs name and, where a progress bar will ask for it, their number.

    They are counted by going through the folders once more: a list of a million paths takes more
    memory than all else together.

    Raises:
        InputError: there are none.
    """
    from clipcls.inputs import find_images

    total = None
    if "-" not in inputs and sys.stderr.isatty():
        total = sum(1 for _ in find_images(inputs))
    images = find_images(inputs, stdin=sys.stdin.buffer, null=null)
    return itertools.chain([next(images)], images), total


def refuse_inside(folder: Path, inputs: tuple[str, ...], *, mirrored: bool = False) -> None:
    """A folder for pictures that would lie where this run, or the next, looks for images.

    Args:
        folder: the folder.
        inputs: as the command was given them; a list on stdin is not looked at.
        mirrored: whether the pictures lie in it as `heatmap.mirrored` says.

    Raises:
        click.UsageError: they would.
    """
    place = Path(os.path.realpath(folder))
    for name, searched in _image_folders(inputs).items():
        images = Path(os.path.realpath(name))
        if searched and place.is_relative_to(images):
            raise click.UsageError(
                f"{folder}: lies in {name}, where images are looked for; name another folder"
            )
        if mirrored:
            from clipcls.heatmap import mirrored as mirrored_in

            there = Path(os.path.realpath(mirrored_in(folder, name)))
            if there == images or (searched and there.is_relative_to(images)):
                raise click.UsageError(
                    f"{folder}: the pictures would lie among the images of {name}; name another "
                    "folder"
                )


def _image_folders(inputs: tuple[str, ...]) -> dict[str, bool]:
    """Folders that images are in, and whether all below is searched for them."""
    found: dict[str, bool] = {}
    for name in inputs:
        names: Iterable[str] = [name]
        if name != "-" and not os.path.lexists(name):
            names = glob.iglob(name.partition("**")[0] or os.curdir)
        for each in names:
            if os.path.isdir(each):
                found[each] = True
            elif os.path.lexists(each):
                found.setdefault(os.path.dirname(each) or os.curdir, False)
    return found


def refuse_over(output: Path | None, *files: str | os.PathLike[str] | None) -> None:
    """A result file in the place of one that the command reads.

    Args:
        output: the result file.
        files: what is read; names of other things and None are passed over.

    Raises:
        click.UsageError: it is one of them.
    """
    if output is None or not output.is_file():
        return
    for file in files:
        if file is not None and os.path.isfile(file) and os.path.samefile(output, file):
            raise click.UsageError(
                f"{output}: is read by this command and would be overwritten; give the output "
                "another name"
            )


def refuse_with_multi(**given: object) -> None:
    """Options that ask for something of one label an image.

    Raises:
        click.UsageError: one of them was given.
    """
    for name, value in given.items():
        if value:
            option = "--" + name.replace("_", "-")
            raise click.UsageError(f"{option} is for one label an image: leave it out with --multi")


def refuse_with_refine(**given: object) -> None:
    """Options whose answers `--refine` cannot keep or was not made for.

    Raises:
        click.UsageError: one of them was given.
    """
    why = {
        "calibration": "what it promises (--error, --coverage, --conformal) would not hold for "
        "refined scores",
        "classifier": "its answers are not refined",
        "multi": "answers are refined for one label an image",
        "rank": "answers are not refined where labels have a hierarchy",
    }
    for name, value in given.items():
        if value:
            raise click.UsageError(f"--{name} and --refine exclude each other: {why[name]}")


def store_of(store_file: Path | None, no_store: bool) -> Store | None:
    """The store that `--store` and `--no-store` name."""
    from clipcls.classifier import open_store

    if store_file and no_store:
        raise click.UsageError("--store and --no-store exclude each other")
    return open_store(store_file or not no_store)


@contextmanager
def watching(
    console: Console, total: int | None, *, again: bool = False
) -> Iterator[Callable[[ImageError | None], None]]:
    """Shows how far embedding labelled images is; the first time names those that are skipped."""
    skipped = 0
    with console.progress(total) as progress:

        def watch(error: ImageError | None) -> None:
            nonlocal skipped
            if error:
                skipped += 1
                if not again:
                    console.say(f"skipped {error}")
            progress(skipped)

        yield watch


def say_what_was_set_aside(console: Console, aside: SetAside) -> None:
    """Says which labelled images are in no figure, and which labels have no images."""
    several = aside.as_none is not None
    how = "images with it" if several else "not counted: images with it"
    for label, count in aside.no_labels.items():
        console.say(f"{label!r} is none of the labels; {how}, {count:,}")
    if aside.as_none:
        console.say(
            f"counted as having none of the labels: images without another, {aside.as_none:,}"
        )
    if several and aside.left_out:
        console.say(
            f"not counted: images of a kind of which it is not said which, {aside.left_out:,}"
        )
    if aside.beside:
        console.say(f"not counted: images beside the class folders, {aside.beside:,}")
    if aside.without_images:
        names = ", ".join(aside.without_images[:10])
        rest = len(aside.without_images) - 10
        more = f" and {rest:,} more" if rest > 0 else ""
        console.say(f"labels without an image: {names}{more}")
