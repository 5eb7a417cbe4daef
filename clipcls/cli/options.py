"""Options that several commands share, and what they name."""

from __future__ import annotations

import functools
import itertools
import math
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click
from click.core import ParameterSource

from clipcls.cli.completion import (
    complete_files,
    complete_label_sets,
    complete_models,
    complete_template_sets,
)
from clipcls.cli.console import Console, MaxErrors
from clipcls.cli.refusals import refuse_beside_classifier

if TYPE_CHECKING:
    from clipcls.classification.zero_shot import ZeroShotClassifier
    from clipcls.cli.progress import Total
    from clipcls.data.file_kinds import LeftOut
    from clipcls.embeddings.cache import EmbeddingCache
    from clipcls.errors import ImageError
    from clipcls.labels.label_set import LabelsLike
    from clipcls.models.backend import BackendName
    from clipcls.models.encoder import Encoder

__all__ = [
    "NEW_FOLDER",
    "NumberRange",
    "bench_options",
    "cache_of",
    "cache_options",
    "calibration_option",
    "classifier_of",
    "classifier_option",
    "columns_of",
    "figure_output_options",
    "filing_options",
    "form_of",
    "images_of",
    "input_options",
    "inputs_argument",
    "join_prompts",
    "json_option",
    "label_options",
    "labels_of",
    "max_errors_option",
    "max_megapixels_option",
    "model_options",
    "multi_label_option",
    "output_options",
    "progress_options",
    "prompts_option",
    "repeat_options",
    "result_output_options",
    "suggestion_output_options",
    "text_options",
]

Command = TypeVar("Command", bound=Callable[..., Any])
FILE = click.Path(path_type=Path)


class _NewFile(click.Path):
    """A file to be written when the work is done: whether its folder is there shows before."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if os.fspath(value) == "-":
            self.fail("-: this does not go to standard output; name a file", param, ctx)
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if not path.absolute().parent.is_dir():
            self.fail(f"{path}: there is no folder {path.parent}; make it first", param, ctx)
        if path.is_dir():
            self.fail(f"{path}: is a folder; name a file", param, ctx)
        return path


class _Results(click.Path):
    """A file for what goes to standard output without one; `-` is standard output, too."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return None if os.fspath(value) == "-" else super().convert(value, param, ctx)


class _NewResults(_NewFile):
    """As `_Results`, checked before the work."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return None if os.fspath(value) == "-" else super().convert(value, param, ctx)


class _NewFolder(click.Path):
    """A folder to write into, which is made where it is missing."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if path.exists() and not path.is_dir():
            self.fail(f"{path}: is not a folder", param, ctx)
        return path


NEW_FILE = _NewFile(path_type=Path)
NEW_FOLDER = _NewFolder(path_type=Path)
RESULTS, NEW_RESULTS = _Results(path_type=Path), _NewResults(path_type=Path)


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
        shell_complete=complete_models,
        help="A name from `clipcls models`, ARCHITECTURE/TAG, hf-hub:ORG/REPO or local-dir:PATH; "
        "auto is base where its weights are available, else mini.",
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


def _gather_backend(command: Command) -> Command:
    """Hands a command its options of the same names as one `Backend`."""

    @functools.wraps(command)
    def gathered(*args: Any, backend: BackendName = "auto", **options: Any) -> Any:
        from clipcls.models.backend import Backend

        names = Backend.__dataclass_fields__.keys() & options.keys()
        settings = {name: options.pop(name) for name in names}
        return command(*args, backend=Backend(backend, **settings), **options)

    return cast("Command", gathered)


bench_options = _together(*_MODEL, _gather_backend)

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
        "--backend",
        type=click.Choice(["auto", "openvino", "torch"]),
        default="auto",
        show_default=True,
        help="What runs the model on a CPU; auto is openvino where it can be. Texts of models with "
        "a tokenizer of their own always run on torch.",
    ),
    click.option(
        "--workers", type=click.IntRange(1), help="Threads that decode images; default: by CPU."
    ),
    _gather_backend,
)


def _allow_pixels(_: click.Context, __: click.Parameter, megapixels: int | None) -> None:
    if megapixels is not None:
        from PIL import Image  # its own setting, in a process of our own

        Image.MAX_IMAGE_PIXELS = megapixels * 500_000  # refused above twice this


