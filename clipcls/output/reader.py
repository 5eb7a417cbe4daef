"""Reads result files of `clipcls classify` in any format."""

from __future__ import annotations

import dataclasses
import io
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from clipcls.errors import ImageError, InputError, os_reason
from clipcls.files.on_disk import find_on_disk, is_url, join_address
from clipcls.files.text import decode, read_table, read_text
from clipcls.output import parquet
from clipcls.output.columns import find_further, unflatten
from clipcls.output.csv import read_csv
from clipcls.output.json import read_json
from clipcls.predictions import Prediction, Result
from clipcls.questions import Answers, find_name


def read_results(
    source: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    question: str | None = None,
) -> tuple[Result, ...]:
    """Read a result file: csv, tsv, json, jsonl (also compressed, .gz) or parquet; `-` is stdin.

    The format is recognised by the contents, not the name. Several lines for one image make one
    result with all their labels. A path that is not valid UTF-8 survives only in json and jsonl.

    Args:
        source: the file.
        root: the folder that paths are relative to: those that exist there only in another spelling
            (see `find_on_disk`) are given as on the disk. None: all stay as they are.
        question: the question to read the answers to, if there are several.

    Returns:
        per image a `Prediction`, or the `ImageError` that says why there is none.

    Raises:
        InputError: it cannot be read, holds no results, or holds answers to other questions, or to
            several; the message names file and line, or the questions.
    """
    name, images = _read(source, root, question)
    asked = dict.fromkeys(
        each
        for answers in images.values()
        for each, found in answers.items()
        if isinstance(found, Prediction)
    )
    if question is None and len(asked) > 1:
        raise InputError(
            f"{name}: holds answers to several questions ({', '.join(asked)}): choose one "
            "with --question"
        )
    chosen = next(iter(asked), "") if question is None else find_name(question, asked)
    if asked and chosen is None:
        known = (
            "it has one answer per image: omit --question"
            if "" in asked
            else f"it answers {', '.join(asked)}"
        )
        raise InputError(f"{name}: has no answers to the question {question!r}; {known}")

    def choose(path: str, answers: Mapping[str, Result]) -> Result:
        first = next(iter(answers.values()))
        no_answer = first if isinstance(first, ImageError) else ImageError(path, "has no label")
        return answers.get(chosen or "", no_answer)

    return tuple(choose(path, answers) for path, answers in images.items())


def read_answers(
    source: str | os.PathLike[str], root: str | os.PathLike[str] | None = None
) -> tuple[Result | Answers, ...]:
    """As `read_results`, but an image with answers to several questions has its `Answers`."""
    return tuple(map(gather_answers, _read(source, root)[1].values()))


def _read(
    source: str | os.PathLike[str],
    root: str | os.PathLike[str] | None,
    question: str | None = None,
) -> tuple[str, dict[str, dict[str, Result]]]:
    """The file's name for messages; by path the answers of all lines, as `read_record` gives them.

    Raises:
        InputError: it cannot be read or holds no results.
    """
    name = "stdin" if os.fspath(source) == "-" else os.fspath(source)
    images: dict[str, dict[str, Result]] = {}
    for where, record in open_records(name, question)[1]:
        answers = read_record(where, record, root)
        path = next(iter(answers.values())).path
        merge_answers(images.setdefault(path, {}), answers)
    if not images:
        raise InputError(f"{name}: contains no results")
    return name, images


def merge_answers(known: dict[str, Result], answers: Mapping[str, Result]) -> None:
    """Add the answers of another line about the same image to those that are known."""
    for question, found in answers.items():
        known[question] = _merged(known[question], found) if question in known else found


def gather_answers(found: Mapping[str, Result]) -> Result | Answers:
    """The result of an image from its answers by question."""
    answers = {q: result for q, result in found.items() if isinstance(result, Prediction) and q}
    first = next(iter(found.values()))
    return Answers(first.path, answers, first.kept) if answers else found.get("", first)


def read_record(
    where: str, record: Mapping[str, Any], root: str | os.PathLike[str] | None = None
) -> dict[str, Result]:
    """The answers of a record of `open_records` by question; a single one, or an error, under "".

    Raises:
        InputError: it is no record of `classify`.
    """
    answers = record.get("questions", {"": {}}) if not record.get("error") else {"": {}}
    if not isinstance(answers, dict) or not answers:
        raise InputError(f"{where}: `questions` is not a mapping from names to answers")
    shared = {key: value for key, value in record.items() if key != "questions"}
    kept = {key: shared[key] for key in find_further(shared)} or None
    results = {}
    for question, answer in answers.items():
        if not isinstance(answer, dict):
            raise InputError(f"{where}: the answer to {question!r} is not an object")
        found = _result(unflatten(shared | answer), where)
        if root is not None and isinstance(found, Prediction):
            found = _respelt(found, root)
        if isinstance(found, ImageError):
            found.kept = kept
        else:
            found = dataclasses.replace(found, kept=kept)
        results[question] = found
    return results


def open_records(
    name: str, question: str | None = None
) -> tuple[tuple[str, ...], Iterator[tuple[str, Mapping[str, Any]]]]:
    """The columns of a csv or tsv, else (), and each record with its place for messages.

    Args:
        name: the file; "stdin" is standard input.
        question: the question to read the answers to, if scores do not tell which it is.

    Raises:
        InputError: at once or while iterating: it cannot be read.
    """
    if name == "stdin":
        data = sys.stdin.buffer.read()
        if data.startswith(parquet.MAGIC):
            return (), parquet.read_parquet(io.BytesIO(data), name, question)
        text = decode(data, name)
    else:
        try:
            with open(name, "rb") as file:
                if file.read(len(parquet.MAGIC)) == parquet.MAGIC:
                    return (), parquet.read_parquet(name, name, question)
            text = read_text(Path(name))
        except OSError as error:
            if is_url(name):
                raise InputError(f"{name}: results are read from files; download it") from error
            cure = "; make one file of it with `clipcls merge`" if os.path.isdir(name) else ""
            raise InputError(f"{name}: cannot be read: {os_reason(error)}{cure}") from error
    if text.lstrip().startswith(("{", "[")):
        return (), read_json(text, name)
    return read_table(text, name, exact=True).columns, read_csv(text, name, question)


def _result(record: Mapping[str, Any], where: str) -> Result:
    try:
        if error := record.get("error"):
            path = Prediction.from_dict({"path": record.get("path"), "label": "-"}).path
            if not isinstance(error, str):
                raise ValueError("`error` is not a text")
            return ImageError(path, error)
        return Prediction.from_dict(record)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error


def _respelt(found: Prediction, root: str | os.PathLike[str]) -> Prediction:
    path = join_address(os.fspath(root), found.path)
    there = find_on_disk(path)
    if there == path or os.path.isdir(there):
        return found
    path = there if os.path.isabs(found.path) else os.path.relpath(there, root)
    return dataclasses.replace(found, path=path)


def _merged(one: Result, other: Result) -> Result:
    """One image's result from two lines: the labels of both, with the scores of the first."""
    if isinstance(one, ImageError) or (not isinstance(other, ImageError) and not one.given):
        return other
    if isinstance(other, ImageError) or not other.given:
        return one
    ours, theirs = (dict(zip(p.label_paths, p.given, strict=True)) for p in (one, other))
    given = ours | theirs | ours
    first, second = ({candidate.label: candidate for candidate in p.top} for p in (one, other))
    return dataclasses.replace(
        one,
        top=tuple((first | second | first).values()),
        lineages=tuple(given) if any(len(names) > 1 for names in given) else None,
        labels=tuple(given.values()),
    )
