"""Several questions per image: their names, the answers to all, and each one's columns in a table.

The answer to the question `colour` has its label in the column `colour`, and everything else in
columns that begin with `colour_`: `colour_score`, `colour_best`, ...
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from clipcls.errors import LabelsError
from clipcls.files.text import clean
from clipcls.predictions import COLUMNS, PROVENANCE, Prediction


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers to all questions about one image.

    Attributes:
        path: the image, as in its predictions.
        questions: the prediction for each question, by the question's name.
        kept: further fields of the record, as of a prediction.
    """

    path: str
    questions: Mapping[str, Prediction]
    kept: Mapping[str, Any] | None = field(default=None, hash=False)

    @property
    def label_paths(self) -> tuple[tuple[str, ...], ...]:
        """The names from the root to each label that any answer gives, each once."""
        given = (path for answer in self.questions.values() for path in answer.label_paths)
        return tuple(dict.fromkeys(given))

    def to_dict(self) -> dict[str, Any]:
        """Its record: the record of each answer, and once the provenance that they share."""
        records = {name: answer.to_dict() for name, answer in self.questions.items()}
        shared = share_provenance([*records.values()])
        kept = self.kept or {}
        others = {"path", *shared, *kept}
        own = {
            name: {key: value for key, value in record.items() if key not in others}
            for name, record in records.items()
        }
        return {"path": self.path, "questions": own, **shared, **kept}


def change_answers(
    result: Prediction | Answers, change: Callable[[str, Prediction], Prediction]
) -> Prediction | Answers:
    """A result in which each answer is what `change` makes of its question's name and of it."""
    changed = {name: change(name, answer) for name, answer in result.questions.items()}
    return replace(result, questions=changed) if isinstance(result, Answers) else changed[""]


def share_provenance(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The fields of provenance that have the same value in all records."""
    first = records[0]
    return {
        key: first[key]
        for key in PROVENANCE
        if key in first and all(record.get(key) == first[key] for record in records)
    }


def check_names(names: Iterable[str]) -> list[str]:
    """The questions' names in their plain spelling, if a table can hold the answers to all.

    A name is a column's, part of a file's, and typed in front of `=`.

    Raises:
        LabelsError: a name is blank, holds other marks than space, - and _, is the name of a column
            of all results, or its columns would be those of another question.
    """
    found: dict[str, str] = {}
    for name in names:
        try:
            plain = clean(name)
        except ValueError as error:
            raise LabelsError(f"the question {name!r} {error}") from error
        if not plain:
            raise LabelsError("a question has no name: write NAME=FILE")
        kinds = {unicodedata.category(c)[0] for c in plain if c not in " -_"}
        if not kinds <= set("LMN") or plain[0] in "-_" or len(plain) > 60:
            raise LabelsError(
                f"the question {plain!r}: a name has at most 60 letters, digits, spaces, - and _, "
                "and begins with a letter or a digit"
            )
        key = plain.casefold()
        if key in COLUMNS:
            raise LabelsError(f"the question {plain!r}: every result has this column; rename it")
        for other, spelt in found.items():
            if key == other:
                raise LabelsError(
                    f"the questions {spelt!r} and {plain!r} have the same name; rename one"
                )
            if key.startswith(f"{other}_") or other.startswith(f"{key}_"):
                raise LabelsError(
                    f"the questions {spelt!r} and {plain!r} would share columns, as {spelt}_score "
                    f"is a column of {spelt!r}; rename one"
                )
        found[key] = plain
    return list(found.values())


def find_name(name: str, names: Iterable[str]) -> str | None:
    """The one of `names` that is this name, whatever its case; None if none is."""
    return next((each for each in names if each.casefold() == name.strip().casefold()), None)


def name_column(question: str, column: str) -> str:
    """The column of an answer in a table of several questions."""
    return question if column == "label" else f"{question}_{column}"


def prefix_columns(columns: Mapping[str, Sequence[str]]) -> list[str]:
    """The columns of a table, from those of each question; those of "", the only one, stay.

    >>> prefix_columns({"colour": ["path", "label", "score", "error"]})
    ['path', 'colour', 'colour_score', 'error']
    """
    if "" in columns:
        return [*columns[""]]
    own = (
        name_column(question, column)
        for question, names in columns.items()
        for column in names
        if column not in ("path", "error")
    )
    return ["path", *own, "error"]


def provenance_columns(questions: Iterable[str]) -> list[str]:
    """The columns of provenance: those of all answers, and those in which questions differ."""
    return [*PROVENANCE, *(name_column(q, field) for q in questions for field in PROVENANCE)]


def find_questions(columns: Sequence[str], question: str | None = None) -> list[str]:
    """The questions that a table answers: columns that have one of scores too.

    Without scores a column answers only the question that is asked for: it may be someone's notes.
    A table with a column `label` has one answer per image, and no questions.

    >>> find_questions(["path", "colour", "colour_score", "error"])
    ['colour']
    """
    if "label" in columns:
        return []
    names = [column for column in columns if column and column not in COLUMNS]
    found = [n for n in names if not any(n.startswith(f"{other}_") for other in names)]
    scored = [name for name in found if name_column(name, "score") in columns]
    asked = find_name(question, found) if question and not scored else None
    return [asked] if asked else scored


def nest_columns(row: Mapping[str, Any], questions: Collection[str]) -> dict[str, Any]:
    """The record of a table's row, in which each question's columns are one entry of `questions`.

    A question without an answer has no entry.
    """
    if not questions:
        return dict(row)
    own = tuple(f"{name}_" for name in questions)
    record = {k: v for k, v in row.items() if k not in questions and not k.startswith(own)}
    answers = {
        name: {"label": row[name]}
        | {key[len(name) + 1 :]: value for key, value in row.items() if key.startswith(f"{name}_")}
        for name in questions
        if name in row
    }
    return record | ({"questions": answers} if answers else {})