max_megapixels_option = click.option(
    "--max-megapixels",
    type=click.IntRange(1),
    metavar="N",
    expose_value=False,
    callback=_allow_pixels,
    help="Refuse images that are decoded to more megapixels than this; default: 179. JPEGs are "
    "decoded no larger than the model needs. Raise it together with the memory: all images that "
    "are decoded at once take up to 4 MB per megapixel.",
)


def join_prompts(
    _ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]
) -> str | list[str] | None:
    """The value of `--prompts` as it is; of several, the templates of all."""
    if len(values) < 2:
        return values[0] if values else None
    from clipcls.labels.label_set import log_warnings
    from clipcls.labels.prompts import make_prompts

    sets = [make_prompts(value) for value in values]
    for made in sets:
        log_warnings(made)
    return [template for made in sets for template in made.templates]


prompts_option = click.option(
    "--prompts",
    multiple=True,
    default=["photo"],
    show_default=True,
    metavar="TEMPLATE|NAME|FILE",
    shell_complete=complete_template_sets,
    callback=join_prompts,
    help='A template such as "a picture of a {}", a set of `clipcls prompts`, or a file of '
    "templates; may be repeated.",
)

_TEXTS = (
    click.option(
        "--labels",
        "label_source",
        metavar="FILE|NAME",
        shell_complete=complete_label_sets,
        help="A label file (in csv, | separates synonyms or prompts), a ready set, or - for a list "
        "on stdin.",
    ),
    click.option("-l", "--label", "label_list", multiple=True, metavar="LABEL", help="One label."),
    prompts_option,
)

text_options = _together(*_TEXTS)

