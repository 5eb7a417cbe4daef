"""An evaluation as one page that needs nothing else: metrics, curves, confusions, thumbnails."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from clipcls.data.thumbnails import make_data_uri, make_thumbnail
from clipcls.errors import ImageError
from clipcls.evaluation.compare import Change, Comparison
from clipcls.evaluation.evaluate import Evaluation
from clipcls.evaluation.tables import NAMES, format_number, rank_classes
from clipcls.metrics.multilabel import MultiLabelOutcomes
from clipcls.metrics.single_label import Outcomes
from clipcls.output.page import render_page
from clipcls.output.writer import Writer

_SHOWN = 24
_SIDE = 160  # of a thumbnail, pixels
_CLASSES = 30  # in the confusion matrix


class EvaluationPage(Writer):
    """Writes the record of `make_page_record` as a page."""

    def format(self, record: Mapping[str, Any]) -> str:
        """The page of a record."""
        columns, classes = rank_classes(record)
        values = {
            "several": "labels_per_image" in record,
            "names": NAMES,
            "number": _format,
            "columns": columns,
            "classes": classes,
        }
        return render_page(
            "evaluation/evaluation.html",
            {**record, **values},
            percent=lambda x: _format("", x),
            points=lambda x: f"{100 * x:+.1f}",
        )


def _format(name: str, value: float | None) -> str:
    """With no-break spaces: a column must not break "43.3 %" over two lines."""
    return format_number(name, value).replace(" ", "\N{NBSP}")


def make_page_record(
    evaluation: Evaluation, source: str, comparisons: Sequence[Comparison] = ()
) -> dict[str, Any]:
    """The values that `EvaluationPage` shows.

    Args:
        evaluation: what to show.
        source: the data's name, for the heading.
        comparisons: of others with this one.

    Returns:
        the evaluation's record, with `source`; `examples`, titles and telling images, each with its
        image as a data URI ("" if it can no longer be read); `compare`, a record per comparison
        with `sides`, the images that changed sides; with one label per image `matrix`, and the
        points of the curves.
    """
    outcomes = evaluation.outcomes
    return {
        **evaluation.to_dict(),
        "source": source,
        "examples": _examples(evaluation),
        "compare": [
            {
                **comparison.to_dict(),
                "sides": [
                    _changed("right here, wrong in the first", comparison.gained),
                    _changed("wrong here, right in the first", comparison.lost),
                ],
            }
            for comparison in comparisons
        ],
        **(_curves(outcomes) if isinstance(outcomes, Outcomes) else {}),
    }


def _examples(evaluation: Evaluation) -> list[tuple[str, list[dict[str, Any]]]]:
    """Titles and the images that tell the most."""
    outcomes = evaluation.outcomes
    if isinstance(outcomes, MultiLabelOutcomes):
        return [
            (
                title,
                [
                    _photo(
                        evaluation.paths[row],
                        label=outcomes.labels[column],
                        score=float(outcomes.scores[row, column]),
                    )
                    for row, column in found
                ],
            )
            for title, found in (
                ("Labels wrongly given, the most confident", outcomes.wrong(_SHOWN)),
                ("Labels that were missed, the least confident", outcomes.missed(_SHOWN)),
            )
        ]
    order = np.argsort(outcomes.confidence, kind="stable")
    correct = outcomes.correct[order]

    def photo(at: int) -> dict[str, Any]:
        label, answer = outcomes.describe(at)
        score = float(outcomes.confidence[at])
        return _photo(evaluation.paths[at], label=label, answer=answer, score=score)

    return [
        ("The most confident errors", [photo(at) for at in order[~correct][::-1][:_SHOWN]]),
        ("The least confident hits", [photo(at) for at in order[correct][:_SHOWN]]),
    ]


def _changed(what: str, changes: Sequence[Change]) -> dict[str, Any]:
    """The first images that changed sides, and how many did."""
    shown = [
        _photo(change.path, label=change.right, before=change.before, after=change.after)
        for change in changes[:_SHOWN]
    ]
    return {"what": what, "count": len(changes), "shown": shown}


def _photo(path: str, **details: Any) -> dict[str, Any]:
    try:
        image = make_data_uri(make_thumbnail(path, _SIDE))
    except ImageError:
        image = ""
    return {"path": path, "image": image, **details}


def _curves(outcomes: Outcomes) -> dict[str, Any]:
    return {
        "matrix": _matrix(outcomes),
        "reliability_line": _line((b.confidence, b.accuracy) for b in outcomes.reliability()),
        "risk_line": _line((p.coverage, p.risk) for p in outcomes.risk_coverage()),
    }


def _line(points: Iterable[tuple[float, float]]) -> str:
    """Points between 0 and 1 on a square of 300 whose y goes up, as SVG writes them."""
    return " ".join(f"{300 * x:.1f},{300 - 300 * y:.1f}" for x, y in points)


def _matrix(outcomes: Outcomes) -> dict[str, Any]:
    """The confusion matrix; of many classes those with the most errors, the rest together."""
    n = len(outcomes.labels)
    both = np.concatenate([outcomes.truth, outcomes.answer])
    errors = np.bincount(both[np.tile(~outcomes.correct, 2)], minlength=n)
    seen = np.unique(both)
    kept = np.sort(seen[np.argsort(-errors[seen], kind="stable")[:_CLASSES]])
    place = np.full(n, len(kept))
    place[kept] = np.arange(len(kept))
    counts = np.zeros((len(kept) + 1, len(kept) + 1), int)
    np.add.at(counts, (place[outcomes.truth], place[outcomes.answer]), 1)
    return {
        "labels": [outcomes.labels[number] for number in kept],
        "counts": counts[:-1].tolist(),
        "others": len(seen) - len(kept),
    }
