"""The options that say where results go, and the format and columns that follow from them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import click
from click.core import ParameterSource

from clipcls.cli.groups import Settings, option
from clipcls.cli.param_types import NEW_RESULTS, RESULTS

if TYPE_CHECKING:
    from clipcls.output.writer import Writer

__all__ = [
    "MetricsOutput",
    "OutputSettings",
    "ResultsOutput",
    "SuggestionsOutput",
]

_LISTS = ("table", "csv", "tsv", "json", "jsonl")
_RESULTS = (*_LISTS, "html", "parquet")
_METRICS = ("table", "csv", "tsv", "json")
_SUGGESTIONS = ("labels", "csv", "tsv", "json")

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


def _format_option(forms: tuple[str, ...], usual: str) -> Any:
    return option(
        *("-f", "--format"),
        type=click.Choice(forms),
        help=f"Default: by the suffix of -o, else {usual}.",
    )


def _file_option(kind: click.Path) -> Any:
    return option(
        *("-o", "--output"),
        type=kind,
        help="Write to this file, compressed if it ends in .gz; - is standard output.",
    )


def _columns_option(available: str) -> Any:
    return option(
        metavar="NAME,...",
        help="Write only these columns to a csv or tsv; +NAME,... adds them to the usual ones. "
        f"Available: {available}.",
    )


@dataclass(frozen=True)
class OutputSettings(Settings):
    """Where a list of results goes, and in which form."""

    section = "Output"
    forms: ClassVar[tuple[str, ...]] = _LISTS
    streamed: ClassVar[str] = ""
    suffixless: ClassVar[str] = ""

    form: str | None = _format_option(_LISTS, "a table on a terminal and csv in a pipe")
    file: Path | None = _file_option(RESULTS)
    columns: str | None = _columns_option("rank, path, similarity, model, weights and precision")
    bom: bool = option(
        is_flag=True, help="Begin a csv or tsv with a byte order mark, as Excel needs for UTF-8."
    )

    def choose_format(self) -> str:
        """The format: `--format`, else by the file's suffix, else by where the output goes.

        Raises:
            click.UsageError: the suffix names no format, or the format cannot go there.
        """
        suffixes = [suffix.lower() for suffix in self.file.suffixes] if self.file else []
        is_compressed = suffixes[-1:] == [".gz"]
        *_, suffix = ("", *suffixes[: -1 if is_compressed else None])
        is_shown = self.file is None and sys.stdout.isatty()
        found = self.form or _SUFFIXES.get(suffix, "" if suffix else self.suffixless)
        if found == "table" and "table" not in self.forms:
            found = self.forms[0]
        if found in ("html", "parquet") and is_shown:
            raise click.UsageError(f"{found} is not for a terminal: name a file with -o")
        if found in ("html", "parquet") and is_compressed:
            raise click.UsageError(f"{self.file}: {found} is not written compressed: omit .gz")
        if self.form or found in self.forms:
            return self.form or found
        from clipcls.output.writing import is_stream

        if self.file is None or is_stream(self.file):
            return self.streamed or ("table" if is_shown else "csv")
        known = [end for end, form in _SUFFIXES.items() if form in (*self.forms, "table")]
        raise click.UsageError(
            f"{self.file}: its suffix names no format: use {', '.join(known)} or --format"
        )

    def choose_columns(
        self, form: str, columns: Sequence[str], more: Sequence[str] = ()
    ) -> list[str]:
        """The columns of a csv or tsv: `columns`, or what `--columns` makes of them and `more`.

        Raises:
            click.UsageError: there are no such columns, or the command line asks for columns or a
                byte order mark in another format. Settings may: they are for all formats.
        """
        if form not in ("csv", "tsv"):
            context = click.get_current_context(silent=True)
            for name, is_given in (("columns", self.columns is not None), ("bom", self.bom)):
                source = context and context.get_parameter_source(name)
                if is_given and source in (None, ParameterSource.COMMANDLINE):
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
    """The same for predictions."""

    forms = _RESULTS

    form: str | None = _format_option(_RESULTS, "a table on a terminal and csv in a pipe")
    columns: str | None = _columns_option(
        "path, label, score, best (the label of the score, also where the answer is `unknown`), "
        "similarity, error, those of other options, and model, weights, precision, prompts, "
        "calibration, classifier, refined"
    )


@dataclass(frozen=True)
class MetricsOutput(OutputSettings):
    """The same for the metrics of an evaluation."""

    forms = _METRICS
    streamed = "table"

    form: str | None = _format_option(_METRICS, "table")
    file: Path | None = _file_option(NEW_RESULTS)
    columns: str | None = _columns_option("label and its metrics")


@dataclass(frozen=True)
class SuggestionsOutput(OutputSettings):
    """The same for suggested labels."""

    forms = _SUGGESTIONS
    streamed = "labels"
    suffixless = "labels"

    form: str | None = _format_option(_SUGGESTIONS, "labels, a label file with comments")
    columns: str | None = _columns_option("label, images, example and merged")