label_options = _together(
    *_TEXTS,
    click.option(
        "--reject",
        is_flag=True,
        help="One more answer, `none of these`, for images nearer to generic texts.",
    ),
    click.option(
        "--level",
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
    help="Use a classifier learnt by `clipcls fit` instead of labels and prompts.",
)

multi_label_option = click.option(
    "--multi-label",
    is_flag=True,
    help="For `clipcls tag`: any number of labels per image, each scored on its own.",
)

cache_options = _together(
    click.option("--cache", "cache_file", type=FILE, help="Keep embeddings in this file."),
    click.option("--no-cache", is_flag=True, help="Keep no embeddings and use none."),
)

inputs_argument = click.argument(
    "inputs", nargs=-1, required=True, metavar="INPUT...", shell_complete=complete_files
)

input_options = _together(
    click.option("-0", "--null", is_flag=True, help="Paths on stdin end with NUL, not newline."),
)


def _keep_style(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if isinstance(ctx.obj, Console):  # not while a shell completes the command
        ctx.obj.style = value


def _keep_max_errors(ctx: click.Context, param: click.Parameter, value: str) -> None:
    found = re.fullmatch(r"([0-9]+)|([0-9]+(?:\.[0-9]+)?) ?%", value.strip())
    if found is None or float(found[2] or 0) > 100:
        raise click.BadParameter(f"{value}: write a number of images, or a share of them like 5%")
    if isinstance(ctx.obj, Console):
        ctx.obj.max_errors = MaxErrors(float(found[1] or found[2]), is_percent=found[1] is None)


progress_options = _together(
    click.option("-q", "--quiet", is_flag=True, help="No progress and no summary."),
    click.option(
        "--progress",
        type=click.Choice(["auto", "bar", "log", "none"]),
        default="auto",
        show_default=True,
        expose_value=False,
        callback=_keep_style,
        help="auto is a bar on a terminal, elsewhere log: one line per minute.",
    ),
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

max_errors_option = click.option(
    "--max-errors",
    metavar="N|P%",
    default="0",
    show_default=True,
    expose_value=False,
    callback=_keep_max_errors,
    help="Exit with 1 only if more than N images, or P % of them, cannot be read.",
)


LISTS = ("table", "csv", "tsv", "json", "jsonl")
RESULTS_FORMS = (*LISTS, "html", "parquet")
FIGURES = ("table", "csv", "tsv", "json")
SUGGESTIONS = ("labels", "csv", "tsv", "json")


def _output_options(
    forms: tuple[str, ...], usual: str, columns: str, file: click.Path = RESULTS
) -> Callable[[Command], Command]:
    """`-f`, `-o`, `--columns` and `--bom`, and those of progress.

    Args:
        forms: the formats.
        usual: what help says of the format without a file.
        columns: what help says of the columns.
        file: the type of `-o`.
    """
    return _together(
        click.option(
            *("-f", "--format", "form"),
            type=click.Choice(forms),
            help=f"Default: by the suffix of -o; else {usual}.",
        ),
        click.option(
            *("-o", "--output"),
            type=file,
            help="Write the results to this file, compressed if it ends in .gz; - is standard "
            "output.",
        ),
        click.option(
            "--columns",
            metavar="NAME,...",
            help="Write only these columns to a csv or tsv; +NAME,... adds them to the usual ones. "
            f"Available: {columns}.",
        ),
        click.option(
            "--bom",
            is_flag=True,
            help="Begin a csv or tsv with a byte order mark, so that Excel reads it as UTF-8.",
        ),
        progress_options,
    )


_STREAMED = "a table on a terminal and csv in a pipe"
output_options = _output_options(
    LISTS, _STREAMED, "rank, path, similarity, model, weights and precision"
)
result_output_options = _output_options(
    RESULTS_FORMS,
    _STREAMED,
    "path, label, score, best (the label of the score, also where the answer is `unknown`), "
    "similarity, error, those of other options, and model, weights, precision, prompts, "
    "calibration, classifier, refined",
)
figure_output_options = _output_options(
    FIGURES,
    "table",
    "label and its figures",
    NEW_RESULTS,
)
suggestion_output_options = _output_options(
    SUGGESTIONS,
    "labels, a label file with comments",
    "label, images, example and merged",
)

filing_options = _together(
    click.option(
        "--sort-into",
        type=click.Path(path_type=Path, file_okay=False),
        metavar="DIR",
        help="Then copy the images into DIR, one folder per label, as `clipcls sort` does.",
    ),
    click.option("--move", is_flag=True, help="Move the images instead of copying them."),
    click.option("--link", is_flag=True, help="Make symbolic links instead of copying."),
    click.option(
        "--xmp",
        is_flag=True,
        help="Write the labels as keywords into XMP sidecars: photo.xmp, or photo.jpg.xmp where "
        "another file, such as a raw one, has the name photo.",
    ),
)

_SUFFIXES = {
    ".txt": "table",  # or what the command writes as text
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".html": "html",
    ".htm": "html",
    ".parquet": "parquet",
}


def form_of(
    output: Path | None,
    form: str | None,
    forms: Sequence[str] = LISTS,
    *,
    streamed: str | None = None,
) -> str:
    """The output format: as asked for, else by the file's suffix, else by where the output goes.

    Args:
        output: the file, or None for stdout; `x.csv.gz` is a csv.
        form: as asked for.
        forms: those that the command can write.
        streamed: what goes to stdout where none is asked for; default: a table to a terminal, csv
            to a pipe.
    """
    if form in ("html", "parquet") and output is None and sys.stdout.isatty():
        raise click.UsageError(f"{form} is not for a terminal: name a file with -o")
    suffix = output.suffix.lower() if output else ""
    is_compressed = suffix == ".gz"
    if output and is_compressed:
        suffix = Path(output.stem).suffix.lower()
    found = form or _SUFFIXES.get(suffix, "")
    if found == "table" and "table" not in forms:
        found = forms[0]
    if is_compressed and found in ("html", "parquet"):
        raise click.UsageError(f"{output}: {found} is not written compressed: leave out .gz")
    if form:
        return form
    streamed = streamed or ("table" if output is None and sys.stdout.isatty() else "csv")
    if output is None:
        return streamed
    if found not in forms:
        from clipcls.output.writing import is_stream

        if is_stream(output):
            return streamed
        known = ", ".join(suffix for suffix, name in _SUFFIXES.items() if name in (*forms, "table"))
        raise click.UsageError(f"{output}: its suffix names no format: use {known} or --format")
    return found


def columns_of(
    form: str,
    columns: Sequence[str],
    more: Sequence[str] = (),
    *,
    wanted: str | None = None,
    bom: bool = False,
) -> list[str]:
    """The columns of a csv or tsv: `columns`, or what `--columns` says of them.

    Args:
        form: the output format. Others than csv and tsv refuse the options on the command line and
            pass over settings.
        columns: those that are written unless asked otherwise.
        more: others that can be asked for.
        wanted: as `--columns` has it.
        bom: whether `--bom` was given.
    """
    if form not in ("csv", "tsv"):
        context = click.get_current_context(silent=True)
        for name, is_given in (("columns", wanted is not None), ("bom", bom)):
            source = context and context.get_parameter_source(name)
            if is_given and source in (None, ParameterSource.COMMANDLINE):
                raise click.UsageError(f"--{name} is for csv and tsv, not for {form}")
        return [*columns]
    if wanted is None:
        return [*columns]
    from clipcls.errors import InputError
    from clipcls.output.columns import select_columns

    try:
        return select_columns(wanted, columns, more)
    except InputError as error:
        raise click.UsageError(f"--columns: {error}") from error


def labels_of(
    label_source: str | None, label_list: tuple[str, ...], classifier: Path | None = None
) -> LabelsLike | None:
    """The labels that `--labels` or `-l` name; None where a learnt classifier has its own.

    Labels on stdin are read at once, since no-one can read them again.

    Raises:
        click.UsageError: both or none are given, stdin is to be two things, or a `-l` looks like
            several labels or names a file.
    """
    if classifier is not None:
        refuse_beside_classifier()
        return None
    if bool(label_source) == bool(label_list):
        raise click.UsageError("give labels by --labels FILE, or by -l for each: one of the two")
    if label_source == "-":
        given = click.get_current_context().params
        if "-" in (given.get("inputs") or ()) or given.get("results") == "-":
            raise click.UsageError(
                "stdin cannot be both the labels and the images: name a file for one of them"
            )
        from clipcls.labels.label_set import log_warnings, read_labels

        labels = read_labels("-")
        log_warnings(labels)
        return labels
    for label in label_list:
        if re.search(r"\.(?:txt|csv|tsv|json|ya?ml|names)$", label, re.IGNORECASE):
            raise click.UsageError(
                f"-l {shlex.quote(label)} is one label: to read labels from a file of that name, "
                f"write --labels {shlex.quote(label)}"
            )
        # `Washington, D.C.` and `1,000 dollars` are labels among others; alone, nothing is.
        mark = "[,;|]" if len(label_list) == 1 else r"[,;|](?=\S)"
        words = [word.strip() for word in re.split(rf"(?<!\d){mark}|{mark}(?!\d)", label)]
        if len(words) > 1:
            each = " ".join(f"-l {shlex.quote(word)}" for word in words if word)
            raise click.UsageError(
                f"-l {shlex.quote(label)} is one label: for {len(words)} write {each}; a label "
                "with such a mark in it goes into a label file"
            )
    return label_source or list(label_list)


def classifier_of(
    classifier: Path | None,
    *,
    labels: LabelsLike | None,
    reject: bool,
    level: str | None,
    prompts: str | list[str],
    model: str | Encoder,
    **settings: Any,
) -> ZeroShotClassifier:
    """The classifier that the options describe, fitted.

    Args:
        classifier: the file of a learnt one.
        labels: as `labels_of` gives them.
        reject, level, prompts, model, settings: as for `ZeroShotClassifier`; a learnt one has
            neither `reject` nor `prompts` but its own.
    """
    if classifier is None:
        from clipcls.classification.zero_shot import ZeroShotClassifier

        assert labels is not None
        return ZeroShotClassifier(
            labels, model, prompts=prompts, reject=reject, level=level, **settings
        ).fit()
    from clipcls.few_shot.classifier import FewShotClassifier

    return FewShotClassifier.load(
        classifier, None if model == "auto" else model, level=level, **settings
    )


def repeat_options(*names: str) -> list[str]:
    """The options of the command in hand that came on the command line, to be given to another."""
    context = click.get_current_context()
    words = []
    for option in context.command.params:
        source = context.get_parameter_source(str(option.name))
        if option.name not in names or source != ParameterSource.COMMANDLINE:
            continue
        value = context.params[option.name]
        if isinstance(value, bool):
            words.append(option.opts[-1])
        else:
            for one in value if isinstance(value, list | tuple) else [value]:
                words += [option.opts[0], str(one)]
    return words


def images_of(
    inputs: tuple[str, ...], null: bool, left_out: LeftOut | None = None
) -> tuple[Iterator[str | ImageError], Total]:
    """The images that the inputs name and, unless stdin lists them, how to count them.

    Counting goes through the folders once more: a list of a million paths takes more memory than
    all else together.

    Raises:
        InputError: there are none.
    """
    from clipcls.data.paths import find_images

    images = find_images(inputs, stdin=sys.stdin.buffer, null=null, left_out=left_out)
    total = None if "-" in inputs else lambda: sum(1 for _ in find_images(inputs))
    return itertools.chain([next(images)], images), total


def cache_of(cache_file: Path | None, no_cache: bool) -> EmbeddingCache | None:
    """The cache that `--cache` and `--no-cache` name."""
    from clipcls.embeddings.cache import open_cache

    if cache_file and no_cache:
        raise click.UsageError("--cache and --no-cache exclude each other")
    return open_cache(cache_file or not no_cache)
