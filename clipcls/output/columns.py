"""Records as the rows of a table, and back: csv, tsv and pandas have the same columns.

Provenance, which is the same in every row, is no column by default.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from clipcls.errors import InputError
from clipcls.files.text import parse_number
from clipcls.labels.names import join_levels, split_levels
from clipcls.output.json import dump_value
from clipcls.predictions import COLUMNS, PROVENANCE, UNKNOWN
from clipcls.questions import name_column

RESULT = ("path", "label", "score", "best", "similarity")
"""The columns of every prediction; `error` comes last."""

EXPLAINED = ("runner_up", "margin", "text", "text_similarity", "nearest", "nearest_similarity")
"""The columns of an explanation: the runner-up, the best text, the nearest image."""

_CANDIDATE = ("label", "score", "similarity")
_PER_LABEL = {*_CANDIDATE, "lineage"}
_RANKED = re.compile(r"(label|score|similarity)_\d+")
_OWN = {*COLUMNS, *RESULT, *EXPLAINED, "questions", "rank"}


def result_columns(top: int = 1, extra: Sequence[str] = ()) -> list[str]:
    """The columns of results with `top` labels per image and `extra` fields (`lineage`, ...)."""
    runners_up = [f"{name}_{rank}" for rank in range(2, top + 1) for name in _CANDIDATE]
    return [*RESULT, *runners_up, *extra, "error"]


def usual_columns(row: Mapping[str, Any]) -> list[str]:
    """The columns of a table whose first row, by `flatten`, is this."""
    fields = [name for name in row if name not in PROVENANCE]
    if {"best", "similarity"} <= row.keys() or row.keys() == {"path", "error"}:
        return list(dict.fromkeys([*RESULT, *(f for f in fields if f != "error"), "error"]))
    return fields


def select_columns(wanted: str, columns: Sequence[str], more: Sequence[str] = ()) -> list[str]:
    """Parse a user's choice of columns.

    Args:
        wanted: names separated by commas; if each begins with `+`, they follow the usual ones.
        columns: the usual ones.
        more: other columns that exist.

    Raises:
        InputError: no column has such a name, or a name occurs twice.

    >>> select_columns("label,path", ["path", "label", "score"])
    ['label', 'path']
    >>> select_columns("+model", ["path", "label"], ["model"])
    ['path', 'label', 'model']
    """
    names = [name.strip() for name in wanted.split(",")]
    added = all(name.startswith("+") for name in names)
    names = [name.removeprefix("+") for name in names] if added else names
    known = dict.fromkeys([*columns, *more])
    for name in names:
        if name not in known:
            raise InputError(f"no column {name!r}; columns: {', '.join(known)}")
    found = [*columns, *names] if added else names
    if len(set(found)) < len(found):
        raise InputError(f"{wanted}: a column occurs twice")
    return found


def find_further(names: Iterable[str], questions: Collection[str] = ()) -> list[str]:
    """The names of columns or fields that results of these questions do not have by themselves."""
    own = tuple(f"{question}_" for question in questions)
    return [
        name
        for name in names
        if name not in _OWN
        and not _RANKED.fullmatch(name)
        and not f"{name}_".startswith(own or "\0")
    ]


def refuse_own(names: Sequence[str], questions: Collection[str]) -> None:
    """Refuse columns to add to results that results have, or that look like answers.

    Args:
        names: the columns.
        questions: that the results answer; "" if there is one without a name.

    Raises:
        InputError: for the first such name, or one that occurs twice.
    """
    folded = [name.lower() for name in names]
    asked = [question.lower() for question in questions if question]
    for name, low in zip(names, folded, strict=True):
        if folded.count(low) > 1:
            raise InputError(f"--keep {name}: the column occurs twice")
        if not find_further([low]):
            raise InputError(
                f"--keep {name}: results have a column of this name; rename it in the table"
            )
        if any(f"{low}_".startswith(f"{q}_") or q.startswith(f"{low}_") for q in asked) or (
            asked and f"{low}_score" in folded
        ):
            raise InputError(
                f"--keep {name}: looks like an answer to a question; rename it in the table"
            )


def flatten(record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A record's rows: one, or one per label if the image can have several.

    The best label's similarity and the runners-up become columns of their own (`similarity`,
    `label_2`, `score_2`, `similarity_2`, ...); `best` is the label that `score` belongs to, also if
    the answer is `unknown`. A set of labels is joined by `|`, a lineage by ` > `.

    The answers to several questions are one row, with the columns of `questions.prefix_columns`;
    what a question has per label, as its scores, is joined by `|`.
    """
    if "questions" in record:
        joined = {key: value for key, value in record.items() if key != "questions"}
        for question, answer in record["questions"].items():
            first, *others = rows = list(flatten(answer))
            if others:
                known = {"score"}.union(*rows) & _PER_LABEL
                first |= {key: "|".join(str(row.get(key, "")) for row in rows) for key in known}
            joined |= {name_column(question, key): value for key, value in first.items()}
        yield joined
        return
    nested = ("labels", "top", "explain")
    rest = {key: _cell(key, value) for key, value in record.items() if key not in nested}
    if "explain" in record:
        rest |= _explanation(record["explain"])
    if "labels" in record:
        best: Mapping[str, Any] = record.get("best") or next(iter(record["labels"]), {})
        for candidate in record["labels"] or [{**best, "label": UNKNOWN}]:
            answer = {key: _cell(key, value) for key, value in candidate.items()}
            yield {**rest, **answer, "best": best.get("label")}
        return
    for rank, candidate in enumerate(record.get("top", ()), start=1):
        if rank == 1:
            rest["best"] = candidate["label"]
            if "similarity" in candidate:
                rest["similarity"] = candidate["similarity"]
        else:
            rest |= {f"{key}_{rank}": value for key, value in candidate.items()}
    yield rest


