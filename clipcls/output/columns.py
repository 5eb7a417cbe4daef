"""Records as the rows of a table: csv, tsv and pandas have the same columns.

What is the same in every row, the provenance, is no column unless it is asked for. A csv file has
it in a sidecar, `FILE-metadata.json`, where the W3C's "CSV on the Web" looks for it; a `DataFrame`
has it in its `attrs`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from clipcls.errors import ImageError, InputError, install_command
from clipcls.files.jsonfiles import read_json
from clipcls.files.text import escape_bytes
from clipcls.labels.names import join_levels
from clipcls.predictions import UNKNOWN, Provenance, error_record

if TYPE_CHECKING:
    import pandas

    from clipcls.output.reader import Result
    from clipcls.predictions import Hit, MultiLabelPrediction, Prediction

    Record: TypeAlias = Prediction | MultiLabelPrediction | ImageError | Result | Hit

__all__ = [
    "EXPLAINED",
    "PROVENANCE",
    "describe_provenance",
    "flatten",
    "metadata_path",
    "read_provenance",
    "result_columns",
    "select_columns",
    "to_dataframe",
    "usual_columns",
]

PROVENANCE = tuple(field.name for field in fields(Provenance))
"""The same in every row of a table."""

EXPLAINED = ("runner_up", "margin", "text", "text_similarity", "nearest", "nearest_similarity")
"""What a row says of an explanation: the runner-up, the best text, the nearest image."""

_RESULT = ("path", "label", "score", "best", "similarity")


def result_columns(top: int = 1, extra: Sequence[str] = ()) -> list[str]:
    """The columns of the results of `classify`.

    Args:
        top: labels per image.
        extra: fields that not every run has (`lineage`, `set`, ...).
    """
    names = ("label", "score", "similarity")
    runners_up = [f"{name}_{rank}" for rank in range(2, top + 1) for name in names]
    return [*_RESULT, *runners_up, *extra, "error"]


def usual_columns(row: Mapping[str, Any]) -> list[str]:
    """The columns of a table that begins with this row of `flatten`."""
    fields = [name for name in row if name not in PROVENANCE]
    if {"best", "similarity"} <= row.keys() or row.keys() == {"path", "error"}:
        return list(dict.fromkeys([*_RESULT, *(f for f in fields if f != "error"), "error"]))
    return fields


def select_columns(wanted: str, columns: Sequence[str], more: Sequence[str] = ()) -> list[str]:
    """The columns that a person asks for.

    Args:
        wanted: names separated by commas, in their order; where each begins with `+`, they come
            after the usual ones.
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


