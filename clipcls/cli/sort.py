"""`clipcls sort`, and filing and keywords for `classify` and `tag`."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clipcls.cli import groups
from clipcls.cli.completion import complete_files
from clipcls.cli.console import Console, show
from clipcls.cli.groups import option
from clipcls.cli.options import progress_options, question_option, root_option
from clipcls.cli.param_types import FOLDER
from clipcls.errors import ImageError
from clipcls.predictions import Prediction, Result
from clipcls.questions import Answers

if TYPE_CHECKING:
    from clipcls.organize.fileops import Mode
    from clipcls.organize.report import Report


def xmp_option() -> Any:
    """The field of a group for `--xmp`."""
    return option(
        help="Write the labels as keywords into XMP sidecars: photo.xmp, or photo.jpg.xmp if "
        "another file, such as a raw one, is named photo too.",
    )


@dataclass(frozen=True)
class FilingSettings(groups.Settings):
    """Settings of how the images themselves are filed after a run."""

    section = "Filing"

    sort_into: Path | None = option(
        type=FOLDER,
        metavar="DIR",
        help="Then copy the images into DIR, one folder per label, as `clipcls sort` does.",
    )
    move: bool = option(help="Move the images instead of copying them.")
    link: bool = option(rare=True, help="Make symbolic links instead of copying.")
    xmp: bool = xmp_option()


@dataclass(frozen=True)
class _Folders(groups.Settings):
    section = "Folders"

    into: Path | None = option(
        type=FOLDER, metavar="DIR", help="Make a folder for each label in DIR."
    )
    move: bool = option(help="Move the images; default: copy them.")
    link: bool = option(help="Make symbolic links to the images.")
    dry_run: bool = option(help="Only list what would go where.")
    undo: Path | None = option(metavar="JOURNAL", help="Undo the run of this journal.")


@dataclass(frozen=True)
class _Keywords(groups.Settings):
    section = "Keywords"

    xmp: bool = xmp_option()
    xmp_full_name: bool = option(help="Like --xmp, but write photo.jpg.xmp.")
    embed_xmp: bool = option(help="Like --xmp, but write into the images themselves, by exiftool.")
    xmp_remove: bool = option(
        help="Remove the keywords that --xmp wrote; with --embed-xmp, those in the images.",
    )

    def __bool__(self) -> bool:
        return self.xmp or self.xmp_full_name or self.embed_xmp or self.xmp_remove


@groups.command("sort")
@click.argument("results", required=False, metavar="[RESULTS]", shell_complete=complete_files)
@question_option
@root_option
@progress_options
def command(
    console: Console,
    results: str | None,
    question: str | None,
    root: Path,
    folders: _Folders,
    keywords: _Keywords,
) -> int:
    """File images into one folder per label, or write keywords.

    Nothing is overwritten: if photo.jpg exists, the next becomes `photo (2).jpg`. RESULTS is csv,
    tsv, json, jsonl or parquet, or the reviewed table of `clipcls review`; - is stdin. The same
    command resumes an interrupted run.

    \b
    Examples:
      clipcls classify --labels labels.txt photos/ -o results.jsonl
      clipcls sort results.jsonl --into sorted/ --dry-run
      clipcls sort results.jsonl --into sorted/ --move
      clipcls sort --undo sorted/clipcls-sort-20261125-171500.jsonl
      clipcls sort results.jsonl --xmp
      clipcls sort shop.csv --question colour --into by-colour/
    """
    if folders.undo is not None:
        if results is not None:
            raise click.UsageError("--undo JOURNAL stands alone: leave out RESULTS")
        from clipcls.organize.execute import undo

        with console.progress() as progress:
            return _report(console, undo(folders.undo, watch=progress), "kept")
    if results is None or not (folders.into or keywords):
        raise click.UsageError("name the results and a folder: clipcls sort RESULTS --into DIR")
    from clipcls.organize.plan import make_plan
    from clipcls.output.reader import read_answers, read_results

    mode = choose_mode(folders.move, folders.link)
    if folders.into is None and question is None:  # keywords can be the answers to all questions
        found = tuple(map(without_scores, read_answers(results, root)))
    else:
        found = read_results(results, root, question)
    if folders.into is None:
        return write_keywords(
            console,
            root,
            found,
            embed=keywords.embed_xmp,
            full_name=keywords.xmp_full_name,
            remove=keywords.xmp_remove,
        )
    if not folders.dry_run:
        return file_into(console, folders.into, mode, root, found)
    plan = make_plan(found, folders.into, mode, root=root)
    for step in plan.steps:
        for source, target in step.targets.items():
            show(f"{shorten_path(source)} -> {shorten_path(target)}")
    plan.report.changed = len(plan.steps)
    return _report(console, plan.report, "not filed", "dry run; without --dry-run: ")


def choose_mode(move: bool, link: bool) -> Mode:
    """The mode that `--move` and `--link` ask for."""
    return "move" if move else "link" if link else "copy"


def without_scores(result: Result | Answers) -> Result:
    """The part of a result that filing and keywords need, a fraction of its memory."""
    if isinstance(result, ImageError):
        return result
    answers = [*result.questions.values()]
    label = answers[0].label if len(answers) == 1 else ""
    return Prediction(result.path, label, (), None, lineages=result.label_paths)


def file_into(
    console: Console, into: Path, mode: Mode, root: Path, results: Sequence[Result]
) -> int:
    """File images into one folder per label; returns the exit status."""
    from clipcls.organize.execute import file_results

    with console.progress(_count(results)) as progress:
        done = file_results(results, into, mode, root=root, watch=progress)
    status = _report(console, done, "not filed")
    if done.journal:
        console.remark(f"to undo it: clipcls sort --undo {shlex.quote(shorten_path(done.journal))}")
    return status


def write_keywords(console: Console, root: Path, results: Sequence[Result], **options: bool) -> int:
    """Write labels into sidecars, or into the images; returns the exit status."""
    from clipcls.organize import keywords

    with console.progress(_count(results)) as progress:
        done = keywords.write_keywords(results, root=root, watch=progress, **options)
    return _report(console, done, "no keywords")


def _report(console: Console, done: Report, failure: str, before: str = "") -> int:
    for error in done.failed:
        console.say(f"{failure}: {error}")
    console.remark(before + done.summary())
    return done.exit_code


def _count(results: Sequence[Result]) -> int:
    """How many images could be read."""
    return sum(isinstance(result, Prediction) for result in results)


def shorten_path(path: Path) -> str:
    """A path relative to the current folder if it is below, as the user would name it."""
    try:
        text = os.path.relpath(path)
    except ValueError:  # on another drive
        return os.fspath(path)
    return os.fspath(path) if text.startswith(os.pardir) else text