def unflatten(row: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a row of `flatten`, whose cells may be texts; a record stays as it is."""
    record = dict(row)
    if isinstance(lineage := record.get("lineage"), str):
        record["lineage"] = split_levels(lineage)
    for field in ("set", "frames"):
        if isinstance(names := record.get(field), str):
            record[field] = names.split("|")
    record["refined"] = str(record.get("refined")).lower() == "true"
    scores = record.get("score")
    if isinstance(scores, str) and "|" in scores:  # of several labels to one of several questions
        parts = [str(row.get(key) or "").split("|") for key in (*_CANDIDATE, "lineage")]
        labels = [
            {"label": label, "score": _number(score), "similarity": _number(similarity)}
            | ({"lineage": split_levels(path)} if path else {})
            for label, score, similarity, path in itertools.zip_longest(*parts, fillvalue="")
        ]
        return record | {"labels": labels, "best": None}
    if "label" not in record or record.get("labels") is not None or record.get("top"):
        return record
    first = record.get("best") or UNKNOWN if record["label"] == UNKNOWN else record["label"]
    top = [{"label": first, **{key: _number(record.get(key)) for key in _CANDIDATE[1:]}}]
    ranks = itertools.takewhile(lambda rank: f"label_{rank}" in record, itertools.count(2))
    for rank in ranks:
        cells = {key: _number(record.get(f"{key}_{rank}")) for key in _CANDIDATE[1:]}
        top.append({"label": record[f"label_{rank}"], **cells})
    if lineage and record["label"] == lineage:  # as `review` names a label whose name others share
        record["label"] = record["lineage"][-1]
    return {**record, "top": top}


def _cell(key: str, value: Any) -> Any:
    if isinstance(value, list | dict) and key not in ("lineage", "set", "frames"):
        return dump_value(value)
    if not isinstance(value, list):
        return value
    return join_levels(value) if key == "lineage" else "|".join(value)


def _number(cell: Any) -> Any:
    """The number in a cell; other text stays text."""
    if not isinstance(cell, str):
        return cell
    try:
        return parse_number(cell) if cell else None
    except ValueError:
        return cell


def _explanation(explain: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of `EXPLAINED`."""
    text, *_ = explain["texts"] or [{"text": "", "similarity": ""}]
    image, *_ = explain["nearest"] or [{"path": "", "similarity": ""}]
    values = explain["runner_up"], explain["margin"], *text.values(), *image.values()
    return dict(zip(EXPLAINED, values, strict=True))