def flatten(record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A record's rows: one, or one per label where the image can have several.

    The best label's similarity and the runners-up become columns of their own (`similarity`,
    `label_2`, `score_2`, `similarity_2`, ...); `best` is the label that `score` belongs to, also
    where the answer is `unknown`. A set of labels is joined by `|`, a lineage by ` > ` as in a
    label file; of an explanation come the runner-up, the best text and the nearest image.
    """
    nested = ("labels", "top", "explain")
    rest = {key: value for key, value in record.items() if key not in nested}
    if "labels" in record:
        rest.pop("best", None)
    if "lineage" in rest:
        rest["lineage"] = _joined(rest["lineage"])
    rest = {k: "|".join(v) if isinstance(v, list) else v for k, v in rest.items()}
    if "explain" in record:
        rest |= _explanation(record["explain"])
    if "labels" in record:
        best = record.get("best") or record["labels"][0]
        for candidate in record["labels"] or [{**best, "label": UNKNOWN}]:
            row = {**rest, **candidate, "best": best["label"]}
            if "lineage" in row:
                row["lineage"] = _joined(candidate["lineage"])
            yield row
        return
    for rank, candidate in enumerate(record.get("top", ()), start=1):
        if rank == 1:
            rest["best"] = candidate["label"]
            if "similarity" in candidate:
                rest["similarity"] = candidate["similarity"]
        else:
            rest |= {f"{key}_{rank}": value for key, value in candidate.items()}
    yield rest


def metadata_path(file: str | os.PathLike[str]) -> Path:
    """The sidecar of a csv or tsv file; of a link, that of its target."""
    return Path(f"{os.path.realpath(file)}-metadata.json")


def describe_provenance(file: Path, provenance: Mapping[str, Any], delimiter: str) -> bytes:
    """A sidecar's content, in the W3C's vocabulary for tables.

    Args:
        file: the csv or tsv file.
        provenance: as in a record.
        delimiter: between the file's cells.
    """
    content = {
        "@context": "http://www.w3.org/ns/csvw",
        "url": file.name,
        "dialect": {"delimiter": delimiter},
        "notes": [dict(provenance)],
    }
    return f"{json.dumps(content, indent=1)}\n".encode()


def read_provenance(file: str | os.PathLike[str]) -> dict[str, Any]:
    """What made a csv or tsv file, by its sidecar; {} where there is none."""
    try:
        (notes,) = read_json(metadata_path(file))["notes"]
        return {key: notes[key] for key in PROVENANCE if key in notes}
    except (InputError, ValueError, KeyError, TypeError):
        return {}


def to_dataframe(
    results: Record | Iterable[Record],
) -> pandas.DataFrame:
    """A table of results: one row per image, or per image and label where it can have several.

    The columns are those of a csv of `clipcls classify`: `path`, `label`, `score`, `best`,
    `similarity`, ..., `error`; of hits `rank`, `path`, `similarity`. What made the results is in
    `attrs` (`model`, `weights`, `precision`, `prompts`, ...); results that were made in different
    ways have it in columns.

    Args:
        results: what `classify` or `search_images` yields, or `read_results` returns: one or many.

    Raises:
        InputError: pandas is missing.
        TypeError: something else is among the results.

    Example:
        >>> from clipcls import Candidate, Prediction
        >>> made_by = Provenance("mini", "0123456789ab", "fp32", "photo")
        >>> found = [Prediction("a.jpg", "cat", (Candidate("cat", 0.93, 0.31),), made_by)]
        >>> to_dataframe([*found, ImageError("b.jpg", "truncated")])[["path", "label", "error"]]
            path label      error
        0  a.jpg   cat        NaN
        1  b.jpg   NaN  truncated
    """
    try:
        import pandas
    except ImportError as error:
        raise InputError(f"a DataFrame needs pandas: {install_command('pandas')}") from error
    columns: dict[str, list[Any]] = {name: [] for name in (*_RESULT, "error")}
    count = 0
    is_one = isinstance(results, ImageError) or hasattr(results, "record")
    for result in cast(Iterable[Any], [results] if is_one else results):
        if not isinstance(result, ImageError) and not hasattr(result, "record"):
            kind = type(result).__name__
            raise TypeError(f"give what classify() or search_images() yields, not {kind}")
        record = error_record(result) if isinstance(result, ImageError) else result.record()
        if not count and "rank" in record:
            columns = {}
        for row in flatten(record):
            for name in row:
                if name not in columns:
                    columns[name] = [None] * count
            for name, values in columns.items():
                values.append(row.get(name))
            count += 1
    made = {name: columns[name] for name in PROVENANCE if name in columns}
    once = {name: {*values} - {None} for name, values in made.items()}
    is_once = all(len(values) == 1 for values in once.values())
    order = [name for name in columns if name not in ("error", *PROVENANCE)]
    order += [*([] if is_once else made), *(["error"] if "error" in columns else [])]

    def column(values: list[Any]) -> Any:
        texts = (value for value in values if isinstance(value, str))
        if escape_bytes(joined := "".join(texts)) == joined:
            return values
        return pandas.Series(values, dtype=object)  # pandas's own strings are UTF-8

    frame = pandas.DataFrame({name: column(columns[name]) for name in order})
    if is_once:
        frame.attrs.update((name, values.pop()) for name, values in once.items())
    return frame


def _joined(lineage: Sequence[str]) -> str:
    return join_levels(lineage)


def _explanation(explain: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of `EXPLAINED`."""
    text, *_ = explain["texts"] or [{"text": "", "similarity": ""}]
    image, *_ = explain["nearest"] or [{"path": "", "similarity": ""}]
    return {
        "runner_up": explain["runner_up"],
        "margin": explain["margin"],
        "text": text["text"],
        "text_similarity": text["similarity"],
        "nearest": image["path"],
        "nearest_similarity": image["similarity"],
    }
