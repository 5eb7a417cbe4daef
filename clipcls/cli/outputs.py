"""The options that say where results go, and the format and columns that follow from them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import click
from click.core import ParameterSource

from clipcls.cli.groups import Settings, option
from clipcls.cli.param_types import RESULTS

if TYPE_CHECKING:
    from clipcls.output.writer import Writer

_SUFFIXES = {f".{form}": form for form in ("csv", "tsv", "json", "jsonl", "html", "parquet")}
_SUFFIXES |= {".txt": "table", ".tab": "tsv", ".ndjson": "jsonl", ".htm": "html"}
_STREAMS = "a table on a terminal and csv in a pipe"


def _form_option(forms: Sequence[str], usual: str) -> Any:
    help = f"Default: by the suffix of -o, else {usual}."
    return option("-f", "--format", type=click.Choice(forms), help=help)


def _columns_option(available: str) -> Any:
    return option(
        metavar="NAME,...",
        rare=True,
        help="Write only these columns to a csv or tsv; +NAME,... adds them to the usual ones. "
        f"Available: {available}.",
    )


@dataclass(frozen=True)
class OutputSettings(Settings):
    """The file and the format of a list of results."""

    section = "Output"
    forms: ClassVar[tuple[str, ...]] = ("table", "csv", "tsv", "json", "jsonl")
    default: ClassVar[str] = ""  # the format of a stream; "": a table on a terminal, else csv

    form: str | None = _form_option(forms, _STREAMS)
    file: Any = option(  # a Path, None or, for a folder or URL, a str
        *("-o", "--output"),
        type=RESULTS,
        help="Write to this file, compressed if it ends in .gz; - is standard output.",
    )
    columns: str | None = _columns_option("rank, path, similarity, model, weights and precision")
    bom: bool = option(
        rare=True, help="Begin a csv or tsv with a byte order mark, as Excel needs for UTF-8."
    )

    def choose_format(self) -> str:
        """The format: `--format`, else by the file's suffix, else by where the output goes."""
        if isinstance(self.file, str):
            raise click.UsageError(f"{self.file}: is a directory or URL; name a file")
        suffixes = [suffix.lower() for suffix in self.file.suffixes] if self.file else []
        is_compressed = suffixes[-1:] == [".gz"]
        *_, suffix = ("", *suffixes[: -1 if is_compressed else None])
        is_shown = self.file is None and sys.stdout.isatty()
        form = self.form or (_SUFFIXES.get(suffix) if suffix else self.default)
        if form == "table" and form not in self.forms:
            form = self.default
        if form in ("html", "parquet") and is_shown:
            raise click.UsageError(f"{form} is not for a terminal: name a file with -o")
        if form in ("html", "parquet") and is_compressed:
            raise click.UsageError(f"{self.file}: {form} is not written compressed: omit .gz")
        if form in self.forms:
            return form
        from clipcls.output.writing import is_stream

        if self.file is None or is_stream(self.file):
            return self.default or ("table" if is_shown else "csv")
        known = [end for end, form in _SUFFIXES.items() if form in (*self.forms, "table")]
        raise click.UsageError(
            f"{self.file}: its suffix names no format: use {', '.join(known)} or --format"
        )

    def choose_columns(
        self, form: str, columns: Sequence[str], more: Sequence[str] = ()
    ) -> list[str]:
        """The columns of a csv or tsv: `columns`, or what `--columns` makes of them and `more`.

        Other formats refuse --columns and --bom, but not as settings, which are for all formats.
        """
        if form not in ("csv", "tsv"):
            context = click.get_current_context(silent=True)
            for name in ("columns", "bom"):
                source = context and context.get_parameter_source(name)
                if getattr(self, name) and source in (None, ParameterSource.COMMANDLINE):
                    raise click.UsageError(f"--{name} is for csv and tsv, not for {form}")
        elif self.columns is not None:
            from clipcls.errors import InputError
            from clipcls.output.columns import select_columns

            try:
                return select_columns(self.columns, columns, more)
            except InputError as error:
                raise click.UsageError(f"--columns: {error}") from error
        return [*columns]

    def open(
        self, form: str, columns: Sequence[str], provenance: Mapping[str, Any] | None = None
    ) -> AbstractContextManager[Writer]:
        """The writer, as `open_output` gives it."""
        from clipcls.output.writing import open_output

        return open_output(self.file, form, columns=columns, bom=self.bom, provenance=provenance)


@dataclass(frozen=True)
class ResultsOutput(OutputSettings):
    """Where and how predictions are written."""

    forms = (*OutputSettings.forms, "html", "parquet")
    form: str | None = _form_option(forms, _STREAMS)
    columns: str | None = _columns_option(
        "path, label, score, best (the label of the score, also if the answer is `unknown`), "
        "similarity, error, those of other options, and model, weights, precision, prompts, "
        "calibration, classifier, shard, run, refined"
    )


@dataclass(frozen=True)
class MetricsOutput(OutputSettings):
    """Where and how the metrics of an evaluation are written."""

    forms = ("table", "csv", "tsv", "json")
    default = "table"
    form: str | None = _form_option(forms, default)
    columns: str | None = _columns_option("label and its metrics")


@dataclass(frozen=True)
class SuggestionsOutput(OutputSettings):
    """Where and how suggested labels are written."""

    forms = ("labels", "csv", "tsv", "json")
    default = "labels"
    form: str | None = _form_option(forms, "labels, a label file with comments")
    columns: str | None = _columns_option("label, images, example and merged")
